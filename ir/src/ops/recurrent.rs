//! What `lstm`, `gru` and `rnn` share: directions, layouts, activations and their typing.

use super::activation::ActivationFn;
use super::operand::{ensure, floats, optional, tensor};
use super::{Datum, EvalError, Operands, TypeError};
use crate::attr_enum;
use crate::dim::Dim;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

attr_enum! {
    /// The order in which a recurrent layer reads its sequence.
    pub enum Direction { Forward = "forward", Reverse = "reverse", Bidirectional = "bidirectional" }
}

impl Direction {
    /// One, or two when both ways.
    pub fn count(self) -> usize {
        if self == Direction::Bidirectional { 2 } else { 1 }
    }

    /// Whether direction number `d` starts at the end.
    pub fn is_reverse(self, d: usize) -> bool {
        self == Direction::Reverse || d == 1
    }
}

/// An activation with its parameters.
#[derive(Clone, Copy, Debug)]
pub struct Activation {
    f: ActivationFn,
    alpha: f64,
    beta: f64,
}

impl Activation {
    /// The function of a number, after clipping to `-clip..=clip`; NaN stays NaN.
    pub fn apply(&self, x: f64, clip: Option<f32>) -> f64 {
        let x = clip.filter(|_| !x.is_nan()).map_or(x, |c| x.max(-c as f64).min(c as f64));
        self.f.float(x, self.alpha, self.beta)
    }
}

/// The `gates` activations of every direction. Empty parameter lists are the functions' defaults.
pub fn activations(f: &[ActivationFn], alphas: &[f32], betas: &[f32]) -> Vec<Activation> {
    let one = |(i, f): (usize, &ActivationFn)| {
        let (alpha, beta) = super::activation::parameters(*f, alphas.get(i).copied(), betas.get(i).copied());
        Activation { f: *f, alpha, beta }
    };
    f.iter().enumerate().map(one).collect()
}

/// Types of Y, Y_h and further states. Operands: x, w `[D, gates*H, I]`, r `[D, gates*H, H]`, bias?, lengths?, h0? ...
pub fn infer(
    operands: &Operands<'_>,
    gates: i64,
    direction: Direction,
    activations: (&[ActivationFn], usize),
    batch_first: bool,
    states: usize,
) -> Result<Vec<ValueType>, TypeError> {
    let (x, r) = (operands.tensor(0)?, operands.tensor(2)?);
    if !x.dtype.is_float() || !operands.dtype(1)?.is_float() || !r.dtype.is_float() {
        return Err(operands.wrong(0, format!("a recurrent layer takes floats, not {}", x.dtype)));
    }
    let count = direction.count();
    if activations.0.len() != activations.1 * count {
        let found = activations.0.len();
        return Err(TypeError::Invalid(format!("{} activations are needed, found {found}", activations.1 * count)));
    }
    let (Some(xd), Some(wd), Some(rd)) = (x.dims(), operands.dims(1)?, r.dims()) else {
        return Ok(vec![TensorType::unranked(x.dtype).into(); 1 + states]);
    };
    let ([s, b, input], [_, rows, k], [d, r_rows, h]) = (xd, wd, rd) else {
        return Err(operands.wrong(0, format!("{x} with weights of rank {} is not a sequence", wd.len())));
    };
    operands.assume_same(d, &Dim::from(count))?;
    operands.assume_same(input, k)?;
    operands.assume_same(rows, r_rows)?;
    operands.assume_same(r_rows, &(h * gates))?;
    let (s, b) = if batch_first { (b, s) } else { (s, b) };
    if operands.has(4) {
        match operands.dims(4)? {
            Some([n]) => operands.assume_same(n, b)?,
            Some(_) => return Err(operands.wrong(4, format!("it is not [{b}]"))),
            None => {}
        }
    }
    let (d, s, b, h) = (d.clone(), s.clone(), b.clone(), h.clone());
    let (y, state) = match batch_first {
        true => (vec![b.clone(), s, d.clone(), h.clone()], vec![b, d, h]),
        false => (vec![s, d.clone(), b.clone(), h.clone()], vec![d, b, h]),
    };
    let ty = |dims| ValueType::from(TensorType { dtype: x.dtype, shape: Shape::Ranked(dims) });
    let mut types = vec![ty(y)];
    types.resize(1 + states, ty(state));
    Ok(types)
}

/// Twice the weights times steps and batch.
pub fn flops(operands: &[&ValueType]) -> Dim {
    let dims = |i: usize| operands[i].as_tensor().and_then(TensorType::dims);
    let (Some([s, b, _]), Some(w), Some(r)) = (dims(0), dims(1), dims(2)) else { return Dim::constant(0) };
    let weights: Dim = w.iter().cloned().product::<Dim>() + r.iter().cloned().product::<Dim>();
    s * b * weights * 2
}

/// A layer with its values in one layout: `x[S, B, I]`, states `[D, B, H]`.
pub(crate) struct Layer {
    pub steps: usize,
    pub batch: usize,
    pub input: usize,
    pub hidden: usize,
    pub directions: usize,
    pub x: Vec<f64>,
    pub w: Vec<f64>,
    pub r: Vec<f64>,
    /// Input bias, then recurrent bias, per direction; zeros when left out.
    pub bias: Vec<f64>,
    pub lengths: Vec<usize>,
    batch_first: bool,
}

/// Results of a layer under construction.
pub(crate) struct Outputs {
    /// `[S, D, B, H]`, zero past each sequence's length.
    pub y: Vec<f64>,
    /// Last states, each `[D, B, H]`.
    pub states: Vec<Vec<f64>>,
}

