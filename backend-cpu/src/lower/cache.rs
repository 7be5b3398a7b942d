//! `kv_write` and `cached_attention`.

use super::attention::{integers, is_integer, words};
use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View};
use crate::kernels::attention::Heads;
use crate::kernels::cached_attention::{Cache, CachedShape, Weighing, attend_cached};
use crate::kernels::pool::Pool;
use ir::DType;
use ir::ops::{CachedAttention, EvalError, SequencePlace};
use smallvec::SmallVec;

type Places = SmallVec<[SequencePlace; 8]>;

/// Reads where sequences are, and refuses what lies outside the caches.
fn places(call: &Call<'_, '_>, first: usize, slots: usize, capacity: usize, steps: usize) -> Result<Places, EvalError> {
    let [at, lengths, counts] = [0, 1, 2].map(|i| integers(call, first + i).expect("typing made sure of the operand"));
    let bad = |message: String| Err(EvalError::Invalid(message));
    let mut found = Places::new();
    if lengths.len() != at.len() || counts.len() != at.len() {
        return bad("batches differ in size".into());
    }
    for ((slot, length), count) in at.iter().zip(&lengths).zip(&counts) {
        let numbers = [*slot, *length, *count].map(usize::try_from);
        let [Ok(slot), Ok(length), Ok(count)] = numbers else {
            return bad(format!("{slot}, {length} and {count} are no slot, length and count"));
        };
        let end = length.checked_add(count).filter(|end| *end <= capacity);
        if slot >= slots || count > steps || end.is_none() {
            return bad(format!(
                "{count} of {steps} rows behind {length} in slot {slot}: there are {slots} slots of {capacity} rows"
            ));
        }
        found.push(SequencePlace { slot, length, count });
    }
    Ok(found)
}

/// Puts the new rows of a batch into the caches, which it changes in place.
struct KvWriteKernel;

pub(super) fn kv_write(types: &Types<'_>) -> Chosen {
    let fits = (0..3).all(|i| is_integer(types, i)) && types.outs.iter().all(|t| t.dtype.bits() >= 8);
    (fits && types.row_major()).then(|| Box::new(KvWriteKernel) as Box<dyn Kernel>)
}

impl Kernel for KvWriteKernel {
    fn name(&self) -> &'static str {
        "kv_write"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        for i in 0..call.outs.len() {
            let rows = call.input(4 + 2 * i);
            let &[slots, heads, capacity, width] = call.outs[i].dims else {
                return Err(EvalError::Invalid(format!("a cache of {:?}", call.outs[i].dims)));
            };
            let steps = rows.dims[rows.dims.len() - 2];
            let places = places(call, 0, slots, capacity, steps)?;
            let twice = (0..places.len()).find(|b| places[..*b].iter().any(|p| p.slot == places[*b].slot));
            if let Some(b) = twice {
                return Err(EvalError::Invalid(format!("two sequences write to slot {}", places[b].slot)));
            }
            let old = call.ins[3 + 2 * i];
            let out = &mut call.outs[i];
            if let Some(old) = old {
                out.bytes.copy_from_slice(old.bytes);
            }
            write_rows(rows, &places, [heads, capacity, out.dtype.bytes(width)], out.bytes);
        }
        Ok(())
    }
}

/// Copies each sequence's rows behind its old ones; `row` is in bytes.
fn write_rows(rows: View<'_>, places: &[SequencePlace], [heads, capacity, row]: [usize; 3], out: &mut [u8]) {
    let inside = rows.dims.len() == 3;
    let steps = rows.dims[rows.dims.len() - 2];
    for (b, place) in places.iter().enumerate() {
        for head in 0..heads {
            let to = ((place.slot * heads + head) * capacity + place.length) * row;
            let to = &mut out[to..][..place.count * row];
            if !inside {
                let from = (b * heads + head) * steps * row;
                to.copy_from_slice(&rows.bytes[from..][..place.count * row]);
                continue;
            }
            for (i, to) in to.chunks_exact_mut(row.max(1)).enumerate() {
                to.copy_from_slice(&rows.bytes[((b * steps + i) * heads + head) * row..][..row]);
            }
        }
    }
}

/// Attention over caches.
struct CachedAttentionKernel {
    op: CachedAttention,
}

pub(super) fn cached_attention(op: &CachedAttention, types: &Types<'_>) -> Chosen {
    let float = |i: usize| types.dtype(i).is_none_or(|d| d == DType::F32);
    let cache = |i: usize| matches!(types.dtype(i), Some(DType::F32 | DType::F16 | DType::BF16));
    let same = types.dtype(1) == types.dtype(2);
    let fits = float(0) && float(6) && cache(1) && same && types.outs[0].dtype == DType::F32;
    let fits = fits && (3..6).all(|i| is_integer(types, i)) && types.row_major();
    fits.then(|| Box::new(CachedAttentionKernel { op: op.clone() }) as Box<dyn Kernel>)
}

impl CachedAttentionKernel {
    fn shape(&self, ins: &[Option<&[usize]>]) -> Option<(usize, CachedShape)> {
        let (&[slots, hk, capacity, d], &[.., dv]) = (ins[1]?, ins[2]?) else { return None };
        let (b, hq, s) = match *ins[0]? {
            [b, h, s, _] => (b, h, s),
            [b, s, w] => (b, w / d.max(1), s),
            _ => return None,
        };
        Some((slots, CachedShape { b, hq, hk, s, capacity, d, dv }))
    }
}

fn cache<'a>(v: View<'a>) -> Cache<'a> {
    match v.dtype {
        DType::F16 => Cache::F16(v.as_slice()),
        DType::BF16 => Cache::BF16(v.as_slice()),
        _ => Cache::F32(v.as_slice()),
    }
}

impl Kernel for CachedAttentionKernel {
    fn name(&self) -> &'static str {
        "cached_attention"
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        self.shape(dims.ins).map_or(0, |(_, shape)| words(shape.scratch(pool, true)))
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let dims: SmallVec<[Option<&[usize]>; 8]> = call.ins.iter().map(|v| v.map(|v| v.dims)).collect();
        let (slots, shape) = self.shape(&dims).expect("typing made sure of the operands");
        let CachedShape { b, hq, hk, s, capacity, d, dv } = shape;
        if hk == 0 || hq % hk != 0 {
            return Err(EvalError::Invalid(format!("{hq} query heads do not share {hk} key heads")));
        }
        let places = places(call, 3, slots, capacity, s)?;
        if places.len() != b {
            return Err(EvalError::Invalid(format!("{} places for a batch of {b}", places.len())));
        }
        let q = call.input(0);
        let inside = q.dims.len() == 3;
        let queries = if inside { Heads::inside(q.as_slice(), hq, s, d) } else { Heads::dense(q.as_slice(), hq, s, d) };
        let caches = [cache(call.input(1)), cache(call.input(2))];
        let sinks = call.ins.get(6).copied().flatten().map(|v| v.as_slice::<f32>()).filter(|v| !v.is_empty());
        let weighing = Weighing {
            scale: self.op.scale.unwrap_or(1.0 / (d as f32).sqrt()),
            cap: self.op.softcap.unwrap_or(0.0),
            left: self.op.left.map(|l| l.max(0) as usize),
            sinks,
            smooth: self.op.smooth,
        };
        let strides = if inside { [s * hq * dv, dv, hq * dv] } else { [hq * s * dv, s * dv, dv] };
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let y = call.outs[0].as_slice_mut();
        attend_cached(call.pool, shape, &places, queries, caches, weighing, y, strides, scratch);
        Ok(())
    }
}
