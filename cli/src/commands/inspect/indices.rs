//! Which indices of an entry are proven to lie within what they index, and which the kernel guards.
//!
//! A guarded index is checked before it is used, in every run: one outside is an error of that run that names the node, and
//! nothing outside is read or written.

use fastinference::ir::{CoreOp, Dim, Graph, NodeId, Op, Value};
use serde::Serialize;

/// An operand that holds indices.
#[derive(Debug, Serialize)]
pub struct Index {
    /// First result of the node that uses it.
    pub node: String,
    /// Operator of the node.
    pub op: String,
    /// The value that holds the indices.
    pub index: String,
    /// Whether it is proven; otherwise the kernel guards.
    pub proven: bool,
}

/// Every use of indices in a graph, in its order.
pub fn of(graph: &Graph) -> Vec<Index> {
    let mut found = vec![];
    for id in graph.order() {
        let Some(Op::CoreOp(op)) = graph.op(id) else { continue };
        for (operand, rows) in indexed(op, graph, id) {
            let Some(index) = graph.operands(id).get(operand).copied().filter(|v| graph.tensor_ty(*v).is_some()) else {
                continue;
            };
            found.push(Index {
                node: graph.node(id).names[0].to_string(),
                op: op.name().to_string(),
                index: graph.name(index).to_string(),
                proven: rows.is_some_and(|rows| is_within(graph, index, &rows)),
            });
        }
    }
    found
}

/// Operands that hold indices, each with the size that bounds it where there is one size.
fn indexed(op: &CoreOp, graph: &Graph, id: NodeId) -> Vec<(usize, Option<Dim>)> {
    let operands = graph.operands(id);
    let size = |operand: usize, axis: i64| {
        let dims = graph.tensor_ty(*operands.get(operand)?)?.dims()?;
        let at = if axis < 0 { axis + dims.len() as i64 } else { axis };
        dims.get(usize::try_from(at).ok()?).cloned()
    };
    match op {
        CoreOp::Gather(op) => vec![(1, size(0, op.axis))],
        CoreOp::GatherElements(op) => vec![(1, size(0, op.axis))],
        CoreOp::GatherNd(_) | CoreOp::ScatterElements(_) | CoreOp::ScatterNd(_) => vec![(1, None)],
        CoreOp::TensorScatter(_) => vec![(2, None)],
        CoreOp::Rope(_) => vec![(3, size(1, 0))],
        // Slots, and the rows behind lengths.
        CoreOp::KvWrite(_) => vec![(0, None), (1, None)],
        CoreOp::RopeKvWrite(_) => vec![(0, None), (1, None), (10, size(8, 0))],
        CoreOp::CachedAttention(_) => vec![(3, None), (4, None)],
        _ => vec![],
    }
}

/// Whether all elements are known to be within `0..rows`.
fn is_within(graph: &Graph, index: Value, rows: &Dim) -> bool {
    use fastinference::ir::Truth::Yes;
    let inside = |d: &Dim| d.at_least(0) == Yes && (&(rows - d) - &Dim::constant(1)).at_least(0) == Yes;
    if let Some(elements) = graph.fact(index).elements.as_deref() {
        return elements.iter().all(inside);
    }
    match graph.op(index.node) {
        Some(Op::CoreOp(CoreOp::Range(r))) if r.step.as_const() == Some(1) => {
            r.start.at_least(0) == Yes && (rows - &(&r.start + &r.length)).at_least(0) == Yes
        }
        Some(Op::CoreOp(CoreOp::Reshape(_) | CoreOp::Expand(_) | CoreOp::Cast(_))) => {
            is_within(graph, graph.operands(index.node)[0], rows)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_over_the_table_is_proven_and_data_is_guarded() {
        let text = "graph @g(%t: f32[N, 4], %i: i64[M]) { %r = range() {start = 0, step = 1, length = N} %a = gather(%t, %r) {axis = 0} %b = gather(%t, %i) {axis = 0} return %a, %b }";
        let found = of(&fastinference::ir::text::parse(text).unwrap());
        assert_eq!(found.iter().map(|i| i.proven).collect::<Vec<_>>(), [true, false]);
    }
}
