use super::dft::{Transform, fft_flops};
use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, number, tensor};
use crate::tensor::{Tensor, count};
use crate::types::TensorType;
use rustfft::num_complex::Complex64;

op! {
    /// `stft(x, step, window?, length?) {onesided}`: ONNX STFT: discrete Fourier transforms of frames of `length` elements, one
    /// every `step`, of the signals `x[B, L]`, `x[B, L, 1]` or (complex) `x[B, L, 2]`, weighted by `window[length]`:
    /// `[B, (L - length) / step + 1, length, 2]`, with `onesided` only frequencies 0 to length / 2.
    ///
    /// Without a length it is the window's; without both the signal's.
    pub struct Stft { onesided: bool }
}

impl OpSpec for Stft {
    const NAME: &'static str = "stft";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 20, 1], %w: f32[8]) { %s = const [3] : i64[] %y = stft(%x, %s, %w) {onesided = true} return %y }",
        "graph @g(%x: f32[2, 25, 2], %s: i64[]) { %one = const [1] : i64[] %t = add(%s, %one) %n = const [5] : i64[] %y = stft(%x, %t, _, %n) {} return %y }",
        "graph @g(%x: f32[2, 12, 1], %s: i64[], %n: i64[]) { %one = const [1] : i64[] %t = add(%s, %one) %m = add(%n, %one) %y = stft(%x, %t, _, %m) {onesided = true} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 4)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() {
            return Err(operands.wrong(0, format!("signals are floats, not {}", x.dtype)));
        }
        let (batch, n) = match x.dims() {
            Some([batch, n]) => (batch.clone(), n.clone()),
            Some([batch, n, parts]) => {
                if self.onesided && parts.as_const() == Some(2) {
                    return Err(operands.wrong(0, "a complex signal has no one-sided transform"));
                }
                (batch.clone(), n.clone())
            }
            Some(_) => return Err(operands.wrong(0, format!("{x} holds no signals"))),
            None => (operands.late_dim(), operands.late_dim()),
        };
        let window = if operands.has(2) { operands.dims(2)?.and_then(<[Dim]>::first) } else { None };
        let length = match (operands.has(3), operands.has(2)) {
            (true, _) => reading::known_number(operands, 3),
            (false, true) => window.cloned(),
            (false, false) => Some(n.clone()),
        };
        let step = reading::known_number(operands, 1).filter(|s| s.as_const().is_some_and(|s| s > 0));
        let frames = match (&length, step) {
            (Some(length), Some(step)) => Dim::max(&((&n - length).floor_div(&step) + 1), &Dim::constant(0)),
            _ => operands.late_dim(),
        };
        let bins = match length {
            Some(length) if self.onesided => length.floor_div(&Dim::constant(2)) + 1,
            Some(length) => length,
            None => operands.late_dim(),
        };
        Ok(vec![TensorType::new(x.dtype, [batch, frames, bins, Dim::constant(2)]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let (batch, n, parts) = match *x.dims() {
            [batch, n] => (batch, n, 1),
            [batch, n, parts @ 1..=2] => (batch, n, parts),
            _ => return Err(invalid(format!("{:?} holds no signals", x.dims()))),
        };
        if self.onesided && parts == 2 {
            return Err(invalid("a complex signal has no one-sided transform"));
        }
        let window = reading::optional(operands, 2)?.map(Tensor::to_f64).transpose()?;
        let length = match (reading::optional(operands, 3)?, &window) {
            (Some(length), _) => usize::try_from(number(length)?).unwrap_or(0),
            (None, Some(window)) => window.len(),
            (None, None) => n,
        };
        if length == 0 || length >= 1 << 40 || window.as_ref().is_some_and(|w| w.len() != length) {
            return Err(invalid(format!("frames of {length} elements do not fit the window")));
        }
        let step = usize::try_from(number(tensor(operands, 1)?)?).ok().filter(|s| *s > 0);
        let step = step.ok_or_else(|| invalid("frames need a distance of at least 1"))?;
        let frames = n.checked_sub(length).map_or(0, |room| room / step + 1);
        let bins = if self.onesided { length / 2 + 1 } else { length };
        let dims = [batch, frames, bins, 2];
        let v = x.to_f64()?;
        let mut y = Vec::with_capacity(count(&dims)?);
        let mut transform = Transform::new(length, false);
        for (b, frame) in (0..batch).flat_map(|b| (0..frames).map(move |f| (b, f))) {
            let begin = (b * n + frame * step) * parts;
            for (i, to) in transform.line().iter_mut().enumerate() {
                let (at, w) = (begin + i * parts, window.as_ref().map_or(1.0, |w| w[i]));
                *to = Complex64::new(v[at] * w, if parts == 2 { v[at + 1] * w } else { 0.0 });
            }
            y.extend(transform.run()[..bins].iter().flat_map(|r| [r.re, r.im]));
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &dims, &y)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        fft_flops(operands, results)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}
