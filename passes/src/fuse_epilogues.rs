//! Lets convolutions do what follows them: scale and bias per channel, a residual sum, an activation.
//!
//! A factor per output channel (what is left of batch normalisation) is multiplied into the weights; what is added per channel
//! becomes the bias. Then a sum with a tensor of the result's shape, then an activation, are attributes of `conv`: its kernel
//! applies them while the result is in registers.
//!
//! ```ir before
//! graph @block(%x: f32[N, 2, 8, 8], %r: f32[N, 2, 8, 8]) {
//!   %w = const [1.0, 2.0, 3.0, 4.0] : f32[2, 2, 1, 1]
//!   %factor = const [0.5, 2.0] : f32[2, 1, 1]
//!   %offset = const [1.0, -1.0] : f32[2, 1, 1]
//!   %c = conv(%x, %w) {dilations = [1, 1], group = 1, pads = [0, 0, 0, 0], strides = [1, 1]} : f32[N, 2, 8, 8]
//!   %s = mul(%c, %factor) : f32[N, 2, 8, 8]
//!   %n = add(%s, %offset) : f32[N, 2, 8, 8]
//!   %sum = add(%n, %r) : f32[N, 2, 8, 8]
//!   %y = relu(%sum) : f32[N, 2, 8, 8]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @block(%x: f32[N, 2, 8, 8], %r: f32[N, 2, 8, 8]) {
//!   %s.1 = const [0.5, 1.0, 6.0, 8.0] : f32[2, 2, 1, 1]
//!   %n.1 = const [1.0, -1.0] : f32[2]
//!   %y = conv(%x, %s.1, %n.1, %r) {act = relu, dilations = [1, 1], group = 1, pads = [0, 0, 0, 0], strides = [1, 1]} : f32[N, 2, 8, 8]
//!   return %y
//! }
//! ```

use crate::edit::Edit;
use crate::pass::{Body, Miss, Pass, Rule};
use crate::pattern::Match;
use ir::Tensor;
use ir::graph::Value;
use ir::ops::activation::ActivationFn;
use ir::ops::{Binary, Conv, CoreOp, Op, Unary};
use ir::scalar::{BinaryFn, UnaryFn};

/// See the module.
pub const PASS: Pass = Pass { name: "fuse-epilogues", body: Body::Rules(&[RULES]) };

const RULES: &[Rule] = &[
    Rule { name: "channel-factor", pattern: "%y = mul(%c, %k)", rewrite: channel_factor },
    Rule { name: "channel-offset", pattern: "%y = add(%c, %k)", rewrite: channel_offset },
    Rule { name: "channel-offset", pattern: "%y = sub(%c, %k)", rewrite: channel_offset },
    Rule { name: "residual", pattern: "%y = add(%c, %r)", rewrite: residual },
    Rule { name: "activation", pattern: "%y = relu(%c)", rewrite: activation },
    Rule { name: "activation", pattern: "%y = sigmoid(%c)", rewrite: activation },
    Rule { name: "activation", pattern: "%y = tanh(%c)", rewrite: activation },
    Rule { name: "activation", pattern: "%y = silu(%c)", rewrite: activation },
    Rule { name: "activation", pattern: "%y = gelu(%c)", rewrite: activation },
    Rule { name: "activation", pattern: "%y = mish(%c)", rewrite: activation },
    Rule { name: "activation", pattern: "%y = hard_swish(%c)", rewrite: activation },
    Rule { name: "activation", pattern: "%y = softsign(%c)", rewrite: activation },
    Rule { name: "activation", pattern: "%y = softplus(%c)", rewrite: activation },
    Rule { name: "clip", pattern: "%y = min(%c, %high)", rewrite: clip_above_zero },
    Rule { name: "clip", pattern: "%m = max(%c, %low) %y = min(%m, %high)", rewrite: clip },
    Rule {
        name: "leaky-relu",
        pattern: "%p = relu(%c) %zero = const [0] %n = min(%c, %zero) %s = mul(%n, %alpha) %y = add(%p, %s)",
        rewrite: leaky_relu,
    },
];

