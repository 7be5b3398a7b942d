//! Joins the sum over a token's experts with what follows it in a layer, for devices: the shared expert, the hidden states, and the
//! next layer's normalisation. Up to five launches become part of one.
//!
//! ```ir before
//! graph @layer(%x: f16[2*B*S, 16], %i: i32[B*S, 2], %w: f16[4, 8, 16], %s: f16[B*S, 2], %g: f16[B*S, 1], %e: f16[B*S, 8], %h: f16[B, S, 8]) {
//!   %scale = weight : f16[8]
//!   %r, %o = expert_index(%i) {experts = 4} : i32[2*B*S], i32[5]
//!   %m = moe_gemm(%x, %r, %o, %w, _, _, _, %s) {gating = none, repeat = 1} : f16[B*S, 8]
//!   %open = sigmoid(%g) : f16[B*S, 1]
//!   %shared = mul(%open, %e) : f16[B*S, 8]
//!   %sum = add(%m, %shared) : f16[B*S, 8]
//!   %rows = reshape(%sum) {shape = [B, S, 8]} : f16[B, S, 8]
//!   %y = add(%h, %rows) : f16[B, S, 8]
//!   %z = rms_norm(%y, %scale) {axis = -1, eps = 1e-5} : f16[B, S, 8]
//!   return %y, %z
//! }
//! ```
//! ```ir after
//! graph @layer(%x: f16[2*B*S, 16], %i: i32[B*S, 2], %w: f16[4, 8, 16], %s: f16[B*S, 2], %g: f16[B*S, 1], %e: f16[B*S, 8], %h: f16[B, S, 8]) {
//!   %scale = weight : f16[8]
//!   %r, %o = expert_index(%i) {experts = 4} : i32[2*B*S], i32[5]
//!   %y, %z = moe_join(%x, %r, %o, %w, _, %s, %e, %g, %h, %scale) {eps = 1e-5} : f16[B, S, 8], f16[B, S, 8]
//!   return %y, %z
//! }
//! ```

use crate::edit::Edit;
use crate::pass::{Body, Context, Pass};
use ir::graph::{Graph, Kind, NodeId, Value};
use ir::ops::{Binary, CoreOp, Gating, MoeGemm, MoeJoin, Op, Unary};
use ir::scalar::{BinaryFn, UnaryFn};
use ir::{DType, TensorType};

/// See the module.
pub const PASS: Pass = Pass { name: "join-experts", body: Body::Whole(join) };

fn join(graph: &mut Graph, cx: &mut Context) {
    // The host runs bodies, which gain nothing from it.
    if cx.in_body {
        return;
    }
    for id in graph.order() {
        if !graph.contains(id) {
            continue;
        }
        let Some(end) = end(graph, id) else { continue };
        let mut operands = graph.operands(id).to_vec();
        let absent = graph.absent();
        operands.resize(8, absent);
        let [x, rows, offsets, w, bias, .., weights] = operands[..] else { continue };
        let side = |v: Option<Value>| v.unwrap_or(absent);
        let (scale, eps, normed) = end.norm.map_or((absent, 0.0, None), |(v, scale, eps)| (scale, eps, Some(v)));
        let sides = [end.shared, end.gate, end.residual].map(side);
        let mut read = vec![x, rows, offsets, w, bias, weights, sides[0], sides[1], sides[2], scale];
        read.truncate(read.iter().rposition(|v| *v != absent).map_or(0, |last| last + 1));
        let olds: Vec<Value> = [Some(end.sum), normed].into_iter().flatten().collect();
        let mut edit = Edit::new(graph, end.sum, end.nodes.iter().copied().chain([id]));
        match edit.apply(MoeJoin { kn: end.kn, eps }, &read).and_then(|new| edit.settle_each(new, &olds)) {
            Ok(made) => {
                for old in olds {
                    graph.prune(old.node);
                }
                cx.note("experts", graph, made, Ok(()));
            }
            Err(miss) => {
                edit.abandon();
                cx.note("experts", graph, end.sum, Err(miss));
            }
        }
    }
}

/// What follows the sum over experts, as far as it can join.
struct End {
    kn: bool,
    nodes: Vec<NodeId>,
    shared: Option<Value>,
    gate: Option<Value>,
    residual: Option<Value>,
    /// The last sum.
    sum: Value,
    /// Its normalisation, with scale and epsilon.
    norm: Option<(Value, Value, f32)>,
}

fn end(graph: &Graph, id: NodeId) -> Option<End> {
    let Some(Op::CoreOp(CoreOp::MoeGemm(op))) = graph.op(id) else { return None };
    let sums = graph.operands(id).get(7).is_some_and(|v| graph.tensor_ty(*v).is_some());
    if !sums || !launched(graph, id) || !matches!(op, MoeGemm { gating: Gating::None, act: None, repeat: 1, .. }) {
        return None;
    }
    let mut end =
        End { kn: op.kn, nodes: vec![], shared: None, gate: None, residual: None, sum: id.into(), norm: None };
    if let Some((sum, other)) = added(graph, end.sum) {
        (end.gate, end.shared) = weighed(graph, other).map_or((None, Some(other)), |(g, e)| (Some(g), Some(e)));
        end.nodes.push(sum.node);
        end.sum = sum;
    }
    let rows = only_reader(graph, end.sum)
        .filter(|n| matches!(graph.op(*n), Some(Op::CoreOp(CoreOp::Reshape(_)))))
        .map(Value::from);
    if let Some((sum, residual)) = added(graph, rows.unwrap_or(end.sum)) {
        end.nodes.extend(rows.map(|v| v.node).into_iter().chain([sum.node]));
        (end.residual, end.sum) = (Some(residual), sum);
    }
    end.norm = normed(graph, end.sum);
    end.nodes.extend(end.norm.map(|(v, ..)| v.node));
    (!end.nodes.is_empty()).then_some(end)
}

