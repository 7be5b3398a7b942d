//! One sequence over a language model's `main` entry: which input is which, and the past that goes round.
//!
//! A decoder model takes `input_ids[B, S]`, often `attention_mask[B, P + S]` and `position_ids[B, S]`, and caches
//! `past_key_values.*[B, heads, P, D]`; it returns `logits[B, S, V]` and `present.*` with `P + S` rows, which are the next
//! step's past. Inputs and outputs are paired by what their names have in common, layer number and kind.

use crate::backend::{RunError, Session};
use ir::{DType, Datum, Tensor, TensorType};
use plan::Port;
use std::sync::Arc;

/// Why a model cannot generate text, or failed to.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The model has no input of token ids.
    #[error("no input looks like token ids (`input_ids`, an integer [batch, sequence]); the inputs are: {0}")]
    NoIds(String),
    /// The model has no output of logits.
    #[error("no output looks like logits (`logits`, a float [batch, sequence, vocabulary]); the outputs are: {0}")]
    NoLogits(String),
    /// An input that generation does not know how to fill.
    #[error("generation cannot fill the input `{name}` ({ty}); run the model with `run` instead")]
    Input {
        /// The input.
        name: Arc<str>,
        /// Its type.
        ty: String,
    },
    /// The model failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The model answered with something other than logits.
    #[error("the model returned {0} where logits were expected")]
    Answer(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Role {
    Ids(DType),
    /// All ones over past and new tokens.
    Mask(DType),
    Positions(DType),
    /// The cache that this output returns.
    Past {
        output: usize,
        empty: Tensor,
    },
    /// `use_cache_branch` of merged decoders.
    UseCache,
}

/// A sequence being decoded.
pub struct Decoder {
    roles: Vec<Role>,
    logits: usize,
    inputs: Vec<Datum>,
    /// Tokens in the caches, or all tokens so far when the model has none.
    length: usize,
    history: Vec<i64>,
}

impl Decoder {
    /// Finds out what the inputs and outputs are.
    pub fn new(inputs: &[Port], outputs: &[Port]) -> Result<Decoder, DecodeError> {
        let list = |ports: &[Port]| ports.iter().map(|p| format!("{} {}", p.name, p.ty)).collect::<Vec<_>>().join(", ");
        let roles: Result<Vec<Role>, DecodeError> = inputs.iter().map(|p| role(p, outputs)).collect();
        let roles = roles?;
        if !roles.iter().any(|r| matches!(r, Role::Ids(_))) {
            return Err(DecodeError::NoIds(list(inputs)));
        }
        let is_logits =
            |p: &Port| tensor(p).is_some_and(|t| t.dtype.is_float() && t.dims().is_some_and(|d| d.len() == 3));
        let named = outputs.iter().position(|p| &*p.name == "logits");
        let logits = named.or_else(|| outputs.iter().position(is_logits));
        let logits = logits.ok_or_else(|| DecodeError::NoLogits(list(outputs)))?;
        let past = |r: &Role| match r {
            Role::Past { empty, .. } => empty.clone().into(),
            _ => Datum::Absent,
        };
        let inputs = roles.iter().map(past).collect();
        Ok(Decoder { roles, logits, inputs, length: 0, history: vec![] })
    }

    /// Tokens decoded so far.
    pub fn len(&self) -> usize {
        self.history.len()
    }

    /// Whether nothing has been decoded.
    pub fn is_empty(&self) -> bool {
        self.history.is_empty()
    }

    /// Whether the model returns caches, so that a step costs one token.
    pub fn is_cached(&self) -> bool {
        self.roles.iter().any(|r| matches!(r, Role::Past { .. }))
    }

    /// Appends tokens and writes the logits after the last one into `logits`.
    pub fn step(&mut self, session: &mut dyn Session, ids: &[u32], logits: &mut Vec<f32>) -> Result<(), DecodeError> {
        self.history.extend(ids.iter().map(|id| *id as i64));
        let cached = self.is_cached();
        let fresh = if cached { &self.history[self.length..] } else { &self.history[..] };
        let (new, total) = (fresh.len(), self.history.len());
        let first = total - new;
        let row = |dtype: DType, values: &mut dyn Iterator<Item = i64>| {
            let values: Vec<i128> = values.map(i128::from).collect();
            Tensor::from_ints(dtype, &[1, values.len()], &values).map(Datum::from)
        };
        for (role, input) in self.roles.iter().zip(&mut self.inputs) {
            let made = match role {
                Role::Ids(dtype) => row(*dtype, &mut fresh.iter().copied()),
                Role::Mask(dtype) => row(*dtype, &mut std::iter::repeat_n(1, total)),
                Role::Positions(dtype) => row(*dtype, &mut (first as i64..total as i64)),
                Role::UseCache => Tensor::from_bools(&[1], &[first > 0]).map(Datum::from),
                Role::Past { .. } => continue,
            };
            *input = made.map_err(|e| DecodeError::Answer(e.to_string()))?;
        }
        let results = session.run(&self.inputs)?;
        last_row(&results[self.logits], logits)?;
        for (role, input) in self.roles.iter().zip(&mut self.inputs) {
            if let Role::Past { output, .. } = role {
                *input = results[*output].clone();
            }
        }
        self.length = total;
        Ok(())
    }
}

fn tensor(p: &Port) -> Option<&TensorType> {
    p.ty.as_tensor()
}

fn role(port: &Port, outputs: &[Port]) -> Result<Role, DecodeError> {
    let unknown = || DecodeError::Input { name: port.name.clone(), ty: port.ty.to_string() };
    let ty = tensor(port).ok_or_else(unknown)?;
    let rank = ty.dims().map(<[_]>::len);
    let name = port.name.to_ascii_lowercase();
    if ty.dtype == DType::Bool && name.contains("use_cache") {
        return Ok(Role::UseCache);
    }
    if ty.dtype.is_float() && rank.is_some_and(|r| r >= 3) {
        let output = outputs.iter().position(|o| is_present(o, port)).ok_or_else(unknown)?;
        // The batch is one sequence, every other open dimension is the empty past.
        let dims = ty.dims().unwrap_or_default().iter().enumerate();
        let open = |i: usize| if i == 0 { 1 } else { 0 };
        let dims: Vec<usize> = dims.map(|(i, d)| d.as_const().map_or(open(i), |n| n as usize)).collect();
        let empty = Tensor::zeros(ty.dtype, &dims).map_err(|_| unknown())?;
        return Ok(Role::Past { output, empty });
    }
    if !ty.dtype.is_int() || rank != Some(2) {
        return Err(unknown());
    }
    match () {
        _ if name.contains("mask") => Ok(Role::Mask(ty.dtype)),
        _ if name.contains("position") => Ok(Role::Positions(ty.dtype)),
        _ if name.contains("ids") || name.contains("tokens") || name == "input" => Ok(Role::Ids(ty.dtype)),
        _ => Err(unknown()),
    }
}

/// Whether an output continues a cache input: same element type and rank, same layer number and same kind.
fn is_present(output: &Port, input: &Port) -> bool {
    let (Some(a), Some(b)) = (tensor(output), tensor(input)) else { return false };
    let rank = |t: &TensorType| t.dims().map(<[_]>::len);
    a.dtype == b.dtype && rank(a) == rank(b) && key(&output.name) == key(&input.name)
}

/// The parts of a cache's name that say which cache it is: `past_key_values.3.decoder.key` and `present.3.decoder.key` give
/// `3.decoder.key`.
fn key(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let words = lower.split(['.', '_', '/']);
    let noise = ["past", "present", "values", "new", "cache", "out", "in", "self", "kv", ""];
    let mut parts: Vec<&str> = words.filter(|w| !noise.contains(w)).collect();
    // `past_key_values.0.key` says "key" twice.
    if parts.len() > 2 && parts[0] == "key" && parts[1].chars().all(|c| c.is_ascii_digit()) {
        parts.remove(0);
    }
    parts.join(".")
}

fn last_row(datum: &Datum, into: &mut Vec<f32>) -> Result<(), DecodeError> {
    let wrong = || DecodeError::Answer(format!("{datum:?}"));
    let t = datum.as_tensor().ok_or_else(wrong)?;
    let vocabulary = *t.dims().last().ok_or_else(wrong)?;
    if vocabulary == 0 || t.len() < vocabulary {
        return Err(wrong());
    }
    into.clear();
    let from = t.len() - vocabulary;
    match t.dtype() {
        DType::F32 => into.extend_from_slice(&t.as_slice::<f32>().map_err(|_| wrong())?[from..]),
        _ => into.extend(t.to_f64().map_err(|_| wrong())?[from..].iter().map(|v| *v as f32)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::Place;

    fn port(name: &str, ty: &str) -> Port {
        Port { name: name.into(), ty: ty.parse().unwrap(), value: Place::None.into() }
    }

    #[test]
    fn caches_are_paired_by_layer_and_kind() {
        assert_eq!(key("past_key_values.3.key"), key("present.3.key"));
        assert_eq!(key("past_key_values.3.decoder.value"), key("present.3.decoder.value"));
        assert_ne!(key("past_key_values.3.key"), key("present.3.value"));
        assert_ne!(key("past_key_values.13.key"), key("present.3.key"));
        assert_eq!(key("past_key_self_0"), key("present_key_self_0"));
    }

    #[test]
    fn an_unknown_input_is_named() {
        let inputs = [port("input_ids", "i64[B, S]"), port("pixel_values", "f32[B, 3, H, W]")];
        let error = Decoder::new(&inputs, &[port("logits", "f32[B, S, 9]")]).err().unwrap();
        assert!(error.to_string().contains("pixel_values"), "{error}");
    }

    #[test]
    fn a_model_without_caches_is_fed_everything() {
        let inputs = [port("input_ids", "i64[B, S]"), port("attention_mask", "i64[B, S]")];
        let decoder = Decoder::new(&inputs, &[port("logits", "f32[B, S, 9]")]).unwrap();
        assert!(!decoder.is_cached());
    }
}
