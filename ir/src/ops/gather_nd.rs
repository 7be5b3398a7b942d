use super::reading::{self, moves_data, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tensor, TypeError};
use crate::op;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `gather_nd(x, indices) {batch_dims}`: the last dimension of `indices` holds positions along the first dimensions of
    /// `x` after `batch_dims` shared ones; each selects a slice of `x` (ONNX GatherND; negative counts from the end).
    pub struct GatherNd { batch_dims: i64 }
}

impl OpSpec for GatherNd {
    const NAME: &'static str = "gather_nd";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 5, 3]) { %i = const [0, 1, -1, 4] : i64[2, 2] %y = gather_nd(%x, %i) {batch_dims = 0} return %y }",
        "graph @g(%x: f32[2, 5, M]) { %i = const [3, -5] : i64[2, 1] %y = gather_nd(%x, %i) {batch_dims = 1} return %y }",
        "graph @g(%x: i64[N, 5], %i: i64[7, 1]) { %y = gather_nd(%x, %i) {batch_dims = 0} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (x, i) = (operands.tensor(0)?, operands.tensor(1)?);
        reading::takes_indices(operands, 1)?;
        let shape = match (x.dims(), i.dims().and_then(|i| i.split_last())) {
            (Some(x), Some((depth, lead))) => {
                let batch = usize::try_from(self.batch_dims).ok().filter(|b| *b <= lead.len() && *b < x.len());
                let batch = batch.ok_or_else(|| TypeError::Invalid(format!("batch_dims {}", self.batch_dims)))?;
                lead[..batch].iter().zip(x).try_for_each(|(a, b)| operands.assume_same(b, a))?;
                match depth.as_const() {
                    Some(d) if d < 0 || d as usize > x.len() - batch => {
                        return Err(operands.wrong(1, format!("positions of {d} numbers in a tensor of rank {}", x.len())));
                    }
                    Some(d) => Shape::Ranked([lead, &x[batch + d as usize..]].concat()),
                    None => Shape::Unranked,
                }
            }
            _ => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, i) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let batch = self.batch_dims as usize;
        let (starts, run) = starts(x.dims(), i, batch)?;
        let lead = &i.dims()[..i.rank() - 1];
        let dims = [lead, &x.dims()[batch + i.dims()[i.rank() - 1]..]].concat();
        Ok(vec![reading::copy_runs(x, &dims, run, &starts)?.into()])
    }

    moves_data! {}
}

/// Where the slice named by each position of `indices` starts in a tensor of shape `dims`, and how long slices are.
pub(crate) fn starts(dims: &[usize], indices: &Tensor, batch: usize) -> Result<(Vec<usize>, usize), EvalError> {
    let depth = indices.dims().last().copied().unwrap_or(0);
    if indices.rank() <= batch || batch + depth > dims.len() || dims[..batch] != indices.dims()[..batch] {
        return Err(reading::invalid(format!("indices of shape {:?} do not fit {dims:?}", indices.dims())));
    }
    let strides = super::strides(dims);
    let run: usize = dims[batch + depth..].iter().product();
    let batch_step: usize = dims[batch..].iter().product();
    let rows: usize = indices.dims()[..indices.rank() - 1].iter().product();
    let batches: usize = dims[..batch].iter().product();
    let per_batch = rows.checked_div(batches).unwrap_or(0);
    let numbers = indices.to_i64()?;
    let mut starts = Vec::with_capacity(rows);
    for row in 0..rows {
        let mut start = row / per_batch * batch_step;
        for (j, i) in numbers[row * depth..(row + 1) * depth].iter().enumerate() {
            start += reading::index(*i, dims[batch + j])? * strides[batch + j];
        }
        starts.push(start);
    }
    Ok((starts, run))
}
