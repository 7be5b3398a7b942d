//! Makes fewer, larger launches of linear layers, for devices: a layer that gates another becomes one operator with it, a sum with
//! a residual joins the layer before it, and layers of the same rows are computed together.
//!
//! ```ir before
//! graph @block(%x: f16[T, 64], %r: f16[T, 64]) {
//!   %wq = weight : f16[64, 64]
//!   %wk = weight : f16[64, 32]
//!   %wg = weight : f16[64, 96]
//!   %wu = weight : f16[64, 96]
//!   %wd = weight : f16[96, 64]
//!   %q = linear(%x, %wq) {kn = true} : f16[T, 64]
//!   %k = linear(%x, %wk) {kn = true} : f16[T, 32]
//!   %gate = linear(%x, %wg) {kn = true} : f16[T, 96]
//!   %act = silu(%gate) : f16[T, 96]
//!   %up = linear(%x, %wu) {kn = true} : f16[T, 96]
//!   %prod = mul(%act, %up) : f16[T, 96]
//!   %down = linear(%prod, %wd) {kn = true} : f16[T, 64]
//!   %y = add(%r, %down) : f16[T, 64]
//!   return %q, %k, %y
//! }
//! ```
//! ```ir after
//! graph @block(%x: f16[T, 64], %r: f16[T, 64]) {
//!   %wq = weight : f16[64, 64]
//!   %wk = weight : f16[64, 32]
//!   %wg = weight : f16[64, 96]
//!   %wu = weight : f16[64, 96]
//!   %wd = weight : f16[96, 64]
//!   %prod = linears(%x, _, %wg, _, %wu, _) {gate = silu, kn = true} : f16[T, 96]
//!   %y = linears(%prod, %r, %wd, _) {kn = true} : f16[T, 64]
//!   %q, %k = linears(%x, _, %wq, _, %wk, _) {kn = true} : f16[T, 64], f16[T, 32]
//!   return %q, %k, %y
//! }
//! ```
//!
//! Weights and biases are constants, so that layers can move to where the first of them is.

use crate::edit::Edit;
use crate::pass::{Body, Context, Miss, Pass};
use ir::DType;
use ir::graph::{Graph, Kind, NodeId, Value};
use ir::ops::activation::ActivationFn;
use ir::ops::{Binary, CoreOp, Linears, Op, Unary};
use ir::scalar::{BinaryFn, UnaryFn};
use std::collections::BTreeMap;

/// See the module.
pub const PASS: Pass = Pass { name: "group-linears", body: Body::Whole(group) };

/// Layers that one launch takes.
const TOGETHER: usize = 3;

fn group(graph: &mut Graph, cx: &mut Context) {
    // The host runs bodies, which gain nothing from it.
    if cx.in_body {
        return;
    }
    for id in graph.order() {
        if graph.contains(id) {
            let nodes = [gate(graph, id), residual(graph, id)].into_iter().flatten().next();
            nodes.into_iter().for_each(|n| replace(graph, cx, n));
        }
    }
    let mut same: BTreeMap<(usize, u16, bool, DType), Vec<Layer>> = BTreeMap::new();
    for id in graph.order() {
        if let Some(l) = layer(graph, id) {
            let dtype = graph.tensor_ty(l.w).map(|t| t.dtype).expect("a weight is a tensor");
            same.entry((l.x.node.index(), l.x.result, l.kn, dtype)).or_default().push(l);
        }
    }
    for layers in same.values() {
        for some in layers.chunks(TOGETHER).filter(|c| c.len() > 1) {
            together(graph, cx, some);
        }
    }
}

/// A linear layer of constants.
#[derive(Clone, Copy)]
struct Layer {
    id: NodeId,
    x: Value,
    w: Value,
    bias: Option<Value>,
    kn: bool,
}

fn layer(graph: &Graph, id: NodeId) -> Option<Layer> {
    let Some(Op::CoreOp(CoreOp::Linear(op))) = graph.op(id) else { return None };
    let operands = graph.operands(id);
    let bias = operands.get(2).copied().filter(|b| graph.tensor_ty(*b).is_some());
    let constant = |v: &Value| matches!(graph.node(v.node).kind, Kind::Weight(_));
    let dtype = |v: Value| graph.tensor_ty(v).map(|t| t.dtype);
    let float = |v: Value| matches!(dtype(v), Some(DType::F32 | DType::F16 | DType::BF16));
    // What depends on data is not launched, but run by the host, which has no kernel for several layers.
    let launched = graph.ty(operands[0]).is_plannable() && float(operands[0]) && float(operands[1]);
    let constants = constant(&operands[1]) && bias.iter().all(|b| constant(b) && dtype(*b) == dtype(operands[0]));
    (launched && constants).then_some(Layer { id, x: operands[0], w: operands[1], bias, kn: op.kn })
}

/// The layer behind a value that only one node reads.
fn only_layer(graph: &Graph, v: Value) -> Option<Layer> {
    if graph.use_count(v) == 1 { layer(graph, v.node) } else { None }
}

/// What takes the place of `root` and the nodes of which it is made.
struct New {
    root: NodeId,
    nodes: Vec<NodeId>,
    rule: &'static str,
    op: Linears,
    residual: Option<Value>,
    x: Value,
    layers: Vec<Layer>,
}

