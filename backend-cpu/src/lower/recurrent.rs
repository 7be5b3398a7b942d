//! `lstm` and `gru` with their usual activations: one product projects the input at all steps, then each step is a
//! product with the state and a cell.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View};
use crate::kernels::gemm::{self, Epilogue, Panels, Rows, Strided};
use crate::kernels::lstm::{gru_cell_linear, gru_gates, gru_update, lstm_cell};
use crate::kernels::pack;
use crate::kernels::pool::{MatMut, Pool};
use ir::DType;
use ir::ops::{ActivationFn, Direction, EvalError, Gru, Lstm};
use ir::tensor::{Aligned, Memory};

/// Products below which a step's product is not worth waking threads.
const SERIAL: usize = 1 << 18;

/// Sizes and layout of a call.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) steps: usize,
    pub(super) batch: usize,
    pub(super) input: usize,
    pub(super) hidden: usize,
    pub(super) directions: usize,
    pub(super) batch_first: bool,
}

impl Sizes {
    /// Of `x[S, B, I]` (or `[B, S, I]`) and `r[D, gates * H, H]`.
    fn new(x: &[usize], r: &[usize], batch_first: bool) -> Sizes {
        let (steps, batch) = if batch_first { (x[1], x[0]) } else { (x[0], x[1]) };
        Sizes { steps, batch, input: x[2], hidden: r[2], directions: r[0], batch_first }
    }

    /// The row of `x` of a step.
    pub(super) fn row(&self, t: usize, b: usize) -> usize {
        if self.batch_first { b * self.steps + t } else { t * self.batch + b }
    }

    /// Where a step's output starts.
    pub(super) fn output(&self, t: usize, d: usize, b: usize) -> usize {
        let at = match self.batch_first {
            true => (b * self.steps + t) * self.directions + d,
            false => (t * self.directions + d) * self.batch + b,
        };
        at * self.hidden
    }

    /// Where a state starts.
    fn state(&self, d: usize, b: usize) -> usize {
        self.hidden * if self.batch_first { b * self.directions + d } else { d * self.batch + b }
    }

    /// Scratch elements of the products with `gates` gates.
    fn product_scratch(&self, pool: &Pool, gates: usize) -> usize {
        let n = gates * self.hidden;
        let product =
            |m: usize, n: usize, k: usize| gemm::matmul_scratch(pool, m, n, k).max(gemm::linear_scratch(pool, m, n, k));
        let state = [n, n - self.hidden, self.hidden].map(|n| product(self.batch, n, self.hidden));
        state.into_iter().fold(product(self.steps * self.batch, n, self.input), usize::max)
    }
}

/// Some outputs of a constant weight `[D, rows, k]` in panels, per direction: a product by few rows then streams them without
/// sums across lanes.
#[derive(Default)]
struct Packed(Vec<Aligned>);

impl Packed {
    /// Of rows `first .. first + n`.
    fn new(w: Option<View<'_>>, first: usize, n: usize) -> Packed {
        let Some((w, &[directions, rows, k])) = w.map(|w| (w, w.dims)) else { return Packed::default() };
        let pack = |d: usize| {
            let mut panels = Aligned::zeroed(pack::panel_elems(n, k) * 4);
            let from = &w.as_slice::<f32>()[(d * rows + first) * k..][..n * k];
            pack::pack_panels(from, n, k, pack::Layout::Nk, bytemuck::cast_slice_mut(panels.bytes_mut()));
            panels
        };
        Packed((0..directions).map(pack).collect())
    }

    /// The panels of a direction, else the rows.
    fn of<'a>(&'a self, d: usize, rows: &'a [f32]) -> Weight<'a> {
        self.0.get(d).map_or(Weight::Rows(rows), |panels| Weight::Panels(bytemuck::cast_slice(panels.bytes())))
    }
}

/// A weight of `n` outputs and `k` inputs.
enum Weight<'a> {
    Rows(&'a [f32]),
    Panels(&'a [f32]),
}

/// `y = x w^T + bias`, `x` of rows of `k`, `w` of `n` outputs.
fn product(
    pool: &Pool,
    x: &[f32],
    w: &Weight<'_>,
    bias: Option<&[f32]>,
    [n, k]: [usize; 2],
    y: &mut [f32],
    scratch: &mut [f32],
) {
    if y.is_empty() {
        return;
    }
    let epilogue = Epilogue { bias, ..Epilogue::NONE };
    let rows = y.len() / n;
    let y = MatMut::new(y, rows, n, n);
    match w {
        Weight::Rows(w) => {
            gemm::matmul(pool, k, Strided::matrix(x, k), Strided::matrix(w, k).transposed(), &epilogue, y, scratch);
        }
        Weight::Panels(w) => {
            let x = Rows::new(&x[..rows * k], rows, k, k);
            gemm::linear(pool, x, Panels::new(w, n, k), &epilogue, y, scratch);
        }
    }
}

/// Steps of each sequence of the batch, and the order of steps.
pub(super) struct Lengths<'a> {
    pub(super) lengths: Option<View<'a>>,
    pub(super) steps: usize,
}

