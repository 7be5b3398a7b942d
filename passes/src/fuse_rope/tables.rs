//! Tables of cosines and sines: whether both halves are the same, and one of them.

use crate::edit::Edit;
use crate::pass::Miss;
use ir::dim::Dim;
use ir::graph::{Graph, Kind, Value};
use ir::ops::{Binary, Cast, Concat, CoreOp, Expand, Op, Reshape, Slice, Unary};
use ir::scalar::BinaryFn;
use std::collections::HashMap;

/// What was found out about tables; all layers share them.
#[derive(Default)]
pub(super) struct Tables {
    /// Constants, which no pass removes while it runs.
    constants: HashMap<Value, bool>,
}

/// How a value is computed from tables of the same width.
enum Made {
    /// Both halves are this value.
    Twice(Value),
    /// By the same function for each element, from a table and what is the same along the last dimension.
    Elementwise(Value),
    /// By taking whole rows of a table.
    Rows(Value),
    Constant,
    Other,
}

fn made(graph: &Graph, v: Value, width: i64) -> Made {
    let operands = graph.operands(v.node);
    let dims = |v: Value| graph.tensor_ty(v).and_then(|t| t.dims());
    let last = |v: Value| dims(v).and_then(|d| d.last()?.as_const());
    let op = match &graph.node(v.node).kind {
        Kind::Weight(Some(_)) => return Made::Constant,
        Kind::Op(Op::CoreOp(op)) if last(v) == Some(width) => op,
        _ => return Made::Other,
    };
    match op {
        CoreOp::Concat(Concat { axis }) if operands.len() == 2 && operands[0] == operands[1] => {
            let rank = dims(v).map_or(0, |d| d.len() as i64);
            if *axis == -1 || *axis == rank - 1 { Made::Twice(operands[0]) } else { Made::Other }
        }
        CoreOp::Unary(_) | CoreOp::Cast(_) => Made::Elementwise(operands[0]),
        CoreOp::Reshape(_) if last(operands[0]) == Some(width) => Made::Elementwise(operands[0]),
        CoreOp::Binary(Binary { f: BinaryFn::Mul }) => match [operands[0], operands[1]].map(last) {
            [Some(w), other] if w == width && other.is_none_or(|o| o == 1) && is_flat(graph, operands[1]) => {
                Made::Elementwise(operands[0])
            }
            [other, Some(w)] if w == width && other.is_none_or(|o| o == 1) && is_flat(graph, operands[0]) => {
                Made::Elementwise(operands[1])
            }
            _ => Made::Other,
        },
        CoreOp::Gather(op) if op.axis == 0 && dims(operands[0]).is_some_and(|d| d.len() > 1) => Made::Rows(operands[0]),
        CoreOp::Expand(_) | CoreOp::Slice(_) if last(operands[0]) == Some(width) => Made::Rows(operands[0]),
        _ => Made::Other,
    }
}

/// The same along the last dimension.
fn is_flat(graph: &Graph, v: Value) -> bool {
    graph.tensor_ty(v).and_then(|t| t.dims()).is_some_and(|d| d.last().is_none_or(|d| d.as_const() == Some(1)))
}

impl Tables {
    /// Whether the two halves of the last dimension, of `width` elements, are the same for sure.
    pub(super) fn repeats(&mut self, graph: &Graph, v: Value, width: i64) -> bool {
        match made(graph, v, width) {
            Made::Twice(_) => true,
            Made::Elementwise(x) | Made::Rows(x) => self.repeats(graph, x, width),
            Made::Constant => *self.constants.entry(v).or_insert_with(|| constant_repeats(graph, v, width)),
            Made::Other => false,
        }
    }

    /// The first half of a table whose halves are the same.
    pub(super) fn half(&mut self, edit: &mut Edit<'_>, v: Value, width: i64) -> Result<Value, Miss> {
        let x = match made(edit.graph, v, width) {
            Made::Twice(x) => return Ok(x),
            Made::Elementwise(x) => self.half(edit, x, width)?,
            Made::Rows(_) | Made::Constant | Made::Other => {
                let op =
                    Slice { axes: vec![-1], starts: vec![0.into()], ends: vec![(width / 2).into()], steps: vec![1] };
                return edit.reuse(op, &[v]);
            }
        };
        let operands = edit.graph.operands(v.node);
        match edit.graph.op(v.node).cloned() {
            Some(Op::CoreOp(CoreOp::Unary(Unary { f }))) => edit.reuse(Unary { f }, &[x]),
            Some(Op::CoreOp(CoreOp::Cast(Cast { to, wrap }))) => edit.reuse(Cast { to, wrap }, &[x]),
            Some(Op::CoreOp(CoreOp::Reshape(mut op))) => {
                let Some(last) = op.shape.last_mut() else { return Err(Miss::NoEffect) };
                *last = Dim::constant(width / 2);
                edit.reuse(op, &[x])
            }
            Some(Op::CoreOp(CoreOp::Binary(op))) => {
                let factor = if is_flat(edit.graph, operands[0]) { operands[0] } else { operands[1] };
                edit.reuse(op, &[x, factor])
            }
            _ => Err(Miss::NoEffect),
        }
    }
}

fn constant_repeats(graph: &Graph, v: Value, width: i64) -> bool {
    let Some(t) = graph.constant_of(v) else { return false };
    let (width, bytes) = (width as usize, t.bytes());
    let row = t.dtype().bytes(width);
    t.dims().last() == Some(&width) && row.is_multiple_of(2) && bytes.chunks(row).all(|r| r[..row / 2] == r[row / 2..])
}

/// The table as `[B, S, width / 2]`; it broadcasts over heads, whose dimension is 1 in it, and perhaps over more.
pub(super) fn rows(edit: &mut Edit<'_>, table: Value, [batch, steps]: [&Dim; 2]) -> Result<Value, Miss> {
    let dims = edit.graph.tensor_ty(table).and_then(|t| t.dims()).ok_or(Miss::NoEffect)?.to_vec();
    let one = Dim::constant(1);
    let Some((half, lead)) = dims.split_last() else { return Err(Miss::NoEffect) };
    // Of [batch, heads, steps] in either order, heads are 1.
    let (b, s) = match lead {
        [] => (&one, &one),
        [s] => (&one, s),
        [s, h] if *h == one && *s != one => (&one, s),
        [_, s] => (&one, s),
        [b, h, s] if *h == one => (b, s),
        [b, s, _] => (b, s),
        _ => return Err(Miss::NoEffect),
    };
    let (small, whole) = ([b, s, half].map(Dim::clone), [batch, steps, half].map(Dim::clone));
    let mut table = table;
    while let Some(Op::CoreOp(CoreOp::Reshape(_))) = edit.graph.op(table.node) {
        table = edit.graph.operands(table.node)[0];
    }
    if edit.graph.tensor_ty(table).and_then(|t| t.dims()) != Some(&small[..]) {
        table = edit.reuse(Reshape { shape: small.to_vec() }, &[table])?;
    }
    if small != whole && (*b == one || *s == one) {
        table = edit.reuse(Expand { shape: whole.to_vec() }, &[table])?;
    }
    Ok(table)
}
