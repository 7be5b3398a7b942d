use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, axis};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::ValueType;

op! {
    /// `softmax(x) {axis}`: exponentials along `axis`, normalised to sum 1; with `log`, their logarithm.
    ///
    /// The largest element is subtracted first. A row of only -inf gives NaN.
    pub struct Softmax { axis: i64, log: bool }
}

impl OpSpec for Softmax {
    const NAME: &'static str = "softmax";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 33]) { %y = softmax(%x) {axis = -1} %z = softmax(%x) {axis = -1, log = true} return %y, %z }",
        "graph @g(%x: f32[N, 5, 7]) { %y = softmax(%x) {axis = 1} return %y }",
        "graph @g(%x: f16[N, 12]) { %y = softmax(%x) {axis = 1} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() {
            return Err(operands.wrong(0, format!("softmax takes floats, not {}", x.dtype)));
        }
        if let Some(dims) = x.dims() {
            axis(self.axis, dims.len())?;
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x)] = operands else { return Err(super::not_tensors(Self::NAME)) };
        let at = axis(self.axis, x.rank()).map_err(|e| EvalError::Invalid(e.to_string()))?;
        let (n, inner) = (x.dims()[at], x.dims()[at + 1..].iter().product::<usize>());
        let mut v = x.to_f64()?;
        for start in super::lanes(x.dims(), at) {
            let lane = |i: usize| start + i * inner;
            let largest = (0..n).map(|i| v[lane(i)]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..n).map(|i| (v[lane(i)] - largest).exp()).sum();
            for i in 0..n {
                let shifted = v[lane(i)] - largest;
                v[lane(i)] = if self.log { shifted - sum.ln() } else { shifted.exp() / sum };
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), x.dims(), &v)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 8
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}
