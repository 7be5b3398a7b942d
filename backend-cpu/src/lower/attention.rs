//! `attention` and `group_query_attention`.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types};
use crate::kernels::attention::{AttentionShape, Empty, Heads, RowMask, attend, rotate, weigh_masked, weigh_window};
use crate::kernels::dims::{Dims, broadcast_strides, dense_strides};
use crate::kernels::pool::Pool;
use ir::ops::{Attention, EvalError, GroupQueryAttention, Unseen};
use ir::{DType, Dim};
use smallvec::SmallVec;

/// Elements of `words` of scratch.
pub(super) fn words(elements: usize) -> usize {
    elements.div_ceil(2)
}

/// Small integers: lengths and positions.
pub(super) fn integers(call: &Call<'_, '_>, i: usize) -> Option<SmallVec<[i64; 4]>> {
    let v = call.ins.get(i).copied().flatten()?;
    Some(match v.dtype {
        DType::I32 => v.as_slice::<i32>().iter().map(|n| *n as i64).collect(),
        _ => v.as_slice::<i64>().iter().copied().collect(),
    })
}

pub(super) fn is_integer(types: &Types<'_>, i: usize) -> bool {
    types.dtype(i).is_none_or(|d| matches!(d, DType::I32 | DType::I64))
}

/// ONNX Attention.
struct AttentionKernel {
    op: Attention,
}

pub(super) fn attention(op: &Attention, types: &Types<'_>) -> Chosen {
    let floats = [0, 1, 2, 4, 5].into_iter().all(|i| types.dtype(i).is_none_or(|d| d == DType::F32));
    let mask = types.dtype(3).is_none_or(|d| matches!(d, DType::F32 | DType::Bool));
    let buffer = op.total.is_none() || op.present && op.offset.is_none();
    let fits = floats && mask && buffer && op.scores.is_none() && is_integer(types, 6) && types.row_major();
    fits.then(|| Box::new(AttentionKernel { op: op.clone() }) as Box<dyn Kernel>)
}

/// Batch, heads, rows and width of an operand of rank 3 or 4.
fn split(dims: &[usize], heads: Option<i64>) -> [usize; 4] {
    match (dims, heads) {
        (&[b, h, s, d], _) => [b, h, s, d],
        (&[b, s, w], Some(h)) => [b, h as usize, s, w / h as usize],
        _ => unreachable!("typing made sure of the rank"),
    }
}

fn heads<'a>(data: &'a [f32], dims: &[usize], [_, h, s, d]: [usize; 4]) -> Heads<'a> {
    if dims.len() == 4 { Heads::dense(data, h, s, d) } else { Heads::inside(data, h, s, d) }
}

impl AttentionKernel {
    /// The sizes, and the rows of the past.
    fn shape(&self, ins: &[Option<&[usize]>], present: Option<&[usize]>) -> Option<(AttentionShape, usize)> {
        let [b, hq, s, d] = split(ins[0]?, self.op.q_heads);
        let [_, hk, t, _] = split(ins[1]?, self.op.kv_heads);
        let [_, _, _, dv] = split(ins[2]?, self.op.kv_heads);
        let past = ins.get(4).copied().flatten().map_or(0, |p| p[2]);
        let t = if self.op.total.is_some() { present?[2] } else { past + t };
        Some((AttentionShape { b, hq, hk, s, t, d, dv }, past))
    }

    /// Whether keys and values are put together in scratch, because the past is no result.
    fn joins(&self, ins: &[Option<&[usize]>]) -> bool {
        ins.get(4).copied().flatten().is_some() && !self.op.present
    }
}

/// Writes `[B, H, rows, D]`: of each sequence the first `starts` rows of the past, `t` new rows, and zeros.
fn join(
    pool: &Pool,
    (past, p): (Option<&[f32]>, usize),
    new: Heads<'_>,
    starts: impl Fn(usize) -> usize + Sync,
    [b, h, t, d]: [usize; 4],
    to: &mut [f32],
) {
    if b * h == 0 || to.is_empty() {
        return;
    }
    let each = to.len() / (b * h);
    pool.chunks_mut(to, each, |i, to| {
        let (old, fresh) = to.split_at_mut(starts(i / h) * d);
        if let Some(past) = past {
            old.copy_from_slice(&past[i * p * d..][..old.len()]);
        }
        let (fresh, behind) = fresh.split_at_mut(t * d);
        let start = i / h * new.strides[0] + i % h * new.strides[1];
        for (row, to) in fresh.chunks_exact_mut(d).enumerate() {
            to.copy_from_slice(&new.data[start + row * new.strides[2]..][..d]);
        }
        behind.fill(0.0);
    });
}

