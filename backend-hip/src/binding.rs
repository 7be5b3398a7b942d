//! The symbols of an entry, bound to the sizes of its inputs.

use ir::eval::GraphError;
use ir::ops::{Constraint, EvalError};
use ir::{Datum, Dim, TensorType, ValueType};
use plan::{Entry, Port};
use runtime::RunError;
use std::sync::Arc;

/// Symbols in the order in which they were bound.
#[derive(Clone, Default)]
pub(crate) struct Binding {
    symbols: Vec<(Arc<str>, i64)>,
    /// Those that the inputs bind; the others are late.
    bound: usize,
}

/// Which input binds a symbol: (input, axis, symbol).
pub(crate) type Binder = (usize, usize, Arc<str>);

/// What binds the symbols of an entry.
pub(crate) fn binders(entry: &Entry) -> Vec<Binder> {
    let mut found: Vec<Binder> = vec![];
    for (i, port) in entry.inputs.iter().enumerate() {
        let dims = port.ty.as_tensor().and_then(TensorType::dims).unwrap_or_default();
        for (axis, d) in dims.iter().enumerate() {
            if let Some(s) = d.as_sym().filter(|s| !found.iter().any(|(_, _, known)| &**known == *s)) {
                found.push((i, axis, s.into()));
            }
        }
    }
    found
}

impl Binding {
    pub(crate) fn get(&self, name: &str) -> Option<i64> {
        self.symbols.iter().find(|(s, _)| &**s == name).map(|(_, n)| *n)
    }

    pub(crate) fn eval(&self, d: &Dim) -> Result<i64, EvalError> {
        Ok(d.eval(&|s| self.get(s))?)
    }

    pub(crate) fn size(&self, d: &Dim) -> Result<usize, EvalError> {
        let n = self.eval(d)?;
        usize::try_from(n).map_err(|_| EvalError::Invalid(format!("the size {d} is {n}")))
    }

    /// Dimensions of a tensor type; none for anything else.
    pub(crate) fn dims(&self, ty: &ValueType) -> Result<Vec<usize>, EvalError> {
        ty.as_tensor().and_then(TensorType::dims).unwrap_or_default().iter().map(|d| self.size(d)).collect()
    }

    /// Binds the symbols of states to what the session says and the others to inputs; says whether any changed. Late symbols are
    /// forgotten.
    pub(crate) fn bind(&mut self, given: &[(Arc<str>, i64)], binders: &[Binder], inputs: &[Datum]) -> bool {
        let size = |(input, axis, _): &Binder| {
            inputs.get(*input).and_then(|d| d.as_tensor()?.dims().get(*axis)).map_or(0, |n| *n as i64)
        };
        self.symbols.truncate(self.bound);
        let found = given.len() + binders.len();
        let same = self.symbols.len() == found
            && self.symbols.iter().zip(given).all(|(a, b)| a == b)
            && self.symbols[given.len()..].iter().zip(binders).all(|((_, n), b)| *n == size(b));
        if !same {
            let of_inputs = binders.iter().map(|b| (b.2.clone(), size(b)));
            self.symbols = given.iter().cloned().chain(of_inputs).collect();
            self.bound = found;
        }
        !same
    }

    /// Binds the late symbols of a type to a value that now exists.
    pub(crate) fn learn(&mut self, ty: &ValueType, dims: &[usize]) {
        for (d, n) in ty.as_tensor().and_then(TensorType::dims).unwrap_or_default().iter().zip(dims) {
            if let Some(s) = d.as_sym().filter(|s| self.get(s).is_none()) {
                self.symbols.push((s.into(), *n as i64));
            }
        }
    }

    /// Fails when inputs do not fit their ports, or the constraints.
    pub(crate) fn check(&self, ports: &[Port], constraints: &[Constraint], inputs: &[Datum]) -> Result<(), RunError> {
        if inputs.len() != ports.len() {
            return Err(GraphError::Inputs { expected: ports.len(), found: inputs.len() }.into());
        }
        for (port, datum) in ports.iter().zip(inputs) {
            if !self.fits(&port.ty, datum) {
                let found = ir::eval::type_of(datum).map_or_else(|| "another kind".to_string(), |t| t.to_string());
                let (name, expected) = (port.name.clone(), port.ty.to_string());
                return Err(GraphError::Input { name, expected, found }.into());
            }
        }
        match self.broken(constraints) {
            Some((c, left, right)) => Err(GraphError::Constraint { constraint: c.to_string(), left, right }.into()),
            None => Ok(()),
        }
    }

    /// The first constraint that the symbols break.
    pub(crate) fn broken<'c>(&self, constraints: &'c [Constraint]) -> Option<(&'c Constraint, i64, i64)> {
        constraints.iter().find_map(|c| {
            let (left, right) = (self.eval(&c.left).ok()?, self.eval(&c.right).ok()?);
            (left != right).then_some((c, left, right))
        })
    }

    fn fits(&self, ty: &ValueType, datum: &Datum) -> bool {
        match (ty, datum) {
            (ValueType::Tensor(ty), Datum::Tensor(t)) => {
                let same = |(d, n): (&Dim, &usize)| self.eval(d).is_ok_and(|v| v == *n as i64);
                let dims = |dims: &[Dim]| dims.len() == t.rank() && dims.iter().zip(t.dims()).all(same);
                ty.dtype == t.dtype() && ty.dims().is_none_or(dims)
            }
            (ValueType::Tensor(_), _) => false,
            (ValueType::Sequence(_), d) => matches!(d, Datum::Sequence(_)),
            (ValueType::Map { .. }, d) => matches!(d, Datum::Map(_)),
            (ValueType::Optional(_), d) => !matches!(d, Datum::Absent),
            (ValueType::Absent, d) => matches!(d, Datum::Absent),
        }
    }
}
