//! Fuses chains of elementwise operators into one `map`, so that their intermediate results are never written to memory.
//!
//! A group grows from its last operator towards the operands: a producer joins when all its readers are in the group and it
//! has the shape of the result, so that nothing is computed twice and no cycle can form. Constants of one element become part
//! of the expression. A cast to a narrower float ends a group: its rounding is meant.
//!
//! ```ir before
//! graph @mlp(%gate: f32[T, 64], %up: f32[T, 64], %bias: f32[64]) {
//!   %two = const [2.0] : f32[]
//!   %act = silu(%gate) : f32[T, 64]
//!   %prod = mul(%act, %up) : f32[T, 64]
//!   %twice = mul(%prod, %two) : f32[T, 64]
//!   %y = add(%twice, %bias) : f32[T, 64]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @mlp(%gate: f32[T, 64], %up: f32[T, 64], %bias: f32[64]) {
//!   %y = map(%gate, %up, %bias) {expr = "add(mul(mul(silu(x0), x1), f32(2.0)), x2)"} : f32[T, 64]
//!   return %y
//! }
//! ```

use crate::edit::Edit;
use crate::pass::{Body, Context, Miss, Pass};
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{CoreOp, Map, Op};
use ir::scalar::BinaryFn;
use ir::scalar_expr::{Arg, ScalarExpr, Step};
use ir::types::TensorType;
use ir::{DType, Truth};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// See the module.
pub const PASS: Pass = Pass { name: "fuse-elementwise", body: Body::Whole(fuse) };

/// Longer expressions run out of registers.
const MAX_STEPS: usize = 24;
/// Memory streams that one loop reads well.
const MAX_OPERANDS: usize = 8;

fn fuse(graph: &mut Graph, cx: &mut Context) {
    let order = graph.order();
    let position: HashMap<NodeId, usize> = order.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let uses = count_uses(graph, &order);
    let mut taken: HashSet<NodeId> = HashSet::new();
    for id in order.iter().rev() {
        if taken.contains(id) || !is_elementwise(graph, *id) {
            continue;
        }
        let group = grow(graph, *id, &order, &position, &uses);
        taken.extend(group.iter().map(|at| order[*at]));
        if group.len() < 2 {
            continue;
        }
        let nodes: Vec<NodeId> = group.iter().map(|at| order[*at]).collect();
        let mut edit = Edit::new(graph, (*id).into(), nodes.iter().copied());
        match write(&mut edit, &nodes).and_then(|new| edit.settle(new)) {
            Ok(new) => cx.note("group", graph, new, Ok(())),
            Err(miss) => {
                edit.abandon();
                cx.note("group", graph, (*id).into(), Err(miss));
            }
        }
    }
}

/// How often each value is read, by operands and outputs.
fn count_uses(graph: &Graph, order: &[NodeId]) -> HashMap<Value, usize> {
    let mut uses: HashMap<Value, usize> = HashMap::new();
    let read = order.iter().flat_map(|id| graph.operands(*id)).chain(graph.outputs.iter().map(|o| o.value));
    read.for_each(|v| *uses.entry(v).or_default() += 1);
    uses
}

/// The nodes of the group that ends in `root`, as positions in the order.
fn grow(
    graph: &Graph,
    root: NodeId,
    order: &[NodeId],
    position: &HashMap<NodeId, usize>,
    uses: &HashMap<Value, usize>,
) -> BTreeSet<usize> {
    let shape = &tensor(graph, root.into()).expect("an elementwise result is a tensor").shape;
    let mut group = BTreeSet::from([position[&root]]);
    let mut steps = step_count(graph, root);
    // What the group reads from outside, and how often.
    let mut operands: BTreeMap<Value, usize> = BTreeMap::new();
    let add_operands = |operands: &mut BTreeMap<Value, usize>, id: NodeId| {
        graph.operands(id).into_iter().for_each(|v| *operands.entry(v).or_default() += 1);
    };
    add_operands(&mut operands, root);
    // Latest first: by then every reader of the candidate has been decided.
    let mut candidates: BTreeSet<usize> = operands.keys().filter_map(|v| position.get(&v.node).copied()).collect();
    while let Some(at) = candidates.pop_last() {
        let id = order[at];
        let v = Value::from(id);
        let fits = is_elementwise(graph, id)
            && operands.get(&v) == uses.get(&v)
            && !is_narrowing(graph, id)
            && tensor(graph, v).is_some_and(|t| t.shape == *shape || t.shape.same(shape) == Truth::Yes)
            && steps + step_count(graph, id) <= MAX_STEPS;
        if !fits {
            continue;
        }
        let mut wider = operands.clone();
        wider.remove(&v);
        add_operands(&mut wider, id);
        if wider.keys().filter(|v| literal(graph, **v).is_none()).count() > MAX_OPERANDS {
            continue;
        }
        operands = wider;
        steps += step_count(graph, id);
        group.insert(at);
        candidates.extend(graph.operands(id).iter().map(|v| position[&v.node]));
    }
    group
}

