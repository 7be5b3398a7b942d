use super::activation::ActivationFn;
use super::dynamic_quantize_linear::quantize;
use super::lstm::{Cell, Lstm};
use super::operand::{ensure, floats, optional, tensor};
use super::recurrent::{self, Direction};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `dynamic_quantize_lstm(x, w, r, bias?, lengths?, h0?, c0?, peepholes?, w_scale, w_zero, r_scale, r_zero)`: `lstm` with 8-bit
    /// weights: `w[D, I, 4H]`, `r[D, H, 4H]` (transposed against `lstm`), scales and zero points per direction `[D]` or per column `[D, 4H]`.
    ///
    /// What multiplies a weight is quantised as `dynamic_quantize_linear` does: the input once for all steps and samples, the
    /// states of all samples together anew in every step; the state of a sample that has ended is 0 there.
    pub struct DynamicQuantizeLstm {
        direction: Direction, activations: Vec<ActivationFn>, alphas: Vec<f32>, betas: Vec<f32>, clip: Option<f32>,
        input_forget: bool,
    }
}

impl OpSpec for DynamicQuantizeLstm {
    const NAME: &'static str = "dynamic_quantize_lstm";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[S, B, 5], %w: i8[1, 5, 12], %wr: i8[1, 3, 12], %b: f32[1, 24]) { %s = const [0.01] : f32[1] %z = const [0] : i8[1] %y, %h, %c = dynamic_quantize_lstm(%x, %w, %wr, %b, _, _, _, _, %s, %z, %s, %z) {direction = forward, activations = [sigmoid, tanh, tanh], alphas = [], betas = []} return %y, %h, %c }",
        "graph @g(%x: f32[S, B, 5], %w: i8[2, 5, 12], %wr: u8[2, 3, 12], %b: f32[2, 24], %n: i32[B], %h0: f32[2, B, 3], %c0: f32[2, B, 3], %p: f32[2, 9]) { %s = const [0.01, 0.02] : f32[2] %z = const [0, 1] : i8[2] %zr = const [1, 0] : u8[2] %y, %h, %c = dynamic_quantize_lstm(%x, %w, %wr, %b, %n, %h0, %c0, %p, %s, %z, %s, %zr) {direction = bidirectional, activations = [sigmoid, tanh, tanh, sigmoid, tanh, tanh], alphas = [], betas = [], clip = 3.0} return %y, %h, %c }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(12, 12)?;
        let x = operands.tensor(0)?;
        for i in [1, 2] {
            if !matches!(operands.dtype(i)?, DType::I8 | DType::U8) {
                return Err(operands.wrong(i, format!("{} is not an 8-bit integer", operands.dtype(i)?)));
            }
        }
        if x.dtype != DType::F32 || self.activations.len() != 3 * self.direction.count() {
            return Err(operands.wrong(0, format!("{} with {} activations", x.dtype, self.activations.len())));
        }
        let (Some(xd), Some(wd), Some(rd)) = (x.dims(), operands.dims(1)?, operands.dims(2)?) else {
            return Ok(vec![TensorType::unranked(x.dtype).into(); 3]);
        };
        let ([s, b, i], [_, k, columns], [d, h, all]) = (xd, wd, rd) else {
            return Err(operands.wrong(0, format!("{x} with weights of rank {} is not a sequence", wd.len())));
        };
        let pairs = [(d, &Dim::from(self.direction.count())), (i, k), (columns, all), (all, &(h * 4))];
        pairs.into_iter().try_for_each(|(a, b)| operands.assume_same(a, b))?;
        let state = ValueType::from(TensorType::new(x.dtype, [d, b, h].map(Dim::clone)));
        Ok(vec![TensorType::new(x.dtype, [s, d, b, h].map(Dim::clone)).into(), state.clone(), state])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let (w, r) = (Weight::read(operands, 1, 8)?, Weight::read(operands, 2, 10)?);
        let &[steps, batch, input] = x.dims() else { return Err(super::not_tensors(Self::NAME)) };
        let (count, h) = (self.direction.count(), r.k);
        let fits = w.k == input && w.n == 4 * h && r.n == 4 * h && [w.count, r.count] == [count; 2];
        ensure(fits, || format!("weights of {} and {} columns do not fit {:?}", w.n, r.n, x.dims()))?;
        let sized = |i: usize, n: usize| {
            let v = floats(operands, i)?.unwrap_or_else(|| vec![0.0; n]);
            ensure(v.len() == n, || format!("operand {i} has {} elements, {n} are needed", v.len())).map(|()| v)
        };
        let (bias, peepholes) = (sized(3, count * 8 * h)?, sized(7, count * 3 * h)?);
        let mut states = [sized(5, count * batch * h)?, sized(6, count * batch * h)?];
        let lengths = match optional(operands, 4) {
            Some(t) => t.to_i64()?.into_iter().map(|n| n.clamp(0, steps as i64) as usize).collect(),
            None => vec![steps; batch],
        };
        ensure(lengths.len() == batch, || format!("{} lengths for a batch of {batch}", lengths.len()))?;
        let op = Lstm {
            direction: self.direction,
            activations: self.activations.clone(),
            alphas: self.alphas.clone(),
            betas: self.betas.clone(),
            clip: self.clip,
            input_forget: self.input_forget,
            batch_first: false,
        };
        let cell = Cell {
            op: &op,
            hidden: h,
            activations: recurrent::activations(&self.activations, &self.alphas, &self.betas),
        };
        let xs = x.to_f64()?;
        let mut y = vec![0.0; steps * count * batch * h];
        for d in 0..count {
            let from_input = w.product(d, &xs);
            for i in 0..lengths.iter().copied().max().unwrap_or(0) {
                let mut before = states[0][d * batch * h..][..batch * h].to_vec();
                (0..batch).filter(|b| i >= lengths[*b]).for_each(|b| before[b * h..][..h].fill(0.0));
                let from_state = r.product(d, &before);
                for b in (0..batch).filter(|b| i < lengths[*b]) {
                    let t = if self.direction.is_reverse(d) { lengths[b] - 1 - i } else { i };
                    let own = &bias[d * 8 * h..][..8 * h];
                    let sum = |j: usize| {
                        from_input[(t * batch + b) * 4 * h + j] + from_state[b * 4 * h + j] + own[j] + own[4 * h + j]
                    };
                    let sums: Vec<f64> = (0..4 * h).map(sum).collect();
                    let at = (d * batch + b) * h;
                    let mut pair = [states[0][at..at + h].to_vec(), states[1][at..at + h].to_vec()];
                    cell.step(d, &sums, &peepholes[d * 3 * h..][..3 * h], &mut pair);
                    y[((t * count + d) * batch + b) * h..][..h].copy_from_slice(&pair[0]);
                    states.iter_mut().zip(pair).for_each(|(s, p)| s[at..at + h].copy_from_slice(&p));
                }
            }
        }
        let [last, cells] = states;
        Ok(vec![
            Tensor::from_f64(x.dtype(), &[steps, count, batch, h], &y)?.into(),
            Tensor::from_f64(x.dtype(), &[count, batch, h], &last)?.into(),
            Tensor::from_f64(x.dtype(), &[count, batch, h], &cells)?.into(),
        ])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        recurrent::flops(operands)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 256.0)
    }
}

