//! Activations with parameters: decomposed into functions of one and two numbers, which passes fuse again.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::{Binary, Cast, Compare, Select, Unary};
use ir::scalar::{BinaryFn, CompareFn, UnaryFn};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "LeakyRelu", leaky_relu),
    ("", "Elu", elu),
    ("", "Selu", selu),
    ("", "Celu", celu),
    ("", "HardSigmoid", hard_sigmoid),
    ("", "ThresholdedRelu", thresholded_relu),
    ("", "Gelu", gelu),
    ("", "Swish", swish),
    ("", "SwiGLU", swiglu),
    ("", "Shrink", shrink),
    ("", "Clip", clip),
    ("", "HardSwish", |cx| unary(cx, UnaryFn::HardSwish)),
    ("", "Mish", |cx| unary(cx, UnaryFn::Mish)),
    ("", "Softplus", |cx| unary(cx, UnaryFn::Softplus)),
    ("", "Softsign", |cx| unary(cx, UnaryFn::Softsign)),
];

/// Operators with one result, written as calls.
impl NodeCx<'_> {
    pub(super) fn unary(&mut self, f: UnaryFn, x: Value) -> Result<Value, NodeError> {
        self.push(Unary { f }, &[x])
    }

    pub(super) fn binary(&mut self, f: BinaryFn, a: Value, b: Value) -> Result<Value, NodeError> {
        self.push(Binary { f }, &[a, b])
    }

    /// With a number of `x`'s element type on the right.
    pub(super) fn with_number(&mut self, f: BinaryFn, x: Value, number: f64) -> Result<Value, NodeError> {
        let number = self.const_like(x, number)?;
        self.binary(f, x, number)
    }
}

fn unary(cx: &mut NodeCx<'_>, f: UnaryFn) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    Ok(vec![cx.unary(f, x)?])
}

/// `max(x, 0)` and `min(x, 0)`: their sum is `x`, for NaN too.
fn signs(cx: &mut NodeCx<'_>, x: Value) -> Result<(Value, Value), NodeError> {
    Ok((cx.with_number(BinaryFn::Max, x, 0.0)?, cx.with_number(BinaryFn::Min, x, 0.0)?))
}

fn leaky_relu(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, alpha) = (cx.input(0)?, cx.attr_f32("alpha", 0.01)?);
    Ok(vec![leaky(cx, x, alpha)?])
}

/// `max(x, 0) + alpha * min(x, 0)`.
pub(super) fn leaky(cx: &mut NodeCx<'_>, x: Value, alpha: f32) -> Result<Value, NodeError> {
    let (positive, negative) = signs(cx, x)?;
    let scaled = cx.with_number(BinaryFn::Mul, negative, alpha.into())?;
    cx.binary(BinaryFn::Add, positive, scaled)
}

/// Several steps that round once: narrow floats are f32 in between.
fn rounded_once(
    cx: &mut NodeCx<'_>,
    x: Value,
    steps: impl FnOnce(&mut NodeCx<'_>, Value) -> Result<Value, NodeError>,
) -> Result<Vec<Value>, NodeError> {
    let to = cx.dtype(x)?;
    if !matches!(to, DType::F16 | DType::BF16) {
        return Ok(vec![steps(cx, x)?]);
    }
    let wide = cx.push(Cast { to: DType::F32, wrap: false }, &[x])?;
    let y = steps(cx, wide)?;
    cx.one(Cast { to, wrap: false }, &[y])
}

/// `max(x, 0) + alpha * (exp(min(x, 0) / inner) - 1)`.
fn exponential(cx: &mut NodeCx<'_>, x: Value, alpha: f32, inner: f32) -> Result<Value, NodeError> {
    let (positive, mut negative) = signs(cx, x)?;
    if inner != 1.0 {
        negative = cx.with_number(BinaryFn::Div, negative, inner.into())?;
    }
    let e = cx.unary(UnaryFn::Exp, negative)?;
    let mut e = cx.with_number(BinaryFn::Sub, e, 1.0)?;
    if alpha != 1.0 {
        e = cx.with_number(BinaryFn::Mul, e, alpha.into())?;
    }
    cx.binary(BinaryFn::Add, positive, e)
}

fn elu(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, alpha) = (cx.input(0)?, cx.attr_f32("alpha", 1.0)?);
    rounded_once(cx, x, |cx, x| exponential(cx, x, alpha, 1.0))
}

