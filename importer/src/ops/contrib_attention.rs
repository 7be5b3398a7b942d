//! com.microsoft's MultiHeadAttention, Attention and QAttention, as `attention` over split heads.

use ir::dim::Dim;
use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::{Attention, Cast, Compare, Concat, Linear, MatMulInteger, Range, Reshape, Scores, Select, Slice};
use ir::scalar::{BinaryFn, CompareFn};

use super::{Table, quant};
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("com.microsoft", "Attention", attention),
    ("com.microsoft", "MultiHeadAttention", multi_head),
    ("com.microsoft", "QAttention", quantised_attention),
];

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
    scores: bool,
}

/// How many keys each query may see: those of the past and the new ones.
fn total(cx: &NodeCx<'_>, parts: &Parts) -> Option<Dim> {
    let k = cx.dims(parts.k)?;
    let new = &k[k.len().checked_sub(2)?];
    match parts.past {
        None => Some(new.clone()),
        Some((past, _)) => Some(cx.dims(past)?.get(2)? + new),
    }
}

/// 1 for the keys of each sequence up to its length, `[B, T]`; with `starts` the lengths are followed by first positions.
fn kept(cx: &mut NodeCx<'_>, lengths: Value, batch: &Dim, starts: bool, total: Dim) -> Result<Value, NodeError> {
    let at = cx.push(Range { start: 0.into(), step: 1.into(), length: total }, &[])?;
    let lengths = cx.push(Cast { to: DType::I64, wrap: false }, &[lengths])?;
    let column = |cx: &mut NodeCx<'_>, start: Dim| {
        let one = part(cx, lengths, 0, &start, batch)?;
        cx.push(Reshape { shape: vec![batch.clone(), 1.into()] }, &[one])
    };
    let end = column(cx, 0.into())?;
    let kept = cx.push(Compare { f: CompareFn::Lt }, &[at, end])?;
    let mut kept = cx.push(Cast { to: DType::I32, wrap: false }, &[kept])?;
    if starts {
        let start = column(cx, batch.clone())?;
        let behind = cx.push(Compare { f: CompareFn::Ge }, &[at, start])?;
        let behind = cx.push(Cast { to: DType::I32, wrap: false }, &[behind])?;
        kept = cx.binary(BinaryFn::Mul, kept, behind)?;
    }
    Ok(kept)
}

/// `attention`; results: y, present keys and values where asked for, scores where asked for.
fn attend(cx: &mut NodeCx<'_>, heads: i64, parts: Parts) -> Result<Vec<Value>, NodeError> {
    let causal = cx.attr_bool("unidirectional", false)?;
    let filter = f64::from(cx.attr_f32("mask_filter_value", -10000.0)?);
    let split = |cx: &NodeCx<'_>, v: Value| Some(heads).filter(|_| cx.rank(v) == Some(3));
    let (mut mask, mut lengths) = (parts.bias, None);
    if let Some(mut keep) = parts.mask {
        let batch = cx.dims(parts.q).and_then(|d| d.first().cloned());
        let one_each = |n: &Dim| batch.as_ref().is_none_or(|b| b.same(n) != ir::Truth::No);
        let ends = |n: &Dim| batch.as_ref().filter(|b| (*b * 2).same(n) == ir::Truth::Yes).cloned();
        let known = cx.known_dims(keep, "the kind of mask is told by it")?;
        match (&known[..], batch.clone()) {
            ([n], Some(b)) if causal && one_each(n) || ends(n).is_some() => {
                let Some(total) = total(cx, &parts) else { return cx.unsupported("the number of its keys is unknown") };
                keep = kept(cx, keep, &b, !one_each(n), total)?;
            }
            _ => {}
        }
        let dims = cx.known_dims(keep, "the kind of mask is told by it")?;
        let shape: Vec<Dim> = match &dims[..] {
            [n] => {
                if causal || !one_each(n) {
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
        scores: parts.scores.then_some(Scores::Masked),
        offset: None,
        unseen: None,
        guard: false,
        total: None,
    };
    let absent = cx.graph.absent();
    let (past_k, past_v) = parts.past.unwrap_or((absent, absent));
    let operands = [parts.q, parts.k, parts.v, mask.unwrap_or(absent), past_k, past_v, lengths.unwrap_or(absent)];
    cx.push_n(op, &operands, if parts.present { 3 } else { 1 } + usize::from(parts.scores))
}

/// Operands: query, key, value, bias, key padding mask, attention bias, past key, past value.
fn multi_head(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let n = heads(cx)?;
    if cx.opt(8).is_some() || cx.opt(9).is_some() {
        return cx.unsupported("shared caches and beams are not");
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
    let scores = cx.wants(3);
    let parts = Parts { q, k, v, mask: cx.opt(4), bias: cx.opt(5), past, present, scores };
    let mut results = attend(cx, n, parts)?;
    if scores && !present {
        // The scores are result 3 even where the two before it are not wanted.
        let y = results[0];
        results.splice(1..1, [y, y]);
    }
    Ok(results)
}

/// Operands: input, weight of all three projections, bias, mask, past of both, attention bias.
fn attention(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    if cx.attr_bool("do_rotary", false)? || cx.opt(6).is_some() {
        return cx.unsupported("rotation and shared caches are not");
    }
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let mut operands = vec![x, w];
    operands.extend(cx.opt(2));
    let all = cx.push(Linear { kn: true }, &operands)?;
    projected(cx, w, all, [cx.opt(3), cx.opt(4), cx.opt(5)])
}

/// Operands: input, weight, bias, scales of input and weight, mask, zero points of input and weight, past of both.
fn quantised_attention(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    if cx.attr_bool("do_rotary", false)? {
        return cx.unsupported("rotation is not");
    }
    let (x, w, bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (x_scale, w_scale) = (cx.input(3)?, cx.input(4)?);
    let factors = [x, w, cx.or_absent(6), cx.or_absent(7)];
    let sum = cx.push(MatMulInteger {}, &factors)?;
    let scale = quant::both_scales(cx, x_scale, w_scale)?;
    let sum = quant::wide(cx, sum)?;
    let all = cx.binary(BinaryFn::Mul, sum, scale)?;
    let all = cx.binary(BinaryFn::Add, all, bias)?;
    projected(cx, w, all, [cx.opt(5), cx.opt(8), None])
}

/// Attention of queries, keys and values side by side in `all`; then come mask, past and bias. Results: y, present.
fn projected(
    cx: &mut NodeCx<'_>,
    w: Value,
    all: Value,
    [mask, past, bias]: [Option<Value>; 3],
) -> Result<Vec<Value>, NodeError> {
    let n = heads(cx)?;
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
    let past = match past {
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
    let parts = Parts { q: values[0], k: values[1], v: values[2], mask, bias, past, present, scores: false };
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
