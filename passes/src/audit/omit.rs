//! A graph in which 0 times anything is 0: what remains of it when operators leave out what has no weight.
//!
//! Products with a constant are left as they are: weights of a model hide nothing.

use ir::graph::{Graph, NodeId, Origin, Value};
use ir::ops::{Binary, Cast, Compare, CoreOp, Op, Reduce, ReduceFn, Reshape, Select};
use ir::scalar::{BinaryFn, CompareFn};
use ir::{DType, Dim, Tensor};
use std::collections::HashSet;

/// Which products leave out what is multiplied by 0.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Which {
    /// All of two computed values.
    All,
    /// Those with probabilities: of what a softmax gave, before another product of matrices. Scores, `q k^T`, are not among them.
    Weighted,
}

/// The graph with products of elements and of matrices taken apart; `None` where one does not type that way.
pub(super) fn products_of_zero(graph: &Graph, which: Which) -> Option<Graph> {
    let mut made = graph.clone();
    for id in graph.order() {
        let operands = graph.operands(id);
        if operands.len() != 2 || operands.iter().any(|v| graph.constant_of(*v).is_some()) {
            continue;
        }
        if which == Which::Weighted && !operands.iter().any(|v| are_probabilities(graph, *v)) {
            continue;
        }
        match graph.op(id) {
            Some(Op::CoreOp(CoreOp::Binary(op))) if op.f == BinaryFn::Mul => {
                let dtype = graph.tensor_ty(id.into())?.dtype;
                if dtype.is_float() {
                    let y = product(&mut made, operands[0], operands[1], dtype)?;
                    take_place(&mut made, id, y);
                }
            }
            Some(Op::CoreOp(CoreOp::MatMul(_))) => {
                if let Some(y) = matrices(&mut made, operands[0], operands[1]) {
                    take_place(&mut made, id, y);
                }
            }
            _ => {}
        }
    }
    made.remove_dead();
    Some(made)
}

/// Whether a value comes from a softmax without a product of matrices on the way.
fn are_probabilities(graph: &Graph, v: Value) -> bool {
    let (mut todo, mut seen) = (vec![v.node], HashSet::new());
    while let Some(id) = todo.pop() {
        match graph.op(id) {
            _ if !seen.insert(id) => {}
            Some(Op::CoreOp(CoreOp::Softmax(_))) => return true,
            None | Some(Op::CoreOp(CoreOp::MatMul(_) | CoreOp::Linear(_))) => {}
            Some(_) => todo.extend(graph.operands(id).iter().map(|o| o.node)),
        }
    }
    false
}

fn add(graph: &mut Graph, op: impl Into<Op>, operands: &[Value]) -> Option<Value> {
    graph.apply(op, operands, "omitted", &Origin::new()).ok()
}

fn take_place(graph: &mut Graph, old: NodeId, new: Value) {
    graph.take_name(old.into(), new);
    graph.replace(old.into(), new);
}

/// `a * b`, 0 where one of them is.
fn product(graph: &mut Graph, a: Value, b: Value, dtype: DType) -> Option<Value> {
    let zero = graph.constant("zero", Tensor::from_f64(dtype, &[], &[0.0]).ok()?);
    let equal = Compare { f: CompareFn::Eq };
    let a_is = add(graph, equal.clone(), &[a, zero])?;
    let b_is = add(graph, equal, &[b, zero])?;
    let none = add(graph, Binary { f: BinaryFn::Or }, &[a_is, b_is])?;
    let y = add(graph, Binary { f: BinaryFn::Mul }, &[a, b])?;
    add(graph, Select {}, &[none, zero, y])
}

/// `a[.., m, k] b[.., k, n]` as a sum over products of elements.
fn matrices(graph: &mut Graph, a: Value, b: Value) -> Option<Value> {
    let (from, to) = (graph.tensor_ty(a)?.clone(), graph.tensor_ty(b)?.clone());
    let dtype = from.dtype;
    let one = Dim::constant(1);
    let (mut rows, mut columns) = (from.dims()?.to_vec(), to.dims()?.to_vec());
    if !dtype.is_float() || rows.len() < 2 || columns.len() < 2 {
        return None;
    }
    rows.push(one.clone());
    columns.insert(columns.len() - 2, one);
    // Sums are rounded once, as in a product of matrices.
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let mut side = |v: Value, shape: Vec<Dim>| {
        let v = add(graph, Cast { to: wide, wrap: false }, &[v])?;
        add(graph, Reshape { shape }, &[v])
    };
    let (a, b) = (side(a, rows)?, side(b, columns)?);
    let products = product(graph, a, b, wide)?;
    let sum = add(graph, Reduce { f: ReduceFn::Sum, axes: vec![-2], keep: false }, &[products])?;
    add(graph, Cast { to: dtype, wrap: false }, &[sum])
}