/// `[count, k, n]` codes less their zero points, with a scale per column.
struct Weight {
    count: usize,
    k: usize,
    n: usize,
    codes: Vec<f64>,
    scales: Vec<f64>,
}

impl Weight {
    fn read(operands: &[&Datum], i: usize, scale: usize) -> Result<Weight, EvalError> {
        let t = tensor("dynamic_quantize_lstm", operands, i)?;
        let &[count, k, n] = t.dims() else { return Err(EvalError::Invalid("a recurrent weight has rank 3".into())) };
        let spread = |v: Vec<f64>| match v.len() {
            len if len == count * n => Ok(v),
            len if len == count => Ok(v.into_iter().flat_map(|v| std::iter::repeat_n(v, n)).collect()),
            1 => Ok(vec![v[0]; count * n]),
            len => Err(EvalError::Invalid(format!("{len} scales for {count} directions of {n} columns"))),
        };
        let scales = spread(tensor("dynamic_quantize_lstm", operands, scale)?.to_f64()?)?;
        let zeros = spread(floats(operands, scale + 1)?.unwrap_or_else(|| vec![0.0; count]))?;
        let codes = t.to_f64()?.into_iter().enumerate().map(|(at, v)| v - zeros[at / n / k * n + at % n]).collect();
        Ok(Weight { count, k, n, codes, scales })
    }

    /// Rows of `x`, quantised together, times the weight of direction `d`.
    fn product(&self, d: usize, x: &[f64]) -> Vec<f64> {
        let narrow: Vec<f32> = x.iter().map(|v| *v as f32).collect();
        let (codes, scale, zero) = quantize(&narrow);
        let (w, scales) = (&self.codes[d * self.k * self.n..][..self.k * self.n], &self.scales[d * self.n..][..self.n]);
        let mut y = Vec::with_capacity(x.len() / self.k.max(1) * self.n);
        for row in codes.chunks_exact(self.k.max(1)) {
            let mut sums = vec![0.0; self.n];
            for (code, w) in row.iter().zip(w.chunks_exact(self.n)) {
                let v = f64::from(*code) - f64::from(zero);
                sums.iter_mut().zip(w).for_each(|(s, w)| *s += v * w);
            }
            y.extend(sums.iter().zip(scales).map(|(s, w)| s * w * scale as f64));
        }
        y
    }
}
