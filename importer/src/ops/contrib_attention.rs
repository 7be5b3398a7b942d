//! com.microsoft's MultiHeadAttention and Attention, as `attention` over split heads.

use ir::dim::Dim;
use ir::graph::Value;
use ir::ops::{Attention, Compare, Concat, Linear, Reshape, Select, Slice};
use ir::scalar::{BinaryFn, CompareFn};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table =
    &[("com.microsoft", "MultiHeadAttention", multi_head), ("com.microsoft", "Attention", attention)];

fn heads(cx: &NodeCx<'_>) -> Result<i64, NodeError> {
    let heads = cx.opt_i64("num_heads")?.filter(|h| *h > 0);
    heads.ok_or_else(|| NodeError::wrong("attribute `num_heads` is missing"))
}

/// Elements `start..start + length` along `axis`.
fn part(cx: &mut NodeCx<'_>, x: Value, axis: i64, start: &Dim, length: &Dim) -> Result<Value, NodeError> {
    let slice = Slice { axes: vec![axis], starts: vec![start.clone()], ends: vec![start + length], steps: vec![1] };
    cx.push(slice, &[x])
}

/// Number `i` of the last dimension but one of `[B, S, N, parts, D]`, as `[B, S, N*D]`.
fn unpack(cx: &mut NodeCx<'_>, x: Value, i: i64) -> Result<Value, NodeError> {
    let dims = cx.known_dims(x, "it is packed")?;
    let [b, s, n, _, d] = &dims[..] else {
        return Err(NodeError::wrong("packed queries, keys and values have rank 5"));
    };
    let shape = vec![b.clone(), s.clone(), n * d];
    let one = part(cx, x, 3, &i.into(), &1.into())?;
    cx.push(Reshape { shape }, &[one])
}

/// Queries, keys and values with masks and pasts.
struct Parts {
    q: Value,
    k: Value,
    v: Value,
    mask: Option<Value>,
    bias: Option<Value>,
    past: Option<(Value, Value)>,
    present: bool,
}

/// `attention`; results: y, and present keys and values where asked for.
fn attend(cx: &mut NodeCx<'_>, heads: i64, parts: Parts) -> Result<Vec<Value>, NodeError> {
    let causal = cx.attr_bool("unidirectional", false)?;
    let filter = f64::from(cx.attr_f32("mask_filter_value", -10000.0)?);
    let split = |cx: &NodeCx<'_>, v: Value| Some(heads).filter(|_| cx.rank(v) == Some(3));
    let (mut mask, mut lengths) = (parts.bias, None);
    if let Some(keep) = parts.mask {
        let dims = cx.known_dims(keep, "the kind of mask is told by it")?;
        let shape: Vec<Dim> = match &dims[..] {
            [_] if causal => return cx.unsupported("lengths as a mask of causal attention are not"),
            [n] => {
                let batch = cx.dims(parts.q).and_then(|d| d.first().cloned());
                if batch.is_some_and(|b| b.same(n) == ir::Truth::No) {
                    return cx.unsupported("this kind of mask is not");
                }
                lengths = Some(keep);
                vec![]
            }
            [b, t] => vec![b.clone(), 1.into(), 1.into(), t.clone()],
            [b, s, t] => vec![b.clone(), 1.into(), s.clone(), t.clone()],
            _ => dims.clone(),
        };
        if lengths.is_none() {
            let zero = cx.const_like(keep, 0.0)?;
            let kept = cx.push(Compare { f: CompareFn::Ne }, &[keep, zero])?;
            let (nothing, filter) = (cx.const_like(parts.q, 0.0)?, cx.const_like(parts.q, filter)?);
            let added = cx.push(Select {}, &[kept, nothing, filter])?;
            let added = cx.push(Reshape { shape }, &[added])?;
            mask = Some(match mask {
                Some(bias) => cx.binary(BinaryFn::Add, bias, added)?,
                None => added,
            });
        }
    }
    let op = Attention {
        causal,
        scale: cx.opt_f32("scale")?.filter(|s| *s != 0.0),
        softcap: None,
        q_heads: split(cx, parts.q),
        kv_heads: split(cx, parts.k).or(split(cx, parts.v)),
        left: None,
        right: None,
        present: parts.present,
        scores: None,
        offset: None,
        unseen: None,
        guard: false,
    };
    let absent = cx.graph.absent();
    let (past_k, past_v) = parts.past.unwrap_or((absent, absent));
    let operands = [parts.q, parts.k, parts.v, mask.unwrap_or(absent), past_k, past_v, lengths.unwrap_or(absent)];
    cx.push_n(op, &operands, if parts.present { 3 } else { 1 })
}