/// Whether the kernels take the product.
fn launched(graph: &Graph, id: NodeId) -> bool {
    let operands = graph.operands(id);
    let dtype = |v: Value| graph.tensor_ty(v).map(|t| t.dtype);
    let float = |v: Value| matches!(dtype(v), Some(DType::F32 | DType::F16 | DType::BF16));
    let alike = [4, 7].iter().all(|i| dtype(operands[*i]).is_none_or(|d| Some(d) == dtype(operands[0])));
    graph.ty(operands[0]).is_plannable() && float(operands[0]) && float(operands[3]) && alike
}

/// The one node that reads `v`.
fn only_reader(graph: &Graph, v: Value) -> Option<NodeId> {
    let readers = graph.readers(v);
    if graph.use_count(v) == 1 { readers.first().map(|(node, _)| *node) } else { None }
}

/// What `v` and something of its type are summed to, when nothing else reads `v`.
fn added(graph: &Graph, v: Value) -> Option<(Value, Value)> {
    let reader = only_reader(graph, v)?;
    let Some(Op::CoreOp(CoreOp::Binary(Binary { f: BinaryFn::Add }))) = graph.op(reader) else { return None };
    let operands = graph.operands(reader);
    let other = if operands[0] == v { operands[1] } else { operands[0] };
    let same = |a: Value, b: Value| graph.tensor_ty(a).is_some_and(|t| graph.tensor_ty(b) == Some(t));
    (same(v, other) && same(v, reader.into())).then(|| (reader.into(), other))
}

/// `mul(sigmoid(gate), shared)`, with one gate for a row.
fn weighed(graph: &Graph, v: Value) -> Option<(Value, Value)> {
    let Some(Op::CoreOp(CoreOp::Binary(Binary { f: BinaryFn::Mul }))) = graph.op(v.node) else { return None };
    let operands = graph.operands(v.node);
    let gated = |a: Value, shared: Value| {
        let Some(Op::CoreOp(CoreOp::Unary(Unary { f: UnaryFn::Sigmoid }))) = graph.op(a.node) else { return None };
        let one = |t: &TensorType| t.dims().is_some_and(|d| d.len() == 2 && d[1].as_const() == Some(1));
        let whole = graph.tensor_ty(shared) == graph.tensor_ty(v);
        (graph.tensor_ty(a).is_some_and(one) && whole).then(|| (graph.operands(a.node)[0], shared))
    };
    (graph.use_count(v) == 1)
        .then(|| gated(operands[0], operands[1]).or_else(|| gated(operands[1], operands[0])))
        .flatten()
}

/// The normalisation of `v` over its last dimension.
fn normed(graph: &Graph, v: Value) -> Option<(Value, Value, f32)> {
    let dims = graph.tensor_ty(v)?.dims()?;
    graph.readers(v).into_iter().find_map(|(reader, _)| {
        let Some(Op::CoreOp(CoreOp::RmsNorm(op))) = graph.op(reader) else { return None };
        let scale = *graph.operands(reader).get(1)?;
        let constant = matches!(graph.node(scale.node).kind, Kind::Weight(_));
        let row = graph.tensor_ty(scale).is_some_and(|t| t.dims() == Some(&dims[dims.len() - 1..]));
        let same = graph.tensor_ty(scale).map(|t| t.dtype) == graph.tensor_ty(v).map(|t| t.dtype);
        let last = op.axis == -1 || op.axis == dims.len() as i64 - 1;
        (constant && row && same && last).then(|| (reader.into(), scale, op.eps))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_unchanged, rewritten};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("join_experts.rs"));
    }

    #[test]
    fn hidden_states_alone_join() {
        let text = "graph @g(%x: f16[T, 16], %r: i32[T], %o: i32[5], %w: f16[4, 8, 16], %s: f16[T, 1], %h: f16[T, 8]) { \
                    %m = moe_gemm(%x, %r, %o, %w, _, _, _, %s) {gating = none, repeat = 1} %y = add(%m, %h) return %y }";
        assert_eq!(rewritten(&PASS, text), "%y = moe_join(%x, %r, %o, %w, _, %s, %h) {eps = 0.0}");
    }

    #[test]
    fn keeps_a_sum_that_others_read() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: f16[T, 16], %r: i32[T], %o: i32[5], %w: f16[4, 8, 16], %s: f16[T, 1], %h: f16[T, 8]) {
  %m = moe_gemm(%x, %r, %o, %w, _, _, _, %s) {gating = none, repeat = 1} : f16[T, 8]
  %y = add(%m, %h) : f16[T, 8]
  return %m, %y
}",
        );
    }

    #[test]
    fn keeps_a_broadcast_and_pairs_apart() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: f16[T, 16], %r: i32[T], %o: i32[5], %w: f16[4, 8, 16], %s: f16[T, 1], %b: f16[8], %h: f16[T, 8]) {
  %m = moe_gemm(%x, %r, %o, %w, _, _, _, %s) {gating = none, repeat = 1} : f16[T, 8]
  %y = add(%m, %b) : f16[T, 8]
  %p = moe_gemm(%x, %r, %o, %w) {gating = none, repeat = 1} : f16[T, 8]
  %z = add(%p, %h) : f16[T, 8]
  return %y, %z
}",
        );
    }
}
