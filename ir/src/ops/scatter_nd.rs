use super::reading::{self, tensor};
use super::scatter::{Reduction, combine};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, gather_nd};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::ValueType;

op! {
    /// `scatter_nd(x, indices, updates) {reduction}`: `x` with every slice of `updates` combined into the slice that
    /// `gather_nd` would read for its position (ONNX ScatterND), in order.
    pub struct ScatterNd { reduction: Reduction }
}

impl OpSpec for ScatterNd {
    const NAME: &'static str = "scatter_nd";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 4], %i: i64[3, 1], %u: f32[3, 4]) { %y = scatter_nd(%x, %i, %u) {reduction = add} return %y }",
        "graph @g(%x: f32[2, 5, M], %u: f32[2, M]) { %i = const [0, 1, -1, 4] : i64[2, 2] %y = scatter_nd(%x, %i, %u) {reduction = none} return %y }",
        "graph @g(%x: i64[5], %i: i64[3, 1], %u: i64[3]) { %y = scatter_nd(%x, %i, %u) {reduction = mul} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 3)?;
        let (x, i, u) = (operands.tensor(0)?, operands.tensor(1)?, operands.tensor(2)?);
        reading::takes_indices(operands, 1)?;
        reading::same_dtype(operands, 0, 2)?;
        if let (Some(x), Some((depth, lead)), Some(u)) = (x.dims(), i.dims().and_then(|i| i.split_last()), u.dims())
            && let Some(d) = depth.as_const() {
                let Some(slice) = usize::try_from(d).ok().and_then(|d| x.get(d..)) else {
                    return Err(operands.wrong(1, format!("positions of {d} numbers in a tensor of rank {}", x.len())));
                };
                if u.len() != lead.len() + slice.len() {
                    return Err(operands.wrong(2, format!("updates of rank {}", u.len())));
                }
                let wanted = lead.iter().chain(slice);
                wanted.zip(u).try_for_each(|(a, b)| operands.assume_same(a, b))?;
            }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, i, u) = (tensor(operands, 0)?, tensor(operands, 1)?, tensor(operands, 2)?);
        let (starts, run) = gather_nd::starts(x.dims(), i, 0)?;
        if u.len() != starts.len() * run {
            return Err(reading::invalid(format!("updates of shape {:?} do not fill their slices", u.dims())));
        }
        Ok(vec![combine(x, &starts, run, u, self.reduction)?.into()])
    }

    fn flops(&self, _: &[&ValueType], _: &[ValueType]) -> Dim {
        Dim::constant(0)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        self.reduction.tolerance(dtype)
    }
}
