//! How models say which tokens chose an expert: one-hot tables and their non-zero places, comparisons with an expert's number,
//! and scores scattered into zeros.

use super::look::{both_orders, core, dims, is_integer, name, operand, peel, scalar, size};
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{CoreOp, ReduceFn, Reduction};

/// What keeps integers and their order.
const VIEWS: &[&str] = &["reshape", "cast"];

/// Pairs of token and place among its experts that chose one expert, as `nonzero` lists them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chosen {
    pub ids: Value,
    pub experts: usize,
    pub expert: i64,
    /// Which row of the list holds tokens; the other holds places.
    pub token_row: usize,
}

/// The integer that a constant of one element is.
pub(super) fn integer(graph: &Graph, v: Value) -> Option<i64> {
    let number = scalar(graph, v)?;
    (number.fract() == 0.0 && is_integer(graph, v)).then_some(number as i64)
}

/// One index of an axis, taken or cut out: of which value, which index and which axis.
fn one_of_axis(graph: &Graph, v: Value) -> Option<(Value, i64, i64)> {
    match core(graph, v)? {
        CoreOp::Gather(op) => Some((operand(graph, v, 0), integer(graph, operand(graph, v, 1))?, op.axis)),
        CoreOp::Slice(op) => match (&op.axes[..], &op.starts[..], &op.ends[..], &op.steps[..]) {
            ([axis], [start], [end], [1]) if end.as_const()? == start.as_const()? + 1 => {
                Some((operand(graph, v, 0), start.as_const()?, *axis))
            }
            _ => None,
        },
        _ => None,
    }
}

/// A row of what a `nonzero` lists: the node and the row.
pub(super) fn component(graph: &Graph, v: Value) -> Option<(NodeId, usize)> {
    let v = peel(graph, v, VIEWS);
    let (inner, at, axis) = one_of_axis(graph, v)?;
    let (list, row_axis) = match core(graph, inner) {
        Some(CoreOp::Transpose(op)) if op.perm == [1, 0] => (operand(graph, inner, 0), 1),
        _ => (inner, 0),
    };
    let row = usize::try_from(at).ok().filter(|r| *r < 2)?;
    (name(graph, list) == "nonzero" && axis.rem_euclid(2) == row_axis).then_some((list.node, row))
}

/// What a `nonzero` lists.
pub(super) fn chosen(graph: &Graph, nonzero: NodeId) -> Option<Chosen> {
    let mut v = operand(graph, nonzero.into(), 0);
    loop {
        v = match name(graph, v) {
            "cast" | "reshape" => operand(graph, v, 0),
            "ne" | "gt" if scalar(graph, operand(graph, v, 1)) == Some(0.0) => operand(graph, v, 0),
            _ => break,
        };
    }
    // A comparison with the expert's number.
    if let Some((ids, expert)) = equals(graph, v) {
        return Some(Chosen { ids, experts: 0, expert, token_row: 0 });
    }
    let (table, expert, axis) = one_of_axis(graph, v)?;
    let table = peel(graph, table, &["cast"]);
    let (hot, perm) = match core(graph, table) {
        Some(CoreOp::Transpose(op)) => (operand(graph, table, 0), op.perm.clone()),
        _ => (table, vec![0, 1, 2]),
    };
    let (ids, experts) = one_hot(graph, hot)?;
    let axis = axis.rem_euclid(3) as usize;
    if perm.len() != 3 || perm[axis] != 2 || dims(graph, ids)?.len() != 2 {
        return None;
    }
    let left: Vec<i64> = perm.iter().copied().filter(|p| *p != 2).collect();
    Some(Chosen { ids, experts, expert, token_row: left.iter().position(|p| *p == 0)? })
}

/// `ids[.., 1] == [0, 1 ..]`, or `one_hot` with zeros and ones: the ids and the number of experts.
pub(super) fn one_hot(graph: &Graph, v: Value) -> Option<(Value, usize)> {
    let v = peel(graph, v, &["cast"]);
    let rank = dims(graph, v)?.len();
    if let Some(CoreOp::OneHot(op)) = core(graph, v) {
        let values = graph.constant_of(operand(graph, v, 1))?.to_f64().ok()?;
        let last = op.axis == -1 || op.axis == rank as i64 - 1;
        let plain = values.len() == 2 && values[0] == 0.0 && values[1] == 1.0;
        let ids = peel(graph, operand(graph, v, 0), &["cast"]);
        return (last && plain).then_some((ids, size(&op.depth)?));
    }
    for (ids, numbers) in both_orders(graph, v, "eq") {
        let Some(experts) = counting(graph, numbers) else { continue };
        if dims(graph, ids)?.last()?.as_const() != Some(1) || size(dims(graph, v)?.last()?) != Some(experts) {
            continue;
        }
        return Some((peel(graph, ids, VIEWS), experts));
    }
    None
}

