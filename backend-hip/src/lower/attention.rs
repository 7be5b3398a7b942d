//! `attention`: keys and values behind their pasts, read in place; with `present` they are joined first, and read from there. So are
//! those whose past is a buffer that each sequence has filled to another length, in scratch memory where they are no results.

use super::copy::{strides, walk};
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output, scratch};
use ir::ops::{Attention, Unseen};
use ir::{DType, Dim};
use kernels::{Element, table};

struct Attending {
    op: Attention,
    element: Element,
    /// The element type of the mask, as the kernel numbers them: 0 where there is none.
    mask: (u32, i64),
    /// Bytes of one length.
    lengths: i64,
    past: bool,
    /// Bytes of keys and values where they are joined, but no results.
    joined: Option<Dim>,
}

pub(super) fn attention(op: &Attention, types: &Types<'_>) -> Chosen {
    if op.scores.is_some() {
        return Err("its scores are a result");
    }
    if op.total.is_some() && !op.causal {
        return Err("its past is a buffer, of which it sees more than what comes before");
    }
    let found = types.element(0)?;
    let float = matches!(found, Element::F32 | Element::F16 | Element::BF16);
    let same = [1, 2, 4, 5].iter().all(|i| types.input(*i).is_none_or(|t| element(t.dtype) == Ok(found)));
    if !float || !same {
        return Err("the kernel takes f32, f16 and bf16 only, and one of them");
    }
    let mask = match types.input(3).map(|t| t.dtype) {
        None => (0, 1),
        Some(DType::Bool) => (1, 1),
        Some(DType::F32) => (2, 4),
        Some(DType::F16) => (3, 2),
        Some(DType::BF16) => (4, 2),
        Some(_) => return Err("its mask is of another type"),
    };
    let lengths = match types.input(6).map(|t| t.dtype) {
        None => 0,
        Some(DType::I64) => 8,
        Some(DType::I32) => 4,
        Some(_) => return Err("its lengths are of another type"),
    };
    for (i, heads) in [(0, op.q_heads), (1, op.kv_heads), (2, op.kv_heads)] {
        let width = width(types.dims(i)?, heads).ok_or("its heads are not known")?;
        if width.as_const().is_none_or(|d| d > 256) {
            return Err("its heads have more than 256 elements, or it is not known how many");
        }
    }
    let past = types.input(4).is_some();
    let joined = match &op.total {
        Some(total) if !op.present => Some(joined_elements(types, total)? * found.bytes()),
        _ => None,
    };
    Ok(Box::new(Attending { op: op.clone(), element: found, mask, lengths, past, joined }))
}

