//! Small questions about values, asked by all forms.

use ir::graph::{Graph, Kind, NodeId, Value};
use ir::ops::{CoreOp, Op};
use ir::{DType, Dim};
use std::collections::HashSet;

/// The core operator whose first result a value is.
pub(super) fn core(graph: &Graph, v: Value) -> Option<&CoreOp> {
    match graph.op(v.node)? {
        Op::CoreOp(op) if v.result == 0 => Some(op),
        _ => None,
    }
}

/// The name of the operator whose first result a value is; empty for inputs and constants.
pub(super) fn name(graph: &Graph, v: Value) -> &'static str {
    graph.op(v.node).filter(|_| v.result == 0).map_or("", Op::name)
}

/// Operand `i` of the operator that made a value.
pub(super) fn operand(graph: &Graph, v: Value, i: usize) -> Value {
    graph.operands(v.node)[i]
}

/// The dimensions of a tensor of known rank.
pub(super) fn dims(graph: &Graph, v: Value) -> Option<&[Dim]> {
    graph.tensor_ty(v)?.dims()
}

/// A dimension that is a number.
pub(super) fn size(d: &Dim) -> Option<usize> {
    usize::try_from(d.as_const()?).ok()
}

/// The number of elements.
pub(super) fn elements(graph: &Graph, v: Value) -> Option<Dim> {
    graph.tensor_ty(v)?.shape.elements()
}

/// The product of some dimensions.
pub(super) fn product(dims: &[Dim]) -> Dim {
    dims.iter().cloned().product()
}

/// Whether a value is a constant, whatever it holds.
pub(super) fn is_weight(graph: &Graph, v: Value) -> bool {
    matches!(graph.node(v.node).kind, Kind::Weight(_))
}

/// The number that all elements of a small constant, or of an expanded one, are.
pub(super) fn scalar(graph: &Graph, v: Value) -> Option<f64> {
    if matches!(name(graph, v), "expand" | "reshape" | "fill" | "cast") {
        return scalar(graph, operand(graph, v, 0));
    }
    let t = graph.constant_of(v).filter(|t| t.dtype() != DType::Str && !t.is_empty() && t.len() <= 4096)?;
    let values = t.to_f64().ok()?;
    values.iter().all(|x| x.to_bits() == values[0].to_bits()).then_some(values[0])
}

/// What a value is a view of, through operators of these names.
pub(super) fn peel(graph: &Graph, mut v: Value, through: &[&str]) -> Value {
    while through.contains(&name(graph, v)) {
        v = operand(graph, v, 0);
    }
    v
}

/// Both operands of a commutative operator called `of`, in both orders.
pub(super) fn both_orders(graph: &Graph, v: Value, of: &str) -> Vec<(Value, Value)> {
    if name(graph, v) != of {
        return vec![];
    }
    let operands = graph.operands(v.node);
    vec![(operands[0], operands[1]), (operands[1], operands[0])]
}

/// Whether indices below `count` pass through the clamps around a value unchanged: what is inside of them.
///
/// `relu` and `min` keep what lies in `0..count`; so do casts between integers.
pub(super) fn peel_clamps(graph: &Graph, mut v: Value, count: usize) -> Value {
    loop {
        let bounded = |by: Value, holds: &dyn Fn(f64) -> bool| scalar(graph, by).is_some_and(holds);
        v = match name(graph, v) {
            "relu" | "reshape" => operand(graph, v, 0),
            "cast" if is_integer(graph, v) && is_integer(graph, operand(graph, v, 0)) => operand(graph, v, 0),
            "min" if bounded(operand(graph, v, 1), &|b| b >= count as f64 - 1.0) => operand(graph, v, 0),
            "min" if bounded(operand(graph, v, 0), &|b| b >= count as f64 - 1.0) => operand(graph, v, 1),
            "max" if bounded(operand(graph, v, 1), &|b| b <= 0.0) => operand(graph, v, 0),
            "max" if bounded(operand(graph, v, 0), &|b| b <= 0.0) => operand(graph, v, 1),
            _ => return v,
        }
    }
}

/// Whether a value holds i32 or i64.
pub(super) fn is_integer(graph: &Graph, v: Value) -> bool {
    graph.tensor_ty(v).is_some_and(|t| matches!(t.dtype, DType::I32 | DType::I64))
}

/// Whether every element of `v` is an index below `count`, by what made it: positions of a `top_k` or `arg_max` along an
/// axis of so many elements.
pub(super) fn is_below(graph: &Graph, v: Value, count: usize) -> bool {
    let (axis, of) = match graph.op(v.node) {
        Some(Op::CoreOp(CoreOp::TopK(op))) if v.result == 1 => (op.axis, operand(graph, v, 0)),
        Some(Op::CoreOp(CoreOp::ArgReduce(op))) => (op.axis, operand(graph, v, 0)),
        Some(Op::CoreOp(CoreOp::Reshape(_))) => return is_below(graph, operand(graph, v, 0), count),
        Some(Op::CoreOp(CoreOp::Cast(_))) if is_integer(graph, v) => {
            return is_below(graph, operand(graph, v, 0), count);
        }
        _ => return false,
    };
    let Some(dims) = dims(graph, of) else { return false };
    let at = axis.rem_euclid(dims.len().max(1) as i64) as usize;
    size(&dims[at]).is_some_and(|n| n <= count)
}

