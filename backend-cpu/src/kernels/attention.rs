//! `softmax(cap(q k^T scale) + mask) v` over heads that lie with any strides, and the rotation of heads.
//!
//! Scores are a product of matrices, a softmax per row and a second product; only as many query rows are handled at a
//! time as have few scores. With one query row the query heads that share a key head become the rows of one product,
//! so that keys and values are read once. A key that weighs nothing adds nothing, even if its value is not finite:
//! rows whose result is not finite are summed again without such keys.

use super::gemm::{Epilogue, Strided, matmul, matmul_scratch};
use super::lanes;
use super::math;
use super::pool::{MatMut, Pool};
use super::vectorise::vectorise;

/// Scores that are in memory at a time.
const SCORES: usize = 1 << 22;
/// Fewest query rows handled at a time.
const LEAST_ROWS: usize = 16;

/// Heads: the data with strides from one batch, head and row to the next.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// From one batch, head, row to the next.
    pub strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// Dense `[B, H, S, D]`.
    pub fn dense(data: &'a [f32], heads: usize, rows: usize, d: usize) -> Self {
        Self { data, strides: [heads * rows * d, rows * d, d] }
    }

    /// `[B, S, H D]`.
    pub fn inside(data: &'a [f32], heads: usize, rows: usize, d: usize) -> Self {
        Self { data, strides: [rows * heads * d, d, heads * d] }
    }

    /// The same heads, `start` elements further.
    pub fn from(self, start: usize) -> Self {
        Self { data: self.data.get(start..).unwrap_or_default(), ..self }
    }

    /// One row of `d` elements.
    pub fn row(&self, batch: usize, head: usize, row: usize, d: usize) -> &'a [f32] {
        &self.at(batch, head, row)[..d]
    }

    fn at(&self, batch: usize, head: usize, row: usize) -> &'a [f32] {
        self.data.get(batch * self.strides[0] + head * self.strides[1] + row * self.strides[2]..).unwrap_or_default()
    }
}

/// Sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Batch.
    pub b: usize,
    /// Query heads, a multiple of `hk`.
    pub hq: usize,
    /// Key heads.
    pub hk: usize,
    /// Query rows.
    pub s: usize,
    /// Keys.
    pub t: usize,
    /// Elements of a query and a key.
    pub d: usize,
    /// Elements of a value.
    pub dv: usize,
}

impl AttentionShape {
    fn rows(&self) -> usize {
        (SCORES / (self.hq * self.t).max(1)).max(LEAST_ROWS).min(self.s)
    }

    /// Elements of scratch for [`attend`].
    pub fn scratch(&self, pool: &Pool) -> usize {
        let rows = self.rows();
        // With one query row, the heads of a group are the rows.
        let m = if self.s == 1 { self.hq / self.hk.max(1) } else { rows };
        self.hq * rows * self.t + matmul_scratch(pool, m, self.t, self.d).max(matmul_scratch(pool, m, self.dv, self.t))
    }
}

