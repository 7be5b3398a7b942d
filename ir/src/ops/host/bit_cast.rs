use super::{DType, Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `bit_cast(x) {to}`: the same bits read as another element type of the same width (ONNX BitCast).
    pub struct BitCast { to: DType }
}

impl OpSpec for BitCast {
    const NAME: &'static str = "bit_cast";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: f32[N, M]) { %y = bit_cast(%x) {to = i32} %z = bit_cast(%y) {to = f32} return %y, %z }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if x.dtype.bits() != self.to.bits() || x.dtype == DType::Str || self.to == DType::Str {
            return Err(operands.wrong(0, format!("{} and {} differ in width", x.dtype, self.to)));
        }
        Ok(vec![TensorType { dtype: self.to, shape: x.shape.clone() }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        if self.to == DType::Bool {
            let set: Vec<bool> = x.bytes().iter().map(|b| *b != 0).collect();
            return Ok(vec![Tensor::from_bools(x.dims(), &set)?.into()]);
        }
        Ok(vec![Tensor::from_bytes(self.to, x.dims(), x.bytes())?.into()])
    }

    moves_data! {}
}
