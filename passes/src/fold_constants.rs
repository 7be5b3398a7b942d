//! Evaluates at compile time what depends on constants only.
//!
//! Results stay small: at most 64 KiB, or no larger than the constants they come from. Weights that are stored packed or
//! narrow stay so, unless all that a model unpacks is small: unpacking at every run costs more than the memory does. Work
//! is bounded too, so that no model makes its compilation slow.
//!
//! ```ir before
//! graph @g(%x: f32[N]) {
//!   %two = const [2.0] : f32[]
//!   %half = reciprocal(%two) : f32[]
//!   %scale = sqrt(%half) : f32[]
//!   %y = mul(%x, %scale) : f32[N]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @g(%x: f32[N]) {
//!   %scale = const [0.7071067690849304] : f32[]
//!   %y = mul(%x, %scale) : f32[N]
//!   return %y
//! }
//! ```

use crate::edit::Edit;
use crate::merge_duplicates::is_random;
use crate::pass::{Body, Context, Miss, Pass};
use ir::graph::{Graph, Kind, NodeId, Value};
use ir::ops::Op;
use ir::text::is_inline;
use ir::{Datum, Tensor, ValueType};

/// See the module.
pub const PASS: Pass = Pass { name: "fold-constants", body: Body::Whole(fold) };

/// A result up to this size is worth having.
const SMALL_BYTES: usize = 64 << 10;
/// No single result is larger.
const MAX_BYTES: usize = 64 << 20;
/// Bytes and operations that folding one graph may cost; the reference evaluator does some 10^8 a second.
const MAX_WORK: usize = 1 << 29;

/// Smaller constants are not worth packing.
const LARGE_WEIGHT: usize = 4096;
/// A model whose unpacked weights take no more than this in all is unpacked.
const MAX_UNPACKED_BYTES: usize = 64 << 20;

/// What folding one graph may still do.
struct Limits {
    work_left: usize,
    unpack: bool,
    in_body: bool,
}

fn fold(graph: &mut Graph, cx: &mut Context) {
    let unpack = unpacked_bytes(graph) <= MAX_UNPACKED_BYTES;
    let mut limits = Limits { work_left: MAX_WORK, unpack, in_body: cx.in_body };
    for id in graph.order() {
        let Some(op) = graph.op(id) else { continue };
        let Some(operands) = constants(graph, id) else { continue };
        let outcome = evaluate(graph, id, op, &operands, &mut limits);
        match outcome {
            Ok(results) => {
                for (v, tensor) in graph.results(id).zip(results) {
                    let mut edit = Edit::new(graph, v, [id]);
                    let new = edit.constant(tensor);
                    match edit.settle(new) {
                        Ok(new) => cx.note("constant", graph, new, Ok(())),
                        Err(_) => edit.abandon(),
                    }
                }
            }
            Err(Miss::NoEffect) => {}
            Err(miss) => cx.note("constant", graph, id.into(), Err(miss)),
        }
    }
}

/// The operands' data, when all are constants (or left out).
fn constants(graph: &Graph, id: NodeId) -> Option<Vec<Datum>> {
    let operands = graph.operands(id);
    let datum = |v: &Value| match &graph.node(v.node).kind {
        Kind::Weight(Some(t)) => Some(Datum::Tensor(t.clone())),
        Kind::Absent => Some(Datum::Absent),
        _ => None,
    };
    operands.iter().map(datum).collect()
}

