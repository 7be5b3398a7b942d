//! Reduces mixtures of experts to `moe_route`, `expert_index` and `moe_gemm`, however the model spells them.
//!
//! The most expensive movement of such a layer is the gathering of rows, or of whole weights, for each pair of token and expert.
//! `moe_gemm` reads rows and weights in place through an index map, so neither exists. The router is recognised on its own:
//! experts fuse behind any producer of ids and weights. Forms are in the files below this one.
//!
//! ```ir before
//! graph @moe(%x: f32[T, 64], %logits: f32[T, 8]) {
//!   %gate_up = weight : f32[8, 96, 64]
//!   %down = weight : f32[8, 64, 48]
//!   %scores = softmax(%logits) {axis = -1} : f32[T, 8]
//!   %v, %ids = top_k(%scores) {axis = -1, k = 2, largest = true, sorted = true} : f32[T, 2], i64[T, 2]
//!   %w1 = gather(%gate_up, %ids) {axis = 0} : f32[T, 2, 96, 64]
//!   %w2 = gather(%down, %ids) {axis = 0} : f32[T, 2, 64, 48]
//!   %column = reshape(%x) {shape = [T, 1, 64, 1]} : f32[T, 1, 64, 1]
//!   %both = matmul(%w1, %column) : f32[T, 2, 96, 1]
//!   %gate = slice(%both) {axes = [2], ends = [48], starts = [0], steps = [1]} : f32[T, 2, 48, 1]
//!   %up = slice(%both) {axes = [2], ends = [96], starts = [48], steps = [1]} : f32[T, 2, 48, 1]
//!   %act = silu(%gate) : f32[T, 2, 48, 1]
//!   %h = mul(%act, %up) : f32[T, 2, 48, 1]
//!   %out = matmul(%w2, %h) : f32[T, 2, 64, 1]
//!   %rows = reshape(%out) {shape = [T, 2, 64]} : f32[T, 2, 64]
//!   %weights = reshape(%v) {shape = [T, 2, 1]} : f32[T, 2, 1]
//!   %weighted = mul(%rows, %weights) : f32[T, 2, 64]
//!   %y = reduce(%weighted) {axes = [1], f = sum} : f32[T, 64]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @moe(%x: f32[T, 64], %logits: f32[T, 8]) {
//!   %gate_up = weight : f32[8, 96, 64]
//!   %down = weight : f32[8, 64, 48]
//!   %y.1, %y.1.1 = moe_route(%logits) {eps = 0.0, k = 2, scale = 1.0, score = softmax} : i32[T, 2], f32[T, 2]
//!   %y.2, %y.1.2 = expert_index(%y.1) {experts = 8} : i32[2*T], i32[9]
//!   %y.3 = moe_gemm(%x, %y.2, %y.1.2, %gate_up) {act = silu, gating = halves, repeat = 2} : f32[2*T, 48]
//!   %y = moe_gemm(%y.3, %y.2, %y.1.2, %down, _, _, _, %y.1.1) {gating = none, repeat = 1} : f32[T, 64]
//!   return %y
//! }
//! ```

mod contrib;
mod dense;
mod emit;
mod expert;
mod gathered;
mod grouped;
mod look;
mod looped;
mod router;
mod selection;

use crate::pass::{Body, Context, Miss, Pass};
use ir::graph::{Graph, Value};

/// See the module.
pub const PASS: Pass = Pass { name: "fuse-moe-gemm", body: Body::Whole(fuse) };

/// What an export is told apart by when it kept only the experts that its example input chose.
const FROZEN: Miss = Miss::Refused(
    "the routing is frozen: only experts that the example input chose are in the graph, so that other inputs would pass through \
     the wrong ones; export the model again with its experts in a batch or with a loop over all of them",
);

fn fuse(graph: &mut Graph, cx: &mut Context) {
    let mut seen = looped::Seen::default();
    // Readers before operands, so that a sum is found whole.
    for id in graph.order().into_iter().rev() {
        if !graph.contains(id) {
            continue;
        }
        let root = Value::from(id);
        if look::name(graph, root) == "moe" {
            note(graph, cx, "contrib-moe", root, contrib::lower);
            continue;
        }
        for (rule, find) in forms(look::name(graph, root)) {
            let done = note(graph, cx, rule, root, |graph, cx, root| {
                let layer = find(graph, root, &mut seen)?;
                emit::emit(graph, cx, rule, &layer)
            });
            if done {
                break;
            }
        }
    }
}

/// Runs a rewrite and notes why it was refused; whether it is settled what the place is.
fn note(
    graph: &mut Graph,
    cx: &mut Context,
    rule: &'static str,
    root: Value,
    rewrite: impl FnOnce(&mut Graph, &mut Context, Value) -> Result<Value, Miss>,
) -> bool {
    match rewrite(graph, cx, root) {
        Ok(_) => true,
        Err(Miss::NoEffect) => false,
        Err(miss) => {
            cx.note(rule, graph, root, Err(miss));
            true
        }
    }
}

type Find = fn(&Graph, Value, &mut looped::Seen) -> Result<emit::Layer, Miss>;

/// The forms whose last operator has this name.
fn forms(name: &str) -> &'static [(&'static str, Find)] {
    match name {
        "reduce" => &[
            ("gathered-weights", |g, v, _| gathered::find(g, v)),
            ("sorted-pairs", |g, v, _| grouped::find(g, v)),
            ("all-experts", |g, v, _| dense::find(g, v)),
        ],
        "add" => &[("loop-over-experts", looped::find)],
        "scatter_nd" | "scatter_elements" => {
            &[("gathered-weights", |g, v, _| gathered::find_added(g, v)), ("loop-over-experts", looped::find)]
        }
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check_doc_example;

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("fuse_moe_gemm.rs"));
    }
}
