//! Attention of new rows over the caches of their sequences: `[slots, heads, capacity, width]` of f32, f16 or bf16.
//!
//! With one new row per sequence every key head of every sequence is a task: keys are read once, as one run of memory, for
//! all query heads that share them, and so are the values. Longer runs of rows are products of matrices
//! ([`super::attention`]), sequence by sequence. Narrow caches are widened as they are read.

use super::attention::{AttentionShape, Heads, attend, weigh_window};
use super::lanes;
use super::pool::Pool;
use super::vectorise::{fma, vectorise};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ir::ops::SequencePlace;

/// Elements that are widened at a time.
const WIDE: usize = 2048;

/// A cache's memory.
#[derive(Clone, Copy)]
pub enum Cache<'a> {
    /// Of f32.
    F32(&'a [f32]),
    /// Of f16.
    F16(&'a [f16]),
    /// Of bf16.
    BF16(&'a [bf16]),
}

impl<'a> Cache<'a> {
    /// Elements `start .. start + len`, widened to `to` where they are narrow.
    fn widen<'t>(self, start: usize, len: usize, to: &'t mut [f32]) -> &'t [f32]
    where
        'a: 't,
    {
        match self {
            Cache::F32(all) => &all[start..start + len],
            Cache::F16(all) => {
                all[start..start + len].convert_to_f32_slice(&mut to[..len]);
                &to[..len]
            }
            Cache::BF16(all) => {
                all[start..start + len].convert_to_f32_slice(&mut to[..len]);
                &to[..len]
            }
        }
    }

    fn is_narrow(self) -> bool {
        !matches!(self, Cache::F32(_))
    }
}

/// What is computed, but for the data.
#[derive(Clone, Copy, Debug)]
pub struct CachedShape {
    /// Sequences.
    pub b: usize,
    /// Query heads, a multiple of `hk`.
    pub hq: usize,
    /// Key heads.
    pub hk: usize,
    /// Query rows of a sequence.
    pub s: usize,
    /// Rows of a slot.
    pub capacity: usize,
    /// Elements of a query and a key.
    pub d: usize,
    /// Elements of a value.
    pub dv: usize,
}

impl CachedShape {
    fn of_sequence(&self, t: usize) -> AttentionShape {
        AttentionShape { b: 1, hq: self.hq, hk: self.hk, s: self.s, t, d: self.d, dv: self.dv }
    }

    /// Elements of scratch for [`attend_cached`].
    pub fn scratch(&self, pool: &Pool, narrow: bool) -> usize {
        if self.s == 1 {
            return self.b * self.hq * self.capacity;
        }
        let widened = if narrow { self.hk * self.capacity * (self.d + self.dv) } else { 0 };
        // A shorter run of rows and keys can be blocked otherwise, but never needs more than all of them.
        let rows = AttentionShape { s: 1, ..self.of_sequence(self.capacity) };
        widened + self.of_sequence(self.capacity).scratch(pool).max(rows.scratch(pool))
    }
}

/// How scores become weights.
#[derive(Clone, Copy, Debug)]
pub struct Weighing<'a> {
    /// Factor of a score.
    pub scale: f32,
    /// Soft cap; 0 for none.
    pub cap: f32,
    /// How many keys before its own a row sees.
    pub left: Option<usize>,
    /// Per query head, what joins the sum.
    pub sinks: Option<&'a [f32]>,
    /// Whether 0 joins the sum where there are no sinks.
    pub smooth: bool,
}

impl Weighing<'_> {
    /// Weights of a row at position `end - 1` from its scores of the first keys.
    fn weigh(&self, head: usize, end: usize, scores: &mut [f32]) {
        let begin = self.left.map_or(0, |left| (end - 1).saturating_sub(left));
        let sink = self.sinks.map(|v| v[head % v.len()]).or(self.smooth.then_some(0.0));
        weigh_window(scores, self.scale, self.cap, None::<fn(usize) -> f32>, sink, begin, end);
    }
}

/// Writes `y`, heads of `dv` with the given strides; rows beyond a sequence's count become 0. The places lie within the caches.
#[allow(clippy::too_many_arguments, reason = "one call per operator")]
pub fn attend_cached(
    pool: &Pool,
    shape: CachedShape,
    places: &[SequencePlace],
    q: Heads<'_>,
    [keys, values]: [Cache<'_>; 2],
    weighing: Weighing<'_>,
    y: &mut [f32],
    y_strides: [usize; 3],
    scratch: &mut [f32],
) {
    if y.is_empty() {
        return;
    }
    if shape.s == 1 {
        return one_row(pool, shape, places, q, [keys, values], weighing, y, scratch);
    }
    let CachedShape { hq, hk, s, capacity, d, dv, .. } = shape;
    let (wide, scratch) = scratch.split_at_mut(match keys.is_narrow() {
        true => hk * capacity * (d + dv),
        false => 0,
    });
    let (wide_keys, wide_values) = wide.split_at_mut(if keys.is_narrow() { hk * capacity * d } else { 0 });
    for (b, place) in places.iter().enumerate() {
        let (rows, t) = (place.count, place.length + place.count);
        let first = place.slot * hk * capacity;
        let k = dense(pool, keys, [first, hk, capacity, t], d, wide_keys);
        let v = dense(pool, values, [first, hk, capacity, t], dv, wide_values);
        let shape = AttentionShape { s: rows, ..shape.of_sequence(t) };
        let y = &mut y[b * y_strides[0]..];
        for (head, row) in (0..hq).flat_map(|head| (rows..s).map(move |row| (head, row))) {
            y[head * y_strides[1] + row * y_strides[2]..][..dv].fill(0.0);
        }
        if rows == 0 {
            continue;
        }
        let weigh = |[_, head, row]: [usize; 3], scores: &mut [f32]| {
            weighing.weigh(head, place.length + row + 1, scores);
        };
        attend(pool, shape, [q.from(b * q.strides[0]), k, v], y, y_strides, scratch, weigh);
    }
}

/// The first `t` rows of every head of a slot, as f32.
fn dense<'a>(
    pool: &Pool,
    cache: Cache<'a>,
    [first, heads, capacity, t]: [usize; 4],
    width: usize,
    wide: &'a mut [f32],
) -> Heads<'a> {
    let whole = heads * capacity * width;
    if let Cache::F32(all) = cache {
        return Heads::dense(&all[first * width..][..whole], heads, capacity, width);
    }
    if t * width > 0 {
        pool.chunks_mut(&mut wide[..heads * t * width], t * width, |head, to| {
            cache.widen((first + head * capacity) * width, t * width, to);
        });
    }
    Heads::dense(wide, heads, t, width)
}