/// The rows that the flattened elements of `v` are: rows of a value `[.., width]`, each `repeat` times in a row.
///
/// Looks through reshapes, and through expansions that repeat whole rows.
pub(super) fn repeated_rows(graph: &Graph, v: Value, width: &Dim) -> Option<(Value, i64)> {
    let (mut at, mut repeat) = (v, 1);
    let mut best = None;
    loop {
        let shape = dims(graph, at)?;
        if shape.len() >= 2 && shape.last() == Some(width) && best.is_none_or(|(_, r)| r < repeat) {
            best = Some((at, repeat));
        }
        match name(graph, at) {
            "reshape" => {}
            "expand" | "tile" => match row_repeats(dims(graph, operand(graph, at, 0))?, shape, width) {
                Some(times) => repeat *= times,
                None => return best,
            },
            "gather" | "gather_nd" => match taken_by_token(graph, at) {
                Some(times) => {
                    repeat *= times;
                    best = None;
                }
                None => return best,
            },
            _ => return best,
        }
        at = operand(graph, at, 0);
    }
}

/// How often each row is taken, one after the other, when rows are gathered by the numbers of their tokens.
fn taken_by_token(graph: &Graph, v: Value) -> Option<i64> {
    let (table, index) = (operand(graph, v, 0), operand(graph, v, 1));
    let by_row = match core(graph, v)? {
        CoreOp::Gather(op) => op.axis == 0,
        CoreOp::GatherNd(op) => op.batch_dims == 0 && dims(graph, index)?.last()?.as_const() == Some(1),
        _ => false,
    };
    let (tokens, times) = token_numbers(graph, index)?;
    (by_row && dims(graph, table)?.first()? == &tokens).then_some(times)
}

/// `0, 0, 1, 1, ..`: how many numbers, and how often each.
pub(super) fn token_numbers(graph: &Graph, v: Value) -> Option<(Dim, i64)> {
    let (mut at, mut times) = (peel(graph, v, &["cast"]), 1);
    loop {
        at = match core(graph, at)? {
            CoreOp::Range(op) => {
                let counts = op.start.as_const() == Some(0) && op.step.as_const() == Some(1);
                return counts.then(|| (op.length.clone(), times));
            }
            CoreOp::Reshape(_) | CoreOp::Cast(_) => operand(graph, at, 0),
            CoreOp::Expand(_) | CoreOp::Tile(_) => {
                let inner = operand(graph, at, 0);
                times *= row_repeats(dims(graph, inner)?, dims(graph, at)?, &Dim::constant(1))?;
                inner
            }
            // Positions of pairs divided by the experts of a token.
            CoreOp::Binary(_) if name(graph, at) == "div" => {
                let k = scalar(graph, operand(graph, at, 1))? as i64;
                let (pairs, once) = token_numbers(graph, operand(graph, at, 0))?;
                return (once == 1 && k > 0).then(|| Some((pairs.exact_div(&Dim::constant(k))?, k * times)))?;
            }
            _ => return None,
        };
    }
}

/// How often an expansion repeats each row of `width` elements, one after the other.
fn row_repeats(from: &[Dim], to: &[Dim], width: &Dim) -> Option<i64> {
    let lead = to.len().checked_sub(from.len())?;
    let one = Dim::constant(1);
    let source = |i: usize| if i < lead { &one } else { &from[i - lead] };
    let first = (0..to.len()).find(|i| *source(*i) != to[*i])?;
    let after = (first..to.len()).rev().find(|i| *source(*i) != to[*i])? + 1;
    // The repeated dimensions were of one element, and what follows them is a row.
    let ones = (first..after).all(|i| *source(i) == one);
    (ones && product(&to[after..]) == *width).then(|| product(&to[first..after]).as_const()).flatten()
}

/// Nodes that `root` needs, up to the values in `stops` and constants.
pub(super) fn interior(graph: &Graph, root: Value, stops: &[Value]) -> Vec<NodeId> {
    let stops: HashSet<NodeId> = stops.iter().map(|v| v.node).collect();
    let mut seen = HashSet::new();
    let mut found = vec![];
    let mut pending = vec![root.node];
    while let Some(node) = pending.pop() {
        if stops.contains(&node) || graph.op(node).is_none() || !seen.insert(node) {
            continue;
        }
        found.push(node);
        pending.extend(graph.operands(node).iter().map(|v| v.node));
    }
    found.sort_unstable();
    found
}
