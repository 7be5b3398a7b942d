use super::reading::{self, tensor};
use super::scatter::{Reduction, combine};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, axis, gather_elements};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::ValueType;

op! {
    /// `scatter_elements(x, indices, updates) {axis, reduction}`: `x` with every update combined into the element that
    /// `gather_elements` would read for its index (ONNX ScatterElements), in order.
    pub struct ScatterElements { axis: i64, reduction: Reduction }
}

impl OpSpec for ScatterElements {
    const NAME: &'static str = "scatter_elements";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[3, M], %u: f32[2, M], %i: i64[2, M]) { %y = scatter_elements(%x, %i, %u) {axis = 0, reduction = add} return %y }",
        "graph @g(%x: f32[N, 5], %u: f32[1, 3]) { %i = const [1, -1, 0] : i64[1, 3] %y = scatter_elements(%x, %i, %u) {axis = 1, reduction = none} return %y }",
        "graph @g(%x: i64[2, 3], %u: i64[4, 3], %i: i64[4, 3]) { %y = scatter_elements(%x, %i, %u) {axis = 0, reduction = max} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 3)?;
        let (x, i, u) = (operands.tensor(0)?, operands.tensor(1)?, operands.tensor(2)?);
        reading::takes_indices(operands, 1)?;
        reading::same_dtype(operands, 0, 2)?;
        if let (Some(x), Some(i), Some(u)) = (x.dims(), i.dims(), u.dims()) {
            axis(self.axis, x.len())?;
            if x.len() != i.len() || i.len() != u.len() {
                return Err(operands.wrong(1, "tensor, indices and updates differ in rank"));
            }
            i.iter().zip(u).try_for_each(|(a, b)| operands.assume_same(a, b))?;
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, i, u) = (tensor(operands, 0)?, tensor(operands, 1)?, tensor(operands, 2)?);
        if i.dims() != u.dims() {
            return Err(reading::invalid(format!("{:?} indices for {:?} updates", i.dims(), u.dims())));
        }
        let to = gather_elements::targets(x.dims(), i, self.axis)?;
        Ok(vec![combine(x, &to, 1, u, self.reduction)?.into()])
    }

    fn flops(&self, _: &[&ValueType], _: &[ValueType]) -> Dim {
        Dim::constant(0)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        self.reduction.tolerance(dtype)
    }
}