/// How many numbers a constant counts, from 0 on along its last axis.
fn counting(graph: &Graph, v: Value) -> Option<usize> {
    let v = peel(graph, v, VIEWS);
    let shape = dims(graph, v)?;
    let n = size(shape.last()?)?;
    if let Some(CoreOp::Range(op)) = core(graph, v) {
        return (op.start.as_const() == Some(0) && op.step.as_const() == Some(1)).then_some(n);
    }
    let t = graph.constant_of(v)?;
    let counts = t.len() == n && t.to_i64().ok()?.iter().enumerate().all(|(i, x)| *x == i as i64);
    counts.then_some(n)
}

/// `ids == expert`.
pub(super) fn equals(graph: &Graph, v: Value) -> Option<(Value, i64)> {
    both_orders(graph, v, "eq").into_iter().find_map(|(ids, expert)| {
        let expert = integer(graph, expert)?;
        let ids = peel(graph, ids, &["cast"]);
        (graph.op(ids.node).is_some() && dims(graph, ids)?.len() == 2).then_some((ids, expert))
    })
}

/// The weights of the pairs that a list holds, for all pairs: `w[token, place]`.
pub(super) fn pair_weights(graph: &Graph, v: Value, list: NodeId, chosen: &Chosen) -> Option<Value> {
    let v = peel(graph, v, VIEWS);
    let token = |v: Value| component(graph, v) == Some((list, chosen.token_row));
    let place = |v: Value| component(graph, v) == Some((list, 1 - chosen.token_row));
    let k = size(dims(graph, chosen.ids)?.last()?)?;
    let (table, index) = (operand(graph, v, 0), operand(graph, v, 1));
    // place + token * k
    let flat = |index: Value| {
        both_orders(graph, peel(graph, index, VIEWS), "add").into_iter().any(|(a, b)| {
            let b = peel(graph, b, VIEWS);
            let times_k = both_orders(graph, b, "mul").into_iter();
            let row = k == 1 && token(b)
                || times_k.into_iter().any(|(t, by)| token(t) && integer(graph, by) == Some(k as i64));
            place(a) && row
        })
    };
    match core(graph, v)? {
        CoreOp::GatherNd(op) if op.batch_dims == 0 => {
            let both = match core(graph, peel(graph, index, &["cast"]))? {
                // The list itself, turned.
                CoreOp::Transpose(op) => {
                    op.perm == [1, 0] && chosen.token_row == 0 && operand(graph, index, 0).node == list
                }
                CoreOp::Concat(_) => {
                    let parts = graph.operands(peel(graph, index, &["cast"]).node);
                    parts.len() == 2 && token(parts[0]) && place(parts[1])
                }
                _ => false,
            };
            let shape = dims(graph, table)?;
            if both {
                let per_pair = shape.len() >= 2 && size(&shape[1]) == Some(k);
                return per_pair.then(|| peel(graph, table, VIEWS));
            }
            flat(index).then(|| peel(graph, table, VIEWS))
        }
        CoreOp::Gather(op) if op.axis == 0 && flat(index) => Some(peel(graph, table, VIEWS)),
        _ => None,
    }
}

