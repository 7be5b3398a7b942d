use super::reading::{self, moves_data, tensor};
use super::{Datum, EvalError, OpSpec, Operands, TypeError};
use crate::dim::Dim;
use crate::op;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `tile(x) {repeats}`: `x` repeated along every dimension as often as `repeats` says.
    pub struct Tile { repeats: Vec<Dim> }
}

impl OpSpec for Tile {
    const NAME: &'static str = "tile";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3], %z: f32[M]) { %y = tile(%x) {repeats = [2, M]} return %y }",
        "graph @g(%x: i64[N]) { %y = tile(%x) {repeats = [0]} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        let shape = match x.dims() {
            Some(dims) if dims.len() != self.repeats.len() => {
                let reason = format!("{} repeats for a tensor of rank {}", self.repeats.len(), dims.len());
                return Err(operands.wrong(0, reason));
            }
            Some(dims) => Shape::Ranked(dims.iter().zip(&self.repeats).map(|(d, r)| d * r).collect()),
            None => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let repeats = super::sizes(&self.repeats)?;
        let dims: Vec<usize> = x.dims().iter().zip(&repeats).map(|(d, r)| d.saturating_mul(*r)).collect();
        crate::tensor::count(&dims)?;
        let strides = super::strides(x.dims());
        let steps = (0..x.rank()).map(|j| (0..dims[j]).map(|i| i % x.dims()[j] * strides[j]).collect());
        Ok(vec![x.pick(&dims, &reading::cartesian(&steps.collect::<Vec<_>>()))?.into()])
    }

    moves_data! {}
}
