use super::operand::tensor;
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::ValueType;

op! {
    /// `lrn(x) {size, alpha, beta, bias}`: local response normalisation across the channels of `x[N, C, ..]`:
    /// `x / (bias + alpha / size * s)^beta`, `s` the sum of squares over `size` channels around each.
    pub struct Lrn { size: i64, alpha: f32, beta: f32, bias: f32 }
}

impl OpSpec for Lrn {
    const NAME: &'static str = "lrn";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 7, H, 3]) { %y = lrn(%x) {size = 4, alpha = 0.001, beta = 0.75, bias = 1.0} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() || x.dims().is_some_and(|d| d.len() < 2) || self.size < 1 {
            return Err(operands.wrong(0, format!("{x} has no channels of floats")));
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let (channels, inner) = (x.dims()[1], x.dims()[2..].iter().product::<usize>());
        let (before, after) = ((self.size as usize - 1) / 2, self.size as usize / 2);
        let v = x.to_f64()?;
        let one = |i: usize| {
            let (c, base) = (i / inner % channels, i / inner / channels * channels * inner + i % inner);
            let around = c.saturating_sub(before)..=(c + after).min(channels - 1);
            let sum: f64 = around.map(|c| v[base + c * inner] * v[base + c * inner]).sum();
            v[i] / (self.bias as f64 + self.alpha as f64 / self.size as f64 * sum).powf(self.beta as f64)
        };
        let y: Vec<f64> = (0..v.len()).map(one).collect();
        Ok(vec![Tensor::from_f64(x.dtype(), x.dims(), &y)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * (self.size * 2)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}