/// The rows that a list's tokens choose among: `x[token]`.
pub(super) fn token_rows(graph: &Graph, v: Value, list: NodeId, token_row: usize) -> Option<Value> {
    let v = peel(graph, v, &["reshape"]);
    let (table, index) = match core(graph, v)? {
        CoreOp::Gather(_) | CoreOp::GatherNd(_) => (operand(graph, v, 0), operand(graph, v, 1)),
        _ => return None,
    };
    let shape = dims(graph, table)?;
    let axis = match core(graph, v)? {
        CoreOp::Gather(op) => op.axis.rem_euclid(shape.len() as i64) as usize,
        CoreOp::GatherNd(op) if op.batch_dims == 0 && dims(graph, index)?.last()?.as_const() == Some(1) => 0,
        _ => return None,
    };
    // One row per token: the other dimensions before and between are of one element.
    let single = shape[..axis].iter().chain(&shape[axis + 1..shape.len().saturating_sub(1).max(axis + 1)]);
    let whole = single.clone().all(|d| d.as_const() == Some(1)) && axis + 1 < shape.len();
    (whole && component(graph, index) == Some((list, token_row))).then(|| peel(graph, table, &["reshape"]))
}

/// Scores of `[tokens, experts]` that are zero but for those of each token's experts.
pub(super) struct Scores {
    pub ids: Value,
    pub weights: Value,
    pub experts: usize,
}

/// Weights scattered into zeros by ids.
pub(super) fn scores(graph: &Graph, v: Value) -> Option<Scores> {
    let v = peel(graph, v, &["cast"]);
    let Some(CoreOp::ScatterElements(op)) = core(graph, v) else { return summed_scores(graph, v) };
    let (base, ids, weights) = (operand(graph, v, 0), operand(graph, v, 1), operand(graph, v, 2));
    let shape = dims(graph, v)?;
    let last = op.axis.rem_euclid(shape.len() as i64) as usize + 1 == shape.len();
    let plain = matches!(op.reduction, Reduction::None | Reduction::Add) && is_zero(graph, base);
    if shape.len() != 2 || !last || !plain || dims(graph, ids)?.len() != 2 {
        return None;
    }
    let ids = peel(graph, ids, &["cast"]);
    Some(Scores { ids, weights, experts: size(&shape[1])? })
}

/// Zeros, or something times zero.
fn is_zero(graph: &Graph, v: Value) -> bool {
    let by_zero = || both_orders(graph, v, "mul").into_iter().any(|(_, by)| scalar(graph, by) == Some(0.0));
    scalar(graph, v) == Some(0.0) || by_zero()
}

/// The sum over places of one-hot rows times weights.
fn summed_scores(graph: &Graph, v: Value) -> Option<Scores> {
    let Some(CoreOp::Reduce(op)) = core(graph, v) else { return None };
    let inner = operand(graph, v, 0);
    let reduced = op.reduced(3).ok()?;
    if op.f != ReduceFn::Sum || dims(graph, inner)?.len() != 3 || reduced[..] != [false, true, false] || op.keep {
        return None;
    }
    both_orders(graph, inner, "mul").into_iter().find_map(|(hot, weights)| {
        let (ids, experts) = one_hot(graph, hot)?;
        (dims(graph, weights)?.last()?.as_const() == Some(1)).then_some(())?;
        Some(Scores { ids, weights: peel(graph, weights, &["reshape"]), experts })
    })
}

/// What one expert's rows are multiplied by when every token passes through it: ids, weights and the expert.
pub(super) fn masked(graph: &Graph, v: Value) -> Option<(Value, Value, i64, usize)> {
    let v = peel(graph, v, VIEWS);
    match core(graph, v)? {
        CoreOp::Reduce(op) => {
            let inner = operand(graph, v, 0);
            let rank = dims(graph, inner)?.len();
            let last_only = op.reduced(rank).ok()?.iter().enumerate().all(|(i, r)| *r == (i + 1 == rank));
            if op.f != ReduceFn::Sum || !last_only {
                return None;
            }
            if let Some(CoreOp::Select(_)) = core(graph, inner) {
                let (ids, expert) = equals(graph, operand(graph, inner, 0))?;
                let zero = scalar(graph, operand(graph, inner, 2)) == Some(0.0);
                return zero.then(|| (ids, operand(graph, inner, 1), expert, 0));
            }
            both_orders(graph, inner, "mul").into_iter().find_map(|(mask, weights)| {
                let (ids, expert) = equals(graph, peel(graph, mask, &["cast"]))?;
                Some((ids, weights, expert, 0))
            })
        }
        // A column of scores.
        _ => {
            let (table, expert, _) = one_of_axis(graph, v).filter(|(_, _, axis)| matches!(axis, 1 | -1))?;
            let Scores { ids, weights, experts } = scores(graph, table)?;
            Some((ids, weights, expert, experts))
        }
    }
}
