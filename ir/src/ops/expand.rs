use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, broadcast};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `expand(x) {shape}`: `x` broadcast together with `shape` (ONNX Expand: a 1 in `shape` keeps the dimension of `x`).
    pub struct Expand { shape: Vec<Dim> }
}

impl OpSpec for Expand {
    const NAME: &'static str = "expand";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 1, 3]) { %y = expand(%x) {shape = [N, 4, 3]} %z = expand(%x) {shape = [2, 1, 5, 1]} return %y, %z }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        let shape = operands.broadcast(&[&x.shape, &Shape::Ranked(self.shape.clone())])?;
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let x = operands.elements(0)?;
        let n: usize = self.shape.iter().try_fold(1usize, |n, d| Some(n * usize::try_from(d.as_const()?).ok()?))?;
        match x {
            [one] if n <= super::Fact::MAX_ELEMENTS => Some(vec![one.clone(); n]),
            _ => None,
        }
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x)] = operands else { return Err(super::not_tensors(Self::NAME)) };
        let dims = broadcast::shape(&[x.dims(), &super::sizes(&self.shape)?])?;
        Ok(vec![x.pick(&dims, &broadcast::indices(x.dims(), &dims))?.into()])
    }

    fn flops(&self, _: &[&ValueType], _: &[ValueType]) -> Dim {
        Dim::constant(0)
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