/// Rows that each sequence has in the past where that is a buffer.
fn filled(lengths: &[i64], [s, p, rows]: [usize; 3]) -> Result<SmallVec<[usize; 4]>, EvalError> {
    let start = |length: &i64| {
        let start = usize::try_from(length.saturating_sub(s as i64)).ok().filter(|n| *n <= p && n + s <= rows);
        start.ok_or_else(|| {
            let message = format!("{s} new rows do not end at row {length} of a buffer of {p} that grows to {rows}");
            EvalError::Invalid(message)
        })
    };
    lengths.iter().map(start).collect()
}

impl Kernel for AttentionKernel {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn numbers(&self) -> Vec<Dim> {
        self.op.offset.iter().chain(&self.op.total).cloned().collect()
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let Some((shape, _)) = self.shape(dims.ins, dims.outs.get(1).copied()) else { return 0 };
        let joined = if self.joins(dims.ins) { shape.b * shape.hk * shape.t * (shape.d + shape.dv) } else { 0 };
        words(shape.scratch(pool) + joined)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let dims: SmallVec<[Option<&[usize]>; 8]> = call.ins.iter().map(|v| v.map(|v| v.dims)).collect();
        let present = call.outs.get(1).map(|v| v.dims);
        let (shape, past) = self.shape(&dims, present).expect("typing made sure of the operands");
        let AttentionShape { b, hq, hk, s, t, d, dv } = shape;
        if hk == 0 || hq % hk != 0 {
            return Err(EvalError::Invalid(format!("{hq} query heads do not share {hk} key heads")));
        }
        let [q, k, v] = [0, 1, 2].map(|i| call.input(i));
        let (new, heads_of) =
            (split(k.dims, self.op.kv_heads)[2], [self.op.q_heads, self.op.kv_heads, self.op.kv_heads]);
        let [qh, kh, vh] = [q, k, v].map(|v| v.dims);
        let queries = heads(q.as_slice(), qh, split(qh, heads_of[0]));
        let mut keys = heads(k.as_slice(), kh, split(kh, heads_of[1]));
        let mut values = heads(v.as_slice(), vh, split(vh, heads_of[2]));
        let side = |i: usize| call.ins.get(i).copied().flatten().map(|v| v.as_slice::<f32>());
        let (past_k, past_v) = (side(4), side(5));
        let mut lengths = integers(call, 6);
        if lengths.as_ref().is_some_and(|l| l.len() != b) {
            return Err(EvalError::Invalid(format!("{b} lengths are needed")));
        }
        let mut starts = None;
        if let (Some(lengths), Some(total)) =
            (lengths.as_mut().filter(|_| self.op.total.is_some()), call.numbers.last())
        {
            if *total == s as i64 {
                lengths.fill(s as i64);
            }
            starts = Some(filled(lengths, [new, past, t])?);
        }
        let starts = |batch: usize| starts.as_ref().map_or(past, |starts| starts[batch]);
        let mask = Mask::new(call.ins.get(3).copied().flatten(), [b, hq, s], t)?;
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let joined = if self.joins(&dims) { b * hk * t } else { 0 };
        let (joined_keys, scratch) = scratch.split_at_mut(joined * d);
        let (joined_values, scratch) = scratch.split_at_mut(joined * dv);
        let Some((y, presents)) = call.outs.split_first_mut() else { unreachable!("attention has a result") };
        match presents {
            [to_k, to_v, ..] if self.op.present => {
                join(call.pool, (past_k, past), keys, starts, [b, hk, new, d], to_k.as_slice_mut());
                join(call.pool, (past_v, past), values, starts, [b, hk, new, dv], to_v.as_slice_mut());
                keys = Heads::dense(bytemuck::cast_slice(to_k.bytes), hk, t, d);
                values = Heads::dense(bytemuck::cast_slice(to_v.bytes), hk, t, dv);
            }
            _ if past_k.is_some() => {
                join(call.pool, (past_k, past), keys, starts, [b, hk, new, d], joined_keys);
                join(call.pool, (past_v, past), values, starts, [b, hk, new, dv], joined_values);
                keys = Heads::dense(joined_keys, hk, t, d);
                values = Heads::dense(joined_values, hk, t, dv);
            }
            _ => {}
        }
        let scale = self.op.scale.unwrap_or(1.0 / (d as f32).sqrt());
        let cap = self.op.softcap.unwrap_or(0.0);
        let empty = Empty {
            weight: match self.op.unseen.unwrap_or(Unseen::Zero) {
                Unseen::Zero => 0.0,
                Unseen::Mean => 1.0 / t as f32,
                Unseen::Nan => f32::NAN,
            },
            guard: self.op.guard,
        };
        let first = self.op.offset.as_ref().and(call.numbers.first().copied());
        let has_past = past_k.is_some() && self.op.total.is_none();
        let weigh = |[batch, head, row]: [usize; 3], scores: &mut [f32]| {
            let offset = match (first, has_past, &lengths) {
                (Some(first), ..) => first,
                (None, true, _) => past as i64,
                (None, false, Some(l)) => l[batch] - s as i64,
                (None, false, None) => 0,
            };
            let position = row as i64 + offset;
            let mut end = t as i64;
            if self.op.causal {
                end = end.min(position + 1);
            }
            if let Some(right) = self.op.right {
                end = end.min(position.saturating_add(right).saturating_add(1));
            }
            if let Some(lengths) = &lengths {
                end = end.min(lengths[batch]);
            }
            let begin = self.op.left.map_or(0, |l| position.saturating_sub(l).clamp(0, t as i64));
            let (begin, end) = (begin as usize, end.max(0) as usize);
            weigh_masked(scores, scale, cap, mask.row((batch * hq + head) * s + row), empty, begin, end);
        };
        let y_strides = if y.dims.len() == 4 { [hq * s * dv, s * dv, dv] } else { [s * hq * dv, dv, hq * dv] };
        attend(call.pool, shape, [queries, keys, values], y.as_slice_mut(), y_strides, scratch, weigh);
        Ok(())
    }
}