/// Operands: query, key, value, bias, key padding mask, attention bias, past key, past value.
fn multi_head(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let n = heads(cx)?;
    if cx.opt(8).is_some() || cx.opt(9).is_some() || cx.wants(3) {
        return cx.unsupported("shared caches, beams and scores as a result are not");
    }
    let query = cx.input(0)?;
    let (mut q, mut k, mut v) = match (cx.opt(1), cx.opt(2)) {
        (Some(k), Some(v)) => (query, k, v),
        (Some(packed), None) => (query, unpack(cx, packed, 0)?, unpack(cx, packed, 1)?),
        (None, _) => (unpack(cx, query, 0)?, unpack(cx, query, 1)?, unpack(cx, query, 2)?),
    };
    if let Some(bias) = cx.opt(3) {
        let mut start = Dim::constant(0);
        for part_of in [&mut q, &mut k, &mut v] {
            let dims = cx.known_dims(*part_of, "its bias is as long")?;
            let width = match &dims[..] {
                [_, _, width] => width.clone(),
                // Keys and values that come with their heads have had theirs.
                [_, h, _, d] => {
                    start = start + h * d;
                    continue;
                }
                _ => return Err(NodeError::wrong("queries, keys and values have rank 3 or 4")),
            };
            let own = part(cx, bias, 0, &start, &width)?;
            *part_of = cx.binary(BinaryFn::Add, *part_of, own)?;
            start = start + width;
        }
    }
    let past = cx.opt(6).zip(cx.opt(7));
    let present = cx.wants(1) || cx.wants(2);
    let parts = Parts { q, k, v, mask: cx.opt(4), bias: cx.opt(5), past, present };
    attend(cx, n, parts)
}

/// Operands: input, weight of all three projections, bias, mask, past of both, attention bias.
fn attention(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let n = heads(cx)?;
    if cx.attr_bool("do_rotary", false)? || cx.opt(6).is_some() {
        return cx.unsupported("rotation and shared caches are not");
    }
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let mut operands = vec![x, w];
    operands.extend(cx.opt(2));
    let all = cx.push(Linear { kn: true }, &operands)?;
    let width = cx.dims(w).and_then(|d| d.get(1).cloned());
    let width = width.ok_or_else(|| NodeError::unsupported("the size of its weight is unknown"))?;
    let widths: Vec<Dim> = match cx.opt_ints("qkv_hidden_sizes")?.filter(|s| s.len() == 3) {
        Some(sizes) => sizes.into_iter().map(Dim::from).collect(),
        None => vec![width.floor_div(&Dim::constant(3)); 3],
    };
    let (mut start, mut values) = (Dim::constant(0), vec![]);
    for width in &widths {
        values.push(part(cx, all, 2, &start, width)?);
        start = start + width;
    }
    let past = match cx.opt(4) {
        Some(past) => {
            let dims = cx.known_dims(past, "it holds keys and values")?;
            let mut half = |i: i64| {
                let one = part(cx, past, 0, &i.into(), &1.into())?;
                cx.push(Reshape { shape: dims[1..].to_vec() }, &[one])
            };
            Some((half(0)?, half(1)?))
        }
        None => None,
    };
    let present = cx.wants(1);
    let parts = Parts { q: values[0], k: values[1], v: values[2], mask: cx.opt(3), bias: cx.opt(5), past, present };
    let results = attend(cx, n, parts)?;
    if !present {
        return Ok(results);
    }
    let mut both = vec![];
    for v in &results[1..] {
        let dims = cx.known_dims(*v, "it becomes half of a result")?;
        both.push(cx.push(Reshape { shape: [vec![1.into()], dims].concat() }, &[*v])?);
    }
    Ok(vec![results[0], cx.push(Concat { axis: 0 }, &both)?])
}
