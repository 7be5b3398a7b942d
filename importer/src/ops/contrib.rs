//! com.microsoft operators of language models: fused attention, normalisation, activations and experts.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::{
    ActivationFn, Fill, Gather, Gating, GroupQueryAttention, LayerNorm, MatMul, MatMulNBits, Moe, Reduce, ReduceFn,
    RmsNorm, Slice, Transpose,
};
use ir::scalar::{BinaryFn, UnaryFn};
use ir::tensor::Tensor;

use super::{Table, nn_activation, nn_norm};
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("com.microsoft", "GroupQueryAttention", group_query_attention),
    ("com.microsoft", "SkipLayerNormalization", skip_layer_norm),
    ("com.microsoft", "SkipSimplifiedLayerNormalization", skip_rms_norm),
    ("com.microsoft", "EmbedLayerNormalization", embed_layer_norm),
    ("com.microsoft", "BiasGelu", |cx| gelu(cx, UnaryFn::Gelu)),
    ("com.microsoft", "Gelu", |cx| gelu(cx, UnaryFn::Gelu)),
    ("com.microsoft", "FastGelu", |cx| gelu(cx, UnaryFn::GeluTanh)),
    ("com.microsoft", "QuickGelu", quick_gelu),
    ("com.microsoft", "FusedMatMul", fused_matmul),
    ("com.microsoft", "TransposeMatMul", fused_matmul),
    ("com.microsoft", "MatMulNBits", matmul_nbits),
    ("com.microsoft", "MoE", moe),
];

pub(super) fn required(cx: &NodeCx<'_>, name: &str) -> Result<i64, NodeError> {
    cx.opt_i64(name)?.ok_or_else(|| NodeError::wrong(format!("attribute `{name}` is missing")))
}

fn group_query_attention(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let quantised = cx.attr_str("k_quant_type", "NONE")? != "NONE" || cx.attr_str("v_quant_type", "NONE")? != "NONE";
    if cx.wants(3) || cx.n_inputs() > 12 && (12..cx.n_inputs()).any(|i| cx.opt(i).is_some()) || quantised {
        return cx.unsupported("the scores as a result, norms of queries and keys and quantised caches are not");
    }
    if cx.attr_bool("sliding_window_cache", false)? {
        return cx.unsupported("a cache of the window's size is not");
    }
    let op = GroupQueryAttention {
        heads: required(cx, "num_heads")?,
        kv_heads: required(cx, "kv_num_heads")?,
        scale: cx.opt_f32("scale")?.filter(|s| *s != 0.0),
        softcap: cx.opt_f32("softcap")?.filter(|c| *c > 0.0),
        window: cx.opt_i64("local_window_size")?.filter(|w| *w > 0),
        rotary: cx.attr_bool("do_rotary", false)?,
        interleaved: cx.attr_bool("rotary_interleaved", false)?,
        smooth: cx.attr_i64("smooth_softmax", 0)? > 0,
        both_ways: !cx.attr_bool("causal", true)?,
    };
    let last = (0..12).rev().find(|i| cx.opt(*i).is_some()).unwrap_or(0);
    let operands: Vec<Value> = (0..=last.max(6)).map(|i| cx.or_absent(i)).collect();
    cx.push_n(op, &operands, 3)
}

/// input + skip (+ bias), normalised; results: y, mean, inverse deviation, sum.
fn skip_layer_norm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let sum = skip_sum(cx, 4)?;
    let (gamma, beta) = (cx.input(2)?, cx.or_absent(3));
    let eps = cx.attr_f32("epsilon", 1e-12)?;
    let y = cx.push(LayerNorm { axis: -1, eps }, &[sum, gamma, beta])?;
    let (mean, inverse) = match cx.wants(1) || cx.wants(2) {
        true => nn_norm::moments(cx, sum, -1, eps, DType::F32)?,
        false => (y, y),
    };
    Ok(vec![y, mean, inverse, sum])
}

fn skip_rms_norm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    if cx.wants(1) || cx.wants(2) {
        return cx.unsupported("mean and deviation as results are not");
    }
    let sum = skip_sum(cx, 3)?;
    let gamma = cx.input(2)?;
    let eps = cx.attr_f32("epsilon", 1e-12)?;
    let y = cx.push(RmsNorm { axis: -1, eps }, &[sum, gamma])?;
    Ok(vec![y, y, y, sum])
}

fn skip_sum(cx: &mut NodeCx<'_>, bias: usize) -> Result<Value, NodeError> {
    let (x, skip) = (cx.input(0)?, cx.input(1)?);
    let mut sum = cx.binary(BinaryFn::Add, x, skip)?;
    if let Some(bias) = cx.opt(bias) {
        sum = cx.binary(BinaryFn::Add, sum, bias)?;
    }
    Ok(sum)
}