/// A mask that broadcasts to the scores.
struct Mask<'a> {
    view: Option<crate::kernel::View<'a>>,
    columns: usize,
    /// Elements per batch, head and row, in units of mask rows.
    strides: Dims,
    out: [usize; 3],
}

impl<'a> Mask<'a> {
    fn new(view: Option<crate::kernel::View<'a>>, out: [usize; 3], t: usize) -> Result<Mask<'a>, EvalError> {
        let Some(v) = view else { return Ok(Mask { view, columns: 0, strides: Dims::new(), out }) };
        let (lead, columns) = match v.dims {
            [] => (&[][..], 1),
            [lead @ .., columns] => (lead, *columns),
        };
        let skip = 3usize.saturating_sub(lead.len());
        let fits = lead.len() <= 3 && lead.iter().zip(&out[skip..]).all(|(m, o)| *m == 1 || m == o);
        if !fits || columns > t.max(1) {
            return Err(EvalError::Invalid(format!("a mask of {:?} does not fit scores of {out:?} by {t}", v.dims)));
        }
        Ok(Mask { view, columns, strides: broadcast_strides(lead, &out), out })
    }

    fn row(&self, row: usize) -> RowMask<'a> {
        let Some(v) = self.view else { return RowMask::None };
        let [_, h, s] = self.out;
        let at = row / s / h * self.strides[0] + row / s % h * self.strides[1] + row % s * self.strides[2];
        let range = at * self.columns..(at + 1) * self.columns;
        match v.dtype {
            DType::Bool if self.columns == 1 => RowMask::Same(if v.bytes[at] != 0 { 0.0 } else { f32::NEG_INFINITY }),
            DType::Bool => RowMask::Bool(&v.bytes[range]),
            _ if self.columns == 1 => RowMask::Same(v.as_slice::<f32>()[at]),
            _ => RowMask::Float(&v.as_slice::<f32>()[range]),
        }
    }
}

/// com.microsoft's GroupQueryAttention.
struct GroupQueryKernel {
    op: GroupQueryAttention,
}

