//! `attention` of queries over keys and values that are given whole: a mask, causality and windows, no past of its own.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output};
use ir::Dim;
use ir::ops::{Attention, Unseen};
use kernels::{Element, table};

/// Elements of a head that the kernel holds.
const MOST: i64 = 256;

struct Query {
    op: Attention,
    element: Element,
    mask: Option<Element>,
}

pub(super) fn attention(op: &Attention, types: &Types<'_>) -> Chosen {
    let x = types.element(0)?;
    let alike = [1, 2].iter().all(|i| types.element(*i) == Ok(x));
    if !alike || !matches!(x, Element::F32 | Element::F16 | Element::BF16) {
        return Err("its element types differ, or are not f32, f16 or bf16");
    }
    if [4, 5, 6].iter().any(|i| types.input(*i).is_some()) || op.present || op.scores.is_some() {
        return Err("the kernel has no past, lengths or scores");
    }
    if !matches!(op.unseen, None | Some(Unseen::Zero)) {
        return Err("the kernel gives 0 to a query that sees no key");
    }
    let mask = types.input(3).map(|t| element(t.dtype)).transpose()?;
    if mask.is_some_and(|m| !matches!(m, Element::U8 | Element::F32 | Element::F16 | Element::BF16)) {
        return Err("its mask is of another type");
    }
    let width = |i: usize, heads: Option<i64>| match types.dims(i)? {
        [_, _, _, d] => Ok(d.as_const()),
        [_, _, w] => Ok(w.as_const().zip(heads).map(|(w, h)| w / h.max(1))),
        _ => Err("its rank is neither 3 nor 4"),
    };
    match width(2, op.kv_heads)? {
        Some(dv) if dv <= MOST => Ok(Box::new(Query { op: op.clone(), element: x, mask })),
        _ => Err("its heads have more than 256 elements"),
    }
}

/// Sizes `[batch, heads, steps, width]` and strides by batch, head and step.
fn split(dims: &[usize], heads: Option<i64>) -> Option<([i64; 4], [i64; 3])> {
    match (dims, heads) {
        (&[b, h, s, d], _) => {
            let [b, h, s, d] = [b, h, s, d].map(|n| n as i64);
            Some(([b, h, s, d], [h * s * d, s * d, d]))
        }
        (&[b, s, w], Some(h)) if h > 0 => {
            let [b, s, w] = [b, s, w].map(|n| n as i64);
            Some(([b, h, s, w / h], [s * w, w / h, w]))
        }
        _ => None,
    }
}

impl Lowering for Query {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn files(&self) -> &'static [&'static str] {
        &["attention"]
    }

    fn numbers(&self) -> Vec<Dim> {
        self.op.offset.iter().cloned().collect()
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let op = &self.op;
        let of = |i: usize, heads| split(&sizes.ins[i], heads).ok_or("its rank is neither 3 nor 4".to_string());
        let ([b, heads, s, d], q) = of(0, op.q_heads)?;
        let ([_, kv_heads, t, _], k) = of(1, op.kv_heads)?;
        let ([_, _, _, dv], v) = of(2, op.kv_heads)?;
        if sizes.outs[0].contains(&0) {
            return Ok(vec![]);
        }
        let y = match sizes.ins[0].len() {
            4 => [heads * s * dv, s * dv, dv],
            _ => [s * heads * dv, dv, heads * dv],
        };
        let mut shape = [0u32; 16];
        for (i, stride) in q.iter().chain(&k).chain(&v).chain(&y).enumerate() {
            shape[i] = u32::try_from(*stride).map_err(|_| "a stride is too large for the kernel".to_string())?;
        }
        let (mut columns, mut count) = (0, 0);
        if self.mask.is_some() {
            let dims = &sizes.ins[3];
            count = dims.iter().product::<usize>() as i64;
            columns = dims.last().map_or(t, |n| if *n == 1 { t } else { *n as i64 });
            let mut step = 1;
            for (i, n) in dims.iter().rev().enumerate() {
                if i < 4 {
                    shape[15 - i] = if *n == 1 { 0 } else { step };
                }
                step *= *n as u32;
            }
        }
        let flag = |on: bool, bit: i64| if on { bit } else { 0 };
        let flags = flag(op.causal, 1)
            | flag(op.left.is_some(), 2)
            | flag(op.right.is_some(), 4)
            | flag(self.mask.is_some(), 8)
            | flag(op.guard, 16)
            | flag(op.softcap.is_some_and(|c| c > 0.0), 32);
        let window = |n: Option<i64>| n.unwrap_or(0).clamp(0, i64::from(i32::MAX / 2));
        let scale = op.scale.unwrap_or((1.0 / (d as f64).sqrt()) as f32);
        let mask = if self.mask.is_some() { input(3) } else { input(0) };
        let made = table::attention(
            self.element,
            self.mask.unwrap_or(Element::U8),
            input(0),
            input(1),
            input(2),
            mask,
            output(0),
            b,
            heads,
            kv_heads,
            s,
            t,
            d,
            dv,
            flags,
            sizes.numbers.first().copied().unwrap_or(0),
            window(op.left),
            window(op.right),
            columns,
            count,
            scale,
            op.softcap.unwrap_or(0.0),
            shape,
        );
        Ok(vec![call(made)])
    }
}