impl Lengths<'_> {
    fn of(&self, b: usize) -> usize {
        let given = match self.lengths {
            None => return self.steps,
            Some(v) if v.dtype == DType::I32 => v.as_slice::<i32>()[b] as i64,
            Some(v) => v.as_slice::<i64>()[b],
        };
        given.clamp(0, self.steps as i64) as usize
    }

    /// The time that step `i` of sequence `b` reads; `None` when the sequence is over.
    pub(super) fn time(&self, reverse: bool, b: usize, i: usize) -> Option<usize> {
        let n = self.of(b);
        (i < n).then(|| if reverse { n - 1 - i } else { i })
    }
}

/// A part of the scratch.
pub(super) fn take<'s>(scratch: &mut &'s mut [f32], len: usize) -> &'s mut [f32] {
    let (part, rest) = std::mem::take(scratch).split_at_mut(len);
    *scratch = rest;
    part
}

/// Copies the initial states of a direction, or zeros, to rows `[B, H]`.
pub(super) fn initial(sizes: &Sizes, d: usize, given: Option<&[f32]>, to: &mut [f32]) {
    let Some(given) = given else { return to.fill(0.0) };
    for (b, to) in to.chunks_exact_mut(sizes.hidden.max(1)).enumerate() {
        to.copy_from_slice(&given[sizes.state(d, b)..][..sizes.hidden]);
    }
}

/// Copies the states of a direction to a result.
pub(super) fn keep(sizes: &Sizes, d: usize, from: &[f32], to: &mut [f32]) {
    for (b, from) in from.chunks_exact(sizes.hidden.max(1)).enumerate() {
        to[sizes.state(d, b)..][..sizes.hidden].copy_from_slice(from);
    }
}

/// Whether the kernels read operands of these types.
fn fits(types: &Types<'_>) -> bool {
    let lengths = types.dtype(4).is_none_or(|d| matches!(d, DType::I32 | DType::I64));
    let all = types.ins.iter().enumerate().filter(|(i, _)| *i != 4).filter_map(|(_, t)| *t);
    lengths && types.row_major() && all.chain(types.outs.iter().copied()).all(|t| t.dtype == DType::F32)
}

pub(super) fn usual(activations: &[ActivationFn], usual: &[ActivationFn]) -> bool {
    activations.chunks(usual.len()).all(|a| a == usual)
}

struct LstmKernel {
    direction: Direction,
    clip: f32,
    batch_first: bool,
    w: Packed,
    r: Packed,
    /// Runs small products.
    serial: Pool,
}

pub(super) fn lstm(op: &Lstm, types: &Types<'_>) -> Chosen {
    use ActivationFn::{Sigmoid, Tanh};
    let kernel = LstmKernel {
        direction: op.direction,
        clip: op.clip.unwrap_or(f32::INFINITY),
        batch_first: op.batch_first,
        w: Packed::default(),
        r: Packed::default(),
        serial: Pool::new(1),
    };
    let plain = usual(&op.activations, &[Sigmoid, Tanh, Tanh]) && !op.input_forget;
    (plain && fits(types)).then(|| Box::new(kernel) as Box<dyn Kernel>)
}