pub(super) fn group_query(op: &GroupQueryAttention, types: &Types<'_>) -> Chosen {
    let floats = [0, 1, 2, 3, 4, 7, 8, 10, 11].into_iter().all(|i| types.dtype(i).is_none_or(|d| d == DType::F32));
    let integers = [5, 6, 9].into_iter().all(|i| is_integer(types, i));
    (floats && integers && types.row_major() && !op.both_ways)
        .then(|| Box::new(GroupQueryKernel { op: op.clone() }) as Box<dyn Kernel>)
}

impl GroupQueryKernel {
    fn shape(&self, q: &[usize], present: &[usize], packed: bool) -> AttentionShape {
        let (hq, hk) = (self.op.heads as usize, self.op.kv_heads as usize);
        let d = q[2] / if packed { hq + 2 * hk } else { hq };
        AttentionShape { b: q[0], hq, hk, s: q[1], t: present[2], d, dv: d }
    }
}

impl Kernel for GroupQueryKernel {
    fn name(&self) -> &'static str {
        "group_query_attention"
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let Some(q) = dims.ins[0] else { return 0 };
        let shape = self.shape(q, dims.outs[1], dims.ins[1].is_none());
        let rotated = if self.op.rotary { shape.b * shape.s * shape.hq * shape.d } else { 0 };
        words(shape.scratch(pool) + rotated)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let bad = |message: String| Err(EvalError::Invalid(message));
        let q = call.input(0);
        let packed = call.ins[1].is_none();
        let shape = self.shape(q.dims, call.outs[1].dims, packed);
        let AttentionShape { b, hq, hk, s, t: length, d, .. } = shape;
        let last = integers(call, 5).expect("typing made sure of the operand");
        let total = integers(call, 6).expect("typing made sure of the operand");
        if last.len() != b || total.len() != 1 {
            return bad(format!("{} lengths for a batch of {b}", last.len()));
        }
        let past = call.ins[3].map(|v| v.dims);
        let p = past.map_or(0, |p| p[2]);
        let prompt = s as i64 == total[0].max(0);
        let mut starts: SmallVec<[usize; 8]> = SmallVec::new();
        for last in &last {
            let before = if prompt { 0 } else { last + 1 - s as i64 };
            let fits = before >= 0 && (prompt || before as usize <= p) && before as usize + s <= length;
            if !fits {
                return bad(format!("{s} rows do not fit behind {before} in a cache of {length} with {p} rows"));
            }
            starts.push(before as usize);
        }
        if past.is_some_and(|dims| dims[0] != b || dims[1] != hk || dims[3] != d) {
            return bad(format!("a past of {past:?} does not fit"));
        }
        let width = q.dims[2];
        let inside = |data, start| Heads { data, strides: [s * width, d, width] }.from(start);
        let data: &[f32] = q.as_slice();
        let side = |i: usize| call.ins.get(i).copied().flatten();
        let mut queries = inside(data, 0);
        let (new_k, new_v) = match (side(1), side(2)) {
            (Some(k), Some(v)) => (Heads::inside(k.as_slice(), hk, s, d), Heads::inside(v.as_slice(), hk, s, d)),
            _ => (inside(data, hq * d), inside(data, (hq + hk) * d)),
        };
        let tables = match (self.op.rotary, side(7), side(8)) {
            (true, Some(cos), Some(sin)) => {
                let half = cos.dims.last().copied().unwrap_or(0);
                if cos.dims != sin.dims || cos.dims.len() != 2 || 2 * half > d {
                    return bad(format!("tables of {:?} and {:?} do not rotate heads of {d}", cos.dims, sin.dims));
                }
                let positions = integers(call, 9);
                let (cos, sin): (&[f32], &[f32]) = (cos.as_slice(), sin.as_slice());
                Some(Tables { cos, sin, half, positions, interleaved: self.op.interleaved })
            }
            (true, _, _) => return bad("the tables of the rotation are missing".into()),
            (false, _, _) => None,
        };
        if let Some(tables) = &tables {
            tables.check(b, s, &starts)?;
        }
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let rotated = if tables.is_some() { b * s * hq * d } else { 0 };
        let (rotated, scratch) = scratch.split_at_mut(rotated);
        if let Some(tables) = &tables {
            if d > 0 && hq > 0 {
                call.pool.chunks_mut(rotated, hq * d, |row, to| {
                    let (batch, i) = (row / s, row % s);
                    for (head, to) in to.chunks_exact_mut(d).enumerate() {
                        tables.rotate(batch, i, s, starts[batch], queries.row(batch, head, i, d), to);
                    }
                });
            }
            queries = Heads::inside(rotated, hq, s, d);
        }
        let [y, to_k, to_v] = call.outs else { unreachable!("it has three results") };
        for (which, (to, new)) in [(&mut *to_k, new_k), (&mut *to_v, new_v)].into_iter().enumerate() {
            let old = call.ins[3 + which].map(|v| v.as_slice::<f32>());
            if length * d == 0 {
                continue;
            }
            call.pool.chunks_mut(to.as_slice_mut::<f32>(), length * d, |head, to| {
                let (batch, h) = (head / hk, head % hk);
                let start = starts[batch];
                match old {
                    Some(old) => to[..start * d].copy_from_slice(&old[head * p * d..][..start * d]),
                    None => to[..start * d].fill(0.0),
                }
                to[(start + s) * d..].fill(0.0);
                for (i, to) in to[start * d..(start + s) * d].chunks_exact_mut(d).enumerate() {
                    let row = new.row(batch, h, i, d);
                    match &tables {
                        Some(tables) if which == 0 => tables.rotate(batch, i, s, start, row, to),
                        _ => to.copy_from_slice(row),
                    }
                }
            });
        }
        let keys = Heads::dense(bytemuck::cast_slice(to_k.bytes), hk, length, d);
        let values = Heads::dense(bytemuck::cast_slice(to_v.bytes), hk, length, d);
        let bias = side(10);
        if bias.is_some_and(|v| v.dims.len() != 4) {
            return bad("the bias has rank 4".into());
        }
        let sinks = side(11).map(|v| v.as_slice::<f32>()).filter(|v| !v.is_empty());
        let scale = self.op.scale.filter(|s| *s != 0.0).unwrap_or(1.0 / (d as f32).sqrt());
        let cap = self.op.softcap.unwrap_or(0.0);
        let weigh = |[batch, head, row]: [usize; 3], scores: &mut [f32]| {
            let end = starts[batch] + row + 1;
            let begin = self.op.window.filter(|w| *w > 0).map_or(0, |w| end.saturating_sub(w as usize));
            let sink = sinks.map(|v| v[head % v.len()]).or(self.op.smooth.then_some(0.0));
            let bias = bias.map(|v| {
                let (strides, data) = (dense_strides(v.dims), v.as_slice::<f32>());
                let step = |axis: usize| if v.dims[axis] == 1 { 0 } else { strides[axis] };
                let base = batch * step(0) + head * step(1) + row * step(2);
                let column = step(3);
                move |j: usize| data.get(base + j * column).copied().unwrap_or(0.0)
            });
            weigh_window(scores, scale, cap, bias, sink, begin, end);
        };
        attend(call.pool, shape, [queries, keys, values], y.as_slice_mut(), [s * hq * d, d, hq * d], scratch, weigh);
        Ok(())
    }
}

