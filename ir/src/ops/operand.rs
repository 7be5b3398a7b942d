//! Reading operands in reference evaluations.

use super::{Datum, EvalError, TypeError};
use crate::tensor::Tensor;

/// Operand `i` as a tensor.
pub fn tensor<'a>(op: &str, operands: &[&'a Datum], i: usize) -> Result<&'a Tensor, EvalError> {
    operands.get(i).and_then(|d| d.as_tensor()).ok_or_else(|| super::not_tensors(op))
}

/// Operand `i` as a tensor, unless it was left out.
pub fn optional<'a>(operands: &[&'a Datum], i: usize) -> Option<&'a Tensor> {
    operands.get(i).and_then(|d| d.as_tensor())
}

/// The elements of operand `i`, unless it was left out.
pub fn floats(operands: &[&Datum], i: usize) -> Result<Option<Vec<f64>>, EvalError> {
    Ok(optional(operands, i).map(Tensor::to_f64).transpose()?)
}

/// A typing rule broken by values whose types were not known before.
pub fn invalid(e: TypeError) -> EvalError {
    EvalError::Invalid(e.to_string())
}

/// Fails with `reason` unless `holds`.
pub fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), EvalError> {
    if holds { Ok(()) } else { Err(EvalError::Invalid(reason())) }
}