/// One new row per sequence.
#[allow(clippy::too_many_arguments, reason = "as its caller")]
fn one_row(
    pool: &Pool,
    shape: CachedShape,
    places: &[SequencePlace],
    q: Heads<'_>,
    [keys, values]: [Cache<'_>; 2],
    weighing: Weighing<'_>,
    y: &mut [f32],
    scores: &mut [f32],
) {
    let CachedShape { b, hq, hk, capacity, d, dv, .. } = shape;
    let group = hq / hk;
    let first = |task: usize| (places[task / hk].slot * hk + task % hk) * capacity;
    let each = group * capacity;
    pool.chunks_mut(&mut scores[..b * hk * each], each, |task, scores| {
        let place = places[task / hk];
        let t = place.length + place.count;
        let mut wide = [0.0; WIDE];
        let block = (WIDE / d.max(1)).max(1);
        for from in (0..t).step_by(block) {
            let rows = block.min(t - from);
            let keys = rows_of(keys, first(task) + from, rows, d, &mut wide);
            for g in 0..group {
                let query = q.row(task / hk, task % hk * group + g, 0, d);
                dots(query, keys.as_slice(), &mut scores[g * capacity + from..][..rows]);
            }
        }
        for g in (0..group).filter(|_| place.count > 0) {
            weighing.weigh(task % hk * group + g, t, &mut scores[g * capacity..][..t]);
        }
    });
    let scores = &*scores;
    pool.chunks_mut(y, group * dv, |task, y| {
        y.fill(0.0);
        let place = places[task / hk];
        if place.count == 0 {
            return;
        }
        let t = place.length + place.count;
        let mut wide = [0.0; WIDE];
        let block = (WIDE / dv.max(1)).max(1);
        for from in (0..t).step_by(block) {
            let rows = block.min(t - from);
            let values = rows_of(values, first(task) + from, rows, dv, &mut wide);
            for (g, y) in y.chunks_exact_mut(dv).enumerate() {
                mix(&scores[(task * group + g) * capacity + from..][..rows], values.as_slice(), y);
            }
        }
        for (g, y) in y.chunks_exact_mut(dv).enumerate().filter(|(_, y)| y.iter().any(|v| !v.is_finite())) {
            // A key that weighs nothing adds nothing, even if its value is not finite.
            y.fill(0.0);
            for (j, w) in scores[(task * group + g) * capacity..][..t].iter().enumerate().filter(|(_, w)| **w != 0.0) {
                let value = rows_of(values, first(task) + j, 1, dv, &mut wide);
                y.iter_mut().zip(value.as_slice()).for_each(|(y, v)| *y += w * v);
            }
        }
    });
}

/// Rows that lie in the cache, or widened ones.
enum Rows<'a> {
    Borrowed(&'a [f32]),
    Owned(Vec<f32>),
}

impl Rows<'_> {
    fn as_slice(&self) -> &[f32] {
        match self {
            Rows::Borrowed(rows) => rows,
            Rows::Owned(rows) => rows,
        }
    }
}

fn rows_of<'a>(cache: Cache<'a>, first: usize, rows: usize, width: usize, wide: &'a mut [f32; WIDE]) -> Rows<'a> {
    let (start, len) = (first * width, rows * width);
    if len <= WIDE || !cache.is_narrow() {
        return Rows::Borrowed(cache.widen(start, len, wide));
    }
    // Heads wider than any model's.
    let mut owned = vec![0.0; len];
    cache.widen(start, len, &mut owned);
    Rows::Owned(owned)
}

vectorise! {
    /// The product of `q` with every key.
    fn dots<FMA>(q: &[f32], keys: &[f32], scores: &mut [f32]) {
        if q.is_empty() {
            return scores.fill(0.0);
        }
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(q.len())) {
            let mut sums = [0.0f32; 16];
            let (qs, q_rest) = q.as_chunks::<16>();
            let (ks, k_rest) = key.as_chunks::<16>();
            for (q, k) in qs.iter().zip(ks) {
                for i in 0..16 {
                    sums[i] = fma::<FMA>(q[i], k[i], sums[i]);
                }
            }
            for ((sum, q), k) in sums.iter_mut().zip(q_rest).zip(k_rest) {
                *sum = fma::<FMA>(*q, *k, *sum);
            }
            *score = lanes::sum(&sums, |v| v);
        }
    }

    /// Adds the weighted sum of the values to `y`.
    fn mix<FMA>(weights: &[f32], values: &[f32], y: &mut [f32]) {
        if y.is_empty() {
            return;
        }
        for (w, value) in weights.iter().zip(values.chunks_exact(y.len())) {
            for (y, v) in y.iter_mut().zip(value) {
                *y = fma::<FMA>(*w, *v, *y);
            }
        }
    }
}
