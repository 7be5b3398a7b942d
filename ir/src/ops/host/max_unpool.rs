use super::{Datum, Dim, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, moves_data, offsets, tensor};
use crate::ops::strides as row_major;
use crate::tensor::count;
use crate::types::{Shape, TensorType};

op! {
    /// `max_unpool(x, indices, shape?) {kernel, strides, pads}`: ONNX MaxUnpool: a tensor of 0 of the size that `max_pool_indices`
    /// had, with the elements of `x` at the positions `indices` in it, row-major. With a `shape` the result has that shape, and
    /// the unpooled tensor stands in its first corner.
    pub struct MaxUnpool { kernel: Vec<i64>, strides: Vec<i64>, pads: Vec<i64> }
}

impl MaxUnpool {
    /// What was pooled to `dims`.
    fn unpooled(&self, dims: &[Dim]) -> Result<Vec<Dim>, TypeError> {
        let n = self.kernel.len();
        if dims.len() != n + 2 || self.strides.len() != n || self.pads.len() != 2 * n {
            return Err(TypeError::Invalid(format!("kernel, strides and pads do not fit a rank of {}", dims.len())));
        }
        let one = |(i, d): (usize, &Dim)| match i.checked_sub(2) {
            None => d.clone(),
            Some(i) => (d - 1) * self.strides[i] + (self.kernel[i] - self.pads[i] - self.pads[n + i]),
        };
        Ok(dims.iter().enumerate().map(one).collect())
    }
}

impl OpSpec for MaxUnpool {
    const NAME: &'static str = "max_unpool";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 2, 4, 6]) { %y, %i = max_pool_indices(%x) {kernel = [2, 2], strides = [2, 2], pads = [0, 0, 0, 0], dilations = [1, 1]} %z = max_unpool(%y, %i) {kernel = [2, 2], strides = [2, 2], pads = [0, 0, 0, 0]} return %z }",
        "graph @g(%x: f32[1, 1, 2, 2], %i: i64[1, 1, 2, 2], %s: i64[4]) { %f = const [1, 1, 4, 4] : i64[4] %t = add(%s, %f) %z = max_unpool(%x, %i, %t) {kernel = [2, 2], strides = [2, 2], pads = [0, 0, 0, 0]} return %z }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 3)?;
        reading::takes_indices(operands, 1)?;
        let x = operands.tensor(0)?;
        let shape = match (operands.has(2), x.dims()) {
            (false, Some(dims)) => Shape::Ranked(self.unpooled(dims)?),
            (true, _) => match operands.elements(2) {
                Some(shape) => Shape::Ranked(shape.to_vec()),
                None => Shape::Ranked((0..self.kernel.len() + 2).map(|_| operands.late_dim()).collect()),
            },
            (false, None) => Shape::Ranked((0..self.kernel.len() + 2).map(|_| operands.late_dim()).collect()),
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, indices) = (tensor(operands, 0)?, tensor(operands, 1)?);
        if x.dims() != indices.dims() {
            return Err(invalid(format!("{:?} elements have {:?} positions", x.dims(), indices.dims())));
        }
        let dims: Vec<Dim> = x.dims().iter().map(|d| Dim::from(*d)).collect();
        let inner = crate::ops::sizes(&self.unpooled(&dims).map_err(invalid)?)?;
        let shape = match reading::optional(operands, 2)? {
            Some(shape) => crate::ops::sizes(&reading::dims_of(shape)?)?,
            None => inner.clone(),
        };
        if shape.len() != inner.len() || shape.iter().zip(&inner).any(|(outer, inner)| outer < inner) {
            return Err(invalid(format!("a tensor of {inner:?} does not fit into {shape:?}")));
        }
        let (n, places) = (count(&inner)?, offsets(&inner, &row_major(&shape)));
        let mut from = vec![usize::MAX; count(&shape)?];
        for (i, at) in indices.to_i64()?.into_iter().enumerate() {
            from[places[reading::index(at, n)?]] = i;
        }
        Ok(vec![reading::pick_or_zero(x, &shape, &from)?.into()])
    }

    moves_data! {}
}
