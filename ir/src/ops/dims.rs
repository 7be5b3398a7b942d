use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `dims() {elements = [B, S + 1]}`: an i64 vector of expressions over the symbols; what is left of shape arithmetic
    /// after folding. `scalar` gives its single element without a dimension.
    pub struct Dims { elements: Vec<Dim>, scalar: bool }
}

impl OpSpec for Dims {
    const NAME: &'static str = "dims";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: f32[N, M]) { %y = dims() {elements = [N, M + 2*N, 7]} %s = dims() {elements = [N], scalar = true} return %y, %s }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(0, 0)?;
        match (self.scalar, self.elements.len()) {
            (false, n) => Ok(vec![TensorType::new(DType::I64, [n]).into()]),
            (true, 1) => Ok(vec![TensorType::new(DType::I64, [0i64; 0]).into()]),
            (true, n) => Err(TypeError::Invalid(format!("a scalar has 1 element, not {n}"))),
        }
    }

    fn elements(&self, _: &Operands<'_>) -> Option<Vec<Dim>> {
        Some(self.elements.clone())
    }

    fn eval(&self, _: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let values: Vec<i64> = super::numbers(&self.elements)?;
        let dims: &[usize] = if self.scalar { &[] } else { &[values.len()] };
        Ok(vec![Tensor::from_slice(dims, &values)?.into()])
    }

    fn flops(&self, _: &[&ValueType], _: &[ValueType]) -> Dim {
        Dim::constant(0)
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
