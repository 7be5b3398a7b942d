use super::layer_norm::{infer_normalised, scale_and_shift};
use super::operand::tensor;
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, axis};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::ValueType;

op! {
    /// `rms_norm(x, scale?) {axis, eps}`: over the dimensions from `axis` on: `x / sqrt(mean(x^2) + eps) * scale`; `scale`
    /// broadcasts to `x`. <https://arxiv.org/abs/1910.07467>
    pub struct RmsNorm { axis: i64, eps: f32 }
}

impl OpSpec for RmsNorm {
    const NAME: &'static str = "rms_norm";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[B, S, 33], %s: f32[33]) { %y = rms_norm(%x, %s) {axis = -1, eps = 1e-5} return %y }",
        "graph @g(%x: f32[B, 4, 8]) { %y = rms_norm(%x) {axis = 1, eps = 1e-6} return %y }",
        "graph @g(%x: f16[B, 16], %s: f16[16]) { %y = rms_norm(%x, %s) {axis = 1, eps = 1e-5} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 2)?;
        infer_normalised(operands, self.axis, &[1])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let at = axis(self.axis, x.rank()).map_err(super::operand::invalid)?;
        let n: usize = x.dims()[at..].iter().product();
        let mut v = x.to_f64()?;
        for row in v.chunks_exact_mut(n.max(1)) {
            let square = row.iter().map(|v| v * v).sum::<f64>() / n as f64;
            let inverse = 1.0 / (square + self.eps as f64).sqrt();
            row.iter_mut().for_each(|v| *v *= inverse);
        }
        scale_and_shift(&mut v, x.dims(), operands, 1, usize::MAX)?;
        Ok(vec![Tensor::from_f64(x.dtype(), x.dims(), &v)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 4
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}
