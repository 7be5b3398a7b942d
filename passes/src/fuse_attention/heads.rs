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

/// Queries, keys and values.
pub(super) fn find(edit: &Edit<'_>, found: &Found, values: Value) -> Result<[Side; 3], Miss> {
    let [q, k] = found.product;
    let sides = [(q, Order::Rows, true), (k, Order::Columns, true), (values, Order::Rows, false)];
    for (v, ..) in sides {
        edit.require(
            edit.rank(v) == Some(4),
            "the products of the attention are not over [batch, heads, rows, width]",
        )?;
    }
    let [q, k, v] = sides.map(|(v, order, scaled)| behind(edit.graph, v, order, scaled));
    Ok([q, k, v])
}

/// The key or value heads `[B, H, T, width]` that `v` holds copies of, and the nodes that copied them.
pub(super) fn shared(graph: &Graph, v: Value) -> Option<(Value, Vec<NodeId>)> {
    let side = behind(graph, v, Order::Rows, false);
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

/// The best value to read in place of `v`: one that shares key heads, then one that lies right, then one that is farthest.
fn behind(graph: &Graph, v: Value, order: Order, scaled: bool) -> Side {
    let mut chain = vec![(v, 1.0)];
    while chain.len() < MAX_STEPS
        && let Some(step) = previous(graph, chain[chain.len() - 1].0, scaled)
    {
        chain.push(step);
    }
    let mut best = candidate(graph, &chain[..1], order).expect("four dimensions as they are");
    for n in 2..=chain.len() {
        let Some(next) = candidate(graph, &chain[..n], order) else { continue };
        if (next.1, next.0.perm.is_none()) >= (best.1, best.0.perm.is_none()) {
            best = next;
        }
    }
    best.0
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
fn candidate(graph: &Graph, chain: &[(Value, f64)], order: Order) -> Option<(Side, bool)> {
    let (value, _) = chain[chain.len() - 1];
    let dims = graph.tensor_ty(value)?.dims()?;
    let mut axes = Axes::of(dims);
    for (reader, _) in chain[..chain.len() - 1].iter().rev() {
        if !matches!(graph.op(reader.node)?, Op::CoreOp(CoreOp::Binary(_))) {
            axes.through(graph, *reader)?;
        }
    }
    if order == Order::Columns {
        axes.to.swap(2, 3);
    }
    // Only heads may repeat, and as neighbours.
    let repeats = |axis: usize| axes.to[axis].iter().any(|p| p.repeats);
    let own = axes.to[1].iter().filter(|p| !p.repeats).count();
    if [0, 2, 3].into_iter().any(repeats) || axes.to[1][..own].iter().any(|p| p.repeats) {
        return None;
    }
    let perm = axes.permutation()?;
    let perm = (perm != [0, 1, 2, 3]).then(|| perm.iter().map(|p| *p as i64).collect());
    let scale = chain[1..].iter().map(|(_, factor)| factor).product();
    let nodes = chain[..chain.len() - 1].iter().map(|(v, _)| v.node).collect();
    Some((Side { value, perm, scale, nodes }, repeats(1)))
}
