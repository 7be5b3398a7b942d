//! Moves transposes behind elementwise operators, where they meet their inverse.
//!
//! Models that were made for channels-last layouts reach ONNX with a transpose before and after every convolution. Between them
//! stand additions, factors and activations, which do not care for the order of dimensions: computed before the transpose, they
//! join the convolution, and the transpose meets the next one, with which it cancels.
//!
//! ```ir before
//! graph @block(%x: f32[N, 2, 8, 8], %w: f32[2, 2, 1, 1]) {
//!   %k = const [0.5, 2.0] : f32[2]
//!   %c = conv(%x, %w) {dilations = [1, 1], group = 1, pads = [0, 0, 0, 0], strides = [1, 1]} : f32[N, 2, 8, 8]
//!   %t = transpose(%c) {perm = [0, 2, 3, 1]} : f32[N, 8, 8, 2]
//!   %b = add(%t, %k) : f32[N, 8, 8, 2]
//!   %r = relu(%b) : f32[N, 8, 8, 2]
//!   %y = transpose(%r) {perm = [0, 3, 1, 2]} : f32[N, 2, 8, 8]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @block(%x: f32[N, 2, 8, 8], %w: f32[2, 2, 1, 1]) {
//!   %c = conv(%x, %w) {dilations = [1, 1], group = 1, pads = [0, 0, 0, 0], strides = [1, 1]} : f32[N, 2, 8, 8]
//!   %b.1 = const [0.5, 2.0] : f32[1, 2, 1, 1]
//!   %b.2 = add(%c, %b.1) : f32[N, 2, 8, 8]
//!   %r.1 = relu(%b.2) : f32[N, 2, 8, 8]
//!   return %r.1 as "y"
//! }
//! ```

use crate::canonicalize::{transpose_nothing, transpose_transpose};
use crate::edit::Edit;
use crate::pass::{Body, Miss, Pass, Rule};
use crate::pattern::Match;
use ir::graph::Value;
use ir::ops::{CoreOp, Op, Pad, Transpose};

/// See the module.
pub const PASS: Pass = Pass { name: "sink-transposes", body: Body::Rules(&[RULES]) };

macro_rules! rules {
    ($($pattern:literal => $rewrite:ident),* $(,)?) => {
        &[$(Rule { name: "sink-transpose", pattern: $pattern, rewrite: $rewrite }),*]
    };
}

const RULES: &[Rule] = rules![
    "%m = transpose(%x) %y = transpose(%m)" => transpose_transpose,
    "%y = transpose(%x)" => transpose_nothing,
    "%y = add(%a, %b)" => elementwise,
    "%y = sub(%a, %b)" => elementwise,
    "%y = mul(%a, %b)" => elementwise,
    "%y = div(%a, %b)" => elementwise,
    "%y = pow(%a, %b)" => elementwise,
    "%y = min(%a, %b)" => elementwise,
    "%y = max(%a, %b)" => elementwise,
    "%y = neg(%a)" => elementwise,
    "%y = abs(%a)" => elementwise,
    "%y = exp(%a)" => elementwise,
    "%y = log(%a)" => elementwise,
    "%y = sqrt(%a)" => elementwise,
    "%y = rsqrt(%a)" => elementwise,
    "%y = tanh(%a)" => elementwise,
    "%y = sigmoid(%a)" => elementwise,
    "%y = silu(%a)" => elementwise,
    "%y = erf(%a)" => elementwise,
    "%y = gelu(%a)" => elementwise,
    "%y = gelu_tanh(%a)" => elementwise,
    "%y = relu(%a)" => elementwise,
    "%y = softplus(%a)" => elementwise,
    "%y = softsign(%a)" => elementwise,
    "%y = hard_swish(%a)" => elementwise,
    "%y = mish(%a)" => elementwise,
    "%y = pad(%a)" => pad,
];

/// The operand and the permutation of a transpose.
fn transposed(edit: &Edit<'_>, v: Value) -> Option<(Value, Vec<i64>)> {
    match edit.graph.op(v.node) {
        Some(Op::CoreOp(CoreOp::Transpose(op))) => Some((edit.graph.operands(v.node)[0], op.perm.clone())),
        _ => None,
    }
}

/// The transpose that goes: one with no other reader, or there would be more of them afterwards.
fn moved(edit: &Edit<'_>, operands: &[Value]) -> Result<Vec<i64>, Miss> {
    let found: Vec<(Value, Vec<i64>)> = operands.iter().filter_map(|v| Some((*v, transposed(edit, *v)?.1))).collect();
    let (_, perm) = found.first().ok_or(Miss::NoEffect)?;
    edit.require(found.iter().any(|(v, _)| edit.graph.use_count(*v) == 1), "the transpose has another reader")?;
    Ok(perm.clone())
}

