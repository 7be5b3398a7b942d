use super::{DType, Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::ops::reading::{invalid, tensor};
use crate::tensor::Tensor;
use crate::{attr_enum, op};

attr_enum! {
    /// What `ai.onnx.ml` does with scores at last.
    pub enum Transform {
        /// Softmax of every row.
        Softmax = "softmax",
        /// `1 / (1 + exp(-x))`.
        Logistic = "logistic",
        /// Softmax of the elements of a row that are not 0; 0 stays.
        SoftmaxZero = "softmax_zero",
        /// Quantile of the standard normal distribution.
        Probit = "probit",
    }
}

op! {
    /// `post_transform(x) {f}`: the last step of `ai.onnx.ml` classifiers and regressors, over the last dimension.
    pub struct PostTransform { f: Transform }
}

impl OpSpec for PostTransform {
    const NAME: &'static str = "post_transform";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3]) { %a = post_transform(%x) {f = softmax_zero} %b = post_transform(%a) {f = softmax} %c = post_transform(%x) {f = logistic} return %a, %b, %c }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() || x.dims().is_some_and(<[_]>::is_empty) {
            return Err(operands.wrong(0, format!("{x} holds no rows of scores")));
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let columns = *x.dims().last().ok_or_else(|| invalid("scores come in rows"))?;
        let mut v = x.to_f64()?;
        for row in v.chunks_exact_mut(columns.max(1)) {
            match self.f {
                Transform::Softmax => softmax(row, |_| true),
                Transform::SoftmaxZero => softmax(row, |s| s.abs() > 1e-7),
                Transform::Logistic => row.iter_mut().for_each(|s| *s = 1.0 / (1.0 + (-*s).exp())),
                Transform::Probit => row.iter_mut().for_each(|s| *s = probit(*s)),
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), x.dims(), &v)?.into()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}

fn softmax(row: &mut [f64], counts: impl Fn(f64) -> bool) {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().filter(|s| counts(**s)).map(|s| (s - largest).exp()).sum();
    for s in row.iter_mut() {
        *s = if counts(*s) { (*s - largest).exp() / sum } else { 0.0 };
    }
}

/// `sqrt(2) * erfinv(2x - 1)` with Winitzki's approximation of the inverse, as ONNX Runtime computes it.
fn probit(x: f64) -> f64 {
    let x = 2.0 * x - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let v = 2.0 / (std::f64::consts::PI * 0.147) + 0.5 * log;
    let root = (-v + (v * v - log / 0.147).sqrt()).sqrt();
    std::f64::consts::SQRT_2 * root.copysign(x)
}
