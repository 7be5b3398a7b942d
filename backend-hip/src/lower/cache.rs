//! `kv_write` and `cached_attention`: caches that a session keeps on the device, changed in place and read from where they lie.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, moved, output};
use ir::DType;
use ir::ops::CachedAttention;
use kernels::{Element, table};

/// Caches that one launch writes: keys and values.
const TOGETHER: usize = 2;

struct Write {
    element: Element,
}

pub(super) fn kv_write(types: &Types<'_>) -> Chosen {
    let integers = (0..3).all(|i| types.input(i).is_some_and(|t| t.dtype == DType::I32));
    let first = types.input(3).ok_or("it has no caches")?.dtype;
    if !integers || types.outs.iter().any(|t| t.dtype != first) {
        return Err("its places are not i32, or its caches differ in element type");
    }
    match moved(first)? {
        element @ (Element::U16 | Element::U32) => Ok(Box::new(Write { element })),
        _ => Err("its elements are not 2 or 4 bytes wide"),
    }
}

/// Heads and width of a cache, and whether heads lie inside the steps of its new rows.
fn heads(cache: &[usize], rows: &[usize]) -> (i64, i64, i64) {
    (cache[1] as i64, cache[3] as i64, i64::from(rows.len() == 3))
}

impl Lowering for Write {
    fn name(&self) -> &'static str {
        "kv_write"
    }

    fn files(&self) -> &'static [&'static str] {
        &["cache"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let batch = sizes.ins[0].iter().product::<usize>() as i64;
        let steps = |rows: &[usize]| rows[rows.len() - 2] as i64;
        let mut calls = vec![];
        for first in (0..sizes.outs.len()).step_by(TOGETHER) {
            let second = first + 1 < sizes.outs.len();
            let last = if second { first + 1 } else { first };
            let (cache, k) = (&sizes.ins[3 + 2 * first], &sizes.ins[4 + 2 * first]);
            let (other, v) = (&sizes.ins[3 + 2 * last], &sizes.ins[4 + 2 * last]);
            let (k_heads, k_width, k_inside) = heads(cache, k);
            let (v_heads, v_width, v_inside) = if second { heads(other, v) } else { (0, 0, 0) };
            if other[0] != cache[0] || other[2] != cache[2] || steps(v) != steps(k) {
                return Err("caches that are written together differ in slots, rows or steps".into());
            }
            let (slots, capacity) = (cache[0] as i64, cache[2] as i64);
            let most = batch * steps(k) * (k_heads * k_width).max(v_heads * v_width);
            calls.push(call(table::kv_write(
                self.element,
                input(0),
                input(1),
                input(2),
                input(4 + 2 * first),
                input(4 + 2 * last),
                output(first),
                output(last),
                batch,
                steps(k),
                slots,
                capacity,
                k_heads,
                k_width,
                v_heads,
                v_width,
                k_inside,
                v_inside,
                most,
            )));
        }
        Ok(calls)
    }
}

struct Cached {
    op: CachedAttention,
    element: Element,
    sinks: bool,
}

pub(super) fn cached_attention(op: &CachedAttention, types: &Types<'_>) -> Chosen {
    let found = types.element(0)?;
    let float = matches!(found, Element::F32 | Element::F16 | Element::BF16);
    let same = [1, 2, 6].iter().all(|i| types.input(*i).is_none_or(|t| element(t.dtype) == Ok(found)));
    let integers = (3..6).all(|i| types.input(i).is_some_and(|t| t.dtype == DType::I32));
    if !float || !same || !integers {
        return Err("the kernel takes f32, f16 and bf16 only, all alike, and places of i32");
    }
    for i in [1, 2] {
        if types.dims(i)?.last().and_then(|d| d.as_const()).is_none_or(|d| !(1..=256).contains(&d)) {
            return Err("its heads have more than 256 elements, or it is not known how many");
        }
    }
    types.dims(0)?;
    Ok(Box::new(Cached { op: op.clone(), element: found, sinks: types.input(6).is_some() }))
}

impl Lowering for Cached {
    fn name(&self) -> &'static str {
        "cached_attention"
    }

    fn files(&self) -> &'static [&'static str] {
        &["cache"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (&[slots, kv_heads, capacity, d], &[.., dv]) = (&sizes.ins[1][..], &sizes.ins[2][..]) else {
            return Err("caches have rank 4".into());
        };
        let (batch, heads, steps, inside) = match sizes.ins[0][..] {
            [b, h, s, _] => (b, h, s, 0),
            [b, s, w] => (b, w / d.max(1), s, 4),
            _ => return Err("queries have rank 3 or 4".into()),
        };
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(format!("{heads} query heads do not share {kv_heads} key heads"));
        }
        if batch * heads * steps == 0 {
            return Ok(vec![]);
        }
        let flags = i64::from(self.sinks) + 2 * i64::from(self.op.smooth && !self.sinks) + inside;
        // Some rows of a tile would be empty: from three quarters on, matrix instructions are faster.
        let narrow =
            matches!(self.element, Element::F16 | Element::BF16) && d.is_multiple_of(8) && dv.is_multiple_of(8);
        let many = narrow && steps > 1 && heads / kv_heads * steps >= 48;
        let kernel = match d.max(dv) {
            0..=64 if many => table::cached_tiles64,
            65..=128 if many => table::cached_tiles128,
            0..=64 => table::cached64,
            65..=128 => table::cached128,
            _ => table::cached256,
        };
        let group = heads / kv_heads;
        let [b, group, kv, s, slots, capacity, d, dv] =
            [batch, group, kv_heads, steps, slots, capacity, d, dv].map(|n| n as i64);
        Ok(vec![call(kernel(
            self.element,
            input(0),
            input(1),
            input(2),
            input(3),
            input(4),
            input(5),
            input(if self.sinks { 6 } else { 0 }),
            output(0),
            b,
            group,
            kv,
            s,
            slots,
            capacity,
            d,
            dv,
            if self.sinks { heads as i64 } else { 0 },
            self.op.left.map_or(-1, |l| l.max(0)),
            self.op.scale.unwrap_or(1.0 / (d as f32).sqrt()),
            self.op.softcap.unwrap_or(0.0),
            flags,
        ))])
    }
}
