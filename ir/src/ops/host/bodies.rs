//! What `if`, `loop`, `scan` and `sequence_map` share: running closed bodies, and types that hold for every run of one.
//!
//! A body is closed: outer values that it reads are further inputs after those that its operator gives, and further
//! operands of the operator (captures). Symbols of the graph around it may appear in its dimensions.

use crate::dim::{Dim, Truth};
use crate::graph::Graph;
use crate::ops::{EvalError, Operands, TypeError};
use crate::tensor::Datum;
use crate::types::{Shape, TensorType, ValueType};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Runs a body.
pub(crate) fn run(body: &Graph, inputs: &[Datum]) -> Result<Vec<Datum>, EvalError> {
    crate::eval::run(body, inputs).map_err(|e| EvalError::Invalid(format!("in `@{}`: {e}", body.name)))
}

/// Types of a body's results.
pub(crate) fn results(body: &Graph) -> Vec<ValueType> {
    body.outputs.iter().map(|o| body.ty(o.value).clone()).collect()
}

/// Fails unless the body has this many inputs and at least this many results.
pub(crate) fn check(body: &Graph, inputs: usize, results: usize) -> Result<(), TypeError> {
    let (i, r) = (body.inputs.len(), body.outputs.len());
    if i == inputs && r >= results {
        return Ok(());
    }
    Err(TypeError::Invalid(format!(
        "the body `@{}` has {i} inputs and {r} results, not {inputs} and {results}",
        body.name
    )))
}

/// A type that values of both types have: dimensions that differ come from `fresh`, different ranks are unknown; a value is
/// also an optional that is there. `None` when there is no such type.
pub fn merge_types(a: &ValueType, b: &ValueType, fresh: &mut dyn FnMut(&Dim) -> Dim) -> Option<ValueType> {
    Some(match (a, b) {
        (ValueType::Tensor(a), ValueType::Tensor(b)) if a.dtype == b.dtype => {
            let shape = match (a.dims(), b.dims()) {
                (Some(a), Some(b)) if a.len() == b.len() => {
                    let merged =
                        a.iter().zip(b).map(|(a, b)| if a.same(b) == Truth::Yes { a.clone() } else { fresh(a) });
                    Shape::Ranked(merged.collect())
                }
                _ => Shape::Unranked,
            };
            TensorType { dtype: a.dtype, shape }.into()
        }
        (ValueType::Sequence(a), ValueType::Sequence(b)) => ValueType::Sequence(Box::new(merge_types(a, b, fresh)?)),
        (ValueType::Optional(a), ValueType::Optional(b)) => ValueType::Optional(Box::new(merge_types(a, b, fresh)?)),
        (ValueType::Optional(of), other) | (other, ValueType::Optional(of)) => {
            ValueType::Optional(Box::new(merge_types(of, other, fresh)?))
        }
        (ValueType::Map { key, value }, ValueType::Map { key: k, value: v }) if key == k => {
            ValueType::Map { key: *key, value: Box::new(merge_types(value, v, fresh)?) }
        }
        (ValueType::Absent, ValueType::Absent) => ValueType::Absent,
        _ => return None,
    })
}

/// Whether a value of type `given` can be where a body has one of type `held`.
pub(crate) fn holds(held: &ValueType, given: &ValueType) -> bool {
    held.compatible(given) || matches!(held, ValueType::Optional(of) if of.compatible(given))
}

/// Types of a body's results as the graph around it sees them: late symbols that the body binds become new ones.
pub(crate) struct Outside<'a, 'b> {
    operands: &'a Operands<'b>,
    known: BTreeSet<Arc<str>>,
    new: RefCell<HashMap<Dim, Dim>>,
}

impl<'a, 'b> Outside<'a, 'b> {
    pub fn new(operands: &'a Operands<'b>) -> Outside<'a, 'b> {
        let known = RefCell::new(BTreeSet::new());
        for i in (0..operands.len()).filter(|i| operands.has(*i)) {
            let Ok(ty) = operands.ty(i) else { continue };
            ty.map_dims(&|d| {
                known.borrow_mut().extend(d.symbols());
                d.clone()
            });
        }
        Outside { operands, known: known.into_inner(), new: RefCell::default() }
    }

    pub fn see(&self, ty: &ValueType) -> ValueType {
        ty.map_dims(&|d| {
            if !d.is_late() || d.symbols().iter().all(|s| !s.starts_with('?') || self.known.contains(s)) {
                return d.clone();
            }
            self.new.borrow_mut().entry(d.clone()).or_insert_with(|| self.operands.late_dim()).clone()
        })
    }
}
