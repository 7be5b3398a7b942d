//! Reading the operands of reference evaluations, and copying elements without widening them.

use super::{EvalError, Operands, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::tensor::{Datum, Tensor};
use crate::types::{Shape, TensorType, ValueType};
use std::fmt::Display;

/// The cost and the tolerance of an operator that only moves elements.
macro_rules! moves_data {
    () => {
        fn flops(&self, _: &[&crate::types::ValueType], _: &[crate::types::ValueType]) -> crate::dim::Dim {
            crate::dim::Dim::constant(0)
        }

        fn tolerance(&self, _: crate::dtype::DType) -> crate::ops::Tolerance {
            crate::ops::Tolerance::EXACT
        }
    };
}
pub(crate) use moves_data;

/// An evaluation error with this text.
pub(crate) fn invalid(e: impl Display) -> EvalError {
    EvalError::Invalid(e.to_string())
}

/// Operand `i`, which typing has made sure is a tensor.
pub(crate) fn tensor<'a>(operands: &[&'a Datum], i: usize) -> Result<&'a Tensor, EvalError> {
    let found = operands.get(i).and_then(|d| d.as_tensor());
    found.ok_or_else(|| invalid(format!("operand {i} is not a tensor")))
}

/// Operand `i`, or `None` when it was left out.
pub(crate) fn optional<'a>(operands: &[&'a Datum], i: usize) -> Result<Option<&'a Tensor>, EvalError> {
    match operands.get(i) {
        None | Some(Datum::Absent) => Ok(None),
        Some(_) => tensor(operands, i).map(Some),
    }
}

/// The integer in a one-element tensor.
pub(crate) fn number(t: &Tensor) -> Result<i64, EvalError> {
    match t.to_i64()?[..] {
        [n] => Ok(n),
        ref many => Err(invalid(format!("expected one integer, found {}", many.len()))),
    }
}

/// The integers of a tensor as expressions, for a rule that takes either.
pub(crate) fn dims_of(t: &Tensor) -> Result<Vec<Dim>, EvalError> {
    Ok(t.to_i64()?.into_iter().map(Dim::constant).collect())
}

/// [`super::axis`] for evaluations.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, EvalError> {
    super::axis(axis, rank).map_err(invalid)
}

/// An index into `n` elements, counted from the end when negative.
pub(crate) fn index(i: i64, n: usize) -> Result<usize, EvalError> {
    let at = if i < 0 { i.wrapping_add(n as i64) } else { i };
    if at < 0 || at >= n as i64 {
        return Err(invalid(format!("index {i} is outside a dimension of {n}")));
    }
    Ok(at as usize)
}

/// Fails unless operand `i` holds i32 or i64.
pub(crate) fn takes_indices(operands: &Operands<'_>, i: usize) -> Result<(), TypeError> {
    match operands.dtype(i)? {
        DType::I64 | DType::I32 => Ok(()),
        other => Err(operands.wrong(i, format!("indices are i32 or i64, not {other}"))),
    }
}

/// Fails unless operands `i` and `j` have one element type.
pub(crate) fn same_dtype(operands: &Operands<'_>, i: usize, j: usize) -> Result<(), TypeError> {
    let (a, b) = (operands.dtype(i)?, operands.dtype(j)?);
    if a == b { Ok(()) } else { Err(operands.wrong(j, format!("its element type {b} is not {a}"))) }
}

/// The only element of operand `i`, when it is known.
pub(crate) fn known_number(operands: &Operands<'_>, i: usize) -> Option<Dim> {
    match operands.elements(i)? {
        [n] => Some(n.clone()),
        _ => None,
    }
}

/// The elements of operand `i` as numbers, when they are all known.
pub(crate) fn known_numbers(operands: &Operands<'_>, i: usize) -> Option<Vec<i64>> {
    operands.elements(i)?.iter().map(Dim::as_const).collect()
}

/// How many elements operand `i` has, when it is a vector of known length.
pub(crate) fn known_length(operands: &Operands<'_>, i: usize) -> Option<usize> {
    let count = operands.tensor(i).ok()?.shape.elements()?.as_const()?;
    usize::try_from(count).ok().filter(|n| *n <= 64)
}

/// For every position of a tensor of shape `dims`, in order, the sum of `index * stride` over its dimensions.
pub(crate) fn offsets(dims: &[usize], strides: &[usize]) -> Vec<usize> {
    let steps: Vec<Vec<usize>> = dims.iter().zip(strides).map(|(n, s)| (0..*n).map(|i| i * s).collect()).collect();
    cartesian(&steps)
}

/// Every sum of one number from each list, the last list running fastest; `usize::MAX` stays itself.
pub(crate) fn cartesian(steps: &[Vec<usize>]) -> Vec<usize> {
    let mut sums = vec![0usize];
    for list in steps {
        let mut longer = Vec::with_capacity(sums.len() * list.len());
        for base in &sums {
            longer.extend(list.iter().map(|step| base.saturating_add(*step)));
        }
        sums = longer;
    }
    sums
}

/// A tensor of shape `dims` made of runs of `run` elements of `x`; run `i` starts at `starts[i]`. All are in range.
pub(crate) fn copy_runs(x: &Tensor, dims: &[usize], run: usize, starts: &[usize]) -> Result<Tensor, EvalError> {
    if run == 1 {
        return Ok(x.pick(dims, starts)?);
    }
    let bits = x.dtype().bits();
    if bits < 8 {
        let from: Vec<usize> = starts.iter().flat_map(|s| *s..s + run).collect();
        return Ok(x.pick(dims, &from)?);
    }
    let (width, bytes) = (run * bits / 8, x.bytes());
    Ok(Tensor::build(x.dtype(), dims, |out| {
        if width > 0 {
            for (to, start) in out.chunks_exact_mut(width).zip(starts) {
                let from = start * bits / 8;
                to.copy_from_slice(&bytes[from..from + width]);
            }
        }
    })?)
}

/// A tensor of shape `dims` of elements of `x` by position; `usize::MAX` stands for 0, or an empty text.
pub(crate) fn pick_or_zero(x: &Tensor, dims: &[usize], from: &[usize]) -> Result<Tensor, EvalError> {
    let zero = Tensor::zeros(x.dtype(), &[1])?;
    let all = super::concat::join(&[&x.reshaped(&[x.len()])?, &zero], 0)?;
    let from: Vec<usize> = from.iter().map(|i| (*i).min(x.len())).collect();
    Ok(all.pick(dims, &from)?)
}

/// A tensor of `rank` late dimensions, or of unknown rank.
pub(crate) fn late_tensor(operands: &Operands<'_>, dtype: DType, rank: Option<usize>) -> ValueType {
    let shape = match rank {
        Some(rank) => Shape::Ranked((0..rank).map(|_| operands.late_dim()).collect()),
        None => Shape::Unranked,
    };
    TensorType { dtype, shape }.into()
}
