//! Operators that only move or rename elements.

use crate::edit::Edit;
use crate::pass::{Miss, Rule};
use crate::pattern::Match;
use ir::Truth;
use ir::graph::{Graph, Value};
use ir::ops::{CoreOp, Op, Reshape, Slice, Transpose};

pub(super) const RULES: &[Rule] = &[
    Rule { name: "reshape-to-itself", pattern: "%y = reshape(%x)", rewrite: same_shape },
    Rule { name: "expand-to-itself", pattern: "%y = expand(%x)", rewrite: same_shape },
    Rule { name: "slice-of-all", pattern: "%y = slice(%x)", rewrite: slice_of_all },
    Rule { name: "reshape-reshape", pattern: "%m = reshape(%x) %y = reshape(%m)", rewrite: reshape_reshape },
    Rule { name: "transpose-nothing", pattern: "%y = transpose(%x)", rewrite: transpose_nothing },
    Rule { name: "transpose-as-reshape", pattern: "%y = transpose(%x)", rewrite: transpose_as_reshape },
    Rule {
        name: "transpose-transpose",
        pattern: "%m = transpose(%x) %y = transpose(%m)",
        rewrite: transpose_transpose,
    },
    Rule { name: "concat-of-one", pattern: "%y = concat(%x)", rewrite: |_, m| Ok(m["x"]) },
];

fn same_shape(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let (x, y) = (edit.graph.tensor_ty(m["x"]), edit.graph.tensor_ty(m["y"]));
    let (Some(x), Some(y)) = (x, y) else { return Err(Miss::NoEffect) };
    if x.shape.same(&y.shape) == Truth::Yes { Ok(m["x"]) } else { Err(Miss::NoEffect) }
}

/// Equal lengths alone do not do: a reversed slice has them too.
fn slice_of_all(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let Some(Op::CoreOp(CoreOp::Slice(Slice { steps, .. }))) = edit.graph.op(m["y"].node) else {
        return Err(Miss::NoEffect);
    };
    if steps.iter().any(|s| *s != 1) {
        return Err(Miss::NoEffect);
    }
    same_shape(edit, m)
}

fn reshape_reshape(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let Some(Op::CoreOp(CoreOp::Reshape(op))) = edit.graph.op(m["y"].node).cloned() else { return Err(Miss::NoEffect) };
    edit.apply(Reshape { shape: op.shape }, &[m["x"]])
}

fn perm(graph: &Graph, v: Value) -> Result<Vec<i64>, Miss> {
    match graph.op(v.node) {
        Some(Op::CoreOp(CoreOp::Transpose(op))) => Ok(op.perm.clone()),
        _ => Err(Miss::NoEffect),
    }
}

pub(crate) fn transpose_nothing(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let perm = perm(edit.graph, m["y"])?;
    if perm.iter().enumerate().all(|(i, p)| *p == i as i64) { Ok(m["x"]) } else { Err(Miss::NoEffect) }
}

/// A transpose that moves only dimensions of 1 leaves the elements where they are.
fn transpose_as_reshape(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let perm = perm(edit.graph, m["y"])?;
    let dims = edit.graph.tensor_ty(m["x"]).and_then(|t| t.dims()).ok_or(Miss::NoEffect)?;
    let moved: Vec<i64> = perm.into_iter().filter(|p| dims[*p as usize].as_const() != Some(1)).collect();
    if !moved.is_sorted() {
        return Err(Miss::NoEffect);
    }
    let shape = edit.graph.tensor_ty(m["y"]).and_then(|t| t.dims()).ok_or(Miss::NoEffect)?.to_vec();
    edit.apply(Reshape { shape }, &[m["x"]])
}

pub(crate) fn transpose_transpose(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let (inner, outer) = (perm(edit.graph, m["m"])?, perm(edit.graph, m["y"])?);
    let perm = outer.iter().map(|p| inner[*p as usize]).collect();
    edit.apply(Transpose { perm }, &[m["x"]])
}

#[cfg(test)]
mod tests {
    use crate::canonicalize::PASS;
    use crate::testing::rewritten;

    fn check(stmts: &str, expected: &str) {
        let text = format!("graph @g(%x: f32[N, 4, 6]) {{ {stmts} return %y }}");
        assert_eq!(rewritten(&PASS, &text), expected, "{stmts}");
    }

    #[test]
    fn views_of_views_are_one_view() {
        check(
            "%a = reshape(%x) {shape = [N, 24]} %y = reshape(%a) {shape = [N, 8, 3]}",
            "%y = reshape(%x) {shape = [N, 8, 3]}",
        );
        check(
            "%a = transpose(%x) {perm = [1, 2, 0]} %y = transpose(%a) {perm = [0, 2, 1]}",
            "%y = transpose(%x) {perm = [1, 0, 2]}",
        );
    }

    #[test]
    fn views_that_change_nothing_go() {
        check("%a = reshape(%x) {shape = [N, 24]} %b = reshape(%a) {shape = [N, 4, 6]} %y = exp(%b)", "%y = exp(%x)");
        check(
            "%a = transpose(%x) {perm = [2, 0, 1]} %b = transpose(%a) {perm = [1, 2, 0]} %y = exp(%b)",
            "%y = exp(%x)",
        );
        check(
            "%a = slice(%x) {axes = [1], starts = [0], ends = [9223372036854775807], steps = [1]} %y = exp(%a)",
            "%y = exp(%x)",
        );
        check("%a = expand(%x) {shape = [1, 4, 6]} %b = concat(%a) {axis = 0} %y = exp(%b)", "%y = exp(%x)");
    }

    #[test]
    fn moving_a_dimension_of_one_is_a_reshape() {
        let text = "graph @g(%x: f32[N, 1, 6]) { %y = transpose(%x) {perm = [1, 0, 2]} return %y }";
        assert_eq!(rewritten(&PASS, text), "%y = reshape(%x) {shape = [1, N, 6]}");
    }

    #[test]
    fn keeps_a_reversed_slice() {
        let slice = "%y = slice(%x) {axes = [1], ends = [-9223372036854775807], starts = [-1], steps = [-1]}";
        check(slice, slice);
    }
}
