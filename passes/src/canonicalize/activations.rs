//! Functions that exporters spell out in smaller ones.

use super::{is_float, unary};
use crate::edit::Edit;
use crate::pass::{Miss, Rule};
use crate::pattern::Match;
use ir::graph::Value;
use ir::scalar::UnaryFn;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "sigmoid",
        pattern: "%n = neg(%x) %e = exp(%n) %one = const [1] %a = add(%e, %one) %y = reciprocal(%a)",
        rewrite: |e, m| unary(e, UnaryFn::Sigmoid, m["x"]),
    },
    Rule {
        name: "silu",
        pattern: "%s = sigmoid(%x) %y = mul(%x, %s)",
        rewrite: |e, m| unary(e, UnaryFn::Silu, m["x"]),
    },
    Rule { name: "gelu-by-sigmoid", pattern: "%s = sigmoid(%i) %y = mul(%x, %s)", rewrite: gelu_by_sigmoid },
    Rule {
        name: "silu-quotient",
        pattern: "%n = neg(%x) %e = exp(%n) %one = const [1] %a = add(%e, %one) %y = div(%x, %a)",
        rewrite: |e, m| unary(e, UnaryFn::Silu, m["x"]),
    },
    Rule {
        name: "softplus",
        pattern: "%e = exp(%x) %one = const [1] %a = add(%e, %one) %y = log(%a)",
        rewrite: |e, m| unary(e, UnaryFn::Softplus, m["x"]),
    },
    Rule {
        name: "mish",
        pattern: "%s = softplus(%x) %t = tanh(%s) %y = mul(%x, %t)",
        rewrite: |e, m| unary(e, UnaryFn::Mish, m["x"]),
    },
    Rule {
        name: "softsign",
        pattern: "%m = abs(%x) %one = const [1] %a = add(%m, %one) %y = div(%x, %a)",
        rewrite: |e, m| {
            is_float(e, m["x"])?;
            unary(e, UnaryFn::Softsign, m["x"])
        },
    },
    // The three orders in which x, 1/2 and 1 + f(x) are multiplied.
    Rule {
        name: "gelu",
        pattern: "%half = const [0.5] %one = const [1] %a = add(%f, %one) %m = mul(%x, %a) %y = mul(%m, %half)",
        rewrite: gelu,
    },
    Rule {
        name: "gelu",
        pattern: "%half = const [0.5] %one = const [1] %a = add(%f, %one) %m = mul(%x, %half) %y = mul(%m, %a)",
        rewrite: gelu,
    },
    Rule {
        name: "gelu",
        pattern: "%half = const [0.5] %one = const [1] %a = add(%f, %one) %m = mul(%a, %half) %y = mul(%x, %m)",
        rewrite: gelu,
    },
    // x * relu6(x + 3) / 6 in the orders that exporters use.
    Rule {
        name: "hard-swish",
        pattern: "%three = const [3] %s = add(%x, %three)  %six = const [6]
                  %a = relu(%s) %c = min(%a, %six) %m = mul(%x, %c) %n = const [6] %y = div(%m, %n)",
        rewrite: |e, m| unary(e, UnaryFn::HardSwish, m["x"]),
    },
    Rule {
        name: "hard-swish",
        pattern: "%three = const [3] %s = add(%x, %three) %six = const [6]
                  %a = relu(%s) %c = min(%a, %six) %n = const [6] %m = div(%c, %n) %y = mul(%x, %m)",
        rewrite: |e, m| unary(e, UnaryFn::HardSwish, m["x"]),
    },
    // x * hard_sigmoid(x) with alpha 1/6 and beta 1/2.
    Rule {
        name: "hard-swish",
        pattern:
            "%sixth = const [0.16666667] %p = mul(%x, %sixth) %half = const [0.5] %s = add(%p, %half) %one = const [1]
                  %a = relu(%s) %c = min(%a, %one) %y = mul(%x, %c)",
        rewrite: |e, m| unary(e, UnaryFn::HardSwish, m["x"]),
    },
];

const ERF: &[&str] = &[
    "%c = const [1.4142135623730951] %s = div(%x, %c) %f = erf(%s)",
    "%c = const [0.7071067811865476] %s = mul(%x, %c) %f = erf(%s)",
];

const TANH: &[&str] = &[
    "%three = const [3] %cube = pow(%x, %three) %c = const [0.044715] %k = const [0.7978845608028654]
     %p = mul(%cube, %c) %s = add(%x, %p) %i = mul(%s, %k) %f = tanh(%i)",
    "%square = mul(%x, %x) %cube = mul(%x, %square) %c = const [0.044715] %k = const [0.7978845608028654]
     %p = mul(%cube, %c) %s = add(%x, %p) %i = mul(%s, %k) %f = tanh(%i)",
    "%c = const [0.044715] %k = const [0.7978845608028654] %one = const [1]
     %p = mul(%x, %c) %q = mul(%p, %x) %s = add(%q, %one) %h = mul(%x, %k) %i = mul(%h, %s) %f = tanh(%i)",
    "%c = const [0.044715] %k = const [0.7978845608028654] %one = const [1]
     %square = mul(%x, %x) %q = mul(%square, %c) %s = add(%q, %one) %m = mul(%x, %s) %i = mul(%m, %k) %f = tanh(%i)",
    "%c = const [0.035677408136300125] %k = const [0.7978845608028654]
     %square = mul(%x, %x) %q = mul(%square, %c) %s = add(%q, %k) %i = mul(%x, %s) %f = tanh(%i)",
];