fn tensor(graph: &Graph, v: Value) -> Option<&TensorType> {
    graph.tensor_ty(v)
}

/// Whether a step of an expression can say what this node computes.
fn is_elementwise(graph: &Graph, id: NodeId) -> bool {
    let Some(Op::CoreOp(op)) = graph.op(id) else { return false };
    let types: Option<Vec<&TensorType>> = graph.operands(id).iter().map(|v| graph.tensor_ty(*v)).collect();
    let (Some(types), Some(result)) = (types, graph.tensor_ty(id.into())) else { return false };
    let computes = |d: DType| !d.is_storage_only() && !matches!(d, DType::Str | DType::U64 | DType::U32);
    if result.dims().is_none() || !types.iter().chain([&result]).all(|t| computes(t.dtype)) {
        return false;
    }
    match op {
        CoreOp::Unary(_) | CoreOp::Compare(_) | CoreOp::Select(_) | CoreOp::Map(_) => true,
        // A float saturates at the ends of the integer that it becomes; registers are wider than 8 or 16 bits.
        CoreOp::Cast(cast) => !(types[0].dtype.is_float() && cast.to.is_int() && cast.to.bits() < 32),
        // Integer division by zero is an error, which a loop over a block cannot report; `pow` may mix types.
        CoreOp::Binary(b) => match b.f {
            BinaryFn::ShiftLeft | BinaryFn::ShiftRight => false,
            BinaryFn::Div | BinaryFn::Mod | BinaryFn::Fmod => result.dtype.is_float(),
            BinaryFn::Pow => result.dtype.is_float() && types[1].dtype == result.dtype,
            _ => true,
        },
        _ => false,
    }
}

fn is_narrowing(graph: &Graph, id: NodeId) -> bool {
    let Some(Op::CoreOp(CoreOp::Cast(cast))) = graph.op(id) else { return false };
    let from = graph.operands(id).first().and_then(|v| graph.tensor_ty(*v)).map(|t| t.dtype);
    from.is_some_and(|d| d.is_float() && cast.to.is_float() && cast.to.bits() < d.bits())
}

fn step_count(graph: &Graph, id: NodeId) -> usize {
    match graph.op(id) {
        Some(Op::CoreOp(CoreOp::Map(map))) => {
            map.expr.steps().iter().filter(|s| !matches!(s, Step::Constant(..))).count()
        }
        _ => 1,
    }
}

/// A constant that an expression can hold.
fn literal(graph: &Graph, v: Value) -> Option<Step> {
    let t = graph.constant_of(v).filter(|t| t.len() == 1)?;
    let value = *t.to_f64().ok()?.first()?;
    let exact = t.dtype().is_float() || value.abs() <= (1u64 << 53) as f64;
    exact.then_some(Step::Constant(t.dtype(), value))
}

/// Writes the group as one node; `nodes` are in order, the last is the root.
fn write(edit: &mut Edit<'_>, nodes: &[NodeId]) -> Result<Value, Miss> {
    let graph = &*edit.graph;
    let mut operands: Vec<Value> = vec![];
    let mut steps: Vec<Step> = vec![];
    let mut known: HashMap<Value, Arg> = HashMap::new();
    for id in nodes {
        let mut args: Vec<Arg> = vec![];
        for v in graph.operands(*id) {
            let arg = match (known.get(&v), literal(graph, v)) {
                (Some(arg), _) => *arg,
                (None, Some(constant)) => {
                    steps.push(constant);
                    Arg::Step(steps.len() - 1)
                }
                (None, None) => {
                    operands.push(v);
                    Arg::Input(operands.len() - 1)
                }
            };
            known.insert(v, arg);
            args.push(arg);
        }
        let result = push(&mut steps, graph.op(*id).expect("a group holds operators"), &args);
        known.insert((*id).into(), result);
    }
    let expr = ScalarExpr::new(&steps).map_err(|_| Miss::Refused("the expression is too large"))?;
    let root_rank = edit.rank((*nodes.last().expect("a group has a root")).into());
    let rank = operands.iter().filter_map(|v| edit.rank(*v)).max();
    edit.require(rank == root_rank, "no operand has the rank of the result")?;
    edit.apply(Map { expr }, &operands)
}