fn evaluate(graph: &Graph, id: NodeId, op: &Op, operands: &[Datum], limits: &mut Limits) -> Result<Vec<Tensor>, Miss> {
    if op.has_body() || is_random(op) {
        return Err(Miss::NoEffect);
    }
    let result_types: Vec<ValueType> = graph.results(id).map(|v| graph.ty(v).clone()).collect();
    let written = result_types.iter().map(bytes).sum::<Option<usize>>();
    let written = written.ok_or(Miss::Refused("the size of the result is not known"))?;
    let read: usize = operands.iter().filter_map(Datum::as_tensor).map(|t| t.bytes().len()).sum();
    let grows = written > read;
    let unpacks = grows && is_unpacking(op);
    if written > LARGE_WEIGHT && (unpacks && !limits.unpack || op.name() == "gather") {
        return Err(Miss::Refused("weights stay packed until a kernel reads them"));
    }
    if written > MAX_BYTES || (written > SMALL_BYTES && grows && !is_unpacking(op)) {
        return Err(Miss::Refused("the result would be much larger than what it is computed from"));
    }
    let operand_types: Vec<ValueType> = graph.operands(id).iter().map(|v| graph.ty(*v).clone()).collect();
    let flops = op.cost(&operand_types.iter().collect::<Vec<_>>(), &result_types).flops.as_const();
    let flops = usize::try_from(flops.unwrap_or(i64::MAX)).unwrap_or(0);
    let work = flops.saturating_add(read).saturating_add(written);
    if work > limits.work_left {
        return Err(Miss::Refused("it is too much work for the compiler"));
    }
    limits.work_left -= work;
    let bound = op.bind(&|_| None).map_err(|_| Miss::NoEffect)?;
    let results = bound.eval(&operands.iter().collect::<Vec<_>>());
    let results = results.map_err(|_| Miss::Refused("it fails for these constants"))?;
    let tensors: Option<Vec<Tensor>> = results.iter().map(|d| d.as_tensor().cloned()).collect();
    let tensors = tensors.ok_or(Miss::NoEffect)?;
    if limits.in_body && !tensors.iter().all(is_inline) {
        return Err(Miss::Refused("large constants stay outside of a body"));
    }
    Ok(tensors)
}

fn bytes(ty: &ValueType) -> Option<usize> {
    let ty = ty.as_tensor()?;
    let n = ty.shape.as_const()?.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    // Text has no size of its own; its elements are what the reader holds at least.
    Some(if ty.dtype.bits() == 0 { n.saturating_mul(32) } else { ty.dtype.bytes(n) })
}

/// Bytes that all casts and dequantisations of large constants would make.
fn unpacked_bytes(graph: &Graph) -> usize {
    let written = |id: &NodeId| {
        let unpacks = graph.op(*id).is_some_and(is_unpacking) && constants(graph, *id).is_some();
        let written = if unpacks { bytes(graph.ty((*id).into())) } else { None };
        written.filter(|n| *n > LARGE_WEIGHT)
    };
    graph.order().iter().filter_map(written).fold(0, usize::saturating_add)
}

fn is_unpacking(op: &Op) -> bool {
    op.name() == "cast" || op.name().starts_with("dequantize")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_refused, rewritten};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("fold_constants.rs"));
    }

    #[test]
    fn several_steps_fold_at_once() {
        let text = "graph @g(%x: f32[2]) { %a = const [1.0, 2.0] : f32[2] %b = exp(%a) %c = add(%b, %b) \
                    %y = reduce(%c) {f = sum, axes = [0]} %z = add(%x, %y) return %z }";
        assert_eq!(rewritten(&PASS, text), "%y = const [20.214675903320313]; %z = add(%x, %y)");
    }

    #[test]
    fn keeps_an_expansion_small() {
        let text = "
graph @g() {
  %one = const [1.0] : f32[]
  %y = expand(%one) {shape = [1000000]} : f32[1000000]
  return %y
}";
        check_refused(&PASS, text, "the result would be much larger than what it is computed from");
    }

    #[test]
    fn keeps_failing_arithmetic_for_the_run() {
        let text = "
graph @g() {
  %a = const [1] : i64[]
  %zero = const [0] : i64[]
  %y = div(%a, %zero) : i64[]
  return %y
}";
        check_refused(&PASS, text, "it fails for these constants");
    }

    #[test]
    fn small_quantised_weights_are_unpacked() {
        let mut g = Graph::new("g");
        let w = g.constant("w", Tensor::zeros(ir::DType::I8, &[512, 64]).unwrap());
        let y = g.apply(ir::ops::Cast { to: ir::DType::F32, wrap: false }, &[w], "y", &Default::default()).unwrap();
        g.output("y", y);
        PASS.run(&mut g, &mut Context::default());
        assert!(g.constant_of(g.outputs[0].value).is_some());
    }

    #[test]
    fn keeps_quantised_weights_packed() {
        let mut g = Graph::new("g");
        let w = g.constant("w", Tensor::zeros(ir::DType::I8, &[8192, 4096]).unwrap());
        let y = g.apply(ir::ops::Cast { to: ir::DType::F32, wrap: false }, &[w], "y", &Default::default()).unwrap();
        g.output("y", y);
        let mut cx = Context::default();
        PASS.run(&mut g, &mut cx);
        assert_eq!(cx.log[0].outcome, Err(Miss::Refused("weights stay packed until a kernel reads them")));
        assert!(g.op(g.outputs[0].value.node).is_some());
    }
}