/// Larger weights are left alone: the product is computed here, in f64.
const MAX_SCALED_ELEMENTS: usize = 1 << 24;

/// The convolution that made a value, when its epilogue is still open: no activation, and read `readers` times.
fn open_conv(edit: &Edit<'_>, v: Value, readers: usize) -> Result<(Conv, Vec<Value>), Miss> {
    let Some(Op::CoreOp(CoreOp::Conv(conv))) = edit.graph.op(v.node) else { return Err(Miss::NoEffect) };
    if conv.act.is_some() {
        return Err(Miss::NoEffect);
    }
    edit.require(edit.graph.use_count(v) == readers, "the convolution has another reader")?;
    Ok((conv.clone(), edit.graph.operands(v.node).to_vec()))
}

fn has(edit: &Edit<'_>, operands: &[Value], i: usize) -> bool {
    operands.get(i).is_some_and(|v| edit.graph.tensor_ty(*v).is_some())
}

/// A constant of one number per channel, as a plain list; `rank` is that of the convolution's result.
fn per_channel(edit: &Edit<'_>, k: Value, channels: usize, rank: usize) -> Option<Vec<f64>> {
    let t = edit.graph.constant_of(k).filter(|t| t.dtype().is_float())?;
    let spatial = rank.checked_sub(2)?;
    let dims = t.dims();
    let is_scalar = t.len() == 1 && dims.len() <= rank;
    let is_channels = dims.len() > spatial
        && dims.len() <= rank
        && dims.iter().rev().take(spatial).all(|d| *d == 1)
        && dims[dims.len() - 1 - spatial] == channels
        && t.len() == channels;
    let values = t.to_f64().ok()?;
    match (is_channels, is_scalar) {
        (true, _) => Some(values),
        (_, true) => Some(vec![values[0]; channels]),
        _ => None,
    }
}

fn channel_factor(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let (conv, mut operands) = open_conv(edit, m["c"], 1)?;
    let w = edit.graph.constant_of(operands[1]).cloned().ok_or(Miss::NoEffect)?;
    let rank = edit.rank(m["c"]).ok_or(Miss::NoEffect)?;
    let factors = per_channel(edit, m["k"], w.dims()[0], rank).ok_or(Miss::NoEffect)?;
    edit.require(!has(edit, &operands, 3), "a residual is added before the factor")?;
    edit.require(w.len() <= MAX_SCALED_ELEMENTS, "the weight is too large to be scaled by the compiler")?;
    let row = w.len() / factors.len().max(1);
    operands[1] = scaled(edit, &w, |i| factors[i / row.max(1)])?;
    if has(edit, &operands, 2) {
        let bias = edit.graph.constant_of(operands[2]).cloned().ok_or(Miss::Refused("the bias is not a constant"))?;
        operands[2] = scaled(edit, &bias, |i| factors[i])?;
    }
    edit.apply(conv, &operands)
}

/// The constant times a factor for each element.
fn scaled(edit: &mut Edit<'_>, t: &Tensor, factor: impl Fn(usize) -> f64) -> Result<Value, Miss> {
    let values = t.to_f64().map_err(|_| Miss::NoEffect)?;
    let values: Vec<f64> = values.into_iter().enumerate().map(|(i, v)| v * factor(i)).collect();
    Ok(edit.constant(Tensor::from_f64(t.dtype(), t.dims(), &values).map_err(|_| Miss::NoEffect)?))
}

