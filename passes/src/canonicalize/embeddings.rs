//! Lookups in packed tables: rows are looked up before they are unpacked, so that nobody unpacks the whole table.

use super::binary;
use crate::edit::Edit;
use crate::pass::{Miss, Rule};
use crate::pattern::Match;
use ir::graph::{Kind, Value};
use ir::ops::{Cast, CoreOp, DequantizeLinear, Gather, Op};
use ir::scalar::BinaryFn;

pub(super) const RULES: &[Rule] = &[
    Rule { name: "lookup-then-cast", pattern: "%c = cast(%w) %y = gather(%c, %i) {axis = 0}", rewrite: lookup_cast },
    Rule {
        name: "lookup-then-scale",
        pattern: "%c = cast(%w) %t = mul(%c, %s) %y = gather(%t, %i) {axis = 0}",
        rewrite: lookup_scale,
    },
    Rule {
        name: "lookup-then-dequantize",
        pattern: "%t = dequantize_linear(%w, %s, %z) %y = gather(%t, %i) {axis = 0}",
        rewrite: |e, m| lookup_dequantize(e, m, &["s", "z"]),
    },
    Rule {
        name: "lookup-then-dequantize",
        pattern: "%t = dequantize_linear(%w, %s) %y = gather(%t, %i) {axis = 0}",
        rewrite: |e, m| lookup_dequantize(e, m, &["s"]),
    },
];

/// A table in memory whose unpacked form is larger.
fn packed_table(edit: &Edit<'_>, m: &Match<'_>, unpacked: Value) -> Result<(), Miss> {
    let (from, to) = (edit.dtype(m["w"]), edit.dtype(unpacked));
    let grows = from.zip(to).is_some_and(|(from, to)| from.bits() < to.bits());
    let is_weight = matches!(edit.graph.node(m["w"].node).kind, Kind::Weight(_));
    if grows && is_weight { Ok(()) } else { Err(Miss::NoEffect) }
}

fn rows(edit: &mut Edit<'_>, table: Value, m: &Match<'_>) -> Result<Value, Miss> {
    edit.apply(Gather { axis: 0 }, &[table, m["i"]])
}

fn cast_rows(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    packed_table(edit, m, m["c"])?;
    let Some(Op::CoreOp(CoreOp::Cast(Cast { to, wrap }))) = edit.graph.op(m["c"].node).cloned() else {
        return Err(Miss::NoEffect);
    };
    let rows = rows(edit, m["w"], m)?;
    edit.apply(Cast { to, wrap }, &[rows])
}

fn lookup_cast(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    cast_rows(edit, m)
}

/// A scale for each row is looked up too; one for each column, or one number, stays.
fn lookup_scale(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let dims = |v: Value| edit.graph.tensor_ty(v).and_then(|t| t.shape.as_const());
    let (Some(table), Some(scale)) = (dims(m["w"]), dims(m["s"])) else { return Err(Miss::NoEffect) };
    let per_row = scale.len() == table.len() && scale[0] == table[0];
    if !per_row && scale.len() >= table.len() {
        return Err(Miss::Refused("the scale of the table is neither per row nor per column"));
    }
    let unpacked = cast_rows(edit, m)?;
    let scale = if per_row { rows(edit, m["s"], m)? } else { m["s"] };
    binary(edit, BinaryFn::Mul, unpacked, scale)
}

/// Only with one scale for the whole table.
fn lookup_dequantize(edit: &mut Edit<'_>, m: &Match<'_>, more: &[&str]) -> Result<Value, Miss> {
    packed_table(edit, m, m["t"])?;
    let Some(Op::CoreOp(CoreOp::DequantizeLinear(op))) = edit.graph.op(m["t"].node).cloned() else {
        return Err(Miss::NoEffect);
    };
    edit.require(edit.rank(m["s"]) == Some(0), "the table has more than one scale")?;
    let rows = rows(edit, m["w"], m)?;
    let operands: Vec<Value> = std::iter::once(rows).chain(more.iter().map(|n| m[n])).collect();
    edit.apply(DequantizeLinear { ..op }, &operands)
}

#[cfg(test)]
mod tests {
    use crate::canonicalize::PASS;
    use crate::testing::rewritten;

    fn check(stmts: &str, expected: &str) {
        let text = format!("graph @g(%i: i64[B, S]) {{ %w = weight : i8[100, 8] {stmts} return %y }}");
        assert_eq!(rewritten(&PASS, &text), format!("%w = weight; {expected}"), "{stmts}");
    }

    #[test]
    fn rows_are_looked_up_before_they_are_unpacked() {
        check(
            "%c = cast(%w) {to = f32} %y = gather(%c, %i) {axis = 0}",
            "%y.1 = gather(%w, %i) {axis = 0}; %y = cast(%y.1) {to = f32}",
        );
        check(
            "%c = cast(%w) {to = f32} %s = weight : f32[100, 1] %t = mul(%c, %s) %y = gather(%t, %i) {axis = 0}",
            "%s = weight; %y.1 = gather(%w, %i) {axis = 0}; %y.2 = cast(%y.1) {to = f32}; %y.3 = gather(%s, %i) {axis = 0}; %y = mul(%y.2, %y.3)",
        );
        check(
            "%s = const [0.5] : f32[] %t = dequantize_linear(%w, %s) {axis = 0, block = 0, to = f32} %y = gather(%t, %i) {axis = 0}",
            "%s = const [0.5]; %y.1 = gather(%w, %i) {axis = 0}; %y = dequantize_linear(%y.1, %s) {axis = 0, block = 0, to = f32}",
        );
    }

    #[test]
    fn keeps_columns() {
        check(
            "%c = cast(%w) {to = f32} %y = gather(%c, %i) {axis = 1}",
            "%c = cast(%w) {to = f32}; %y = gather(%c, %i) {axis = 1}",
        );
    }
}
