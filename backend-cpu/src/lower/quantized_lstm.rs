//! `dynamic_quantize_lstm` with the usual activations: as `lstm`, with 8-bit products.
//!
//! Weights are packed when a plan is loaded. The input is quantised once, the states of all samples together anew in every step.

use super::recurrent::{Lengths, Sizes, initial, keep, take, usual};
use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View};
use crate::kernels::gemm::Epilogue;
use crate::kernels::int8::{self, Int8Panels, Int8Rows, Scales};
use crate::kernels::lstm::lstm_cell;
use crate::kernels::pack;
use crate::kernels::pool::{MatMut, Pool};
use crate::kernels::quantize::{Affine, quantize, range};
use ir::DType;
use ir::ops::{ActivationFn, Direction, DynamicQuantizeLstm, EvalError};
use ir::tensor::{Aligned, Memory};

/// Products below which a step's product is not worth waking threads.
const SERIAL: usize = 1 << 19;

/// A weight `[D, k, n]`, packed per direction.
struct Weight {
    n: usize,
    k: usize,
    unsigned: bool,
    panels: Vec<Aligned>,
    sums: Vec<Vec<i32>>,
    /// Per direction, one or one per column.
    scales: Vec<Vec<f32>>,
    zeros: Vec<Vec<i32>>,
}

impl Weight {
    fn new(w: View<'_>, scales: View<'_>, zeros: Option<View<'_>>) -> Option<Weight> {
        let &[count, k, n] = w.dims else { return None };
        let unsigned = w.dtype == DType::U8;
        let zeros: Vec<i32> = match zeros {
            None => vec![0; count],
            Some(z) if z.dtype == DType::I8 => z.bytes.iter().map(|b| i32::from(*b as i8)).collect(),
            Some(z) => z.bytes.iter().map(|b| i32::from(*b)).collect(),
        };
        let mut made = Weight { n, k, unsigned, panels: vec![], sums: vec![], scales: vec![], zeros: vec![] };
        for d in 0..count {
            let (mut panels, mut sums) = (Aligned::zeroed(int8::int8_panel_elems(n, k)), vec![0; n]);
            let to = bytemuck::cast_slice_mut(panels.bytes_mut());
            int8::pack_int8(&w.bytes[d * n * k..][..n * k], unsigned, n, k, pack::Layout::Kn, to, &mut sums);
            made.panels.push(panels);
            made.sums.push(sums);
            made.scales.push(part(scales.as_slice(), d, count, n)?);
            made.zeros.push(part(&zeros, d, count, n)?);
        }
        Some(made)
    }

    fn panels(&self, d: usize) -> Int8Panels<'_> {
        let panels = bytemuck::cast_slice(self.panels[d].bytes());
        Int8Panels::new(panels, &self.sums[d], &self.zeros[d], self.unsigned, self.n, self.k)
    }
}

/// What belongs to a direction of one value, one per direction, or one per column of each.
fn part<T: Copy>(values: &[T], d: usize, count: usize, n: usize) -> Option<Vec<T>> {
    match values.len() {
        1 => Some(vec![values[0]]),
        len if len == count => Some(vec![values[d]]),
        len if len == count * n => Some(values[d * n..][..n].to_vec()),
        _ => None,
    }
}

struct QuantizedLstm {
    direction: Direction,
    clip: f32,
    /// Of the input and of the state; none until they are seen.
    weights: Option<[Weight; 2]>,
    /// Runs small products.
    serial: Pool,
}

pub(super) fn dynamic_quantize_lstm(op: &DynamicQuantizeLstm, types: &Types<'_>) -> Chosen {
    use ActivationFn::{Sigmoid, Tanh};
    let lengths = types.dtype(4).is_none_or(|d| matches!(d, DType::I32 | DType::I64));
    let f32s = [0, 3, 5, 6, 7, 8, 10].iter().all(|i| types.dtype(*i).is_none_or(|d| d == DType::F32));
    let zero = |i: usize| types.dtype(i).is_none_or(|d| matches!(d, DType::I8 | DType::U8));
    let constant = [1, 2, 8, 9, 10, 11].iter().all(|i| types.constant(*i)) && !types.lacks(8) && !types.lacks(10);
    let plain = usual(&op.activations, &[Sigmoid, Tanh, Tanh]) && !op.input_forget && types.row_major();
    let clip = op.clip.unwrap_or(f32::INFINITY);
    let kernel = QuantizedLstm { direction: op.direction, clip, weights: None, serial: Pool::new(1) };
    (plain && lengths && f32s && zero(9) && zero(11) && constant).then(|| Box::new(kernel) as Box<dyn Kernel>)
}

/// Sizes from `x[S, B, I]` and `r[D, H, 4H]`.
fn sizes(x: &[usize], r: &[usize]) -> Sizes {
    Sizes { steps: x[0], batch: x[1], input: x[2], hidden: r[1], directions: r[0], batch_first: false }
}

