use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, number, tensor};
use crate::tensor::{Tensor, count};
use crate::types::TensorType;

op! {
    /// `mel_weight_matrix(bins, length, rate, lower, upper) {dtype}`: ONNX MelWeightMatrix: `[length / 2 + 1, bins]` weights that
    /// turn the spectrum of a transform of `length` samples, `rate` a second, into `bins` triangular bands from `lower` to
    /// `upper` hertz, evenly spaced on the scale `mel(f) = 2595 log10(1 + f / 700)`.
    pub struct MelWeightMatrix { dtype: DType }
}

impl OpSpec for MelWeightMatrix {
    const NAME: &'static str = "mel_weight_matrix";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N]) { %b = const [8] : i64[] %n = const [16] : i64[] %r = const [8192] : i64[] %l = const [0] : f32[] %u = const [4096] : f32[] %y = mel_weight_matrix(%b, %n, %r, %l, %u) {dtype = f32} return %y }",
        "graph @g(%b: i64[]) { %n = const [64] : i64[] %l = const [20] : f32[] %r = const [16000] : i64[] %u = const [4000] : f32[] %y = mel_weight_matrix(%b, %n, %r, %l, %u) {dtype = f64} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(5, 5)?;
        (0..3).try_for_each(|i| reading::takes_indices(operands, i))?;
        for i in 3..5 {
            if !operands.dtype(i)?.is_float() {
                return Err(operands.wrong(i, "frequencies are floats"));
            }
        }
        if !self.dtype.is_float() && !self.dtype.is_int() {
            return Err(TypeError::Invalid(format!("weights are not {}", self.dtype)));
        }
        let known = |i: usize| reading::known_number(operands, i);
        let rows = known(1).map_or_else(|| operands.late_dim(), |n| n.floor_div(&Dim::constant(2)) + 1);
        let bins = known(0).unwrap_or_else(|| operands.late_dim());
        Ok(vec![TensorType::new(self.dtype, [rows, bins]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let size = |i: usize| {
            let n = number(tensor(operands, i)?)?;
            usize::try_from(n).map_err(|_| invalid(format!("operand {i} is {n}")))
        };
        let hertz = |i: usize| match tensor(operands, i)?.to_f64()?[..] {
            [f] if f.is_finite() && f > -700.0 => Ok(f),
            _ => Err(invalid(format!("operand {i} is no frequency"))),
        };
        let (bins, length, rate) = (size(0)?, size(1)?, size(2)?);
        let mel = |f: f64| 2595.0 * (1.0 + f / 700.0).log10();
        let (low, high) = (mel(hertz(3)?), mel(hertz(4)?));
        let rows = length / 2 + 1;
        let mut y = vec![0.0; count(&[rows, bins])?];
        let step = (high - low) / (bins as f64 + 2.0);
        let row = |i: usize| {
            let f = 700.0 * (10f64.powf((low + i as f64 * step) / 2595.0) - 1.0);
            let at = ((length as f64 + 1.0) * f / rate as f64).floor();
            match at >= 0.0 && at < rows as f64 {
                true => Ok(at as usize),
                false => Err(invalid(format!("{f} hertz lie outside the spectrum at {rate} samples a second"))),
            }
        };
        for bin in 0..bins {
            let (left, center, right) = (row(bin)?, row(bin + 1)?, row(bin + 2)?);
            if left == center {
                y[center * bins + bin] = 1.0;
            }
            (left + 1..=center).for_each(|j| y[j * bins + bin] = (j - left) as f64 / (center - left) as f64);
            (center..right).for_each(|j| y[j * bins + bin] = (right - j) as f64 / (right - center) as f64);
        }
        Ok(vec![Tensor::from_f64(self.dtype, &[rows, bins], &y)?.into()])
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
