//! Evaluating under a binding, and replacing symbols by expressions.
//!
//! Sizes are evaluated thousands of times in one decode step: nothing here allocates unless it fails.

use super::build::unbounded;
use super::divide::floor;
use super::{Atom, Dim, DimError, Repr, Term};

type Bind<'a> = &'a dyn Fn(&str) -> Option<i64>;

impl Dim {
    /// The value when each symbol has the value that `bind` gives it.
    ///
    /// Fails on a symbol without value, on division by zero, and where the value (or a part of it) leaves the range
    /// of `i64` or is unbounded. A lone constant is returned as it is.
    pub fn eval(&self, bind: &dyn Fn(&str) -> Option<i64>) -> Result<i64, DimError> {
        match &self.0 {
            Repr::Const(n) => Ok(*n),
            Repr::Sym(name) => bind(name).ok_or_else(|| DimError::Unbound { symbol: name.clone() }),
            Repr::Sum(terms) => {
                let mut sum = 0i64;
                for term in terms.iter() {
                    let value = term.eval(bind, self)?;
                    sum = sum.checked_add(value).ok_or_else(|| self.overflow())?;
                }
                Ok(sum)
            }
        }
    }

    /// Evaluates a part of an expression, where an unbounded constant has no value.
    fn eval_part(&self, bind: Bind) -> Result<i64, DimError> {
        match &self.0 {
            Repr::Const(n) if unbounded(*n) => Err(self.overflow()),
            _ => self.eval(bind),
        }
    }

    fn overflow(&self) -> DimError {
        DimError::Overflow { dim: self.clone() }
    }

    /// The expression with each symbol replaced by what `with` gives for it; the others stay.
    ///
    /// A symbol is at least 0, so the result holds for the bindings that make each replacement at least 0.
    pub fn substitute(&self, with: &dyn Fn(&str) -> Option<Dim>) -> Dim {
        match &self.0 {
            Repr::Const(_) => self.clone(),
            Repr::Sym(name) => with(name).unwrap_or_else(|| self.clone()),
            Repr::Sum(terms) => terms.iter().map(|term| term.substitute(with)).sum(),
        }
    }
}

impl Term {
    fn eval(&self, bind: Bind, whole: &Dim) -> Result<i64, DimError> {
        if unbounded(self.coef) {
            return Err(whole.overflow());
        }
        let mut product = self.coef;
        for atom in &self.atoms {
            let value = atom.eval(bind)?;
            product = product.checked_mul(value).ok_or_else(|| whole.overflow())?;
        }
        Ok(product)
    }

    fn substitute(&self, with: &dyn Fn(&str) -> Option<Dim>) -> Dim {
        let factors = self.atoms.iter().map(|atom| atom.substitute(with));
        factors.product::<Dim>().scaled(self.coef)
    }
}

impl Atom {
    fn eval(&self, bind: Bind) -> Result<i64, DimError> {
        match self {
            Atom::Sym(name) => bind(name).ok_or_else(|| DimError::Unbound { symbol: name.clone() }),
            Atom::FloorDiv(parts) => {
                let (number, by) = (parts[0].eval_part(bind)?, parts[1].eval_part(bind)?);
                let whole = || Dim::from_atom(self.clone());
                if by == 0 {
                    return Err(DimError::DivisionByZero { dim: whole() });
                }
                floor(number, by).ok_or_else(|| whole().overflow())
            }
            Atom::Min(parts) => pick(parts, bind, i64::min),
            Atom::Max(parts) => pick(parts, bind, i64::max),
        }
    }

    fn substitute(&self, with: &dyn Fn(&str) -> Option<Dim>) -> Dim {
        let part = |part: &Dim| part.substitute(with);
        match self {
            Atom::Sym(name) => with(name).unwrap_or_else(|| Dim::from_atom(self.clone())),
            Atom::FloorDiv(parts) => part(&parts[0]).floor_div(&part(&parts[1])),
            Atom::Min(parts) => Dim::min_of(parts.iter().map(part)),
            Atom::Max(parts) => Dim::max_of(parts.iter().map(part)),
        }
    }
}

fn pick(parts: &[Dim], bind: Bind, better: fn(i64, i64) -> i64) -> Result<i64, DimError> {
    let mut best = parts[0].eval_part(bind)?;
    for part in &parts[1..] {
        best = better(best, part.eval_part(bind)?);
    }
    Ok(best)
}
