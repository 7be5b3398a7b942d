use super::reading::{self, invalid, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tensor, Tolerance, TypeError, axis};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::{Shape, TensorType, ValueType};
use std::cmp::Ordering;

op! {
    /// `top_k(x) {k, axis, largest, sorted}`: the `k` largest (or smallest) elements along `axis` and their i64 positions.
    ///
    /// Of equal elements the lower position comes first. NaN counts as greater than every number. Results are in order
    /// even if `sorted` does not ask for it.
    pub struct TopK { k: Dim, axis: i64, largest: bool, sorted: bool }
}

impl OpSpec for TopK {
    const NAME: &'static str = "top_k";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 9]) { %v, %i = top_k(%x) {k = 3, axis = -1, largest = true, sorted = true} return %v, %i }",
        "graph @g(%x: f32[4, M]) { %v, %i = top_k(%x) {k = 2, axis = 0, sorted = true} return %v, %i }",
        "graph @g(%x: i64[N, 6]) { %v, %i = top_k(%x) {k = 6, axis = 1, largest = true, sorted = true} return %v, %i }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if matches!(x.dtype, DType::Str | DType::Bool) {
            return Err(operands.wrong(0, format!("top_k does not order {}", x.dtype)));
        }
        let shape = match x.dims() {
            Some(dims) => {
                let mut dims = dims.to_vec();
                let at = axis(self.axis, dims.len())?;
                if let (Some(k), Some(n)) = (self.k.as_const(), dims[at].as_const())
                    && (k < 0 || k > n) {
                        return Err(TypeError::Invalid(format!("the {k} first of {n} elements")));
                    }
                dims[at] = self.k.clone();
                Shape::Ranked(dims)
            }
            None => Shape::Unranked,
        };
        let indices = TensorType { dtype: DType::I64, shape: shape.clone() };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into(), indices.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let at = reading::axis(self.axis, x.rank())?;
        let k = super::sizes(std::slice::from_ref(&self.k))?[0];
        if k > x.dims()[at] {
            return Err(invalid(format!("the {k} first of {} elements", x.dims()[at])));
        }
        let chosen = match x.dtype().is_float() {
            true => choose(&x.to_f64()?, x.dims(), at, k, self.largest),
            false => choose(&x.to_ints()?, x.dims(), at, k, self.largest),
        };
        let mut dims = x.dims().to_vec();
        dims[at] = k;
        let strides = super::strides(x.dims());
        let step = strides[at];
        let positions: Vec<i64> = chosen.iter().map(|i| (i / step % x.dims()[at].max(1)) as i64).collect();
        Ok(vec![x.pick(&dims, &chosen)?.into(), Tensor::from_slice(&dims, &positions)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        operands[0].as_tensor().and_then(|t| t.shape.elements()).unwrap_or(Dim::constant(0)) * 4
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}

/// Elements in the order of the result: for every lane along `at`, the first `k` of its order.
fn choose<T: PartialOrd + Copy>(v: &[T], dims: &[usize], at: usize, k: usize, largest: bool) -> Vec<usize> {
    let inner: usize = dims[at + 1..].iter().product();
    let outer: usize = dims[..at].iter().product();
    let mut chosen = vec![0; outer * k * inner];
    if k == 0 {
        return chosen;
    }
    let is_nan = |x: &T| x.partial_cmp(x).is_none();
    let ascending = |a: &T, b: &T| a.partial_cmp(b).unwrap_or_else(|| is_nan(a).cmp(&is_nan(b)));
    let mut lane: Vec<usize> = Vec::with_capacity(dims[at]);
    for (l, start) in super::lanes(dims, at).into_iter().enumerate() {
        lane.clear();
        lane.extend((0..dims[at]).map(|i| start + i * inner));
        let order = |a: &usize, b: &usize| -> Ordering {
            let by_value = ascending(&v[*a], &v[*b]);
            if largest { by_value.reverse() } else { by_value }.then(a.cmp(b))
        };
        if k < lane.len() {
            lane.select_nth_unstable_by(k - 1, order);
        }
        lane[..k].sort_unstable_by(order);
        let to = l / inner * k * inner + l % inner;
        lane[..k].iter().enumerate().for_each(|(j, i)| chosen[to + j * inner] = *i);
    }
    chosen
}
