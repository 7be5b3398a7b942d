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
//! Layers over packed weights (`matmul_nbits`) become `linears_nbits` in the same way. Weights and biases are constants, so that layers can move to where the first of them is.

use crate::edit::Edit;
use crate::pass::{Body, Context, Miss, Pass};
use ir::DType;
use ir::graph::{Graph, Kind, NodeId, Value};
use ir::ops::activation::ActivationFn;
use ir::ops::{Binary, CoreOp, Linears, LinearsNBits, Op, Unary};
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
    let mut same: BTreeMap<(usize, u16, Form), Vec<Layer>> = BTreeMap::new();
    for id in graph.order() {
        if let Some(l) = layer(graph, id) {
            same.entry((l.x.node.index(), l.x.result, l.form.clone())).or_default().push(l);
        }
    }
    for layers in same.values() {
        for some in layers.chunks(TOGETHER).filter(|c| c.len() > 1) {
            together(graph, cx, some);
        }
    }
}

/// What layers that share a launch have in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Plain { kn: bool, weight: DType },
    Packed { bits: i64, block: i64, k: i64, scales: DType, zeros: Option<DType> },
}

/// A linear layer of constants.
#[derive(Clone)]
struct Layer {
    id: NodeId,
    x: Value,
    form: Form,
    /// Weight and bias, or codes, scales, zero points and bias.
    operands: Vec<Option<Value>>,
    /// Outputs of a packed weight.
    n: i64,
}

fn layer(graph: &Graph, id: NodeId) -> Option<Layer> {
    let operands = graph.operands(id);
    let given = |i: usize| operands.get(i).copied().filter(|v| graph.tensor_ty(*v).is_some());
    let dtype = |v: Value| graph.tensor_ty(v).map(|t| t.dtype);
    let constant = |v: Value| matches!(graph.node(v.node).kind, Kind::Weight(_));
    let float = |d: DType| matches!(d, DType::F32 | DType::F16 | DType::BF16);
    let (form, bias, mut weights, n) = match graph.op(id) {
        Some(Op::CoreOp(CoreOp::Linear(op))) => {
            let weight = dtype(*operands.get(1)?).filter(|d| float(*d))?;
            (Form::Plain { kn: op.kn, weight }, given(2), vec![given(1)], 0)
        }
        Some(Op::CoreOp(CoreOp::MatMulNBits(op))) => {
            let (scales, zeros) = (dtype(given(2)?).filter(|d| float(*d))?, given(3).and_then(dtype));
            let block_fits = op.blocks() == 1 || op.block >= 16 && op.block.count_ones() == 1;
            let zeros_fit = zeros.is_none_or(|z| z == DType::U8 || z == scales);
            // Kernels find the block of an input by a shift.
            let fits = block_fits && zeros_fit && given(4).is_none();
            let form = Form::Packed { bits: op.bits, block: op.block, k: op.k, scales, zeros };
            fits.then(|| (form, given(5), vec![given(1), given(2), given(3)], op.n))?
        }
        _ => return None,
    };
    // What depends on data is not launched, but run by the host, which has no kernel for several layers.
    let x = *operands.first()?;
    let launched = graph.ty(x).is_plannable() && dtype(x).is_some_and(float);
    weights.push(bias);
    let constants = weights.iter().flatten().all(|v| constant(*v)) && bias.is_none_or(|b| dtype(b) == dtype(x));
    (launched && constants).then_some(Layer { id, x, form, operands: weights, n })
}

/// The operator that computes several layers.
fn grouped(layers: &[Layer], gate: Option<ActivationFn>) -> Op {
    match layers[0].form {
        Form::Plain { kn, .. } => Linears { kn, gate }.into(),
        Form::Packed { bits, block, k, .. } => {
            LinearsNBits { bits, block, k, n: layers.iter().map(|l| l.n).collect(), gate }.into()
        }
    }
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
    gate: Option<ActivationFn>,
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
        let alike = graph.use_count(a) == 1 && g.x == u.x && g.form == u.form;
        // Broadcasting products are something else.
        let same = graph.ty(g.id.into()) == graph.ty(u.id.into()) && graph.ty(u.id.into()) == graph.ty(root.into());
        let (nodes, gate) = (vec![g.id, u.id, a.node, root], Some(act));
        (alike && same).then(|| New { root, nodes, rule: "gate", gate, residual: None, x: g.x, layers: vec![g, u] })
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
        let nodes = vec![l.id, root];
        same.then(|| New { root, nodes, rule: "residual", gate: None, residual: Some(r), x: l.x, layers: vec![l] })
    };
    summed(operands[0], operands[1]).or_else(|| summed(operands[1], operands[0]))
}