fn channel_offset(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let (conv, mut operands) = open_conv(edit, m["c"], 1)?;
    let dims = edit.graph.tensor_ty(m["c"]).and_then(|t| t.dims()).ok_or(Miss::NoEffect)?;
    let channels = dims[1].as_const().and_then(|n| usize::try_from(n).ok()).ok_or(Miss::NoEffect)?;
    let mut offsets = per_channel(edit, m["k"], channels, dims.len()).ok_or(Miss::NoEffect)?;
    if matches!(edit.graph.op(m["y"].node), Some(Op::CoreOp(CoreOp::Binary(Binary { f: BinaryFn::Sub })))) {
        offsets.iter_mut().for_each(|o| *o = -*o);
    }
    let mut dtype = edit.dtype(m["k"]).ok_or(Miss::NoEffect)?;
    if has(edit, &operands, 2) {
        let bias = edit.graph.constant_of(operands[2]).ok_or(Miss::Refused("the bias is not a constant"))?;
        dtype = bias.dtype();
        let bias = bias.to_f64().map_err(|_| Miss::NoEffect)?;
        offsets.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
    }
    let bias = Tensor::from_f64(dtype, &[channels], &offsets).map_err(|_| Miss::NoEffect)?;
    let bias = edit.constant(bias);
    match operands.get_mut(2) {
        Some(place) => *place = bias,
        None => operands.push(bias),
    }
    edit.apply(conv, &operands)
}

/// The other reader of nothing: one reader of the convolution means that the residual does not depend on it.
fn residual(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let (c, r) = match open_conv(edit, m["c"], 1) {
        Ok(_) => (m["c"], m["r"]),
        Err(Miss::NoEffect) => (m["r"], m["c"]),
        Err(miss) => return Err(miss),
    };
    let (conv, mut operands) = open_conv(edit, c, 1)?;
    if has(edit, &operands, 3) || c == r || edit.graph.constant_of(r).is_some() {
        return Err(Miss::NoEffect);
    }
    let same = edit.graph.tensor_ty(c).zip(edit.graph.tensor_ty(r)).is_some_and(|(a, b)| a == b);
    edit.require(same, "what is added does not have the shape of the result")?;
    operands.resize_with(3, || edit.graph.absent());
    operands.push(r);
    edit.apply(conv, &operands)
}

fn activation(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let Some(Op::CoreOp(CoreOp::Unary(Unary { f }))) = edit.graph.op(m["y"].node) else { return Err(Miss::NoEffect) };
    let act = match f {
        UnaryFn::Relu => ActivationFn::Relu,
        UnaryFn::Sigmoid => ActivationFn::Sigmoid,
        UnaryFn::Tanh => ActivationFn::Tanh,
        UnaryFn::Silu => ActivationFn::Silu,
        UnaryFn::Gelu => ActivationFn::Gelu,
        UnaryFn::GeluTanh => ActivationFn::GeluTanh,
        UnaryFn::Mish => ActivationFn::Mish,
        UnaryFn::HardSwish => ActivationFn::HardSwish,
        UnaryFn::Softsign => ActivationFn::Softsign,
        UnaryFn::Softplus => ActivationFn::Softplus,
        _ => return Err(Miss::NoEffect),
    };
    let (conv, operands) = open_conv(edit, m["c"], 1)?;
    edit.apply(Conv { act: Some(act), ..conv }, &operands)
}

/// The number that a constant holds.
fn number(edit: &Edit<'_>, v: Value) -> Result<f32, Miss> {
    let t = edit.graph.constant_of(v).filter(|t| t.len() == 1).and_then(|t| t.to_f64().ok());
    Ok(t.ok_or(Miss::NoEffect)?[0] as f32)
}

/// `min(relu(c), high)`, after the relu has become the convolution's.
fn clip_above_zero(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let high = number(edit, m["high"])?;
    let Some(Op::CoreOp(CoreOp::Conv(conv))) = edit.graph.op(m["c"].node).cloned() else { return Err(Miss::NoEffect) };
    if conv.act != Some(ActivationFn::Relu) || edit.graph.use_count(m["c"]) != 1 || high < 0.0 {
        return Err(Miss::NoEffect);
    }
    let operands = edit.graph.operands(m["c"].node);
    edit.apply(Conv { act: Some(ActivationFn::Clip), alpha: Some(0.0), beta: Some(high), ..conv }, &operands)
}

