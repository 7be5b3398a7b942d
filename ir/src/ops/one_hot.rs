use super::reading::{self, invalid, moves_data, tensor};
use super::{Datum, EvalError, OpSpec, Operands, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `one_hot(indices, values) {depth, axis}`: a new dimension of `depth` elements at `axis`: `values[1]` where its
    /// position is the index, `values[0]` elsewhere. Indices from -`depth` count from the end; one outside is nowhere.
    pub struct OneHot { depth: Dim, axis: i64 }
}

impl OpSpec for OneHot {
    const NAME: &'static str = "one_hot";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%i: i64[N, M]) { %v = const [0.0, 1.0] : f32[2] %y = one_hot(%i, %v) {depth = 3, axis = -1} return %y }",
        "graph @g(%i: i64[N, M]) { %v = const [5, 1] : i64[2] %y = one_hot(%i, %v) {depth = N + 1, axis = 1} return %y }",
        "graph @g(%i: i32[N]) { %v = const [0, 1] : i64[2] %y = one_hot(%i, %v) {depth = 2, axis = 0} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (i, values) = (operands.tensor(0)?, operands.tensor(1)?);
        if matches!(i.dtype, DType::Str | DType::Bool) {
            return Err(operands.wrong(0, format!("indices are numbers, not {}", i.dtype)));
        }
        let shape = match i.dims() {
            Some(dims) => {
                let mut dims = dims.to_vec();
                dims.insert(super::axis(self.axis, dims.len() + 1)?, self.depth.clone());
                Shape::Ranked(dims)
            }
            None => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: values.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (indices, values) = (tensor(operands, 0)?, tensor(operands, 1)?);
        if values.len() != 2 {
            return Err(invalid(format!("expected the values for off and on, found {}", values.len())));
        }
        let depth = super::sizes(std::slice::from_ref(&self.depth))?[0];
        let at = reading::axis(self.axis, indices.rank() + 1)?;
        let numbers: Vec<i64> = match indices.dtype().is_float() {
            true => indices.to_f64()?.into_iter().map(|v| v as i64).collect(),
            false => indices.to_i64()?,
        };
        let mut dims = indices.dims().to_vec();
        dims.insert(at, depth);
        let inner: usize = dims[at + 1..].iter().product();
        let mut from = vec![0usize; crate::tensor::count(&dims)?];
        for (j, i) in numbers.into_iter().enumerate() {
            if let Ok(i) = reading::index(i, depth) {
                from[(j / inner * depth + i) * inner + j % inner] = 1;
            }
        }
        Ok(vec![values.pick(&dims, &from)?.into()])
    }

    moves_data! {}
}
