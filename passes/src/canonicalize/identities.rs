//! Arithmetic that changes nothing, or that has a simpler form.

use super::{binary, is_float, unary};
use crate::edit::Edit;
use crate::pass::{Miss, Rule};
use crate::pattern::Match;
use ir::dtype::Class;
use ir::graph::Value;
use ir::ops::{Cast, CoreOp, Op, Select};
use ir::scalar::{BinaryFn, UnaryFn};
use ir::{DType, Tensor};

pub(super) const RULES: &[Rule] = &[
    Rule { name: "add-zero", pattern: "%c = const [0] %y = add(%x, %c)", rewrite: keep_x },
    Rule { name: "sub-zero", pattern: "%c = const [0] %y = sub(%x, %c)", rewrite: keep_x },
    Rule { name: "mul-one", pattern: "%c = const [1] %y = mul(%x, %c)", rewrite: keep_x },
    Rule { name: "div-one", pattern: "%c = const [1] %y = div(%x, %c)", rewrite: keep_x },
    Rule { name: "pow-one", pattern: "%c = const [1] %y = pow(%x, %c)", rewrite: keep_x },
    Rule { name: "double-not", pattern: "%n = not(%x) %y = not(%n)", rewrite: keep_x },
    Rule { name: "double-neg", pattern: "%n = neg(%x) %y = neg(%n)", rewrite: keep_x },
    Rule { name: "relu-relu", pattern: "%n = relu(%x) %y = relu(%n)", rewrite: |_, m| Ok(m["n"]) },
    Rule {
        name: "mul-minus-one",
        pattern: "%c = const [-1] %y = mul(%x, %c)",
        rewrite: |e, m| unary(e, UnaryFn::Neg, m["x"]),
    },
    Rule {
        name: "zero-minus",
        pattern: "%c = const [0] %y = sub(%c, %x)",
        rewrite: |e, m| unary(e, UnaryFn::Neg, m["x"]),
    },
    Rule {
        name: "add-neg",
        pattern: "%n = neg(%b) %y = add(%a, %n)",
        rewrite: |e, m| binary(e, BinaryFn::Sub, m["a"], m["b"]),
    },
    Rule {
        name: "sub-neg",
        pattern: "%n = neg(%b) %y = sub(%a, %n)",
        rewrite: |e, m| binary(e, BinaryFn::Add, m["a"], m["b"]),
    },
    Rule {
        name: "square",
        pattern: "%c = const [2] %y = pow(%x, %c)",
        rewrite: |e, m| binary(e, BinaryFn::Mul, m["x"], m["x"]),
    },
    Rule {
        name: "pow-minus-one",
        pattern: "%c = const [-1] %y = pow(%x, %c)",
        rewrite: |e, m| float_unary(e, UnaryFn::Reciprocal, m),
    },
    Rule {
        name: "one-over",
        pattern: "%c = const [1] %y = div(%c, %x)",
        rewrite: |e, m| float_unary(e, UnaryFn::Reciprocal, m),
    },
    Rule {
        name: "rsqrt",
        pattern: "%s = sqrt(%x) %y = reciprocal(%s)",
        rewrite: |e, m| float_unary(e, UnaryFn::Rsqrt, m),
    },
    Rule { name: "div-by-power-of-two", pattern: "%y = div(%x, %c)", rewrite: div_by_power_of_two },
    Rule { name: "cast-to-itself", pattern: "%y = cast(%x)", rewrite: cast_to_itself },
    Rule { name: "cast-chain", pattern: "%m = cast(%x) %y = cast(%m)", rewrite: cast_chain },
    Rule { name: "select-known", pattern: "%y = select(%c, %a, %b)", rewrite: select_known },
    Rule {
        name: "select-not",
        pattern: "%n = not(%c) %y = select(%n, %a, %b)",
        rewrite: |e, m| e.apply(Select {}, &[m["c"], m["b"], m["a"]]),
    },
    Rule { name: "select-same", pattern: "%y = select(%c, %a, %a)", rewrite: |_, m| Ok(m["a"]) },
    Rule { name: "relu", pattern: "%c = const [0] %y = max(%x, %c)", rewrite: |e, m| unary(e, UnaryFn::Relu, m["x"]) },
];

fn keep_x(_: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    Ok(m["x"])
}

fn float_unary(edit: &mut Edit<'_>, f: UnaryFn, m: &Match<'_>) -> Result<Value, Miss> {
    is_float(edit, m["x"])?;
    unary(edit, f, m["x"])
}

/// The reciprocal of a power of two is exact, so the product rounds like the quotient.
fn div_by_power_of_two(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let divisor =
        edit.graph.constant_of(m["c"]).filter(|t| t.len() == 1 && t.dtype().is_float()).ok_or(Miss::NoEffect)?;
    let value = divisor.to_f64().map_err(|_| Miss::NoEffect)?[0];
    // Exponents of all ordinary f16 numbers and their reciprocals.
    if !(2f64.powi(-14)..=2f64.powi(14)).contains(&value.abs()) || value.abs().log2().fract() != 0.0 {
        return Err(Miss::NoEffect);
    }
    let factor = Tensor::from_f64(divisor.dtype(), divisor.dims(), &[1.0 / value]).map_err(|_| Miss::NoEffect)?;
    let factor = edit.constant(factor);
    binary(edit, BinaryFn::Mul, m["x"], factor)
}

