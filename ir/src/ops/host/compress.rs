use super::{Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, moves_data, tensor};
use crate::types::{Shape, TensorType};

op! {
    /// `compress(x, condition) {axis}`: the slices of `x` along `axis` (of `x` flattened, without one) where the bool
    /// vector is true; those past its end are dropped (ONNX Compress).
    pub struct Compress { axis: Option<i64> }
}

impl OpSpec for Compress {
    const NAME: &'static str = "compress";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[3, M], %c: bool[3]) { %y = compress(%x, %c) {axis = 0} return %y }",
        "graph @g(%x: f32[N, M], %c: bool[3]) { %y = compress(%x, %c) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let x = operands.tensor(0)?;
        let shape = match (self.axis, x.dims()) {
            (None, _) => Shape::Ranked(vec![operands.late_dim()]),
            (Some(_), None) => Shape::Unranked,
            (Some(axis), Some(dims)) => {
                let (mut dims, at) = (dims.to_vec(), crate::ops::axis(axis, dims.len())?);
                dims[at] = operands.late_dim();
                Shape::Ranked(dims)
            }
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (mut x, wanted) = (tensor(operands, 0)?.clone(), tensor(operands, 1)?.to_bools()?);
        if self.axis.is_none() {
            x = x.reshaped(&[x.len()])?;
        }
        let at = reading::axis(self.axis.unwrap_or(0), x.rank())?;
        let n = x.dims()[at];
        let rows: Vec<usize> = (0..wanted.len()).filter(|i| wanted[*i]).collect();
        if rows.last().is_some_and(|i| *i >= n) {
            return Err(invalid(format!("the condition names element {} of {n}", rows.last().expect("just asked"))));
        }
        let mut dims = x.dims().to_vec();
        dims[at] = rows.len();
        let run: usize = dims[at + 1..].iter().product();
        let outer: usize = dims[..at].iter().product();
        let starts: Vec<usize> = (0..outer).flat_map(|o| rows.iter().map(move |i| (o * n + i) * run)).collect();
        Ok(vec![reading::copy_runs(&x, &dims, run, &starts)?.into()])
    }

    moves_data! {}
}
