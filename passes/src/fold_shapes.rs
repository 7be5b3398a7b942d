//! Replaces computed shapes by what they are: constants, expressions over the symbols, or attributes of the reader.
//!
//! Models compute shapes at run time with tiny integer tensors. Typing already follows their elements; this pass walks the
//! graph once, operands first, types every node anew from what is now known, turns nodes whose elements are known into
//! constants or `dims`, and host operators that took a shape as an operand into the core operator that has it as an
//! attribute (`reshape_to` -> `reshape`). An unknown size (`?0`) that turns out to be an expression is replaced everywhere.
//!
//! ```ir before
//! graph @heads(%x: f32[B, S, 64]) {
//!   %dims = shape_of(%x) : i64[3]
//!   %i = const [1] : i64[]
//!   %rows = gather(%dims, %i) {axis = 0} : i64[]
//!   %one = const [1] : i64[1]
//!   %rows1 = reshape(%rows) {shape = [1]} : i64[1]
//!   %last = const [2, 32] : i64[2]
//!   %open = const [-1] : i64[1]
//!   %shape = concat(%open, %rows1, %last) {axis = 0} : i64[4]
//!   %y = reshape_to(%x, %shape) : f32[B, S, 2, 32]
//!   %n = mul(%rows1, %one) : i64[1]
//!   return %y, %n
//! }
//! ```
//! ```ir after
//! graph @heads(%x: f32[B, S, 64]) {
//!   %y = reshape(%x) {shape = [B, S, 2, 32]} : f32[B, S, 2, 32]
//!   %n = dims() {elements = [S]} : i64[1]
//!   return %y, %n
//! }
//! ```

use crate::edit::Edit;
use crate::pass::{Body, Context, Miss, Pass};
use ir::dim::Dim;
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{CoreOp, Dims, Fact, Op, Operands};
use ir::{DType, Tensor};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// See the module.
pub const PASS: Pass = Pass { name: "fold-shapes", body: Body::Whole(fold) };

/// Late symbols that turned out to be expressions.
type Found = HashMap<Arc<str>, Dim>;

fn fold(graph: &mut Graph, cx: &mut Context) {
    let mut found = Found::new();
    for id in graph.order() {
        if graph.op(id).is_none() {
            continue;
        }
        if !found.is_empty() {
            graph.map_node_dims(id, &mut |d| replaced(d, &found));
        }
        // A node that no longer types is reported by the verifier.
        for (symbol, d) in graph.retype(id).unwrap_or_default() {
            cx.note("late-size", graph, id.into(), Ok(()));
            let d = replaced(&d, &found);
            found.insert(symbol, d);
        }
        if !found.is_empty() {
            graph.map_node_dims(id, &mut |d| replaced(d, &found));
        }
        for (rule, rewrite) in REWRITES {
            let mut edit = Edit::new(graph, id.into(), [id]);
            match rewrite(&mut edit, id).and_then(|new| edit.settle(new)) {
                Ok(new) => {
                    cx.note(rule, graph, new, Ok(()));
                    break;
                }
                Err(miss) => {
                    edit.abandon();
                    if let Miss::Refused(_) = miss {
                        cx.note(rule, graph, id.into(), Err(miss));
                    }
                }
            }
        }
    }
    if !found.is_empty() {
        graph.map_dims(&mut |d| replaced(d, &found));
    }
}

fn replaced(d: &Dim, found: &Found) -> Dim {
    if d.is_late() { d.substitute(&|s| found.get(s).cloned()) } else { d.clone() }
}

