use super::operand::tensor;
use super::quantize_linear::{check_granularity, parameters};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `dequantize_linear(x, scale, zero_point?) {axis, block, to}`: `(x - zero_point) * scale` as the float type `to`.
    ///
    /// `scale` is a scalar, or a vector along `axis`, or with `block` > 0 of `x`'s rank with one element per `block` along `axis`.
    pub struct DequantizeLinear { axis: i64, block: i64, to: DType }
}

impl OpSpec for DequantizeLinear {
    const NAME: &'static str = "dequantize_linear";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: u8[N, 6]) { %s = const [0.1] : f32[] %z = const [3] : u8[] %y = dequantize_linear(%x, %s, %z) {axis = 1, block = 0, to = f32} return %y }",
        "graph @g(%x: i8[N, 3, 4]) { %s = const [0.1, 0.2, 0.3] : f32[3] %y = dequantize_linear(%x, %s) {axis = 1, block = 0, to = f32} return %y }",
        "graph @g(%x: i4[2, 4]) { %s = const [0.1, 0.2, 0.3, 0.4] : f32[2, 2] %y = dequantize_linear(%x, %s) {axis = 1, block = 2, to = f32} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 3)?;
        let x = operands.tensor(0)?;
        let fits = !matches!(x.dtype, DType::Str | DType::Bool) && operands.dtype(1)?.is_float() && self.to.is_float();
        if !fits {
            return Err(operands.wrong(0, format!("{} with a scale of {}", x.dtype, operands.dtype(1)?)));
        }
        check_granularity(operands, self.axis, self.block)?;
        Ok(vec![TensorType { dtype: self.to, shape: x.shape.clone() }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let parameters = parameters(operands, x.dims(), self.axis, self.block)?;
        let y: Vec<f64> = x.to_f64()?.into_iter().zip(parameters).map(|(v, (s, z))| (v - z) * s).collect();
        Ok(vec![Tensor::from_f64(self.to, x.dims(), &y)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 2
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 2.0)
    }
}