/// `mul(act(linear(x)), linear(x))`.
fn gate(graph: &Graph, root: NodeId) -> Option<New> {
    let Some(Op::CoreOp(CoreOp::Binary(Binary { f: BinaryFn::Mul }))) = graph.op(root) else { return None };
    let operands = graph.operands(root);
    let gated = |a: Value, b: Value| {
        let Some(Op::CoreOp(CoreOp::Unary(Unary { f }))) = graph.op(a.node) else { return None };
        let act = match f {
            UnaryFn::Silu => ActivationFn::Silu,
            UnaryFn::Gelu => ActivationFn::Gelu,
            UnaryFn::GeluTanh => ActivationFn::GeluTanh,
            UnaryFn::Relu => ActivationFn::Relu,
            UnaryFn::Sigmoid => ActivationFn::Sigmoid,
            _ => return None,
        };
        let (g, u) = (only_layer(graph, graph.operands(a.node)[0])?, only_layer(graph, b)?);
        let dtype = |l: &Layer| graph.tensor_ty(l.w).map(|t| t.dtype);
        let alike = graph.use_count(a) == 1 && g.x == u.x && g.kn == u.kn && dtype(&g) == dtype(&u);
        // Broadcasting products are something else.
        let same = graph.ty(g.id.into()) == graph.ty(u.id.into()) && graph.ty(u.id.into()) == graph.ty(root.into());
        let op = Linears { kn: g.kn, gate: Some(act) };
        let nodes = vec![g.id, u.id, a.node, root];
        (alike && same).then(|| New { root, nodes, rule: "gate", op, residual: None, x: g.x, layers: vec![g, u] })
    };
    gated(operands[0], operands[1]).or_else(|| gated(operands[1], operands[0]))
}

/// `add(linear(x), residual)`.
fn residual(graph: &Graph, root: NodeId) -> Option<New> {
    let Some(Op::CoreOp(CoreOp::Binary(Binary { f: BinaryFn::Add }))) = graph.op(root) else { return None };
    let operands = graph.operands(root);
    let summed = |a: Value, r: Value| {
        let l = only_layer(graph, a)?;
        let same = graph.ty(a) == graph.ty(r) && graph.ty(a) == graph.ty(root.into());
        let op = Linears { kn: l.kn, gate: None };
        let nodes = vec![l.id, root];
        same.then(|| New { root, nodes, rule: "residual", op, residual: Some(r), x: l.x, layers: vec![l] })
    };
    summed(operands[0], operands[1]).or_else(|| summed(operands[1], operands[0]))
}

fn operands(graph: &mut Graph, x: Value, residual: Option<Value>, layers: &[Layer]) -> Vec<Value> {
    let absent = graph.absent();
    let weights = layers.iter().flat_map(|l| [l.w, l.bias.unwrap_or(absent)]);
    [x, residual.unwrap_or(absent)].into_iter().chain(weights).collect()
}

fn replace(graph: &mut Graph, cx: &mut Context, new: New) {
    let read = operands(graph, new.x, new.residual, &new.layers);
    let mut edit = Edit::new(graph, new.root.into(), new.nodes);
    match edit.apply(new.op, &read).and_then(|made| edit.settle(made)) {
        Ok(made) => {
            graph.prune(new.root);
            cx.note(new.rule, graph, made, Ok(()));
        }
        Err(miss) => refuse(edit, cx, new.rule, new.root.into(), miss),
    }
}

fn together(graph: &mut Graph, cx: &mut Context, layers: &[Layer]) {
    const RULE: &str = "same-rows";
    let read = operands(graph, layers[0].x, None, layers);
    let root = Value::from(layers[0].id);
    let mut edit = Edit::new(graph, root, layers.iter().map(|l| l.id));
    let olds: Vec<Value> = layers.iter().map(|l| l.id.into()).collect();
    match edit.apply(Linears { kn: layers[0].kn, gate: None }, &read).and_then(|new| edit.settle_each(new, &olds)) {
        Ok(made) => cx.note(RULE, graph, made, Ok(())),
        Err(miss) => refuse(edit, cx, RULE, root, miss),
    }
}

fn refuse(edit: Edit<'_>, cx: &mut Context, rule: &'static str, at: Value, miss: Miss) {
    let entry = (edit.graph.name(at).clone(), edit.graph.node(at.node).origin.clone());
    edit.abandon();
    cx.log.push(crate::pass::Entry { rule, at: entry.0, origin: entry.1, outcome: Err(miss) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_unchanged};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("group_linears.rs"));
    }

    #[test]
    fn keeps_products_that_are_read_twice_or_broadcast() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: f32[1, 8], %z: f32[3, 8], %r: f32[T, 4]) {
  %w = weight : f32[4, 8]
  %v = weight : f32[4, 8]
  %a = linear(%x, %w) : f32[1, 4]
  %s = silu(%a) : f32[1, 4]
  %b = linear(%z, %v) : f32[3, 4]
  %y = mul(%s, %b) : f32[3, 4]
  %sum = add(%a, %r) : f32[T, 4]
  return %y, %sum
}",
        );
    }

    #[test]
    fn keeps_weights_that_are_computed() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: f32[T, 8], %w: f32[4, 8], %r: f32[T, 4]) {
  %a = linear(%x, %w) : f32[T, 4]
  %y = add(%a, %r) : f32[T, 4]
  return %y
}",
        );
    }
}
