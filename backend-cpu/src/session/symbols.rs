//! Values of the symbols of a plan.

use crate::kernels::dims::Dims;
use ir::ops::EvalError;
use ir::{Dim, TensorType, ValueType};
use std::sync::Arc;

/// Values of the symbols, in the order they were bound.
#[derive(Clone, Default)]
pub(crate) struct Symbols(pub(crate) Vec<(Arc<str>, i64)>);

impl Symbols {
    pub(crate) fn get(&self, name: &str) -> Option<i64> {
        self.0.iter().find(|(s, _)| &**s == name).map(|(_, n)| *n)
    }

    pub(crate) fn eval(&self, d: &Dim) -> Result<i64, EvalError> {
        Ok(d.eval(&|s| self.get(s))?)
    }

    pub(super) fn size(&self, d: &Dim) -> Result<usize, EvalError> {
        let n = self.eval(d)?;
        usize::try_from(n).map_err(|_| EvalError::Invalid(format!("the size {d} is {n}")))
    }

    pub(super) fn dims(&self, ty: &TensorType, into: &mut Dims) -> Result<(), EvalError> {
        into.clear();
        for d in ty.dims().unwrap_or_default() {
            into.push(self.size(d)?);
        }
        Ok(())
    }

    /// Binds the late symbols of a type to a value that now exists.
    pub(super) fn learn(&mut self, ty: &ValueType, dims: &[usize]) {
        for (d, n) in ty.as_tensor().and_then(TensorType::dims).unwrap_or_default().iter().zip(dims) {
            if let Some(s) = d.as_sym().filter(|s| self.get(s).is_none()) {
                self.0.push((s.into(), *n as i64));
            }
        }
    }
}