fn cast_to_itself(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    if edit.dtype(m["x"]) == edit.dtype(m["y"]) { Ok(m["x"]) } else { Err(Miss::NoEffect) }
}

/// A first conversion that loses nothing can be left out.
fn cast_chain(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let (from, middle, to) = (edit.dtype(m["x"]), edit.dtype(m["m"]), edit.dtype(m["y"]));
    let (Some(from), Some(middle), Some(to)) = (from, middle, to) else { return Err(Miss::NoEffect) };
    let wraps = matches!(edit.graph.op(m["y"].node), Some(Op::CoreOp(CoreOp::Cast(Cast { wrap: true, .. }))));
    if wraps || !holds_all(middle, from) {
        return Err(Miss::NoEffect);
    }
    if from == to {
        return Ok(m["x"]);
    }
    edit.apply(Cast { to, wrap: false }, &[m["x"]])
}

/// Whether every value of `narrow` is one of `wide`.
fn holds_all(wide: DType, narrow: DType) -> bool {
    use DType::*;
    match (wide, narrow) {
        (a, b) if a == b => true,
        (F64, F32 | F16 | BF16) | (F32, F16 | BF16) => true,
        (F64, I32 | I16 | I8 | U32 | U16 | U8 | Bool) | (F32, I16 | I8 | U16 | U8 | Bool) => true,
        (a, Bool) => a.is_int() && !a.is_storage_only(),
        (a, b) if a.is_int() && b.is_int() => match (a.class(), b.class()) {
            (Class::Signed, Class::Unsigned) => a.bits() > b.bits(),
            (Class::Unsigned, Class::Signed) => false,
            _ => a.bits() >= b.bits(),
        },
        _ => false,
    }
}

fn select_known(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let condition = edit.graph.constant_of(m["c"]).and_then(|t| t.to_bools().ok()).ok_or(Miss::NoEffect)?;
    match (condition.iter().all(|c| *c), condition.iter().any(|c| *c)) {
        _ if condition.is_empty() => Err(Miss::NoEffect),
        (true, _) => Ok(m["a"]),
        (_, false) => Ok(m["b"]),
        _ => Err(Miss::NoEffect),
    }
}

#[cfg(test)]
mod tests {
    use crate::canonicalize::PASS;
    use crate::testing::rewritten;

    fn check(stmts: &str, expected: &str) {
        let text =
            format!("graph @g(%x: f32[N, 4], %c: bool[N, 4], %h: f16[N, 4], %i: i32[N]) {{ {stmts} return %y }}");
        assert_eq!(rewritten(&PASS, &text), expected, "{stmts}");
    }

    #[test]
    fn arithmetic_that_changes_nothing_goes() {
        check("%k = const [0.0] : f32[] %e = exp(%x) %y = add(%k, %e)", "%e = exp(%x)");
        check("%k = const [1.0] : f32[1] %e = exp(%x) %y = mul(%e, %k)", "%e = exp(%x)");
        check("%k = const [1.0] : f32[] %e = exp(%x) %y = div(%e, %k)", "%e = exp(%x)");
        check("%a = neg(%x) %y = neg(%a)", "");
        check("%a = not(%c) %b = not(%a) %y = not(%b)", "%y = not(%c)");
        check("%y = select(%c, %x, %x)", "");
        check("%k = const [1] : bool[] %e = exp(%x) %y = select(%k, %e, %x)", "%e = exp(%x)");
    }

    #[test]
    fn powers_and_quotients_have_simpler_forms() {
        check("%k = const [2.0] : f32[] %y = pow(%x, %k)", "%y = mul(%x, %x)");
        check("%k = const [1.0] : f32[] %s = sqrt(%x) %y = div(%k, %s)", "%y = rsqrt(%x)");
        check("%k = const [8.0] : f32[] %y = div(%x, %k)", "%y.1 = const [0.125]; %y = mul(%x, %y.1)");
        check("%k = const [3.0] : f32[] %y = div(%x, %k)", "%k = const [3.0]; %y = div(%x, %k)");
        check("%n = neg(%x) %e = exp(%x) %y = add(%n, %e)", "%e = exp(%x); %y = sub(%e, %x)");
        check("%k = const [0.0] : f32[] %y = max(%k, %x)", "%y = relu(%x)");
    }

    #[test]
    fn conversions_that_lose_nothing_go() {
        check("%w = cast(%h) {to = f32} %v = cast(%w) {to = f16} %y = exp(%v)", "%y = exp(%h)");
        check("%w = cast(%i) {to = i64} %y = cast(%w) {to = f32}", "%y = cast(%i) {to = f32}");
    }

    #[test]
    fn keeps_conversions_that_round() {
        check(
            "%w = cast(%x) {to = f16} %y = cast(%w) {to = f32}",
            "%w = cast(%x) {to = f16}; %y = cast(%w) {to = f32}",
        );
    }

    #[test]
    fn keeps_an_addition_that_widens_the_shape() {
        let text = "graph @g(%x: f32[4]) { %k = const [0.0] : f32[1, 1] %y = add(%x, %k) return %y }";
        assert_eq!(rewritten(&PASS, text), "%k = const [0.0]; %y = add(%x, %k)");
    }
}