/// Appends what a node computes.
fn push(steps: &mut Vec<Step>, op: &Op, args: &[Arg]) -> Arg {
    let step = match (op, args) {
        (Op::CoreOp(CoreOp::Unary(op)), [a]) => Step::Unary(op.f, *a),
        (Op::CoreOp(CoreOp::Binary(op)), [a, b]) => Step::Binary(op.f, *a, *b),
        (Op::CoreOp(CoreOp::Compare(op)), [a, b]) => Step::Compare(op.f, *a, *b),
        (Op::CoreOp(CoreOp::Select(_)), [c, a, b]) => Step::Select(*c, *a, *b),
        (Op::CoreOp(CoreOp::Cast(op)), [a]) => Step::Cast(op.to, *a),
        (Op::CoreOp(CoreOp::Map(map)), _) => {
            let first = steps.len();
            for step in map.expr.steps() {
                steps.push(step.map(&mut |arg| match arg {
                    Arg::Input(n) => args[n],
                    Arg::Step(s) => Arg::Step(first + s),
                }));
            }
            return Arg::Step(steps.len() - 1);
        }
        _ => unreachable!("is_elementwise chose this node"),
    };
    steps.push(step);
    Arg::Step(steps.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_unchanged, rewritten};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("fuse_elementwise.rs"));
    }

    #[test]
    fn a_value_read_twice_within_a_group_is_computed_once() {
        let text = "graph @g(%x: f32[N, 3], %b: f32[3]) { %e = exp(%x) %a = add(%e, %b) %y = div(%e, %a) return %y }";
        assert_eq!(rewritten(&PASS, text), r#"%y = map(%x, %b) {expr = "t0 = exp(x0); div(t0, add(t0, x1))"}"#);
    }

    #[test]
    fn maps_join_larger_maps() {
        let text = r#"graph @g(%x: f32[N], %b: f32[N]) { %e = map(%x, %b) {expr = "mul(exp(x0), x1)"} %y = add(%e, %x) return %y }"#;
        assert_eq!(rewritten(&PASS, text), r#"%y = map(%x, %b) {expr = "add(mul(exp(x0), x1), x0)"}"#);
    }

    #[test]
    fn comparisons_and_selections_join() {
        let text = "graph @g(%x: f32[N]) { %z = const [0.0] : f32[] %s = const [0.01] : f32[] %c = lt(%x, %z) \
                    %a = mul(%x, %s) %y = select(%c, %a, %x) return %y }";
        let expected = r#"%y = map(%x) {expr = "select(lt(x0, f32(0.0)), mul(x0, f32(0.01)), x0)"}"#;
        assert_eq!(rewritten(&PASS, text), expected);
    }

    #[test]
    fn keeps_results_that_others_read() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: f32[N]) {
  %a = exp(%x) : f32[N]
  %y = neg(%a) : f32[N]
  return %a, %y
}",
        );
    }

    #[test]
    fn keeps_smaller_shapes_apart() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: f32[N, 8], %b: f32[8]) {
  %a = exp(%b) : f32[8]
  %y = mul(%x, %a) : f32[N, 8]
  return %y
}",
        );
    }

    #[test]
    fn keeps_a_rounding_that_is_meant() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: f32[N]) {
  %a = cast(%x) {to = f16} : f16[N]
  %y = exp(%a) : f16[N]
  return %y
}",
        );
    }

    #[test]
    fn keeps_integer_division_apart() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: i64[N], %y: i64[N]) {
  %a = div(%x, %y) : i64[N]
  %b = neg(%a) : i64[N]
  return %b
}",
        );
    }

    #[test]
    fn long_chains_become_several_maps() {
        let body: String = (0..100).map(|i| format!("%v{} = exp(%v{i}) ", i + 1)).collect();
        let mut g = ir::text::parse(&format!("graph @g(%v0: f32[N]) {{ {body} return %v100 }}")).unwrap();
        PASS.run(&mut g, &mut Context::default());
        assert_eq!(g.node_count(), 1 + 100usize.div_ceil(MAX_STEPS));
    }
}
