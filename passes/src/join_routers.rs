//! Turns a router and the index of its experts into one operator, for devices: two launches become one.
//!
//! ```ir before
//! graph @layer(%logits: f16[T, 8]) {
//!   %ids, %weights = moe_route(%logits) {eps = 0.0, k = 2, scale = 1.0, score = softmax} : i32[T, 2], f16[T, 2]
//!   %rows, %offsets = expert_index(%ids) {experts = 8} : i32[2*T], i32[9]
//!   return %weights, %rows, %offsets
//! }
//! ```
//! ```ir after
//! graph @layer(%logits: f16[T, 8]) {
//!   %ids, %weights, %rows, %offsets = moe_route_index(%logits) {eps = 0.0, k = 2, scale = 1.0, score = softmax} : i32[T, 2], f16[T, 2], i32[2*T], i32[9]
//!   return %weights, %rows, %offsets
//! }
//! ```

use crate::edit::Edit;
use crate::pass::{Body, Context, Pass};
use ir::DType;
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{CoreOp, MoeRouteIndex, Op};

/// See the module.
pub const PASS: Pass = Pass { name: "join-routers", body: Body::Whole(join) };

/// Experts that the kernel takes.
const MOST_EXPERTS: i64 = 1024;

fn join(graph: &mut Graph, cx: &mut Context) {
    // The host runs bodies, which gain nothing from it.
    if cx.in_body {
        return;
    }
    for index in graph.order() {
        if !graph.contains(index) {
            continue;
        }
        let Some((route, op)) = router(graph, index) else { continue };
        let operands = graph.operands(route).to_vec();
        let olds: Vec<Value> = graph.results(route).chain(graph.results(index)).collect();
        let mut edit = Edit::new(graph, olds[0], [route, index]);
        match edit.apply(op, &operands).and_then(|new| edit.settle_each(new, &olds)) {
            Ok(made) => {
                graph.prune(index);
                graph.prune(route);
                cx.note("index", graph, made, Ok(()));
            }
            Err(miss) => {
                edit.abandon();
                cx.note("index", graph, olds[0], Err(miss));
            }
        }
    }
}

/// The router whose choice this node is the index of.
fn router(graph: &Graph, index: NodeId) -> Option<(NodeId, MoeRouteIndex)> {
    let Some(Op::CoreOp(CoreOp::ExpertIndex(of))) = graph.op(index) else { return None };
    let ids = graph.operands(index)[0];
    let Some(Op::CoreOp(CoreOp::MoeRoute(op))) = graph.op(ids.node) else { return None };
    let logits = graph.tensor_ty(graph.operands(ids.node)[0])?;
    let experts = logits.dims()?.last()?.as_const()?;
    let fits = matches!(logits.dtype, DType::F32 | DType::F16 | DType::BF16) && experts <= MOST_EXPERTS;
    (ids.result == 0 && fits && experts == of.experts).then(|| (ids.node, op.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_unchanged};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("join_routers.rs"));
    }

    #[test]
    fn keeps_ids_of_more_experts_than_the_router_has() {
        check_unchanged(
            &PASS,
            "
graph @layer(%logits: f16[T, 8]) {
  %ids, %weights = moe_route(%logits) {eps = 0.0, k = 2, scale = 1.0, score = softmax} : i32[T, 2], f16[T, 2]
  %rows, %offsets = expert_index(%ids) {experts = 9} : i32[2*T], i32[10]
  return %weights, %rows, %offsets
}",
        );
    }
}
