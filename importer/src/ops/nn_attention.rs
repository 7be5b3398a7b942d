//! Attention and rotary embeddings of the ONNX operator set.

use ir::dim::Dim;
use ir::graph::Value;
use ir::ops::{Attention, Rope, Scores};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "Attention", attention),
    ("", "RotaryEmbedding", rotary),
    ("com.microsoft", "RotaryEmbedding", rotary_contrib),
];

fn attention(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let present = cx.wants(1) || cx.wants(2);
    let scores = match (cx.wants(3), cx.attr_i64("qk_matmul_output_mode", 0)?) {
        (false, _) => None,
        (true, 0) => Some(Scores::Raw),
        (true, 1) => Some(Scores::Capped),
        (true, 2) => Some(Scores::Masked),
        (true, 3) => Some(Scores::Softmax),
        (true, mode) => return Err(NodeError::wrong(format!("attribute `qk_matmul_output_mode` is {mode}"))),
    };
    let q = cx.input(0)?;
    let split = cx.rank(q) != Some(4);
    let window = |bound: Option<i64>| bound.filter(|b| *b >= 0);
    let op = Attention {
        causal: cx.attr_bool("is_causal", false)?,
        scale: cx.opt_f32("scale")?,
        softcap: cx.opt_f32("softcap")?.filter(|c| *c > 0.0),
        q_heads: cx.opt_i64("q_num_heads")?.filter(|_| split),
        kv_heads: cx.opt_i64("kv_num_heads")?.filter(|_| split),
        left: window(cx.opt_i64("left_window_size")?),
        right: window(cx.opt_i64("right_window_size")?),
        present,
        scores,
        offset: None,
        unseen: None,
        guard: false,
        total: None,
    };
    let last = (0..7).rev().find(|i| cx.opt(*i).is_some()).unwrap_or(0);
    let operands: Vec<Value> = (0..=last.max(2)).map(|i| cx.or_absent(i)).collect();
    let n = 1 + if present { 2 } else { 0 } + usize::from(scores.is_some());
    let mut results = cx.push_n(op, &operands, n)?;
    if scores.is_some() && !present {
        // The scores are result 3 even where the two before it are not wanted.
        let y = results[0];
        results.splice(1..1, [y, y]);
    }
    Ok(results)
}

fn rotary(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let mut operands = vec![cx.input(0)?, cx.input(1)?, cx.input(2)?];
    operands.extend(cx.opt(3));
    rotate(cx, &operands)
}

fn rotary_contrib(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    if cx.attr_bool("is_packed_batching", false)? {
        return cx.unsupported("packed batches are not");
    }
    let operands = [cx.input(0)?, cx.input(2)?, cx.input(3)?, cx.input(1)?];
    rotate(cx, &operands)
}

fn rotate(cx: &mut NodeCx<'_>, operands: &[Value]) -> Result<Vec<Value>, NodeError> {
    let dims = cx.known_dims(operands[0], "its heads are found by it")?;
    let rotary = cx.opt_i64("rotary_embedding_dim")?.filter(|r| *r > 0);
    let interleaved = cx.attr_bool("interleaved", false)?;
    let mut heads = cx.opt_i64("num_heads")?.filter(|h| *h > 0);
    if let (None, [_, _, width]) = (heads, &dims[..]) {
        // Without a number of heads the tables cover a whole head.
        let half = cx.dims(operands[1]).and_then(|d| d.last().cloned());
        heads = half.and_then(|half| width.exact_div(&(half * 2))).as_ref().and_then(Dim::as_const);
        if heads.is_none() {
            return Err(NodeError::wrong("attribute `num_heads` is missing"));
        }
    }
    cx.one(Rope { heads: heads.filter(|_| dims.len() == 3), rotary, interleaved }, operands)
}