/// Word, position and segment embeddings, summed and normalised; results: y, mask lengths, sum.
fn embed_layer_norm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (ids, words, positions) = (cx.input(0)?, cx.input(2)?, cx.input(3)?);
    let mut sum = cx.push(Gather { axis: 0 }, &[words, ids])?;
    let position = match cx.opt(8) {
        Some(at) => cx.push(Gather { axis: 0 }, &[positions, at])?,
        None => {
            let dims = cx.known_dims(ids, "its length selects positions")?;
            let length = dims.get(1).cloned().ok_or_else(|| NodeError::wrong("the ids have rank 2"))?;
            cx.push(Slice { axes: vec![0], starts: vec![0.into()], ends: vec![length], steps: vec![1] }, &[positions])?
        }
    };
    sum = cx.binary(BinaryFn::Add, sum, position)?;
    if let (Some(at), Some(table)) = (cx.opt(1), cx.opt(4)) {
        let segment = cx.push(Gather { axis: 0 }, &[table, at])?;
        sum = cx.binary(BinaryFn::Add, sum, segment)?;
    }
    let (gamma, beta) = (cx.input(5)?, cx.input(6)?);
    let eps = cx.attr_f32("epsilon", 1e-12)?;
    let y = cx.push(LayerNorm { axis: -1, eps }, &[sum, gamma, beta])?;
    let lengths = match (cx.wants(1), cx.opt(7)) {
        (true, Some(mask)) => cx.push(Reduce { f: ReduceFn::Sum, axes: vec![1], keep: false }, &[mask])?,
        (true, None) => {
            let batch = cx.known_dims(ids, "its batch has lengths")?.into_iter().take(1).collect();
            let zero = cx.add_constant(Tensor::scalar(0i32));
            cx.push(Fill { shape: batch }, &[zero])?
        }
        (false, _) => y,
    };
    Ok(vec![y, lengths, sum])
}

/// A function of x, or of x + bias.
fn gelu(cx: &mut NodeCx<'_>, f: UnaryFn) -> Result<Vec<Value>, NodeError> {
    let mut x = cx.input(0)?;
    if let Some(bias) = cx.opt(1) {
        x = cx.binary(BinaryFn::Add, x, bias)?;
    }
    Ok(vec![cx.unary(f, x)?])
}

fn quick_gelu(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, alpha) = (cx.input(0)?, cx.attr_f32("alpha", 1.702)?);
    Ok(vec![nn_activation::swished(cx, x, alpha)?])
}

fn fused_matmul(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (mut a, mut b) = (cx.input(0)?, cx.input(1)?);
    for (name, batch, v) in [("transA", "transBatchA", &mut a), ("transB", "transBatchB", &mut b)] {
        let rank = cx.known_dims(*v, "its last dimensions may be swapped")?.len() as i64;
        if rank < 2 {
            continue;
        }
        let mut perm: Vec<i64> = (0..rank).collect();
        if cx.attr_bool(batch, false)? {
            // The rows come first; they go behind the batches.
            perm[..rank as usize - 1].rotate_left(1);
        }
        if cx.attr_bool(name, false)? {
            perm.swap(rank as usize - 1, rank as usize - 2);
        }
        if !perm.is_sorted() {
            *v = cx.push(Transpose { perm }, &[*v])?;
        }
    }
    let y = cx.push(MatMul {}, &[a, b])?;
    let alpha = cx.attr_f32("alpha", 1.0)?;
    if alpha == 1.0 { Ok(vec![y]) } else { Ok(vec![cx.with_number(BinaryFn::Mul, y, alpha.into())?]) }
}

fn matmul_nbits(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    if cx.attr_i64("weight_prepacked", 0)? != 0 {
        return cx.unsupported("weights packed for one accelerator are not");
    }
    let (n, k, block) = (required(cx, "N")?, required(cx, "K")?, required(cx, "block_size")?);
    let bits = cx.attr_i64("bits", 4)?;
    let last = (0..6).rev().find(|i| cx.opt(*i).is_some()).unwrap_or(0);
    let operands: Vec<Value> = (0..=last.max(2)).map(|i| cx.or_absent(i)).collect();
    let accuracy_level = Some(cx.attr_i64("accuracy_level", 0)?).filter(|level| *level != 0);
    cx.one(MatMulNBits { bits, block, n, k, accuracy_level }, &operands)
}

fn moe(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (act, gating) = expert_activation(cx)?;
    let op = Moe {
        k: cx.attr_i64("k", 1)?,
        act,
        gating,
        normalize: cx.attr_bool("normalize_routing_weights", false)?,
        alpha: cx.opt_f32("activation_alpha")?,
        beta: cx.opt_f32("activation_beta")?,
        limit: cx.opt_f32("swiglu_limit")?,
    };
    let last = (0..8).rev().find(|i| cx.opt(*i).is_some()).unwrap_or(0);
    let operands: Vec<Value> = (0..=last.max(4)).map(|i| cx.or_absent(i)).collect();
    cx.one(op, &operands)
}

/// The activation of an expert's first layer.
pub(super) fn expert_activation(cx: &NodeCx<'_>) -> Result<(ActivationFn, Gating), NodeError> {
    if cx.attr_bool("use_sparse_mixer", false)? {
        return cx.unsupported("the sparse mixer's routing is not");
    }
    if cx.attr_bool("swiglu_limit_after_activation", false)? {
        return cx.unsupported("a limit behind the activation is not");
    }
    let word = cx.attr_str("activation_type", "relu")?;
    let fusion = cx.attr_i64("swiglu_fusion", 0)?;
    Ok(match (&*word, fusion) {
        ("relu", _) => (ActivationFn::Relu, Gating::None),
        ("gelu", _) => (ActivationFn::GeluTanh, Gating::None),
        ("silu", _) | ("swiglu", 0) => (ActivationFn::Silu, Gating::None),
        ("swiglu", 1) => (ActivationFn::Silu, Gating::Interleaved),
        ("swiglu", 2) => (ActivationFn::Silu, Gating::Halves),
        ("identity", _) => (ActivationFn::Affine, Gating::None),
        _ => return Err(NodeError::wrong(format!("attributes `activation_type` {word} and `swiglu_fusion` {fusion}"))),
    })
}
