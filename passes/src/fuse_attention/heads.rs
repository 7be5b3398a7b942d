//! Finds queries, keys and values as `[B, H, rows, width]` behind reshapes, transpositions, copies of heads and factors.

use super::scores::Found;
use crate::axes::Axes;
use crate::edit::Edit;
use crate::pass::Miss;
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{Binary, CoreOp, Op, Transpose};
use ir::scalar::BinaryFn;

/// An operand of `attention` in the making.
pub(super) struct Side {
    value: Value,
    /// Where it does not lie as `[B, H, rows, width]`.
    perm: Option<Vec<i64>>,
    /// What it is multiplied by on the way.
    pub scale: f64,
    /// The nodes that are no longer needed.
    pub nodes: Vec<NodeId>,
}

impl Side {
    /// The value, transposed where it must be.
    pub(super) fn build(&self, edit: &mut Edit<'_>) -> Result<Value, Miss> {
        match &self.perm {
            Some(perm) => edit.apply(Transpose { perm: perm.clone() }, &[self.value]),
            None => Ok(self.value),
        }
    }
}

/// Queries, keys and values, each as `[B, H, rows, width]`; or as `[B, rows, width]`, where products have three dimensions and
/// heads are not found among the first.
pub(super) fn find(edit: &Edit<'_>, found: &Found, values: Value) -> Result<[Side; 3], Miss> {
    let [q, k] = found.product;
    let sides = [(q, Order::Rows, true), (k, Order::Columns, true), (values, Order::Rows, false)];
    let rank = edit.rank(q);
    let fits = matches!(rank, Some(3 | 4)) && sides.iter().all(|(v, ..)| edit.rank(*v) == rank);
    edit.require(fits, "the products of the attention are not over [batch, heads, rows, width]")?;
    let apart = |dims: usize| sides.map(|(v, order, scaled)| behind(edit.graph, v, order, scaled, dims));
    let found = match apart(4) {
        [Some(q), Some(k), Some(v)] => [q, k, v],
        _ => match apart(3) {
            [Some(q), Some(k), Some(v)] => [q, k, v],
            _ => return Err(Miss::NoEffect),
        },
    };
    Ok(found)
}

/// The key or value heads `[B, H, T, width]` that `v` holds copies of, and the nodes that copied them.
pub(super) fn shared(graph: &Graph, v: Value) -> Option<(Value, Vec<NodeId>)> {
    let side = behind(graph, v, Order::Rows, false, 4)?;
    let heads = |v: Value| graph.tensor_ty(v)?.dims()?.get(1).cloned();
    (side.perm.is_none() && heads(side.value) != heads(v)).then_some((side.value, side.nodes))
}

/// How rows and width lie in the operand of the product.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Rows,
    Columns,
}

/// What a chain is followed through at most.
const MAX_STEPS: usize = 12;

/// The best value of `dims` dimensions to read in place of `v`: one that shares key heads, then one that lies right, then one
/// that is farthest.
fn behind(graph: &Graph, v: Value, order: Order, scaled: bool, dims: usize) -> Option<Side> {
    let mut chain = vec![(v, 1.0)];
    while chain.len() < MAX_STEPS
        && let Some(step) = previous(graph, chain[chain.len() - 1].0, scaled)
    {
        chain.push(step);
    }
    let candidates = (1..=chain.len()).filter_map(|n| candidate(graph, &chain[..n], order, dims));
    let best = candidates.max_by_key(|(side, shares)| (*shares, side.perm.is_none()));
    best.map(|(side, _)| side)
}

/// What a value is a view of, and the factor between them.
fn previous(graph: &Graph, v: Value, scaled: bool) -> Option<(Value, f64)> {
    let operands = graph.operands(v.node);
    match graph.op(v.node)? {
        Op::CoreOp(CoreOp::Reshape(_) | CoreOp::Transpose(_) | CoreOp::Expand(_)) => Some((operands[0], 1.0)),
        Op::CoreOp(CoreOp::Binary(Binary { f: f @ (BinaryFn::Mul | BinaryFn::Div) })) if scaled => {
            let same = |x: Value| graph.tensor_ty(x) == graph.tensor_ty(v);
            let constant =
                |v: Value| graph.constant_of(v).filter(|t| t.len() == 1).and_then(|t| Some(t.to_f64().ok()?[0]));
            match (constant(operands[0]), constant(operands[1])) {
                (None, Some(c)) if same(operands[0]) => {
                    Some((operands[0], if *f == BinaryFn::Mul { c } else { 1.0 / c }))
                }
                (Some(c), None) if *f == BinaryFn::Mul && same(operands[1]) => Some((operands[1], c)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The last value of a chain as an operand, and whether heads are shared on the way.
fn candidate(graph: &Graph, chain: &[(Value, f64)], order: Order, rank: usize) -> Option<(Side, bool)> {
    let (value, _) = chain[chain.len() - 1];
    let dims = graph.tensor_ty(value)?.dims()?;
    let mut axes = Axes::of(dims);
    for (reader, _) in chain[..chain.len() - 1].iter().rev() {
        if !matches!(graph.op(reader.node)?, Op::CoreOp(CoreOp::Binary(_))) {
            axes.through(graph, *reader)?;
        }
    }
    if rank == 4 && axes.to.len() == 3 && axes.to[0].len() > 1 {
        // Heads lie behind the batch.
        let heads = axes.to[0].split_off(1);
        axes.to.insert(1, heads);
    }
    if axes.to.len() != rank {
        return None;
    }
    if order == Order::Columns {
        axes.to.swap(rank - 2, rank - 1);
    }
    // Only heads may repeat, and as neighbours.
    let repeats = |axis: usize| axes.to[axis].iter().any(|p| p.repeats);
    let shares = rank == 4 && repeats(1);
    let mut once = (0..rank).filter(|axis| rank == 3 || *axis != 1);
    let own = axes.to[1].iter().filter(|p| !p.repeats).count();
    if once.any(repeats) || axes.to[1][..own].iter().any(|p| p.repeats) {
        return None;
    }
    let perm = axes.permutation()?;
    let perm = (perm != [0, 1, 2, 3][..rank]).then(|| perm.iter().map(|p| *p as i64).collect());
    let scale = chain[1..].iter().map(|(_, factor)| factor).product();
    let nodes = chain[..chain.len() - 1].iter().map(|(v, _)| v.node).collect();
    Some((Side { value, perm, scale, nodes }, shares))
}
