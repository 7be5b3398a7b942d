use super::reading::{self, moves_data, tensor};
use super::{Datum, EvalError, OpSpec, Operands, TypeError, axis};
use crate::op;
use crate::types::{TensorType, ValueType};

op! {
    /// `gather_elements(x, indices) {axis}`: for every index, the element of `x` at that position along `axis` and at the
    /// index's own position along every other (ONNX GatherElements). The result has the shape of `indices`.
    pub struct GatherElements { axis: i64 }
}

impl OpSpec for GatherElements {
    const NAME: &'static str = "gather_elements";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 5]) { %i = const [1, -1, 0, 4] : i64[2, 2] %y = gather_elements(%x, %i) {axis = 1} return %y }",
        "graph @g(%x: f16[4, M], %i: i32[7, M]) { %y = gather_elements(%x, %i) {axis = 0} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (x, i) = (operands.tensor(0)?, operands.tensor(1)?);
        reading::takes_indices(operands, 1)?;
        if let (Some(x), Some(i)) = (x.dims(), i.dims()) {
            axis(self.axis, x.len())?;
            if x.len() != i.len() {
                return Err(operands.wrong(1, format!("its rank {} is not {}", i.len(), x.len())));
            }
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: i.shape.clone() }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, i) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let from = targets(x.dims(), i, self.axis)?;
        Ok(vec![x.pick(i.dims(), &from)?.into()])
    }

    moves_data! {}
}

/// For every index, the element of a tensor of shape `dims` that it names.
pub(crate) fn targets(dims: &[usize], indices: &super::Tensor, along: i64) -> Result<Vec<usize>, EvalError> {
    let at = reading::axis(along, dims.len())?;
    let outside = |(j, (n, m)): (usize, (&usize, &usize))| j != at && n < m;
    if indices.rank() != dims.len() || dims.iter().zip(indices.dims()).enumerate().any(outside) {
        return Err(reading::invalid(format!("indices of shape {:?} do not fit {dims:?}", indices.dims())));
    }
    let mut strides = super::strides(dims);
    let step = std::mem::take(&mut strides[at]);
    let mut from = reading::offsets(indices.dims(), &strides);
    for (to, i) in from.iter_mut().zip(indices.to_i64()?) {
        *to += reading::index(i, dims[at])? * step;
    }
    Ok(from)
}