fn clip(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let (low, high) = (number(edit, m["low"])?, number(edit, m["high"])?);
    let (conv, operands) = open_conv(edit, m["c"], 1)?;
    if edit.graph.use_count(m["m"]) != 1 || low > high {
        return Err(Miss::NoEffect);
    }
    edit.apply(Conv { act: Some(ActivationFn::Clip), alpha: Some(low), beta: Some(high), ..conv }, &operands)
}

fn leaky_relu(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let alpha = number(edit, m["alpha"])?;
    let (conv, operands) = open_conv(edit, m["c"], 2)?;
    edit.apply(Conv { act: Some(ActivationFn::LeakyRelu), alpha: Some(alpha), ..conv }, &operands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_refused, rewritten};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("fuse_epilogues.rs"));
    }

    const CONV: &str = "conv(%x, %w) {dilations = [1], group = 1, pads = [0, 0], strides = [1]}";

    fn check(stmts: &str, attrs: &str) {
        let w = "%w = const [1.0, -2.0] : f32[2, 1, 1]";
        let text = format!("graph @g(%x: f32[N, 1, L]) {{ {w} %c = {CONV} {stmts} return %y }}");
        let expected = format!("{w}; %y = {}", CONV.replace("{dil", &format!("{{{attrs}, dil")));
        assert_eq!(rewritten(&PASS, &text), expected.replace(" : f32[2, 1, 1]", ""), "{stmts}");
    }

    #[test]
    fn activations_join() {
        check("%y = silu(%c)", "act = silu");
        check("%six = const [6.0] : f32[] %p = relu(%c) %y = min(%p, %six)", "act = clip, alpha = 0.0, beta = 6.0");
        check(
            "%a = const [-1.0] : f32[] %b = const [1.0] : f32[] %p = max(%c, %a) %y = min(%p, %b)",
            "act = clip, alpha = -1.0, beta = 1.0",
        );
        check(
            "%z = const [0.0] : f32[] %k = const [0.125] : f32[] %p = relu(%c) %n = min(%c, %z) %s = mul(%n, %k) %y = add(%p, %s)",
            "act = leaky_relu, alpha = 0.125",
        );
    }

    #[test]
    fn what_is_taken_off_becomes_a_bias() {
        let text = format!(
            "graph @g(%x: f32[N, 1, L]) {{ %w = const [1.0, -2.0] : f32[2, 1, 1] %k = const [3.0, 4.0] : f32[2, 1] %c = {CONV} %y = sub(%c, %k) return %y }}"
        );
        let expected = "%w = const [1.0, -2.0]; %y.1 = const [-3.0, -4.0]; %y = conv(%x, %w, %y.1) {dilations = [1], group = 1, pads = [0, 0], strides = [1]}";
        assert_eq!(rewritten(&PASS, &text), expected);
    }

    #[test]
    fn keeps_a_convolution_that_others_read() {
        let text = "
graph @g(%x: f32[N, 1, L]) {
  %w = const [1.0, -2.0] : f32[2, 1, 1]
  %c = conv(%x, %w) {dilations = [1], group = 1, pads = [0, 0], strides = [1]} : f32[N, 2, L]
  %y = relu(%c) : f32[N, 2, L]
  return %c, %y
}";
        check_refused(&PASS, text, "the convolution has another reader");
    }

    #[test]
    fn keeps_a_sum_that_broadcasts() {
        let text = "
graph @g(%x: f32[N, 1, 4], %r: f32[4]) {
  %w = const [1.0, -2.0] : f32[2, 1, 1]
  %c = conv(%x, %w) {dilations = [1], group = 1, pads = [0, 0], strides = [1]} : f32[N, 2, 4]
  %y = add(%c, %r) : f32[N, 2, 4]
  return %y
}";
        check_refused(&PASS, text, "what is added does not have the shape of the result");
    }
}