/// `v` as it is before the transpose.
fn before(edit: &mut Edit<'_>, v: Value, perm: &[i64]) -> Result<Value, Miss> {
    if let Some((x, own)) = transposed(edit, v) {
        edit.require(own == perm, "the operands are transposed differently")?;
        return Ok(x);
    }
    let constant = edit.graph.constant_of(v).cloned();
    let constant = constant.ok_or(Miss::Refused("another operand is neither transposed alike nor a constant"))?;
    if constant.len() == 1 && constant.rank() <= perm.len() {
        return Ok(v);
    }
    let dims = constant.dims();
    let line = dims.iter().filter(|d| **d != 1).count() <= 1 && dims.len() <= perm.len();
    edit.require(line, "the constant has more than one dimension")?;
    let mut own = vec![1; perm.len()];
    let missing = perm.len() - dims.len();
    for (axis, n) in dims.iter().enumerate() {
        own[perm[missing + axis] as usize] = *n;
    }
    Ok(edit.constant(constant.reshaped(&own).map_err(|_| Miss::NoEffect)?))
}

fn elementwise(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let node = m["y"].node;
    let (op, operands) = (edit.graph.op(node).cloned().ok_or(Miss::NoEffect)?, edit.graph.operands(node).to_vec());
    let perm = moved(edit, &operands)?;
    let operands = operands.iter().map(|v| before(edit, *v, &perm)).collect::<Result<Vec<_>, _>>()?;
    let y = edit.apply(op, &operands)?;
    edit.apply(Transpose { perm }, &[y])
}

fn pad(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let Some(Op::CoreOp(CoreOp::Pad(op))) = edit.graph.op(m["y"].node).cloned() else { return Err(Miss::NoEffect) };
    let mut operands = edit.graph.operands(m["y"].node).to_vec();
    let perm = moved(edit, &operands[..1])?;
    let rank = perm.len() as i64;
    edit.require(!op.axes.is_empty(), "the padded axes are not spelled out")?;
    let axes = op.axes.iter().map(|a| perm[a.rem_euclid(rank) as usize]).collect();
    operands[0] = before(edit, operands[0], &perm)?;
    let y = edit.apply(Pad { axes, ..op }, &operands)?;
    edit.apply(Transpose { perm }, &[y])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_refused, rewritten};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("sink_transposes.rs"));
    }

    #[test]
    fn both_operands_give_up_their_transpose() {
        let text = "graph @g(%a: f32[N, 4, 6], %b: f32[N, 4, 6]) { %s = transpose(%a) {perm = [0, 2, 1]} %t = transpose(%b) {perm = [0, 2, 1]} %y = add(%s, %t) return %y }";
        let expected = "%y.1 = add(%a, %b); %y = transpose(%y.1) {perm = [0, 2, 1]}";
        assert_eq!(rewritten(&PASS, text), expected);
    }

    #[test]
    fn padding_follows_its_axes() {
        let text = "graph @g(%x: f32[N, 4, 6]) { %t = transpose(%x) {perm = [0, 2, 1]} %y = pad(%t) {axes = [1], mode = constant, pads = [1, 2]} return %y }";
        let expected =
            "%y.1 = pad(%x) {axes = [2], mode = constant, pads = [1, 2]}; %y = transpose(%y.1) {perm = [0, 2, 1]}";
        assert_eq!(rewritten(&PASS, text), expected);
    }

    #[test]
    fn keeps_a_transpose_that_others_read() {
        let text = "
graph @g(%x: f32[N, 4, 6]) {
  %t = transpose(%x) {perm = [0, 2, 1]} : f32[N, 6, 4]
  %y = relu(%t) : f32[N, 6, 4]
  return %t, %y
}";
        check_refused(&PASS, text, "the transpose has another reader");
    }

    #[test]
    fn keeps_operands_that_are_transposed_differently() {
        let text = "
graph @g(%a: f32[4, 4, 4], %b: f32[4, 4, 4]) {
  %s = transpose(%a) {perm = [0, 2, 1]} : f32[4, 4, 4]
  %t = transpose(%b) {perm = [1, 0, 2]} : f32[4, 4, 4]
  %y = add(%s, %t) : f32[4, 4, 4]
  return %y
}";
        check_refused(&PASS, text, "the operands are transposed differently");
    }

    #[test]
    fn keeps_a_transpose_beside_another_value() {
        let text = "
graph @g(%a: f32[4, 4], %b: f32[4, 4]) {
  %s = transpose(%a) {perm = [1, 0]} : f32[4, 4]
  %y = add(%s, %b) : f32[4, 4]
  return %y
}";
        check_refused(&PASS, text, "another operand is neither transposed alike nor a constant");
    }

    #[test]
    fn keeps_a_constant_of_two_dimensions() {
        let text = "
graph @g(%a: f32[N, 2, 2]) {
  %k = const [1.0, 2.0, 3.0, 4.0] : f32[2, 2]
  %s = transpose(%a) {perm = [0, 2, 1]} : f32[N, 2, 2]
  %y = add(%s, %k) : f32[N, 2, 2]
  return %y
}";
        check_refused(&PASS, text, "the constant has more than one dimension");
    }
}
