//! Routers: where the chosen experts and their weights come from.
//!
//! Known are softmax before `top_k`, with or without dividing by the sum of the chosen, softmax over what `top_k` of the
//! logits chose, and sigmoid with a selection bias. Sparse-mixer rounds (one `top_k` and one masked softmax per chosen expert)
//! stay as they are: their weights are no function of the scores of one softmax, and the experts fuse behind any router.

use super::look::{both_orders, core, dims, is_integer, name, operand, peel, scalar, size};
use ir::graph::{Graph, Value};
use ir::ops::{CoreOp, MoeRoute, Op, ReduceFn, RouterScore};

/// A router that was recognised.
pub(super) struct Router {
    pub op: MoeRoute,
    pub logits: Value,
    pub bias: Option<Value>,
}

/// The router that gives `weights` for the experts `ids`.
pub(super) fn find(graph: &Graph, ids: Value, weights: Value) -> Option<Router> {
    let Some(Op::CoreOp(CoreOp::TopK(top))) = graph.op(ids.node) else { return None };
    let keys = operand(graph, ids, 0);
    let shape = dims(graph, keys)?;
    let at = top.axis.rem_euclid(shape.len() as i64) as usize;
    if ids.result != 1 || !top.largest || at + 1 != shape.len() {
        return None;
    }
    size(&shape[at])?;
    let k = top.k.as_const()?;
    let values = Value { node: ids.node, result: 0 };

    let mut op = MoeRoute { k, score: RouterScore::Softmax, renormalise: false, eps: 0.0, scale: 1.0 };
    let mut w = peel(graph, weights, VIEWS);
    for (inner, factor) in both_orders(graph, w, "mul") {
        if let Some(factor) = scalar(graph, factor) {
            op.scale = factor as f32;
            w = peel(graph, inner, VIEWS);
            break;
        }
    }
    if name(graph, w) == "div"
        && let Some(eps) = sum_of(graph, operand(graph, w, 1), peel(graph, operand(graph, w, 0), VIEWS))
    {
        op.renormalise = true;
        op.eps = eps;
        w = peel(graph, operand(graph, w, 0), VIEWS);
    }
    if w == values {
        // The keys are the scores.
        let (score, logits) = score(graph, keys)?;
        return Some(Router { op: MoeRoute { score, ..op }, logits, bias: None });
    }
    if is_softmax(graph, w) && peel(graph, operand(graph, w, 0), VIEWS) == values {
        return Some(Router {
            op: MoeRoute { score: RouterScore::Chosen, ..op },
            logits: floats(graph, keys),
            bias: None,
        });
    }
    // The scores without the bias that chose.
    if name(graph, w) == "gather_elements" {
        let scores = floats(graph, operand(graph, w, 0));
        let positions = peel(graph, operand(graph, w, 1), VIEWS);
        if positions != ids || !gathers_last(graph, w) {
            return None;
        }
        let (score, logits) = score(graph, scores)?;
        if floats(graph, keys) == scores {
            return Some(Router { op: MoeRoute { score, ..op }, logits, bias: None });
        }
        for (inner, bias) in both_orders(graph, keys, "add") {
            let is_bias = dims(graph, bias).is_some_and(|d| d.len() == 1 || super::look::product(d) == d[d.len() - 1]);
            if floats(graph, inner) == scores && is_bias {
                return Some(Router { op: MoeRoute { score, ..op }, logits, bias: Some(bias) });
            }
        }
    }
    None
}

/// What keeps the order of elements and, but for rounding, their values.
const VIEWS: &[&str] = &["reshape", "cast"];

/// A value before it was converted to another float type.
fn floats(graph: &Graph, v: Value) -> Value {
    peel(graph, v, VIEWS)
}

/// The score that a value holds, and of which logits.
fn score(graph: &Graph, v: Value) -> Option<(RouterScore, Value)> {
    let v = floats(graph, v);
    if is_softmax(graph, v) {
        return Some((RouterScore::Softmax, operand(graph, v, 0)));
    }
    (name(graph, v) == "sigmoid").then(|| (RouterScore::Sigmoid, operand(graph, v, 0)))
}

/// A softmax over the last axis.
fn is_softmax(graph: &Graph, v: Value) -> bool {
    let Some(CoreOp::Softmax(op)) = core(graph, v) else { return false };
    let rank = dims(graph, v).map_or(0, <[_]>::len) as i64;
    !op.log && rank > 0 && op.axis.rem_euclid(rank) == rank - 1
}

fn gathers_last(graph: &Graph, v: Value) -> bool {
    let Some(CoreOp::GatherElements(op)) = core(graph, v) else { return false };
    let rank = dims(graph, v).map_or(0, <[_]>::len) as i64;
    rank > 0 && op.axis.rem_euclid(rank) == rank - 1 && is_integer(graph, operand(graph, v, 1))
}

/// What is added to the sum over the last axis of `of`, when `v` is that.
fn sum_of(graph: &Graph, v: Value, of: Value) -> Option<f32> {
    let v = peel(graph, v, &["reshape", "cast", "expand"]);
    for (inner, eps) in both_orders(graph, v, "add") {
        if let (Some(eps), Some(0.0)) = (scalar(graph, eps), sum_of(graph, inner, of)) {
            return Some(eps as f32);
        }
    }
    let Some(CoreOp::Reduce(op)) = core(graph, v) else { return None };
    let summed = operand(graph, v, 0);
    let rank = dims(graph, summed)?.len();
    let reduced = op.reduced(rank).ok()?;
    let last_only = reduced.iter().enumerate().all(|(i, r)| *r == (i + 1 == rank));
    (op.f == ReduceFn::Sum && last_only && peel(graph, summed, VIEWS) == of).then_some(0.0)
}