fn operands(graph: &mut Graph, x: Value, residual: Option<Value>, layers: &[Layer]) -> Vec<Value> {
    let absent = graph.absent();
    let weights = layers.iter().flat_map(|l| l.operands.iter().map(|v| v.unwrap_or(absent)));
    [x, residual.unwrap_or(absent)].into_iter().chain(weights).collect()
}

fn replace(graph: &mut Graph, cx: &mut Context, new: New) {
    let read = operands(graph, new.x, new.residual, &new.layers);
    let mut edit = Edit::new(graph, new.root.into(), new.nodes);
    match edit.apply(grouped(&new.layers, new.gate), &read).and_then(|made| edit.settle(made)) {
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
    match edit.apply(grouped(layers, None), &read).and_then(|new| edit.settle_each(new, &olds)) {
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
    use crate::testing::{check_doc_example, check_rewrite, check_unchanged};

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
    fn groups_packed_weights() {
        check_rewrite(
            &PASS,
            "
graph @g(%x: f16[T, 64], %r: f16[T, 32]) {
  %w = weight : u8[32, 2, 16]
  %s = weight : f16[32, 2]
  %wg = weight : u8[48, 2, 16]
  %sg = weight : f16[48, 2]
  %z = weight : u8[48, 1]
  %b = weight : f16[48]
  %odd = weight : u8[32, 4, 8]
  %so = weight : f16[32, 4]
  %p = matmul_nbits(%x, %w, %s) {bits = 4, block = 32, n = 32, k = 64} : f16[T, 32]
  %y = add(%r, %p) : f16[T, 32]
  %g = matmul_nbits(%x, %wg, %sg, %z, _, %b) {bits = 4, block = 32, n = 48, k = 64} : f16[T, 48]
  %u = matmul_nbits(%x, %wg, %sg, %z) {bits = 4, block = 32, n = 48, k = 64} : f16[T, 48]
  %a = silu(%g) : f16[T, 48]
  %h = mul(%a, %u) : f16[T, 48]
  %q = matmul_nbits(%x, %w, %s) {bits = 4, block = 32, n = 32, k = 64} : f16[T, 32]
  %k = matmul_nbits(%x, %w, %s) {bits = 4, block = 32, n = 32, k = 64} : f16[T, 32]
  %o = matmul_nbits(%x, %odd, %so) {bits = 4, block = 16, n = 32, k = 64} : f16[T, 32]
  return %y, %h, %q, %k, %o
}",
            "
graph @g(%x: f16[T, 64], %r: f16[T, 32]) {
  %w = weight : u8[32, 2, 16]
  %s = weight : f16[32, 2]
  %wg = weight : u8[48, 2, 16]
  %sg = weight : f16[48, 2]
  %z = weight : u8[48, 1]
  %b = weight : f16[48]
  %odd = weight : u8[32, 4, 8]
  %so = weight : f16[32, 4]
  %o = matmul_nbits(%x, %odd, %so) {bits = 4, block = 16, k = 64, n = 32} : f16[T, 32]
  %y = linears_nbits(%x, %r, %w, %s, _, _) {bits = 4, block = 32, k = 64, n = [32]} : f16[T, 32]
  %h = linears_nbits(%x, _, %wg, %sg, %z, %b, %wg, %sg, %z, _) {bits = 4, block = 32, gate = silu, k = 64, n = [48, 48]} : f16[T, 48]
  %q, %k = linears_nbits(%x, _, %w, %s, _, _, %w, %s, _, _) {bits = 4, block = 32, k = 64, n = [32, 32]} : f16[T, 32], f16[T, 32]
  return %y, %h, %q, %k, %o
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