impl Kernel for LstmKernel {
    fn name(&self) -> &'static str {
        "lstm"
    }

    fn prepare(&mut self, constants: &[Option<View<'_>>]) {
        [self.w, self.r] = [1, 2].map(|i| {
            let weight = constants.get(i).copied().flatten();
            Packed::new(weight, 0, weight.map_or(0, |w| w.dims[1]))
        });
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let (Some(x), Some(r)) = (dims.ins[0], dims.ins[2]) else { return 0 };
        let s = Sizes::new(x, r, self.batch_first);
        let n = 4 * s.hidden;
        let own = n + (s.steps + 1) * s.batch * n + 2 * s.batch * s.hidden;
        (own + s.product_scratch(pool, 4)).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let side = |i: usize| call.ins.get(i).copied().flatten().map(|v| v.as_slice::<f32>());
        let (x, w, r) = (call.input(0), call.input(1), call.input(2));
        let s = Sizes::new(x.dims, r.dims, self.batch_first);
        let (x, w, r): (&[f32], &[f32], &[f32]) = (x.as_slice(), w.as_slice(), r.as_slice());
        let (bias, h0, c0, peepholes) = (side(3), side(5), side(6), side(7));
        let lengths = Lengths { lengths: call.ins.get(4).copied().flatten(), steps: s.steps };
        let (hidden, n) = (s.hidden, 4 * s.hidden);
        let mut scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let sum = take(&mut scratch, n);
        let projected = take(&mut scratch, s.steps * s.batch * n);
        let gates = take(&mut scratch, s.batch * n);
        let h = take(&mut scratch, s.batch * hidden);
        let c = take(&mut scratch, s.batch * hidden);
        let small = if s.batch * n * hidden < SERIAL { &self.serial } else { call.pool };
        let [y, last_h, last_c] = call.outs else { unreachable!("an lstm has three results") };
        let y: &mut [f32] = y.as_slice_mut();
        y.fill(0.0);
        for d in 0..s.directions {
            let reverse = self.direction.is_reverse(d);
            let peephole = peepholes.map_or(&[][..], |p| &p[d * 3 * hidden..][..3 * hidden]);
            match bias.map(|b| b[d * 2 * n..][..2 * n].split_at(n)) {
                Some((a, b)) => sum.iter_mut().zip(a.iter().zip(b)).for_each(|(s, (a, b))| *s = a + b),
                None => sum.fill(0.0),
            }
            let w = self.w.of(d, &w[d * n * s.input..][..n * s.input]);
            product(call.pool, x, &w, Some(sum), [n, s.input], projected, scratch);
            initial(&s, d, h0, h);
            initial(&s, d, c0, c);
            let r = self.r.of(d, &r[d * n * hidden..][..n * hidden]);
            for i in 0..s.steps {
                product(small, h, &r, None, [n, hidden], gates, scratch);
                for b in 0..s.batch {
                    let Some(t) = lengths.time(reverse, b, i) else { continue };
                    let gates = &mut gates[b * n..][..n];
                    let row = &projected[s.row(t, b) * n..][..n];
                    gates.iter_mut().zip(row).for_each(|(g, p)| *g += p);
                    let (h, c) = (&mut h[b * hidden..][..hidden], &mut c[b * hidden..][..hidden]);
                    lstm_cell(hidden, gates, peephole, self.clip, c, h);
                    y[s.output(t, d, b)..][..hidden].copy_from_slice(h);
                }
            }
            keep(&s, d, h, last_h.as_slice_mut());
            keep(&s, d, c, last_c.as_slice_mut());
        }
        Ok(())
    }
}

struct GruKernel {
    direction: Direction,
    linear_before_reset: bool,
    batch_first: bool,
    w: Packed,
    /// All gates, or the first two and the candidate.
    r: [Packed; 2],
    /// Runs small products.
    serial: Pool,
}

pub(super) fn gru(op: &Gru, types: &Types<'_>) -> Chosen {
    use ActivationFn::{Sigmoid, Tanh};
    let kernel = GruKernel {
        direction: op.direction,
        linear_before_reset: op.linear_before_reset,
        batch_first: op.batch_first,
        w: Packed::default(),
        r: Default::default(),
        serial: Pool::new(1),
    };
    let plain = usual(&op.activations, &[Sigmoid, Tanh]) && op.clip.is_none();
    (plain && fits(types)).then(|| Box::new(kernel) as Box<dyn Kernel>)
}

