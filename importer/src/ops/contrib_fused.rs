//! com.microsoft's operators with an activation at their end.

use ir::graph::Value;
use ir::scalar::{BinaryFn, UnaryFn};

use super::{Table, matmul, nn_activation, nn_conv};
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table =
    &[("com.microsoft", "FusedConv", fused_conv), ("com.microsoft", "FusedGemm", fused_gemm)];

/// The function that attribute `activation` names, with its parameters.
fn activate(cx: &mut NodeCx<'_>, x: Value, parameters: &[f32]) -> Result<Value, NodeError> {
    let at = |i: usize, default: f32| parameters.get(i).copied().unwrap_or(default);
    let word = cx.attr_str("activation", "")?;
    match &*word {
        "" => Ok(x),
        "Relu" => cx.unary(UnaryFn::Relu, x),
        "Sigmoid" => cx.unary(UnaryFn::Sigmoid, x),
        "Tanh" => cx.unary(UnaryFn::Tanh, x),
        "Softplus" => cx.unary(UnaryFn::Softplus, x),
        "HardSwish" => cx.unary(UnaryFn::HardSwish, x),
        "Gelu" => cx.unary(UnaryFn::Gelu, x),
        "LeakyRelu" => nn_activation::leaky(cx, x, at(0, 0.01)),
        "HardSigmoid" => nn_activation::hard_sigmoid_of(cx, x, at(0, 0.2), at(1, 0.5)),
        "Clip" => {
            let low = cx.with_number(BinaryFn::Max, x, at(0, f32::MIN).into())?;
            cx.with_number(BinaryFn::Min, low, at(1, f32::MAX).into())
        }
        _ => cx.unsupported(format!("the activation `{word}` is not")),
    }
}

/// A convolution, perhaps with a sum, then the activation.
fn fused_conv(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let mut operands = vec![cx.input(0)?, cx.input(1)?];
    operands.extend(cx.opt(2));
    let mut y = nn_conv::convolve(cx, &operands)?;
    if let Some(more) = cx.opt(3) {
        y = cx.binary(BinaryFn::Add, y, more)?;
    }
    let parameters = cx.attr_floats("activation_params", &[])?;
    Ok(vec![activate(cx, y, &parameters)?])
}

fn fused_gemm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let y = matmul::gemm(cx)?[0];
    let (alpha, beta) = (cx.opt_f32("activation_alpha")?, cx.opt_f32("activation_beta")?);
    let parameters: Vec<f32> = alpha.into_iter().chain(beta.filter(|_| alpha.is_some())).collect();
    Ok(vec![activate(cx, y, &parameters)?])
}