type Rewrite = fn(&mut Edit<'_>, NodeId) -> Result<Value, Miss>;

const REWRITES: [(&str, Rewrite); 3] =
    [("known-numbers", to_constant), ("known-expressions", to_dims), ("known-operands", to_core)];

/// A node whose elements are all numbers.
fn to_constant(edit: &mut Edit<'_>, id: NodeId) -> Result<Value, Miss> {
    let fact = edit.graph.fact(id.into());
    let (Some(elements), Some(ty)) = (&fact.elements, fact.ty.as_tensor()) else { return Err(Miss::NoEffect) };
    let numbers: Option<Vec<i128>> = elements.iter().map(|d| d.as_const().map(i128::from)).collect();
    let (Some(numbers), Some(dims)) = (numbers, ty.shape.as_const()) else { return Err(Miss::NoEffect) };
    let tensor = Tensor::from_ints(ty.dtype, &dims, &numbers).map_err(|_| Miss::NoEffect)?;
    Ok(edit.constant(tensor))
}

/// A node whose elements are expressions over the symbols of the inputs.
fn to_dims(edit: &mut Edit<'_>, id: NodeId) -> Result<Value, Miss> {
    let fact = edit.graph.fact(id.into());
    let (Some(elements), Some(ty)) = (&fact.elements, fact.ty.as_tensor()) else { return Err(Miss::NoEffect) };
    let is_dims = matches!(edit.graph.op(id), Some(Op::CoreOp(CoreOp::Dims(_))));
    let rank = ty.dims().map(<[Dim]>::len);
    // `dims` reads nothing, so that nothing would make it wait for the value that binds a late symbol.
    if is_dims || ty.dtype != DType::I64 || rank.is_none_or(|r| r > 1) || elements.iter().any(Dim::is_late) {
        return Err(Miss::NoEffect);
    }
    let op = Dims { elements: elements.to_vec(), scalar: rank == Some(0) };
    edit.apply(op, &[])
}

/// A host operator whose shape operand is known.
fn to_core(edit: &mut Edit<'_>, id: NodeId) -> Result<Value, Miss> {
    let op = edit.graph.op(id).ok_or(Miss::NoEffect)?;
    let values = edit.graph.operands(id);
    let facts: Vec<&Fact> = values.iter().map(|v| edit.graph.fact(*v)).collect();
    let next_late = Cell::new(u32::MAX / 2);
    let folded = op.fold_shape(&Operands::new(&facts, &next_late));
    let (op, kept) = folded.ok_or(Miss::NoEffect)?;
    let kept: Vec<Value> = kept.iter().map(|i| values[*i]).collect();
    let bound: BTreeSet<Arc<str>> = kept.iter().flat_map(|v| late_symbols_of(edit.graph, *v)).collect();
    if late_symbols(&op).iter().any(|s| !bound.contains(s)) {
        return Err(Miss::Refused("its shape depends on a size that its other operands do not have"));
    }
    edit.apply(op, &kept)
}

fn late_symbols(op: &Op) -> BTreeSet<Arc<str>> {
    let mut symbols = BTreeSet::new();
    op.clone().map_dims(&mut |d| {
        symbols.extend(d.symbols());
        d.clone()
    });
    symbols.retain(|s| s.starts_with('?'));
    symbols
}

fn late_symbols_of(graph: &Graph, v: Value) -> BTreeSet<Arc<str>> {
    let dims = graph.tensor_ty(v).and_then(|t| t.dims()).unwrap_or_default();
    dims.iter().flat_map(Dim::symbols).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_refused, check_rewrite, check_unchanged};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("fold_shapes.rs"));
    }

    #[test]
    fn an_unknown_size_that_becomes_known_is_replaced_everywhere() {
        check_rewrite(
            &PASS,
            "
graph @g(%x: f32[B, 6]) {
  %n = shape_of(%x) : i64[2]
  %y = reshape_to(%x, %n) : f32[?0, ?1]
  %z = exp(%y) : f32[?0, ?1]
  return %z
}",
            "
graph @g(%x: f32[B, 6]) {
  %y = reshape(%x) {shape = [B, 6]} : f32[B, 6]
  %z = exp(%y) : f32[B, 6]
  return %z
}",
        );
    }

    #[test]
    fn comparisons_of_sizes_become_constants() {
        check_rewrite(
            &PASS,
            "
graph @g(%x: f32[B, 6]) {
  %n = shape_of(%x) : i64[2]
  %i = const [1] : i64[]
  %columns = gather(%n, %i) {axis = 0} : i64[]
  %six = const [6] : i64[]
  %y = eq(%columns, %six) : bool[]
  return %y
}",
            "
graph @g(%x: f32[B, 6]) {
  %y = const [1] : bool[]
  return %y
}",
        );
    }

    #[test]
    fn keeps_a_shape_that_is_data() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: f32[B, 6], %n: i64[2]) {
  %y = reshape_to(%x, %n) : f32[?0, ?1]
  return %y
}",
        );
    }

    #[test]
    fn keeps_expressions_that_wait_for_data() {
        let why = "its shape depends on a size that its other operands do not have";
        check_refused(
            &PASS,
            "
graph @g(%x: f32[6], %a: f32[6], %n: i64[2]) {
  %y = reshape_to(%x, %n) : f32[?0, ?1]
  %shape = shape_of(%y) : i64[2]
  %z = reshape_to(%a, %shape) : f32[?0, ?1]
  return %z
}",
            why,
        );
    }
}
