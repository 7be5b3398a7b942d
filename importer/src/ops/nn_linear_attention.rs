//! Attention by a state, the causal convolution in front of it, and attention with bodies inside.

use ir::dim::Dim;
use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::host::LinearAttention;
use ir::ops::{Cast, Concat, Conv, MatMul, Pad, PadMode, Reshape, Slice, Softmax, Transpose};
use ir::scalar::{BinaryFn, UnaryFn};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "CausalConvWithState", causal_conv),
    ("", "LinearAttention", linear_attention),
    ("ai.onnx.preview", "FlexAttention", flex_attention),
];

fn linear_attention(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let required =
        |name: &str| cx.opt_i64(name)?.ok_or_else(|| NodeError::wrong(format!("attribute `{name}` is missing")));
    let (q_heads, kv_heads) = (required("q_num_heads")?, required("kv_num_heads")?);
    let scale = cx.opt_f32("scale")?.filter(|s| *s != 0.0);
    let (gated, learns) = match &*cx.attr_str("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(NodeError::wrong(format!("attribute `update_rule` is `{other}`"))),
    };
    for (i, wanted) in [(4, gated), (5, learns)] {
        if cx.opt(i).is_some() != wanted {
            let what = if wanted { "is missing, but needed by" } else { "is given, but no part of" };
            return Err(NodeError::wrong(format!("operand {i} {what} the update rule")));
        }
    }
    let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.or_absent(3), cx.or_absent(4), cx.or_absent(5)];
    cx.push_n(LinearAttention { q_heads, kv_heads, scale }, &operands, 2)
}

/// The state (or 0) in front of the input, convolved channel by channel; the new state is the end of what was convolved.
fn causal_conv(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let (dims, weight) = (cx.known_dims(x, "its end is cut off")?, cx.known_dims(w, "it is a kernel")?);
    let ([_, _, length], [channels, _, kernel]) = (&dims[..], &weight[..]) else {
        return Err(NodeError::wrong("the input and the weight have rank 3"));
    };
    let Some(group) = channels.as_const() else { return cx.unsupported("the number of channels is unknown") };
    let silu = match &*cx.attr_str("activation", "none")? {
        "none" => false,
        "silu" | "swish" => true,
        other => return Err(NodeError::wrong(format!("attribute `activation` is `{other}`"))),
    };
    let past = kernel - 1;
    let padded = match cx.opt(3) {
        Some(state) => cx.push(Concat { axis: 2 }, &[state, x])?,
        None => {
            let pads = vec![past.clone(), Dim::constant(0)];
            cx.push(Pad { mode: PadMode::Constant, pads, axes: vec![2] }, &[x])?
        }
    };
    let (strides, pads, dilations) = (vec![1], vec![0, 0], vec![1]);
    let op = Conv { strides, pads, dilations, group, same: None, act: None, alpha: None, beta: None };
    let mut y = match cx.opt(2) {
        Some(bias) => cx.push(op, &[padded, w, bias])?,
        None => cx.push(op, &[padded, w])?,
    };
    if silu {
        y = cx.unary(UnaryFn::Silu, y)?;
    }
    let end = Slice { axes: vec![2], starts: vec![length.clone()], ends: vec![length + &past], steps: vec![1] };
    Ok(vec![y, cx.push(end, &[padded])?])
}

/// `prob_mod(softmax(score_mod(q k^T scale))) v`, everything after the scores in the precision of the softmax.
fn flex_attention(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let dtype = cx.dtype(q)?;
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let wide = cx.opt_dtype("softmax_precision")?.unwrap_or(wide);
    let why = "heads are shared";
    let (qd, kd, vd) = (cx.known_dims(q, why)?, cx.known_dims(k, why)?, cx.known_dims(v, why)?);
    let ([b, heads, l, d], [_, kv_heads, s, _], [_, _, _, vd]) = (&qd[..], &kd[..], &vd[..]) else {
        return Err(NodeError::wrong("queries, keys and values have rank 4"));
    };
    let scale = match (cx.opt_f32("scale")?, d.as_const()) {
        (Some(scale), _) => f64::from(scale),
        (None, Some(d)) => 1.0 / (d as f64).sqrt(),
        (None, None) => return cx.unsupported("neither `scale` nor the size of a head is known"),
    };
    let wrong = || NodeError::wrong(format!("{heads} query heads do not share {kv_heads} key heads"));
    let sharing = if heads == kv_heads { Dim::constant(1) } else { heads.exact_div(kv_heads).ok_or_else(wrong)? };
    // Heads that share keys side by side: [B, Hkv, Hq / Hkv, ..] against [B, Hkv, 1, ..].
    let grouped = |cx: &mut NodeCx<'_>, x: Value, share: &Dim, rows: &Dim, width: &Dim| {
        let shape = [b, kv_heads, share, rows, width].map(Dim::clone).to_vec();
        cx.push(Reshape { shape }, &[x])
    };
    let one = Dim::constant(1);
    let (q, k) = (grouped(cx, q, &sharing, l, d)?, grouped(cx, k, &one, s, d)?);
    let v = grouped(cx, v, &one, s, vd)?;
    let root = f64::from(scale as f32).sqrt();
    let (q, k) = (cx.with_number(BinaryFn::Mul, q, root)?, cx.with_number(BinaryFn::Mul, k, root)?);
    let k = cx.push(Transpose { perm: vec![0, 1, 2, 4, 3] }, &[k])?;
    let scores = cx.push(MatMul {}, &[q, k])?;
    let scores = cx.push(Cast { to: wide, wrap: false }, &[scores])?;
    let shape = [b, heads, l, s].map(Dim::clone).to_vec();
    let mut scores = cx.push(Reshape { shape }, &[scores])?;
    if cx.attr("score_mod").is_some() {
        scores = only(cx.inline("score_mod", &[scores])?)?;
    }
    let mut weights = cx.push(Softmax { axis: -1, log: false }, &[scores])?;
    if cx.attr("prob_mod").is_some() {
        weights = only(cx.inline("prob_mod", &[weights])?)?;
    }
    let weights = grouped(cx, weights, &sharing, l, s)?;
    let v = cx.push(Cast { to: wide, wrap: false }, &[v])?;
    let y = cx.push(MatMul {}, &[weights, v])?;
    let shape = [b, heads, l, vd].map(Dim::clone).to_vec();
    let y = cx.push(Reshape { shape }, &[y])?;
    cx.one(Cast { to: dtype, wrap: false }, &[y])
}

/// The only result of a body.
fn only(results: Vec<Value>) -> Result<Value, NodeError> {
    match results[..] {
        [v] => Ok(v),
        _ => Err(NodeError::wrong(format!("a body has {} results, not 1", results.len()))),
    }
}