impl Kernel for GruKernel {
    fn name(&self) -> &'static str {
        "gru"
    }

    fn prepare(&mut self, constants: &[Option<View<'_>>]) {
        let [w, r] = [1, 2].map(|i| constants.get(i).copied().flatten());
        self.w = Packed::new(w, 0, w.map_or(0, |w| w.dims[1]));
        let hidden = r.map_or(0, |r| r.dims[2]);
        self.r = match self.linear_before_reset {
            true => [Packed::new(r, 0, 3 * hidden), Packed::default()],
            false => [Packed::new(r, 0, 2 * hidden), Packed::new(r, 2 * hidden, hidden)],
        };
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let (Some(x), Some(r)) = (dims.ins[0], dims.ins[2]) else { return 0 };
        let s = Sizes::new(x, r, self.batch_first);
        let n = 3 * s.hidden;
        let own = n + (s.steps + 1) * s.batch * n + 3 * s.batch * s.hidden;
        (own + s.product_scratch(pool, 3)).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let side = |i: usize| call.ins.get(i).copied().flatten().map(|v| v.as_slice::<f32>());
        let (x, w, r) = (call.input(0), call.input(1), call.input(2));
        let s = Sizes::new(x.dims, r.dims, self.batch_first);
        let (x, w, r): (&[f32], &[f32], &[f32]) = (x.as_slice(), w.as_slice(), r.as_slice());
        let (bias, h0) = (side(3), side(5));
        let lengths = Lengths { lengths: call.ins.get(4).copied().flatten(), steps: s.steps };
        let (hidden, n) = (s.hidden, 3 * s.hidden);
        let mut scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let sum = take(&mut scratch, n);
        let projected = take(&mut scratch, s.steps * s.batch * n);
        let gates = take(&mut scratch, s.batch * n);
        let h = take(&mut scratch, s.batch * hidden);
        let reset = take(&mut scratch, s.batch * hidden);
        let candidate = take(&mut scratch, s.batch * hidden);
        let small = if s.batch * n * hidden < SERIAL { &self.serial } else { call.pool };
        let [y, last_h] = call.outs else { unreachable!("a gru has two results") };
        let y: &mut [f32] = y.as_slice_mut();
        y.fill(0.0);
        for d in 0..s.directions {
            let reverse = self.direction.is_reverse(d);
            let from_input = bias.map(|b| &b[d * 2 * n..][..n]);
            let from_state = bias.map(|b| &b[d * 2 * n + n..][..n]);
            sum.fill(0.0);
            for part in [from_input, from_state.filter(|_| !self.linear_before_reset)].into_iter().flatten() {
                sum.iter_mut().zip(part).for_each(|(s, b)| *s += b);
            }
            let w = self.w.of(d, &w[d * n * s.input..][..n * s.input]);
            product(call.pool, x, &w, Some(sum), [n, s.input], projected, scratch);
            initial(&s, d, h0, h);
            let r = &r[d * n * hidden..][..n * hidden];
            let (r_gates, r_candidate) = r.split_at(2 * hidden * hidden);
            let (r_gates, r_candidate) = (self.r[0].of(d, r_gates), self.r[1].of(d, r_candidate));
            let r = self.r[0].of(d, r);
            for i in 0..s.steps {
                if self.linear_before_reset {
                    product(small, h, &r, from_state, [n, hidden], gates, scratch);
                    for b in 0..s.batch {
                        let Some(t) = lengths.time(reverse, b, i) else { continue };
                        let h = &mut h[b * hidden..][..hidden];
                        gru_cell_linear(hidden, &projected[s.row(t, b) * n..][..n], &gates[b * n..][..n], h);
                        y[s.output(t, d, b)..][..hidden].copy_from_slice(h);
                    }
                    continue;
                }
                let zr = &mut gates[..s.batch * 2 * hidden];
                product(small, h, &r_gates, None, [2 * hidden, hidden], zr, scratch);
                reset.fill(0.0);
                for b in 0..s.batch {
                    let Some(t) = lengths.time(reverse, b, i) else { continue };
                    let zr = &mut zr[b * 2 * hidden..][..2 * hidden];
                    let row = &projected[s.row(t, b) * n..][..2 * hidden];
                    zr.iter_mut().zip(row).for_each(|(g, p)| *g += p);
                    gru_gates(hidden, zr, &h[b * hidden..][..hidden], &mut reset[b * hidden..][..hidden]);
                }
                product(small, reset, &r_candidate, None, [hidden, hidden], candidate, scratch);
                for b in 0..s.batch {
                    let Some(t) = lengths.time(reverse, b, i) else { continue };
                    let candidate = &mut candidate[b * hidden..][..hidden];
                    let row = &projected[s.row(t, b) * n + 2 * hidden..][..hidden];
                    candidate.iter_mut().zip(row).for_each(|(g, p)| *g += p);
                    let h = &mut h[b * hidden..][..hidden];
                    gru_update(hidden, &zr[b * 2 * hidden..][..2 * hidden], candidate, h);
                    y[s.output(t, d, b)..][..hidden].copy_from_slice(h);
                }
            }
            keep(&s, d, h, last_h.as_slice_mut());
        }
        Ok(())
    }
}
