//! Logits of the last new row of each sequence: everything from there on is computed for one row.

use super::inputs::Inputs;
use ir::Tensor;
use ir::dim::Dim;
use ir::graph::{Graph, Kind, Origin, Value};
use ir::ops::{Binary, CoreOp, GatherNd, Op, Reshape};
use ir::scalar::BinaryFn;

/// The output of logits: called so, or the only float `[B, S, V]`.
pub(super) fn find(graph: &Graph, inputs: &Inputs) -> Option<Value> {
    let fits = |v: Value| {
        let dims = graph.tensor_ty(v).filter(|t| t.dtype.is_float()).and_then(|t| t.dims());
        dims.is_some_and(|d| d.len() == 3 && d[0] == inputs.batch && d[1] == inputs.steps && d[2].as_const().is_some())
    };
    let named = graph.outputs.iter().find(|o| &*o.name == "logits").map(|o| o.value);
    named.or_else(|| graph.outputs.iter().map(|o| o.value).find(|v| fits(*v))).filter(|v| fits(*v))
}

/// `logits[B, V]` of the rows at `counts - 1`.
pub(super) fn of_last_rows(graph: &mut Graph, inputs: &Inputs, logits: Value, counts: Value) -> Value {
    let origin = Origin::new();
    let add = |graph: &mut Graph, op: Op, operands: &[Value], name: &str| {
        graph.apply(op, operands, name, &origin).expect("sizes are the entry's own")
    };
    let one = graph.constant("one.row", Tensor::scalar(1i32));
    let last = add(graph, Binary { f: BinaryFn::Sub }.into(), &[counts, one], "last.row");
    let shape = vec![inputs.batch.clone(), Dim::constant(1)];
    let index = add(graph, Reshape { shape }.into(), &[last], "last.row");
    one_row(graph, logits, index)
}

/// The value `v[B, S, ..]` for the rows of `index` only, computed from as few elements as possible.
fn one_row(graph: &mut Graph, v: Value, index: Value) -> Value {
    let node = graph.node(v.node);
    let (origin, name) = (node.origin.clone(), graph.name(v).to_string());
    let carried = match &node.kind {
        Kind::Op(op @ Op::CoreOp(core)) if graph.use_count(v) <= 1 => {
            carried(graph, core, v).map(|at| (op.clone(), at))
        }
        _ => None,
    };
    if let Some((op, at)) = carried {
        let mut operands = graph.operands(v.node);
        operands[at] = one_row(graph, operands[at], index);
        if let Ok(made) = graph.apply(op, &operands, &name, &origin) {
            graph.take_name(v, made);
            return made;
        }
    }
    let row = format!("{name}.last");
    graph.apply(GatherNd { batch_dims: 1 }, &[v, index], &row, &origin).expect("the index is [B, 1]")
}

/// The operand that carries the rows, where every row of the result depends on that row only.
fn carried(graph: &Graph, op: &CoreOp, v: Value) -> Option<usize> {
    let operands = graph.operands(v.node);
    let rank = |v: &Value| graph.tensor_ty(*v).and_then(|t| t.dims()).map(<[Dim]>::len);
    let small = |v: &Value| rank(v).is_none_or(|r| r <= 1);
    let rows = |i: usize| (rank(&operands[i]) == Some(3)).then_some(i);
    match op {
        CoreOp::Linear(_) | CoreOp::MatMulNBits(_) => rows(0),
        CoreOp::MatMul(_) if rank(&operands[1]) == Some(2) => rows(0),
        CoreOp::RmsNorm(op) if matches!(op.axis, -1 | 2) => rows(0),
        CoreOp::Cast(_) | CoreOp::Unary(_) => rows(0),
        CoreOp::Binary(_) | CoreOp::Map(_) => {
            let large: Vec<usize> = (0..operands.len()).filter(|i| !small(&operands[*i])).collect();
            if let [one] = large[..] { rows(one) } else { None }
        }
        _ => None,
    }
}
