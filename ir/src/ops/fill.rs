use super::reading::{self, moves_data, tensor};
use super::{Datum, EvalError, Fact, OpSpec, Operands, TypeError};
use crate::dim::Dim;
use crate::op;
use crate::types::{TensorType, ValueType};

op! {
    /// `fill(value) {shape}`: a tensor with the one element of `value` everywhere (ONNX ConstantOfShape).
    pub struct Fill { shape: Vec<Dim> }
}

impl OpSpec for Fill {
    const NAME: &'static str = "fill";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: f32[N, M]) { %v = const [2.5] : f32[1] %y = fill(%v) {shape = [N, 3, M]} return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        Ok(vec![TensorType::new(operands.dtype(0)?, self.shape.iter().cloned()).into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let value = reading::known_number(operands, 0)?;
        let count: Dim = self.shape.iter().cloned().product();
        let count = count.as_const().filter(|n| (0..=Fact::MAX_ELEMENTS as i64).contains(n))?;
        (self.shape.len() <= 1).then(|| vec![value; count as usize])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let value = tensor(operands, 0)?;
        if value.len() != 1 {
            return Err(reading::invalid(format!("a tensor is filled with one element, not {}", value.len())));
        }
        let dims = super::sizes(&self.shape)?;
        let count = crate::tensor::count(&dims)?;
        crate::tensor::ensure_room(&dims, size_of::<usize>())?;
        Ok(vec![value.pick(&dims, &vec![0; count])?.into()])
    }

    moves_data! {}
}