/// `x/2 * (1 + f)`: which of the two approximations is decided by `f`.
fn gelu(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let (x, f) = (m["x"], m["f"]);
    let matches = |patterns: &[&str]| patterns.iter().any(|p| edit.is(f, p, "x", x));
    match edit.graph.op(f.node).map(|op| op.name()) {
        Some("erf") if matches(ERF) => unary(edit, UnaryFn::Gelu, x),
        Some("tanh") if matches(TANH) => unary(edit, UnaryFn::GeluTanh, x),
        Some("erf" | "tanh") => Err(Miss::Refused("its argument is not that of a GELU")),
        _ => Err(Miss::NoEffect),
    }
}

/// `(1 + tanh(i)) / 2` is `sigmoid(2 i)`.
const SIGMOID: &[&str] = &[
    "%three = const [3] %cube = pow(%x, %three) %c = const [0.044715] %k = const [1.5957691216057308]
     %p = mul(%cube, %c) %s = add(%x, %p) %i = mul(%s, %k)",
    "%square = mul(%x, %x) %cube = mul(%x, %square) %c = const [0.044715] %k = const [1.5957691216057308]
     %p = mul(%cube, %c) %s = add(%x, %p) %i = mul(%s, %k)",
];

fn gelu_by_sigmoid(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let matches = SIGMOID.iter().any(|p| edit.is(m["i"], p, "x", m["x"]));
    if matches { unary(edit, UnaryFn::GeluTanh, m["x"]) } else { Err(Miss::NoEffect) }
}

#[cfg(test)]
mod tests {
    use crate::canonicalize::PASS;
    use crate::testing::rewritten;

    fn check(stmts: &str, expected: &str) {
        let constants = "%one = const [1.0] : f32[] %half = const [0.5] : f32[] %six = const [6.0] : f32[] %three = const [3.0] : f32[]";
        let text = format!("graph @g(%x: f32[N, 4]) {{ {constants} {stmts} return %y }}");
        assert_eq!(rewritten(&PASS, &text), expected, "{stmts}");
    }

    #[test]
    fn sigmoid_and_silu() {
        check("%s = sigmoid(%x) %y = mul(%s, %x)", "%y = silu(%x)");
        check("%n = neg(%x) %e = exp(%n) %a = add(%one, %e) %y = div(%one, %a)", "%y = sigmoid(%x)");
        check("%n = neg(%x) %e = exp(%n) %a = add(%one, %e) %y = div(%x, %a)", "%y = silu(%x)");
    }

    #[test]
    fn gelu_in_every_order() {
        let erf = "%c = const [1.4142135381698608] : f32[] %s = div(%x, %c) %f = erf(%s) %a = add(%f, %one)";
        check(&format!("{erf} %m = mul(%x, %a) %y = mul(%m, %half)"), "%y = gelu(%x)");
        check(&format!("{erf} %m = mul(%half, %x) %y = mul(%m, %a)"), "%y = gelu(%x)");
        check(&format!("{erf} %m = mul(%half, %a) %y = mul(%m, %x)"), "%y = gelu(%x)");
    }

    #[test]
    fn gelu_by_tanh() {
        let constants = "%c = const [0.044714998453855515] : f32[] %k = const [0.7978845834732056] : f32[]";
        check(
            &format!(
                "{constants} %q = pow(%x, %three) %p = mul(%c, %q) %s = add(%x, %p) %i = mul(%k, %s) %t = tanh(%i) \
                      %a = add(%one, %t) %m = mul(%half, %x) %y = mul(%m, %a)"
            ),
            "%y = gelu_tanh(%x)",
        );
        check(
            &format!(
                "{constants} %h = mul(%x, %k) %p = mul(%x, %c) %q = mul(%p, %x) %s = add(%one, %q) %i = mul(%h, %s) \
                      %t = tanh(%i) %a = add(%one, %t) %m = mul(%half, %x) %y = mul(%m, %a)"
            ),
            "%y = gelu_tanh(%x)",
        );
    }

    #[test]
    fn gelu_by_sigmoid() {
        check(
            "%c = const [0.044714998453855515] : f32[] %k = const [1.5957691669464111] : f32[] %q = pow(%x, %three) %p = mul(%c, %q) \
             %s = add(%x, %p) %i = mul(%k, %s) %g = sigmoid(%i) %y = mul(%x, %g)",
            "%y = gelu_tanh(%x)",
        );
    }

    #[test]
    fn softplus_mish_and_softsign() {
        check("%e = exp(%x) %a = add(%e, %one) %y = log(%a)", "%y = softplus(%x)");
        check("%e = exp(%x) %a = add(%e, %one) %l = log(%a) %t = tanh(%l) %y = mul(%x, %t)", "%y = mish(%x)");
        check("%b = abs(%x) %a = add(%b, %one) %y = div(%x, %a)", "%y = softsign(%x)");
    }

    #[test]
    fn hard_swish() {
        let clip = "%zero = const [0.0] : f32[] %s = add(%x, %three) %l = max(%s, %zero) %c = min(%l, %six)";
        check(&format!("{clip} %m = mul(%x, %c) %y = div(%m, %six)"), "%y = hard_swish(%x)");
        check(&format!("{clip} %k = const [6.0] : f32[1] %m = mul(%x, %c) %y = div(%m, %k)"), "%y = hard_swish(%x)");
        check(&format!("{clip} %m = div(%c, %six) %y = mul(%x, %m)"), "%y = hard_swish(%x)");
    }
}
