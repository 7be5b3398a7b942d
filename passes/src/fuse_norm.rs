//! Recognises normalisation that exporters spell out: `rms_norm` and `layer_norm` with their scale and bias.
//!
//! A layer norm is the RMS norm of what is left when the mean is subtracted, so one rule finds both cores; scale, bias and the
//! casts around a norm that is computed in f32 join afterwards. Kernels compute in f32 whatever the type of `x`.
//!
//! ```ir before
//! graph @norms(%x: f16[T, 64]) {
//!   %scale = weight : f16[64]
//!   %eps = const [9.999999974752427e-7] : f32[]
//!   %wide = cast(%x) {to = f32} : f32[T, 64]
//!   %square = mul(%wide, %wide) : f32[T, 64]
//!   %mean = reduce(%square) {axes = [-1], f = mean, keep = true} : f32[T, 1]
//!   %sum = add(%mean, %eps) : f32[T, 1]
//!   %root = rsqrt(%sum) : f32[T, 1]
//!   %norm = mul(%wide, %root) : f32[T, 64]
//!   %narrow = cast(%norm) {to = f16} : f16[T, 64]
//!   %y = mul(%scale, %narrow) : f16[T, 64]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @norms(%x: f16[T, 64]) {
//!   %scale = weight : f16[64]
//!   %y = rms_norm(%x, %scale) {axis = -1, eps = 1e-6} : f16[T, 64]
//!   return %y
//! }
//! ```

use crate::edit::Edit;
use crate::pass::{Body, Miss, Pass, Rule};
use crate::pattern::Match;
use ir::graph::{Kind, Value};
use ir::ops::{CoreOp, LayerNorm, Op, RmsNorm};

/// See the module.
pub const PASS: Pass = Pass { name: "fuse-norm", body: Body::Rules(&[RULES]) };

const RULES: &[Rule] = &[
    Rule {
        name: "rms-norm",
        pattern: "%q = mul(%x, %x) %v = reduce(%q) {f = mean, keep = true} %a = add(%v, %eps) %r = rsqrt(%a) %y = mul(%x, %r)",
        rewrite: rms_norm,
    },
    Rule {
        name: "rms-norm",
        pattern: "%q = mul(%x, %x) %v = reduce(%q) {f = mean, keep = true} %a = add(%v, %eps) %r = sqrt(%a) %y = div(%x, %r)",
        rewrite: rms_norm,
    },
    Rule {
        name: "rms-norm",
        pattern: "%q = mul(%x, %x) %v = reduce(%q) {f = mean, keep = true} %a = add(%v, %eps) %c = const [-0.5]
                  %r = pow(%a, %c) %y = mul(%x, %r)",
        rewrite: rms_norm,
    },
    Rule {
        name: "layer-norm",
        pattern: "%m = reduce(%x) {f = mean, keep = true} %d = sub(%x, %m) %y = rms_norm(%d)",
        rewrite: layer_norm,
    },
    Rule { name: "scale", pattern: "%n = rms_norm(%x) %y = mul(%n, %w)", rewrite: scale },
    Rule { name: "scale", pattern: "%n = layer_norm(%x) %y = mul(%n, %w)", rewrite: scale },
    Rule { name: "bias", pattern: "%n = layer_norm(%x, %s) %y = add(%n, %w)", rewrite: bias },
    Rule { name: "casts", pattern: "%c = cast(%x) %n = rms_norm(%c) %y = cast(%n)", rewrite: |e, m| casts(e, m, &[]) },
    Rule {
        name: "casts",
        pattern: "%c = cast(%x) %n = rms_norm(%c, %s) %y = cast(%n)",
        rewrite: |e, m| casts(e, m, &["s"]),
    },
    Rule {
        name: "casts",
        pattern: "%c = cast(%x) %n = layer_norm(%c) %y = cast(%n)",
        rewrite: |e, m| casts(e, m, &[]),
    },
    Rule {
        name: "casts",
        pattern: "%c = cast(%x) %n = layer_norm(%c, %s) %y = cast(%n)",
        rewrite: |e, m| casts(e, m, &["s"]),
    },
    Rule {
        name: "casts",
        pattern: "%c = cast(%x) %n = layer_norm(%c, %s, %b) %y = cast(%n)",
        rewrite: |e, m| casts(e, m, &["s", "b"]),
    },
];

/// How many of the last dimensions a mean is over.
fn trailing(edit: &Edit<'_>, mean: Value) -> Result<usize, Miss> {
    let Some(Op::CoreOp(CoreOp::Reduce(reduce))) = edit.graph.op(mean.node) else { return Err(Miss::NoEffect) };
    let rank = edit.rank(mean).ok_or(Miss::Refused("the rank is not known"))?;
    let reduced = reduce.reduced(rank).map_err(|_| Miss::NoEffect)?;
    let count = reduced.iter().filter(|r| **r).count();
    let is_suffix = count > 0 && reduced[rank - count..].iter().all(|r| *r);
    edit.require(is_suffix, "the mean is not over the last dimensions")?;
    Ok(count)
}

fn rms_norm(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let eps = edit.graph.constant_of(m["eps"]).filter(|t| t.len() == 1).and_then(|t| t.to_f64().ok());
    let eps = eps.ok_or(Miss::Refused("what is added to the mean square is not a constant"))?[0] as f32;
    let axis = -(trailing(edit, m["v"])? as i64);
    edit.apply(RmsNorm { axis, eps }, &[m["x"]])
}