/// Cosines and sines by position.
struct Tables<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
    positions: Option<SmallVec<[i64; 4]>>,
    interleaved: bool,
}

impl Tables<'_> {
    fn position(&self, batch: usize, i: usize, s: usize, start: usize) -> i64 {
        match self.positions.as_deref() {
            Some([first]) => first + i as i64,
            Some(all) => all.get(batch * s + i).copied().unwrap_or(-1),
            None => (start + i) as i64,
        }
    }

    fn check(&self, b: usize, s: usize, starts: &[usize]) -> Result<(), EvalError> {
        let rows = self.cos.len().checked_div(self.half).map_or(i64::MAX, |rows| rows as i64);
        for (batch, i) in (0..b).flat_map(|b| (0..s).map(move |i| (b, i))) {
            if !(0..rows).contains(&self.position(batch, i, s, starts[batch])) {
                return Err(EvalError::Invalid(format!("a position is outside the table of {rows} rows")));
            }
        }
        Ok(())
    }

    fn rotate(&self, batch: usize, i: usize, s: usize, start: usize, x: &[f32], to: &mut [f32]) {
        let at = self.position(batch, i, s, start) as usize * self.half;
        rotate(x, &self.cos[at..][..self.half], &self.sin[at..][..self.half], self.interleaved, to);
    }
}
