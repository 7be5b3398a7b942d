//! LSTM, GRU and RNN.

use ir::graph::Value;
use ir::ops::{ActivationFn, Direction, Gru, Lstm, Rnn};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "LSTM", lstm), ("", "GRU", gru), ("", "RNN", rnn)];

/// Attributes of every recurrent layer.
pub(super) struct Layer {
    pub direction: Direction,
    pub activations: Vec<ActivationFn>,
    pub alphas: Vec<f32>,
    pub betas: Vec<f32>,
    pub clip: Option<f32>,
    pub batch_first: bool,
}

impl Layer {
    /// Reads the attributes; `defaults` are the activations of one direction.
    pub fn read(cx: &mut NodeCx<'_>, defaults: &[ActivationFn]) -> Result<Layer, NodeError> {
        let word = cx.attr_str("direction", "forward")?;
        let direction = Direction::from_name(&word.to_lowercase());
        let direction = direction.ok_or_else(|| NodeError::wrong(format!("attribute `direction` is `{word}`")))?;
        let activations = match cx.opt_strs("activations")? {
            Some(words) => words.iter().map(|w| activation(w)).collect::<Result<_, _>>()?,
            None => defaults.repeat(direction.count()),
        };
        let (alphas, betas) = (cx.opt_floats("activation_alpha")?, cx.opt_floats("activation_beta")?);
        let (mut alpha, mut beta) = (alphas.iter().flatten(), betas.iter().flatten());
        let given = alphas.is_some() || betas.is_some();
        // The lists hold values only for the functions that have such a parameter, in their order.
        let (mut all_alphas, mut all_betas) = (vec![], vec![]);
        for f in activations.iter().filter(|_| given) {
            let (a, b) = f.defaults();
            let (has_alpha, has_beta) = parameters(*f);
            all_alphas.push(if has_alpha { alpha.next().copied().unwrap_or(a) } else { a });
            all_betas.push(if has_beta { beta.next().copied().unwrap_or(b) } else { b });
        }
        let clip = cx.opt_f32("clip")?.filter(|c| *c > 0.0);
        let batch_first = cx.attr_bool("layout", false)?;
        Ok(Layer { direction, activations, alphas: all_alphas, betas: all_betas, clip, batch_first })
    }
}

/// Whether an activation has an alpha and a beta.
fn parameters(f: ActivationFn) -> (bool, bool) {
    use ActivationFn::*;
    match f {
        LeakyRelu | ThresholdedRelu | Elu => (true, false),
        HardSigmoid | Affine | ScaledTanh => (true, true),
        _ => (false, false),
    }
}

fn activation(word: &str) -> Result<ActivationFn, NodeError> {
    use ActivationFn::*;
    Ok(match &*word.to_lowercase() {
        "relu" => Relu,
        "tanh" => Tanh,
        "sigmoid" => Sigmoid,
        "affine" => Affine,
        "leakyrelu" => LeakyRelu,
        "thresholdedrelu" => ThresholdedRelu,
        "scaledtanh" => ScaledTanh,
        "hardsigmoid" => HardSigmoid,
        "elu" => Elu,
        "softsign" => Softsign,
        "softplus" => Softplus,
        _ => return Err(NodeError::wrong(format!("`{word}` is not an activation"))),
    })
}

/// The operands up to the last one that is there, at least three.
pub(super) fn operands(cx: &mut NodeCx<'_>, most: usize) -> Vec<Value> {
    let last = (0..most).rev().find(|i| cx.opt(*i).is_some()).unwrap_or(0);
    (0..=last.max(2)).map(|i| cx.or_absent(i)).collect()
}

fn lstm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let Layer { direction, activations, alphas, betas, clip, batch_first } =
        Layer::read(cx, &[ActivationFn::Sigmoid, ActivationFn::Tanh, ActivationFn::Tanh])?;
    let input_forget = cx.attr_bool("input_forget", false)?;
    let operands = operands(cx, 8);
    cx.push_n(Lstm { direction, activations, alphas, betas, clip, input_forget, batch_first }, &operands, 3)
}

fn gru(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let Layer { direction, activations, alphas, betas, clip, batch_first } =
        Layer::read(cx, &[ActivationFn::Sigmoid, ActivationFn::Tanh])?;
    let linear_before_reset = cx.attr_bool("linear_before_reset", false)?;
    let operands = operands(cx, 6);
    cx.push_n(Gru { direction, activations, alphas, betas, clip, linear_before_reset, batch_first }, &operands, 2)
}

fn rnn(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let Layer { direction, activations, alphas, betas, clip, batch_first } = Layer::read(cx, &[ActivationFn::Tanh])?;
    let operands = operands(cx, 6);
    cx.push_n(Rnn { direction, activations, alphas, betas, clip, batch_first }, &operands, 2)
}