/// Writes `y`, heads of `dv` with the given strides. `weigh(batch, head, row, scores)` turns a row of `q k^T` into weights.
pub fn attend(
    pool: &Pool,
    shape: AttentionShape,
    [q, k, v]: [Heads<'_>; 3],
    y: &mut [f32],
    y_strides: [usize; 3],
    scratch: &mut [f32],
    weigh: impl Fn([usize; 3], &mut [f32]) + Sync,
) {
    let AttentionShape { b, hq, hk, s, t, d, dv } = shape;
    if y.is_empty() {
        return;
    }
    if t == 0 {
        return y.fill(0.0);
    }
    let block = shape.rows();
    let group = hq / hk;
    let (scores, scratch) = scratch.split_at_mut(hq * block * t);
    for batch in 0..b {
        for first in (0..s).step_by(block) {
            let rows = block.min(s - first);
            let scores = &mut scores[..hq * rows * t];
            // With one row the heads of a group are the rows, else the second axis of the batch.
            let one = s == 1;
            let (grid, m) = if one { ([1, hk], group) } else { ([hk, group], rows) };
            let per_head = |stride: usize| if one { [0, group * stride] } else { [group * stride, stride] };
            let per_key = |stride: usize| if one { [0, stride] } else { [stride, 0] };
            let row = |strides: [usize; 3]| if one { strides[1] } else { strides[2] };
            let a = Strided {
                data: q.at(batch, 0, first),
                batch_strides: per_head(q.strides[1]),
                strides: [row(q.strides), 1],
            };
            let keys =
                Strided { data: k.at(batch, 0, 0), batch_strides: per_key(k.strides[1]), strides: [1, k.strides[2]] };
            let to = MatMut::batched(scores, grid, per_head(rows * t), m, t, t);
            matmul(pool, d, a, keys, &Epilogue::NONE, to, scratch);
            let at = |i: usize| [batch, i / rows, first + i % rows];
            let chunk = (hq * rows).div_ceil(4 * pool.threads()).max(1);
            pool.chunks_mut(scores, chunk * t, |c, scores| {
                for (i, scores) in scores.chunks_exact_mut(t).enumerate() {
                    weigh(at(c * chunk + i), scores);
                }
            });
            let scores = &*scores;
            let weights = Strided { data: scores, batch_strides: per_head(rows * t), strides: [t, 1] };
            let values =
                Strided { data: v.at(batch, 0, 0), batch_strides: per_key(v.strides[1]), strides: [v.strides[2], 1] };
            let start = batch * y_strides[0] + first * y_strides[2];
            let to = MatMut::batched(&mut y[start..], grid, per_head(y_strides[1]), m, dv, row(y_strides));
            matmul(pool, t, weights, values, &Epilogue::NONE, to, scratch);
            for (i, weights) in scores.chunks_exact(t).enumerate() {
                let [_, head, row] = at(i);
                let y = &mut y[batch * y_strides[0] + head * y_strides[1] + row * y_strides[2]..][..dv];
                if !all_finite(y) {
                    mix_again(weights, v.at(batch, head / group, 0), v.strides[2], y);
                }
            }
        }
    }
}

/// The sum of the values with a weight other than 0.
fn mix_again(weights: &[f32], values: &[f32], stride: usize, y: &mut [f32]) {
    y.fill(0.0);
    for (j, w) in weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
        y.iter_mut().zip(&values[j * stride..]).for_each(|(y, v)| *y += w * v);
    }
}