/// Axis and epsilon of the norm that made a value.
fn norm(edit: &Edit<'_>, v: Value) -> Result<(i64, f32, bool), Miss> {
    match edit.graph.op(v.node) {
        Some(Op::CoreOp(CoreOp::RmsNorm(op))) => Ok((op.axis, op.eps, false)),
        Some(Op::CoreOp(CoreOp::LayerNorm(op))) => Ok((op.axis, op.eps, true)),
        _ => Err(Miss::NoEffect),
    }
}

/// The norm's operator on other operands.
fn apply(edit: &mut Edit<'_>, of: Value, operands: &[Value]) -> Result<Value, Miss> {
    match norm(edit, of)? {
        (axis, eps, false) => edit.apply(RmsNorm { axis, eps }, operands),
        (axis, eps, true) => edit.apply(LayerNorm { axis, eps }, operands),
    }
}

fn layer_norm(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let (axis, eps, _) = norm(edit, m["y"])?;
    let count = trailing(edit, m["m"])?;
    edit.require(-axis == count as i64, "mean and variance are over different dimensions")?;
    edit.apply(LayerNorm { axis, eps }, &[m["x"]])
}

/// A parameter is a weight, or one that is converted, with the normalised dimensions.
fn parameter(edit: &Edit<'_>, m: &Match<'_>) -> Result<(), Miss> {
    let (n, w) = (m["n"], m["w"]);
    let is_weight = |v: Value| matches!(edit.graph.node(v.node).kind, Kind::Weight(_));
    let is_cast = edit.graph.op(w.node).is_some_and(|op| op.name() == "cast");
    let from_weight = is_cast && edit.graph.operands(w.node).iter().all(|v| is_weight(*v));
    edit.require(is_weight(w) || from_weight, "the factor or summand is not a weight")?;
    let (axis, ..) = norm(edit, n)?;
    let dims = |v: Value| edit.graph.tensor_ty(v).and_then(|t| t.dims());
    let (Some(x), Some(p)) = (dims(n), dims(w)) else { return Err(Miss::NoEffect) };
    let normalised = usize::try_from(-axis).ok().and_then(|k| x.len().checked_sub(k)).map(|from| &x[from..]);
    edit.require(Some(p) == normalised, "the weight does not have the normalised dimensions")?;
    edit.require(edit.graph.use_count(n) == 1, "the norm without its weight has another reader")
}

fn scale(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    parameter(edit, m)?;
    apply(edit, m["n"], &[m["x"], m["w"]])
}

fn bias(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    parameter(edit, m)?;
    apply(edit, m["n"], &[m["x"], m["s"], m["w"]])
}

/// Widening before and narrowing after is what a kernel does anyway.
fn casts(edit: &mut Edit<'_>, m: &Match<'_>, parameters: &[&str]) -> Result<Value, Miss> {
    let (from, wide, to) = (edit.dtype(m["x"]), edit.dtype(m["c"]), edit.dtype(m["y"]));
    let (Some(from), Some(wide)) = (from, wide) else { return Err(Miss::NoEffect) };
    let widens = from.is_float() && !from.is_storage_only() && wide.is_float() && wide.bits() > from.bits();
    if !widens || to != Some(from) {
        return Err(Miss::NoEffect);
    }
    let operands: Vec<Value> = std::iter::once(m["x"]).chain(parameters.iter().map(|p| m[p])).collect();
    apply(edit, m["n"], &operands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_refused, rewritten};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("fuse_norm.rs"));
    }

    const CENTRED: &str = "%m = reduce(%x) {f = mean, axes = [2], keep = true} %d = sub(%x, %m) %q = mul(%d, %d)
        %v = reduce(%q) {f = mean, axes = [-1], keep = true} %e = const [0.125] : f32[] %a = add(%v, %e)";

    #[test]
    fn layer_norm_with_scale_and_bias() {
        let text = format!(
            "graph @g(%x: f32[B, S, 8]) {{ %w = weight : f32[8] %b = weight : f32[8] {CENTRED} %r = sqrt(%a) %n = div(%d, %r) \
             %s = mul(%n, %w) %y = add(%s, %b) return %y }}"
        );
        let expected = "%w = weight; %b = weight; %y = layer_norm(%x, %w, %b) {axis = -1, eps = 0.125}";
        assert_eq!(rewritten(&PASS, &text), expected);
    }

    #[test]
    fn layer_norm_without_parameters() {
        let text = format!("graph @g(%x: f32[B, S, 8]) {{ {CENTRED} %r = rsqrt(%a) %y = mul(%d, %r) return %y }}");
        assert_eq!(rewritten(&PASS, &text), "%y = layer_norm(%x) {axis = -1, eps = 0.125}");
    }

    #[test]
    fn keeps_a_mean_over_other_dimensions() {
        let text = "
graph @g(%x: f32[N, 8]) {
  %q = mul(%x, %x) : f32[N, 8]
  %v = reduce(%q) {axes = [0], f = mean, keep = true} : f32[1, 8]
  %e = const [0.125] : f32[]
  %a = add(%v, %e) : f32[1, 8]
  %r = rsqrt(%a) : f32[1, 8]
  %y = mul(%x, %r) : f32[N, 8]
  return %y
}";
        check_refused(&PASS, text, "the mean is not over the last dimensions");
    }

    #[test]
    fn keeps_a_factor_that_is_no_weight() {
        let text = "
graph @g(%x: f32[N, 8], %w: f32[8]) {
  %n = rms_norm(%x) {axis = -1, eps = 0.125} : f32[N, 8]
  %y = mul(%n, %w) : f32[N, 8]
  return %y
}";
        check_refused(&PASS, text, "the factor or summand is not a weight");
    }
}