impl Layer {
    /// Reads operands 0 to 4, checking that they fit.
    pub fn read(
        name: &str,
        operands: &[&Datum],
        gates: usize,
        directions: usize,
        batch_first: bool,
    ) -> Result<Layer, EvalError> {
        let (x, w, r) = (tensor(name, operands, 0)?, tensor(name, operands, 1)?, tensor(name, operands, 2)?);
        let ([s, b, input], [wd, rows, k], [rd, r_rows, hidden]) = (x.dims(), w.dims(), r.dims()) else {
            return Err(EvalError::Invalid("a sequence and its weights have rank 3".into()));
        };
        let fits = [*wd, *rd] == [directions; 2] && k == input && rows == r_rows && *r_rows == gates * hidden;
        ensure(fits, || format!("weights of {:?} and {:?} do not fit {:?}", w.dims(), r.dims(), x.dims()))?;
        let (steps, batch) = if batch_first { (*b, *s) } else { (*s, *b) };
        let mut xs = x.to_f64()?;
        if batch_first {
            xs = swap(&xs, batch, steps, *input);
        }
        let bias = floats(operands, 3)?.unwrap_or_else(|| vec![0.0; directions * 2 * rows]);
        ensure(bias.len() == directions * 2 * rows, || format!("{} is not the length of the bias", bias.len()))?;
        let lengths = match optional(operands, 4) {
            None => vec![steps; batch],
            Some(t) => t.to_i64()?.into_iter().map(|n| n.clamp(0, steps as i64) as usize).collect(),
        };
        ensure(lengths.len() == batch, || format!("{} lengths for a batch of {batch}", lengths.len()))?;
        let (w, r) = (w.to_f64()?, r.to_f64()?);
        Ok(Layer { steps, batch, input: *input, hidden: *hidden, directions, x: xs, w, r, bias, lengths, batch_first })
    }

    /// Operand `i` as an initial state `[D, B, H]`; zeros when left out.
    pub fn state(&self, operands: &[&Datum], i: usize) -> Result<Vec<f64>, EvalError> {
        let n = self.directions * self.batch * self.hidden;
        let Some(v) = floats(operands, i)? else { return Ok(vec![0.0; n]) };
        ensure(v.len() == n, || format!("an initial state has {} elements, {n} are needed", v.len()))?;
        Ok(if self.batch_first { swap(&v, self.batch, self.directions, self.hidden) } else { v })
    }

    /// `w x_t` of direction `d`, sample `b`, over `rows` rows.
    pub fn input_product(&self, d: usize, t: usize, b: usize, rows: usize) -> Vec<f64> {
        let x = &self.x[(t * self.batch + b) * self.input..][..self.input];
        product(&self.w[d * rows * self.input..][..rows * self.input], x)
    }

    /// `rows` rows of `r` of direction `d` from row `first` times a state.
    pub fn state_product(&self, d: usize, all: usize, first: usize, rows: usize, h: &[f64]) -> Vec<f64> {
        product(&self.r[(d * all + first) * self.hidden..][..rows * self.hidden], h)
    }

    /// Runs `step(d, b, t, states)` in each direction's order and collects the first state.
    pub fn run(
        &self,
        direction: Direction,
        mut states: Vec<Vec<f64>>,
        mut step: impl FnMut(usize, usize, usize, &mut [Vec<f64>]),
    ) -> Outputs {
        let (d_all, b_all, h) = (self.directions, self.batch, self.hidden);
        let mut y = vec![0.0; self.steps * d_all * b_all * h];
        for (d, b) in (0..d_all).flat_map(|d| (0..b_all).map(move |b| (d, b))) {
            let at = (d * b_all + b) * h;
            let mut own: Vec<Vec<f64>> = states.iter().map(|s| s[at..at + h].to_vec()).collect();
            for i in 0..self.lengths[b] {
                let t = if direction.is_reverse(d) { self.lengths[b] - 1 - i } else { i };
                step(d, b, t, &mut own);
                y[((t * d_all + d) * b_all + b) * h..][..h].copy_from_slice(&own[0]);
            }
            states.iter_mut().zip(own).for_each(|(s, o)| s[at..at + h].copy_from_slice(&o));
        }
        Outputs { y, states }
    }

    /// The results as tensors in the layout of the operator.
    pub fn finish(&self, out: Outputs, x: &Tensor) -> Result<Vec<Datum>, EvalError> {
        let (s, d, b, h) = (self.steps, self.directions, self.batch, self.hidden);
        let (y_dims, state_dims) = if self.batch_first { ([b, s, d, h], [b, d, h]) } else { ([s, d, b, h], [d, b, h]) };
        let y = if self.batch_first { swap(&out.y, s * d, b, h) } else { out.y };
        let mut results = vec![Tensor::from_f64(x.dtype(), &y_dims, &y)?.into()];
        for state in out.states {
            let state = if self.batch_first { swap(&state, d, b, h) } else { state };
            results.push(Tensor::from_f64(x.dtype(), &state_dims, &state)?.into());
        }
        Ok(results)
    }
}

/// `[a, b, inner]` as `[b, a, inner]`.
fn swap(v: &[f64], a: usize, b: usize, inner: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(v.len());
    for j in 0..b {
        for i in 0..a {
            out.extend_from_slice(&v[(i * b + j) * inner..][..inner]);
        }
    }
    out
}

/// A row-major matrix times a vector.
pub(crate) fn product(m: &[f64], v: &[f64]) -> Vec<f64> {
    m.chunks_exact(v.len().max(1)).map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum()).collect()
}
