use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::lanes;
use crate::ops::reading::{self, axis, invalid, number, tensor};
use crate::tensor::{Tensor, count};
use crate::types::{Shape, TensorType};
use rustfft::FftPlanner;
use rustfft::num_complex::Complex64;

op! {
    /// `dft(x, length?, axis?) {inverse, onesided}`: ONNX DFT: discrete Fourier transforms along a dimension (-2 where absent) of
    /// `x[.., 1]` (real) or `x[.., 2]` (real and imaginary part), cut or filled with 0 to `length`: `[.., 2]`.
    ///
    /// `onesided` gives only frequencies 0 to length / 2; with `inverse`, it takes those of a real signal and gives it: `[.., 1]`,
    /// of `2 (n - 1)` elements where no length is given. The inverse divides by the length.
    pub struct Dft { inverse: bool, onesided: bool }
}

impl OpSpec for Dft {
    const NAME: &'static str = "dft";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 6, 1]) { %y = dft(%x) {onesided = true} %z = dft(%y) {inverse = true, onesided = true} return %y, %z }",
        "graph @g(%x: f64[N, M, 2]) { %n = const [5] : i64[] %a = const [0] : i64[] %y = dft(%x, %n, %a) {} %z = dft(%x, _, %a) {inverse = true} return %y, %z }",
        "graph @g(%x: f32[4, N, 2], %n: i64[]) { %one = const [1] : i64[] %m = add(%n, %one) %y = dft(%x, %m) {} return %y }",
        "graph @g(%x: f32[4, N, 1], %n: i64[]) { %one = const [1] : i64[] %m = add(%n, %one) %y = dft(%x, %m) {onesided = true} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 3)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() {
            return Err(operands.wrong(0, format!("signals are floats, not {}", x.dtype)));
        }
        let Some(dims) = x.dims() else { return Ok(vec![TensorType::unranked(x.dtype).into()]) };
        let parts = dims.last().and_then(Dim::as_const);
        if dims.len() < 2 || parts.is_some_and(|n| n != 1 && n != 2) {
            return Err(operands.wrong(0, format!("{x} has no last dimension of 1 (real) or 2 (complex)")));
        }
        let given = if operands.has(2) { reading::known_number(operands, 2).and_then(|a| a.as_const()) } else { Some(-2) };
        let (signal, mut shape) = (dims.len() - 1, dims.to_vec());
        shape[signal] = Dim::constant(if self.inverse && self.onesided { 1 } else { 2 });
        match given {
            None => shape[..signal].iter_mut().for_each(|d| *d = operands.late_dim()),
            Some(given) => {
                let at = crate::ops::axis(given, dims.len())?;
                if at == signal {
                    return Err(operands.wrong(2, "the last dimension holds real and imaginary parts"));
                }
                let length = match (operands.has(1), self.inverse && self.onesided) {
                    (true, _) => reading::known_number(operands, 1),
                    (false, true) => Some((&dims[at] - 1) * 2),
                    (false, false) => Some(dims[at].clone()),
                };
                shape[at] = match length {
                    Some(length) if self.onesided && !self.inverse => length.floor_div(&Dim::constant(2)) + 1,
                    Some(length) => length,
                    None => operands.late_dim(),
                };
            }
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: Shape::Ranked(shape) }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let given = reading::optional(operands, 2)?.map(number).transpose()?.unwrap_or(-2);
        let at = axis(given, x.rank())?;
        let parts = x.dims().last().copied().unwrap_or(0);
        if at + 1 == x.rank() || !matches!(parts, 1 | 2) {
            return Err(invalid(format!("{:?} has no signal along axis {given}", x.dims())));
        }
        let n = x.dims()[at];
        let length = match reading::optional(operands, 1)? {
            Some(length) => number(length)?,
            None if self.inverse && self.onesided => 2 * (n as i64 - 1),
            None => n as i64,
        };
        let length = usize::try_from(length).ok().filter(|n| *n > 0 && *n < 1 << 40);
        let length = length.ok_or_else(|| invalid("a transform of no elements"))?;
        let results = if self.onesided && !self.inverse { length / 2 + 1 } else { length };
        let results_parts = if self.onesided && self.inverse { 1 } else { 2 };
        let (mut dims, signal) = (x.dims().to_vec(), x.rank() - 1);
        (dims[at], dims[signal]) = (results, results_parts);
        let v = x.to_f64()?;
        let mut y = vec![0.0; count(&dims)?];
        let inner: usize = x.dims()[at + 1..signal].iter().product();
        let mut transform = Transform::new(length, self.inverse);
        // The places of lines in complex numbers, in both tensors.
        let (from, to) = (lanes(&x.dims()[..signal], at), lanes(&dims[..signal], at));
        for (from, to) in from.iter().zip(&to) {
            let element = |i: usize| {
                let at = (from + i * inner) * parts;
                Complex64::new(v[at], if parts == 2 { v[at + 1] } else { 0.0 })
            };
            let known = if self.inverse && self.onesided { length / 2 + 1 } else { length };
            let line = transform.line();
            (0..n.min(known)).for_each(|i| line[i] = element(i));
            if self.inverse && self.onesided {
                // A real signal's spectrum: the other half is the conjugate.
                (known..length).for_each(|i| line[i] = line[length - i].conj());
            }
            for (i, r) in transform.run()[..results].iter().enumerate() {
                let at = (to + i * inner) * results_parts;
                y[at] = r.re;
                if results_parts == 2 {
                    y[at + 1] = r.im;
                }
            }
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

/// About `5 n log2 n`, the logarithm taken for 10.
pub(super) fn fft_flops(_: &[&ValueType], results: &[ValueType]) -> Dim {
    results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 25
}

/// Transforms of one length. A line is filled, then transformed.
pub(super) struct Transform {
    fft: std::sync::Arc<dyn rustfft::Fft<f64>>,
    buffer: Vec<Complex64>,
    scale: f64,
}

impl Transform {
    pub fn new(length: usize, inverse: bool) -> Transform {
        let mut planner = FftPlanner::new();
        let fft = if inverse { planner.plan_fft_inverse(length) } else { planner.plan_fft_forward(length) };
        let scale = if inverse { 1.0 / length as f64 } else { 1.0 };
        Transform { fft, buffer: vec![Complex64::default(); length], scale }
    }

    /// The line to fill; all 0.
    pub fn line(&mut self) -> &mut [Complex64] {
        self.buffer.fill(Complex64::default());
        &mut self.buffer
    }

    /// The transform of the line.
    pub fn run(&mut self) -> &[Complex64] {
        self.fft.process(&mut self.buffer);
        self.buffer.iter_mut().for_each(|v| *v *= self.scale);
        &self.buffer
    }
}