/// What is added to a row of scores.
#[derive(Clone, Copy, Debug)]
pub enum RowMask<'a> {
    /// Nothing.
    None,
    /// A float per key; keys beyond are masked.
    Float(&'a [f32]),
    /// The same float for every key.
    Same(f32),
    /// Keys that are 0 are masked, and those beyond.
    Bool(&'a [u8]),
}

/// What becomes of a row of scores without weights of its own.
#[derive(Clone, Copy, Debug)]
pub struct Empty {
    /// The weight of every key where all are masked.
    pub weight: f32,
    /// Whether weights that are not numbers are 0 instead.
    pub guard: bool,
}

vectorise! {
    fn all_finite<FMA>(y: &[f32]) -> bool {
        lanes::sum(y, |y| y * 0.0) == 0.0
    }

    /// Scales and caps scores (`cap` 0: not), adds the mask and minus infinity outside `begin .. end`, and makes weights
    /// of them; what becomes of a row without keys, `empty` says.
    pub fn weigh_masked<FMA>(
        scores: &mut [f32], scale: f32, cap: f32, mask: RowMask<'_>, empty: Empty, begin: usize, end: usize,
    ) {
        scale_and_cap::<FMA>(scores, scale, cap);
        let (begin, end) = (begin.min(scores.len()), end.min(scores.len()).max(begin.min(scores.len())));
        let open = match mask {
            RowMask::None => begin < end,
            RowMask::Same(m) => {
                scores.iter_mut().for_each(|s| *s += m);
                begin < end && m != f32::NEG_INFINITY
            }
            RowMask::Float(mask) => {
                let (near, beyond) = scores.split_at_mut(mask.len());
                near.iter_mut().zip(mask).for_each(|(s, m)| *s += m);
                hide(beyond);
                let seen = mask.get(begin..end.min(mask.len())).unwrap_or_default();
                seen.iter().any(|m| *m != f32::NEG_INFINITY)
            }
            RowMask::Bool(mask) => {
                let (near, beyond) = scores.split_at_mut(mask.len());
                near.iter_mut().zip(mask).for_each(|(s, m)| *s += if *m != 0 { 0.0 } else { f32::NEG_INFINITY });
                hide(beyond);
                let seen = mask.get(begin..end.min(mask.len())).unwrap_or_default();
                seen.iter().any(|m| *m != 0)
            }
        };
        if !open {
            return scores.fill(if empty.guard && empty.weight.is_nan() { 0.0 } else { empty.weight });
        }
        hide(&mut scores[..begin]);
        hide(&mut scores[end..]);
        normalise::<FMA>(scores, None);
        // One score that is not a number makes all weights of the row so.
        if empty.guard && scores[0].is_nan() {
            scores.fill(0.0);
        }
    }

    /// Scales and caps the scores in `begin .. end`, adds `bias` of a key and makes weights of them; the others weigh
    /// nothing and their scores do not matter. `sink` joins the sum.
    pub fn weigh_window<FMA, B: Fn(usize) -> f32>(
        scores: &mut [f32], scale: f32, cap: f32, bias: Option<B>, sink: Option<f32>, begin: usize, end: usize,
    ) {
        scores[..begin].fill(0.0);
        scores[end..].fill(0.0);
        let scores = &mut scores[begin..end];
        scale_and_cap::<FMA>(scores, scale, cap);
        if let Some(bias) = bias {
            scores.iter_mut().enumerate().for_each(|(j, s)| *s += bias(begin + j));
        }
        normalise::<FMA>(scores, sink);
    }

    /// Rotates the pairs of a head: element i of both halves, or neighbours. What lies beyond the tables stays.
    pub fn rotate<FMA>(x: &[f32], cos: &[f32], sin: &[f32], interleaved: bool, y: &mut [f32]) {
        let half = cos.len();
        if interleaved {
            let (pairs, _) = x.as_chunks::<2>();
            let (to, _) = y.as_chunks_mut::<2>();
            for (((y, x), cos), sin) in to.iter_mut().zip(pairs).zip(cos).zip(sin) {
                *y = [x[0] * cos - x[1] * sin, x[0] * sin + x[1] * cos];
            }
        } else {
            let (a, b) = x[..2 * half].split_at(half);
            let (ya, yb) = y[..2 * half].split_at_mut(half);
            for i in 0..half {
                ya[i] = a[i] * cos[i] - b[i] * sin[i];
                yb[i] = a[i] * sin[i] + b[i] * cos[i];
            }
        }
        y[2 * half..].copy_from_slice(&x[2 * half..]);
    }
}

/// Adds minus infinity: a score that is not a number stays so.
#[inline(always)]
fn hide(scores: &mut [f32]) {
    scores.iter_mut().for_each(|s| *s += f32::NEG_INFINITY);
}

#[inline(always)]
fn scale_and_cap<const FMA: bool>(scores: &mut [f32], scale: f32, cap: f32) {
    scores.iter_mut().for_each(|s| *s *= scale);
    if cap > 0.0 {
        scores.iter_mut().for_each(|s| *s = cap * math::tanh::<FMA>(*s / cap));
    }
}

#[inline(always)]
fn normalise<const FMA: bool>(scores: &mut [f32], sink: Option<f32>) {
    let largest = lanes::max(scores);
    let largest = sink.map_or(largest, |s| largest.max(s));
    scores.iter_mut().for_each(|s| *s = math::exp::<FMA>(*s - largest));
    let sum = lanes::sum(scores, |s| s) + sink.map_or(0.0, |s| math::exp::<FMA>(s - largest));
    let factor = 1.0 / sum;
    scores.iter_mut().for_each(|s| *s *= factor);
}