impl QuantizedLstm {
    /// Elements that the products need.
    fn product_scratch(s: &Sizes, pool: &Pool) -> usize {
        let n = 4 * s.hidden;
        let input = int8::int8_scratch(pool, s.steps * s.batch, n, s.input);
        input.max(int8::int8_scratch(pool, s.batch, n, s.hidden))
    }
}

impl Kernel for QuantizedLstm {
    fn name(&self) -> &'static str {
        "lstm_int8"
    }

    fn prepare(&mut self, constants: &[Option<View<'_>>]) {
        let at = |i: usize| constants.get(i).copied().flatten();
        let weight = |w: usize, scale: usize| Weight::new(at(w)?, at(scale)?, at(scale + 1));
        self.weights = weight(1, 8).zip(weight(2, 10)).map(|(w, r)| [w, r]);
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let (Some(x), Some(r)) = (dims.ins[0], dims.ins[2]) else { return 0 };
        let s = sizes(x, r);
        let (n, states) = (4 * s.hidden, s.batch * s.hidden);
        let floats = n + (s.steps + 1) * s.batch * n + 2 * states;
        let bytes = (s.steps * s.batch * s.input).max(states);
        (floats + bytes.div_ceil(4) + Self::product_scratch(&s, pool)).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let Some([w, r]) = &self.weights else {
            return Err(EvalError::Invalid("the weights, scales and zero points do not fit each other".into()));
        };
        let side = |i: usize| call.ins.get(i).copied().flatten().map(|v| v.as_slice::<f32>());
        let x = call.input(0);
        let s = sizes(x.dims, call.input(2).dims);
        let x: &[f32] = x.as_slice();
        let (bias, h0, c0, peepholes) = (side(3), side(5), side(6), side(7));
        let lengths = Lengths { lengths: call.ins.get(4).copied().flatten(), steps: s.steps };
        let (hidden, n, rows) = (s.hidden, 4 * s.hidden, s.steps * s.batch);
        let mut scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let sum = take(&mut scratch, n);
        let projected = take(&mut scratch, rows * n);
        let gates = take(&mut scratch, s.batch * n);
        let h = take(&mut scratch, s.batch * hidden);
        let c = take(&mut scratch, s.batch * hidden);
        let codes = take(&mut scratch, (rows * s.input).max(s.batch * hidden).div_ceil(4));
        let codes: &mut [u8] = bytemuck::cast_slice_mut(codes);
        let small = if s.batch * n * hidden < SERIAL { &self.serial } else { call.pool };
        let [y, last_h, last_c] = call.outs else { unreachable!("an lstm has three results") };
        let y: &mut [f32] = y.as_slice_mut();
        y.fill(0.0);
        let by = whole(x);
        for d in 0..s.directions {
            let reverse = self.direction.is_reverse(d);
            let peephole = peepholes.map_or(&[][..], |p| &p[d * 3 * hidden..][..3 * hidden]);
            match bias.map(|b| b[d * 2 * n..][..2 * n].split_at(n)) {
                Some((a, b)) => sum.iter_mut().zip(a.iter().zip(b)).for_each(|(s, (a, b))| *s = a + b),
                None => sum.fill(0.0),
            }
            quantize(x, by, &mut codes[..x.len()]);
            let quantized = Quantized { codes, scales: &[by.scale], zeros: &[by.zero as i32] };
            product(call.pool, quantized, (w, d), Some(sum), projected, scratch);
            initial(&s, d, h0, h);
            initial(&s, d, c0, c);
            for i in 0..s.steps {
                // Samples that have ended do not count.
                let goes_on = |b: &usize| lengths.time(reverse, *b, i).is_some();
                let ranges = (0..s.batch).filter(goes_on).map(|b| range(&h[b * hidden..][..hidden]));
                let (low, high) = ranges.fold((0f32, 0f32), |(l, h), (low, high)| (l.min(low), h.max(high)));
                let by = Affine::covering(low, high);
                quantize(h, by, &mut codes[..s.batch * hidden]);
                let quantized = Quantized { codes, scales: &[by.scale], zeros: &[by.zero as i32] };
                product(small, quantized, (r, d), None, gates, scratch);
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

/// What covers all of `x`.
fn whole(x: &[f32]) -> Affine {
    let (low, high) = range(x);
    Affine::covering(low, high)
}

/// Rows of codes, with one scale and zero point.
struct Quantized<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    zeros: &'a [i32],
}

/// `y = x w + bias` for direction `d` of a weight.
fn product(
    pool: &Pool,
    x: Quantized<'_>,
    (w, d): (&Weight, usize),
    bias: Option<&[f32]>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    if y.is_empty() {
        return;
    }
    let m = y.len() / w.n;
    let rows = Int8Rows { data: x.codes, signed: false, zero_points: x.zeros, row_stride: w.k };
    let scales = Scales { x: x.scales, w: &w.scales[d] };
    let epilogue = Epilogue { bias, ..Epilogue::NONE };
    int8::linear_int8_f32(pool, rows, w.panels(d), scales, &epilogue, MatMut::new(y, m, w.n, w.n), scratch);
}
