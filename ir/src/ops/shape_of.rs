use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `shape_of(x)`: the dimensions of a tensor as an i64 vector (ONNX Shape; its start and end become a slice).
    pub struct ShapeOf {}
}

impl OpSpec for ShapeOf {
    const NAME: &'static str = "shape_of";
    const SAMPLES: &'static [&'static str] = &["graph @g(%x: f32[N, 3, M]) { %y = shape_of(%x) return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let n = match operands.dims(0)? {
            Some(dims) => dims.len().into(),
            None => operands.late_dim(),
        };
        Ok(vec![TensorType::new(DType::I64, [n]).into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        Some(operands.dims(0).ok()??.to_vec())
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x)] = operands else { return Err(super::not_tensors(Self::NAME)) };
        let dims: Vec<i64> = x.dims().iter().map(|d| *d as i64).collect();
        Ok(vec![Tensor::vector_i64(&dims).into()])
    }

    fn flops(&self, _: &[&ValueType], _: &[ValueType]) -> Dim {
        Dim::constant(0)
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