fn selu(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (alpha, gamma) = if cx.opset() < 6 { (1.6732, 1.0507) } else { (1.673_263_2, 1.050_701) };
    let (alpha, gamma) = (cx.attr_f32("alpha", alpha)?, cx.attr_f32("gamma", gamma)?);
    let x = cx.input(0)?;
    rounded_once(cx, x, |cx, x| {
        let y = exponential(cx, x, alpha, 1.0)?;
        cx.with_number(BinaryFn::Mul, y, gamma.into())
    })
}

fn celu(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, alpha) = (cx.input(0)?, cx.attr_f32("alpha", 1.0)?);
    rounded_once(cx, x, |cx, x| exponential(cx, x, alpha, alpha))
}

fn hard_sigmoid(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (alpha, beta) = (cx.attr_f32("alpha", 0.2)?, cx.attr_f32("beta", 0.5)?);
    let x = cx.input(0)?;
    rounded_once(cx, x, |cx, x| hard_sigmoid_of(cx, x, alpha, beta))
}

/// `min(max(alpha x + beta, 0), 1)`.
pub(super) fn hard_sigmoid_of(cx: &mut NodeCx<'_>, x: Value, alpha: f32, beta: f32) -> Result<Value, NodeError> {
    let mut y = x;
    for (f, number) in [(BinaryFn::Mul, alpha), (BinaryFn::Add, beta), (BinaryFn::Max, 0.0), (BinaryFn::Min, 1.0)] {
        y = cx.with_number(f, y, number.into())?;
    }
    Ok(y)
}

fn thresholded_relu(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, alpha) = (cx.input(0)?, cx.attr_f32("alpha", 1.0)?);
    let (alpha, zero) = (cx.const_like(x, alpha.into())?, cx.const_like(x, 0.0)?);
    let above = cx.push(Compare { f: CompareFn::Gt }, &[x, alpha])?;
    cx.one(Select {}, &[above, x, zero])
}

fn gelu(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    match &*cx.attr_str("approximate", "none")? {
        "none" => unary(cx, UnaryFn::Gelu),
        "tanh" => unary(cx, UnaryFn::GeluTanh),
        other => Err(NodeError::wrong(format!("attribute `approximate` is `{other}`, not none or tanh"))),
    }
}

fn swish(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, alpha) = (cx.input(0)?, cx.attr_f32("alpha", 1.0)?);
    Ok(vec![swished(cx, x, alpha)?])
}

fn swiglu(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (gate, linear, alpha) = (cx.input(0)?, cx.input(1)?, cx.attr_f32("alpha", 1.0)?);
    let gate = swished(cx, gate, alpha)?;
    Ok(vec![cx.binary(BinaryFn::Mul, gate, linear)?])
}

/// `x * sigmoid(alpha * x)`.
pub(super) fn swished(cx: &mut NodeCx<'_>, x: Value, alpha: f32) -> Result<Value, NodeError> {
    if alpha == 1.0 {
        return cx.unary(UnaryFn::Silu, x);
    }
    let scaled = cx.with_number(BinaryFn::Mul, x, alpha.into())?;
    let gate = cx.unary(UnaryFn::Sigmoid, scaled)?;
    cx.binary(BinaryFn::Mul, x, gate)
}

fn shrink(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (bias, lambda) = (f64::from(cx.attr_f32("bias", 0.0)?), f64::from(cx.attr_f32("lambd", 0.5)?));
    let original = cx.input(0)?;
    let dtype = cx.dtype(original)?;
    let integer = !dtype.is_float();
    // The threshold of an integer need not be one.
    let x = if integer { cx.push(Cast { to: DType::F64, wrap: false }, &[original])? } else { original };
    let (high, low, zero) = (cx.const_like(x, lambda)?, cx.const_like(x, -lambda)?, cx.const_like(x, 0.0)?);
    let (less, more) = (cx.with_number(BinaryFn::Sub, x, bias)?, cx.with_number(BinaryFn::Add, x, bias)?);
    let above = cx.push(Compare { f: CompareFn::Gt }, &[x, high])?;
    let below = cx.push(Compare { f: CompareFn::Lt }, &[x, low])?;
    let y = cx.push(Select {}, &[above, less, zero])?;
    let y = cx.push(Select {}, &[below, more, y])?;
    if integer { cx.one(Cast { to: dtype, wrap: false }, &[y]) } else { Ok(vec![y]) }
}

/// The upper bound is applied last: it wins where the bounds cross.
fn clip(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let mut y = cx.input(0)?;
    for (i, name, f) in [(1, "min", BinaryFn::Max), (2, "max", BinaryFn::Min)] {
        if let Some(bound) = cx.opt_f32(name)? {
            y = cx.with_number(f, y, bound.into())?;
        } else if let Some(bound) = cx.opt(i) {
            y = cx.binary(f, y, bound)?;
        }
    }
    Ok(vec![y])
}
