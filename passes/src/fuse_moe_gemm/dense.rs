//! Experts that all tokens pass through in one batched product per layer, summed with scores that are zero for experts that
//! a token did not choose.
//!
//! Only the chosen are computed afterwards. A score of zero hides what an expert makes of a row unless that is infinite or
//! NaN: then the model gives NaN (`0 * inf`), and the fused layer what the chosen experts give.

use super::emit::Layer;
use super::expert::{self, Product, Space, Weight};
use super::look::{both_orders, core, dims, elements, is_weight, name, operand, peel, product, size};
use super::selection::{Scores, scores};
use crate::pass::Miss;
use ir::Dim;
use ir::dim::Truth;
use ir::graph::{Graph, Value};
use ir::ops::{CoreOp, ReduceFn};

/// Weights are constants with a matrix per expert.
struct Batched;

impl Space for Batched {
    fn weight(&self, graph: &Graph, v: Value) -> Option<(Weight, bool)> {
        let (mut at, mut straight) = (v, true);
        while let Some(CoreOp::Transpose(op)) = core(graph, at) {
            if op.perm != [0, 2, 1] {
                return None;
            }
            straight = !straight;
            at = operand(graph, at, 0);
        }
        (is_weight(graph, at) && dims(graph, at)?.len() == 3).then_some((Weight::Table(at), straight))
    }

    fn bias(&self, graph: &Graph, v: Value) -> Option<Weight> {
        let shape = dims(graph, v)?;
        let per_expert = shape.len() == 3 && shape[1].as_const() == Some(1);
        let inner = peel(graph, v, &["reshape"]);
        (per_expert && is_weight(graph, inner)).then_some(Weight::Table(inner))
    }
}

/// The layer whose sum over experts is the `reduce` at `root`.
pub(super) fn find(graph: &Graph, root: Value) -> Result<Layer, Miss> {
    let Some(CoreOp::Reduce(op)) = core(graph, root) else { return Err(Miss::NoEffect) };
    let summed = operand(graph, root, 0);
    let rank = dims(graph, summed).ok_or(Miss::NoEffect)?.len();
    let reduced = op.reduced(rank).map_err(|_| Miss::NoEffect)?;
    if op.f != ReduceFn::Sum || !reduced[0] || reduced[1..].contains(&true) {
        return Err(Miss::NoEffect);
    }
    let (down, by) = both_orders(graph, peel(graph, summed, &["reshape", "cast"]), "mul")
        .into_iter()
        .find_map(|(rows, by)| {
            (dims(graph, by)?.last()?.as_const() == Some(1)).then_some(())?;
            Some((expert::product(graph, rows, &Batched)?, by))
        })
        .ok_or(Miss::NoEffect)?;
    let expert = expert::expert(graph, Product { repeat: 1, ..down }, &Batched)?;
    let turned = peel(graph, by, &["reshape", "cast"]);
    let Some(CoreOp::Transpose(turn)) = core(graph, turned) else {
        return Err(Miss::Refused("the scores of the experts are not [tokens, experts]"));
    };
    let found = scores(graph, operand(graph, turned, 0)).filter(|_| turn.perm == [1, 0]);
    let why = Miss::Refused("the scores are not those of chosen experts scattered into zeros");
    let Scores { ids, weights, experts } = found.ok_or(why)?;
    let x = copied(graph, &expert.up, experts)?;
    if expert.linear.as_ref().is_some_and(|l| copied(graph, l, experts) != Ok(x)) {
        return Err(Miss::Refused("gate and linear part read different rows"));
    }
    let k = dims(graph, ids).and_then(|d| d.last()?.as_const());
    let repeat = k.ok_or(Miss::Refused("the number of experts of a token is not known"))?;
    Ok(Layer { root, x, repeat, ids, weights, experts: experts as i64, expert, plus: vec![] })
}

/// The rows that are copied, or broadcast, to every expert.
fn copied(graph: &Graph, p: &Product, experts: usize) -> Result<Value, Miss> {
    let unclear = Miss::Refused("it is not clear which rows all experts read");
    let count = Dim::constant(experts as i64);
    let rows = |v: Value| dims(graph, v).map(<[Dim]>::to_vec).ok_or(unclear);
    let width = rows(p.x)?.last().cloned().ok_or(unclear)?;
    let mut at = p.x;
    // Broadcast in the product itself.
    let shape = rows(at)?;
    if shape.len() == 2 || shape[..shape.len() - 2].iter().all(|d| d.as_const() == Some(1)) {
        return Ok(peel(graph, at, &["reshape"]));
    }
    if shape.len() != 3 || shape[0] != count {
        return Err(unclear);
    }
    while name(graph, at) == "reshape" {
        at = operand(graph, at, 0);
    }
    let from = operand(graph, graph.operands(at.node).first().map_or(Err(unclear), |_| Ok(at))?, 0);
    let (before, after) = (rows(from)?, rows(at)?);
    let whole = match core(graph, at) {
        // Copies of everything, one after the other.
        Some(CoreOp::Tile(op)) => {
            op.repeats.first() == Some(&count) && op.repeats[1..].iter().all(|r| r.as_const() == Some(1))
        }
        Some(CoreOp::Expand(_)) => {
            let lead = after.len() - before.len();
            let same = before.iter().zip(&after[lead..]).skip(usize::from(lead == 0)).all(|(a, b)| a == b);
            same && (lead == 1 || lead == 0 && before[0].as_const() == Some(1)) && after[0] == count
        }
        _ => false,
    };
    let times = elements(graph, from).is_some_and(|n| (n * count).same(&product(&after)) == Truth::Yes);
    if !whole || !times || before.last() != Some(&width) || size(&width).is_none() {
        return Err(unclear);
    }
    Ok(peel(graph, from, &["reshape"]))
}
