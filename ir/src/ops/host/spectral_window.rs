use super::{DType, Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::ops::reading::{self, invalid, number, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;
use crate::{attr_enum, op};
use std::f64::consts::PI;

attr_enum! {
    /// A window's formula.
    pub enum WindowFn {
        /// `sin(pi i / m)^2`
        Hann = "hann",
        /// `25/46 - 21/46 cos(2 pi i / m)`
        Hamming = "hamming",
        /// `0.42 - 0.5 cos(2 pi i / m) + 0.08 cos(4 pi i / m)`
        Blackman = "blackman",
    }
}

op! {
    /// `spectral_window(n) {f, symmetric, dtype}`: the `n` weights of a window function. Its period m is `n`, or `n - 1` when
    /// it is `symmetric`.
    pub struct SpectralWindow { f: WindowFn, symmetric: bool, dtype: DType }
}

impl OpSpec for SpectralWindow {
    const NAME: &'static str = "spectral_window";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N]) { %n = dims() {elements = [N], scalar = true} %a = spectral_window(%n) {f = hann, dtype = f32} %b = spectral_window(%n) {f = hamming, dtype = f16} %c = spectral_window(%n) {f = blackman, symmetric = true, dtype = f64} return %a, %b, %c }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        reading::takes_indices(operands, 0)?;
        if !self.dtype.is_float() && !self.dtype.is_int() {
            return Err(TypeError::Invalid(format!("weights are not {}", self.dtype)));
        }
        let n = reading::known_number(operands, 0).unwrap_or_else(|| operands.late_dim());
        Ok(vec![TensorType::new(self.dtype, [n]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let n = number(tensor(operands, 0)?)?;
        let n = usize::try_from(n).map_err(|_| invalid(format!("a window of {n} elements")))?;
        crate::tensor::count(&[n])?;
        let period = if self.symmetric { n as f64 - 1.0 } else { n as f64 };
        let weight = |i: usize| {
            let turn = i as f64 / period;
            match self.f {
                WindowFn::Hann => (PI * turn).sin().powi(2),
                WindowFn::Hamming => 25.0 / 46.0 - 21.0 / 46.0 * (2.0 * PI * turn).cos(),
                WindowFn::Blackman => 0.42 - 0.5 * (2.0 * PI * turn).cos() + 0.08 * (4.0 * PI * turn).cos(),
            }
        };
        let weights: Vec<f64> = (0..n).map(weight).collect();
        Ok(vec![Tensor::from_f64(self.dtype, &[n], &weights)?.into()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 4.0)
    }
}