/// Elements of keys and values behind their pasts, in buffers of at least `total` rows.
fn joined_elements(types: &Types<'_>, total: &Dim) -> Result<Dim, &'static str> {
    let of_a_row = |i: usize| match types.dims(i)? {
        [_, h, _, d] => Ok(h * d),
        [_, _, w] => Ok(w.clone()),
        _ => Err("its heads are not known"),
    };
    let rows = match types.input(4) {
        Some(_) => Dim::max(&types.dims(4)?[2], total),
        None => Dim::max(&Dim::constant(0), total),
    };
    let batch = types.dims(1)?.first().ok_or("its heads are not known")?;
    Ok(batch * rows * (of_a_row(1)? + of_a_row(2)?))
}

/// Elements of a head.
fn width(dims: &[Dim], heads: Option<i64>) -> Option<Dim> {
    match dims {
        [_, _, _, d] => Some(d.clone()),
        [_, _, w] => w.exact_div(&Dim::constant(heads.filter(|h| *h > 0)?)),
        _ => None,
    }
}

/// An operand or a result of heads: `[B, H, S, D]`, and its strides by batch, head and row.
struct Heads {
    dims: [usize; 4],
    by: [usize; 3],
}

impl Heads {
    fn new(dims: &[usize], heads: Option<i64>) -> Result<Heads, String> {
        match (dims, heads) {
            (&[b, h, s, d], _) => Ok(Heads { dims: [b, h, s, d], by: [h * s * d, s * d, d] }),
            (&[b, s, w], Some(h)) if h > 0 && w.is_multiple_of(h as usize) => {
                let (h, d) = (h as usize, w / h as usize);
                Ok(Heads { dims: [b, h, s, d], by: [s * w, d, w] })
            }
            _ => Err(format!("{dims:?} does not split into heads")),
        }
    }
}

/// Strides of a mask by batch, head and row, in rows of its columns; then the columns.
fn mask_strides(mask: &[usize], out: [usize; 3], keys: usize) -> Result<([usize; 3], usize), String> {
    let (lead, columns) = match mask {
        [] => (&[][..], 1),
        [lead @ .., columns] => (lead, *columns),
    };
    let skip = 3usize.saturating_sub(lead.len());
    let fits = lead.len() <= 3 && lead.iter().zip(&out[skip..]).all(|(m, o)| *m == 1 || m == o);
    if !fits || columns > keys.max(1) {
        return Err(format!("a mask of {mask:?} does not fit scores of {out:?} by {keys}"));
    }
    let (mut by, mut step) = ([0; 3], 1);
    for (i, size) in lead.iter().enumerate().rev() {
        by[skip + i] = if *size == 1 { 0 } else { step };
        step *= size;
    }
    Ok((by, columns))
}

impl Attending {
    /// Joins a past (operand 4 or 5) and new rows (operand 1 or 2) in result `to`.
    fn join(&self, i: usize, sizes: &Sizes<'_>, new: &Heads, to: usize) -> Result<Vec<Call<Memory>>, String> {
        let [b, h, n, d] = new.dims;
        let of_y = strides(&sizes.outs[to]);
        let mut calls = vec![];
        let mut past = 0;
        if self.past {
            let dims = &sizes.ins[i + 3];
            past = dims[2];
            calls.extend(walk(self.element, input(i + 3), output(to), dims, (0, &strides(dims)), (0, &of_y))?);
        }
        let by = [new.by[0], new.by[1], new.by[2], 1].map(|n| n as i64);
        let from = past as i64 * of_y[2];
        calls.extend(walk(self.element, input(i), output(to), &[b, h, n, d], (0, &by), (from, &of_y))?);
        Ok(calls)
    }
}

/// The rows of a buffer: how many there are, and whether its sequences are prompts, which have none of before.
struct Buffer {
    length: usize,
    prompt: bool,
}

impl Attending {
    /// The buffer that keys and values are joined in; `None` without `total`.
    fn buffer(&self, sizes: &Sizes<'_>, steps: usize) -> Option<Buffer> {
        self.op.total.as_ref()?;
        let total = *sizes.numbers.last()?;
        let past = if self.past { sizes.ins[4][2] } else { 0 };
        Some(Buffer { length: past.max(usize::try_from(total).unwrap_or(0)), prompt: total == steps as i64 })
    }

    /// Joins a buffer (operand 4 or 5) and new rows (operand 1 or 2) in `to`.
    fn fill(&self, i: usize, sizes: &Sizes<'_>, new: &Heads, buffer: &Buffer, to: Memory) -> Option<Call<Memory>> {
        let [b, h, steps, width] = new.dims.map(|n| n as i64);
        let (old, past) = if self.past { (i + 3, sizes.ins[i + 3][2]) } else { (i, 0) };
        let lengths = if self.lengths == 8 { Element::I64 } else { Element::I32 };
        let (length, inside) = (buffer.length as i64, i64::from(sizes.ins[i].len() == 3));
        let (rows, past, prompt) = (input(i), past as i64, i64::from(buffer.prompt));
        let made = table::present(
            self.element,
            lengths,
            input(old),
            rows,
            input(6),
            to,
            b,
            h,
            past,
            steps,
            length,
            width,
            inside,
            prompt,
        );
        (b * h * length * width > 0).then(|| call(made))
    }
}

impl Lowering for Attending {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn files(&self) -> &'static [&'static str] {
        match (&self.op.total, self.op.present) {
            (Some(_), _) => &["attention", "present"],
            (None, true) => &["attention", "copy"],
            (None, false) => &["attention"],
        }
    }

    fn numbers(&self) -> Vec<Dim> {
        self.op.offset.iter().chain(&self.op.total).cloned().collect()
    }

    fn scratch(&self) -> Option<Dim> {
        self.joined.clone()
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let op = &self.op;
        let q = Heads::new(&sizes.ins[0], op.q_heads)?;
        let (k, v) = (Heads::new(&sizes.ins[1], op.kv_heads)?, Heads::new(&sizes.ins[2], op.kv_heads)?);
        let ([b, hq, s, d], [_, hk, new, _], dv) = (q.dims, k.dims, v.dims[3]);
        if hk == 0 || !hq.is_multiple_of(hk) {
            return Err(format!("{hq} query heads do not share {hk} key heads"));
        }
        let past = if self.past { sizes.ins[4][2] } else { 0 };
        let buffer = self.buffer(sizes, new);
        let keys = buffer.as_ref().map_or(past + new, |b| b.length);
        if self.lengths > 0 && sizes.ins[6].iter().product::<usize>() != b {
            return Err(format!("{b} lengths are needed"));
        }
        let mut calls = vec![];
        let (mut of_k, mut of_v, mut split) = ((input(1), k.by), (input(2), v.by), past);
        if let Some(buffer) = &buffer {
            if new > keys {
                return Err(format!("{new} new rows do not fit a buffer of {keys}"));
            }
            let second = (b * hk * keys * d) as i64 * self.element.bytes();
            let (to_k, to_v) = if op.present { (output(1), output(2)) } else { (scratch(0), scratch(second)) };
            calls.extend(self.fill(1, sizes, &k, buffer, to_k));
            calls.extend(self.fill(2, sizes, &v, buffer, to_v));
            of_k = (to_k, [hk * keys * d, keys * d, d]);
            of_v = (to_v, [hk * keys * dv, keys * dv, dv]);
            split = 0;
        } else if op.present {
            calls.extend(self.join(1, sizes, &k, 1)?);
            calls.extend(self.join(2, sizes, &v, 2)?);
            of_k = (output(1), [hk * keys * d, keys * d, d]);
            of_v = (output(2), [hk * keys * dv, keys * dv, dv]);
            split = 0;
        }
        let (mask_by, columns) = match self.mask.0 {
            0 => ([0; 3], 1),
            _ => mask_strides(&sizes.ins[3], [b, hq, s], keys)?,
        };
        if b * hq * s * dv == 0 {
            return Ok(calls);
        }
        let y = if sizes.outs[0].len() == 4 { [hq * s * dv, s * dv, dv] } else { [s * hq * dv, dv, hq * dv] };
        let unseen = match op.unseen.unwrap_or(Unseen::Zero) {
            Unseen::Zero => 0,
            Unseen::Mean => 1,
            Unseen::Nan => 2,
        };
        // The sequences of a prompt begin at 0 and are as long as it is: behind that nothing is seen, for they are causal.
        let prompt = buffer.as_ref().is_some_and(|b| b.prompt);
        let wide = if prompt { 0 } else { self.lengths };
        let (offset, has_offset) = match (&op.offset, &buffer) {
            (Some(_), _) => (sizes.numbers[0], true),
            (None, Some(_)) => (0, prompt),
            (None, None) => (past as i64, self.past),
        };
        let flags = [op.causal, op.left.is_some(), op.right.is_some(), has_offset, op.guard];
        let flags = flags.iter().enumerate().map(|(i, on)| u32::from(*on) << i).sum();
        let mut by = [0u32; 20];
        let numbers = q.by.iter().chain(&of_k.1).chain(&of_v.1).chain(&y).chain(&mask_by).chain([&columns]);
        for (word, n) in by.iter_mut().zip(numbers) {
            *word = u32::try_from(*n).map_err(|_| "a stride is too large for the kernel".to_string())?;
        }
        by[16..].copy_from_slice(&[self.mask.0, wide as u32, unseen, flags]);
        let there = |there: bool, i: usize| if there { input(i) } else { input(0) };
        let kernel = match d.max(dv) {
            0..=64 => table::attention64,
            65..=128 => table::attention128,
            _ => table::attention256,
        };
        let mask_bytes = if self.mask.0 == 0 { 0 } else { sizes.ins[3].iter().product::<usize>() as i64 * self.mask.1 };
        // Positions may be moved by any number: the sums stay far from the ends of i64.
        let limited = |n: Option<i64>| n.unwrap_or(0).clamp(-(1 << 48), 1 << 48);
        let past_there = self.past && !op.present && buffer.is_none();
        let [b, group, hk, s, keys, split, d, dv] = [b, hq / hk, hk, s, keys, split, d, dv].map(|n| n as i64);
        calls.push(call(kernel(
            self.element,
            input(0),
            of_k.0,
            of_v.0,
            there(past_there, 4),
            there(past_there, 5),
            there(self.mask.0 > 0, 3),
            there(wide > 0, 6),
            output(0),
            b,
            group,
            hk,
            s,
            keys,
            split,
            d,
            dv,
            mask_bytes,
            wide * b,
            limited(Some(offset)),
            limited(op.left),
            limited(op.right),
            op.scale.unwrap_or(1.0 / (d as f32).sqrt()),
            op.softcap.unwrap_or(0.0),
            by,
        )));
        Ok(calls)
    }
}

#[cfg(test)]
mod tests {
    use super::mask_strides;

    #[test]
    fn a_mask_is_repeated_where_it_has_one() {
        assert_eq!(mask_strides(&[2, 1, 3, 5], [2, 4, 3], 5), Ok(([3, 0, 1], 5)));
        assert_eq!(mask_strides(&[3, 5], [2, 4, 3], 9), Ok(([0, 0, 1], 5)));
        assert_eq!(mask_strides(&[], [2, 4, 3], 9), Ok(([0, 0, 0], 1)));
        assert!(mask_strides(&[2, 5], [2, 4, 3], 9).is_err());
    }
}
