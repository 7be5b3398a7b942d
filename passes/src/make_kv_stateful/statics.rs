//! Caches of a fixed size: rows are written at a position instead of behind a growing cache.
//!
//! The rows must go to `P, P + 1, ...`: their place is proven from the formula of the index, so nothing else is taken for an
//! append.

use super::caches::Append;
use super::field::{Field, Fields, Pred, axis};
use super::inputs::Inputs;
use crate::pass::Miss;
use ir::graph::{Graph, Value};
use ir::ops::{CoreOp, Op, Reduction, Transpose};

/// The cache and the rows that an operator writes to it.
pub(super) fn appended(graph: &Graph, inputs: &Inputs, v: Value) -> Result<Option<Append>, Miss> {
    let Some(Op::CoreOp(op)) = graph.op(v.node) else { return Ok(None) };
    let operands = graph.operands(v.node);
    let past = |i: usize| operands.get(i).copied().filter(|v| inputs.is_past(*v));
    let mut fields = inputs.fields(graph);
    let found = match op {
        CoreOp::TensorScatter(op) => {
            let Some(past) = past(0) else { return Ok(None) };
            let at = operands.get(2).and_then(|at| fields.of(*at));
            let fits =
                !op.circular && matches!(op.axis, 2 | -2) && at == Some(Field::Int(inputs.past_length().clone()));
            fits.then(|| Append { past, rows: operands[1] })
        }
        CoreOp::ScatterElements(op) => {
            let Some(past) = past(0) else { return Ok(None) };
            let fits = matches!(op.axis, 2 | -2) && op.reduction == Reduction::None;
            let fits = fits && counts_on(&mut fields, inputs, operands[1], 2);
            fits.then(|| Append { past, rows: operands[2] })
        }
        // One row where the position is equal.
        CoreOp::Select(_) => {
            let Some(past) = past(2) else { return Ok(None) };
            let apart = &axis(2) - inputs.past_length();
            let (up, down) = (Pred::AtLeastZero(apart.clone()), Pred::AtLeastZero(-apart));
            let at = fields.spread(operands[0], 4);
            let here = |p: &Pred| matches!(p, Pred::All(parts) if parts.len() == 2 && parts.contains(&up) && parts.contains(&down));
            let fits = inputs.steps.as_const() == Some(1) && matches!(&at, Some(Field::Bool(p)) if here(p));
            fits.then(|| Append { past, rows: operands[1] })
        }
        CoreOp::Transpose(back) => return turned(graph, inputs, &mut fields, back, operands[0]),
        _ => return Ok(None),
    };
    found.map(Some).ok_or(Miss::Refused("new rows are not written where the sequence ends"))
}

/// Rows scattered into a cache that is turned so that its rows come first, and turned back.
fn turned(
    graph: &Graph,
    inputs: &Inputs,
    fields: &mut Fields<'_>,
    back: &Transpose,
    written: Value,
) -> Result<Option<Append>, Miss> {
    let transposed = |v: Value| match graph.op(v.node) {
        Some(Op::CoreOp(CoreOp::Transpose(t))) => Some((t.perm.clone(), graph.operands(v.node)[0])),
        _ => None,
    };
    let Some(Op::CoreOp(CoreOp::ScatterNd(op))) = graph.op(written.node) else { return Ok(None) };
    let operands = graph.operands(written.node);
    let Some((perm, past)) = transposed(operands[0]).filter(|(_, v)| inputs.is_past(*v)) else { return Ok(None) };
    let undone = back.perm.iter().enumerate().all(|(i, p)| perm.get(*p as usize) == Some(&(i as i64)));
    let fits = undone && perm.first() == Some(&2) && op.reduction == Reduction::None;
    let rows = transposed(operands[2]).filter(|(other, _)| *other == perm);
    match rows.filter(|_| fits && counts_on(fields, inputs, operands[1], 0)) {
        Some((_, rows)) => Ok(Some(Append { past, rows })),
        None => Err(Miss::Refused("new rows are not written where the sequence ends")),
    }
}

/// Whether an index counts on from the past length along a dimension.
fn counts_on(fields: &mut Fields<'_>, inputs: &Inputs, index: Value, along: usize) -> bool {
    fields.of(index) == Some(Field::Int(inputs.past_length() + &axis(along)))
}
