//! Symbolic integer expressions for tensor dimensions, kept in one normal form.
//!
//! A plan is compiled once for symbols (batch, sequence, past) and its sizes, grids and offsets are bound at run
//! time, so two dimensions that mean the same number should be the same value as often as possible. A [`Dim`] is a
//! sum of `coefficient * product of atoms`; an atom is a symbol, a floor division, a minimum or a maximum. Equality
//! of normal forms implies equality of values; the converse is answered by the three-valued [`Dim::same`].
//!
//! ```
//! use ir::dim::{Dim, Truth};
//! let (b, s) = (Dim::sym("B"), Dim::sym("S"));
//! let rows = &b * &s * 64;
//! assert_eq!(rows.exact_div(&(&s * 64)), Some(b));
//! assert_eq!((&s + 1).same(&s), Truth::No);
//! assert_eq!((&s * 2 + 3).floor_div(&Dim::constant(2)).to_string(), "S + 1");
//! ```
//!
//! **Saturation.** Building never panics: a coefficient that leaves the range of `i64` becomes `i64::MAX` or
//! `i64::MIN`, which stand for "unbounded" (ONNX writes an open slice end as `INT64_MAX`) and stay so under further
//! arithmetic. `min(S, i64::MAX)` is `S`; nothing unbounded is ever reported as equal to something; evaluating an
//! unbounded part of an expression is [`DimError::Overflow`].
//!
//! **Size.** An expression of more than [`MAX_SIZE`] parts, or of divisions, minima and maxima nested more than
//! [`MAX_NESTING`] deep, is replaced by a late symbol named after its content (`?large.<hash>`), so that a hostile graph
//! cannot make its shapes grow without end, nor walks over them overflow the stack.

mod bounds;
mod build;
mod divide;
mod eval;
mod extrema;
mod operators;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

/// The largest number of parts (terms and atoms, at all depths) of one expression.
pub const MAX_SIZE: usize = 512;

/// How deep divisions, minima and maxima of one expression may be nested.
pub const MAX_NESTING: usize = 128;

/// A symbolic integer in normal form. Cloning is cheap; constants never allocate.
///
/// The order is structural, for sorted collections. Its `min` and `max` are nevertheless the symbolic ones.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Dim(Repr);

/// `Const` and `Sym` are the common cases; a `Sum` is never one of these in disguise.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Const(i64),
    Sym(Arc<str>),
    Sum(Arc<[Term]>),
}

/// `coef` times the product of `atoms` (sorted, repeated for powers; none for the constant term).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Term {
    coef: i64,
    atoms: Vec<Atom>,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Atom {
    Sym(Arc<str>),
    /// Numerator and divisor; rounds towards negative infinity.
    FloorDiv(Arc<[Dim; 2]>),
    Min(Arc<[Dim]>),
    Max(Arc<[Dim]>),
}

/// The answer to a question about all bindings of the symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It holds for every binding.
    Yes,
    /// It holds for no binding.
    No,
    /// It depends on the binding, or no proof was found.
    Unknown,
}

/// Why a dimension could not be evaluated or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    /// A symbol has no value.
    #[error("dimension symbol `{symbol}` has no value")]
    Unbound {
        /// The symbol without a value.
        symbol: Arc<str>,
    },
    /// The value leaves the range of a 64-bit integer, or is unbounded.
    #[error("dimension `{dim}` does not fit a 64-bit integer")]
    Overflow {
        /// The expression, or the part of it, that overflowed.
        dim: Dim,
    },
    /// A divisor is zero.
    #[error("dimension `{dim}` divides by zero")]
    DivisionByZero {
        /// The division.
        dim: Dim,
    },
    /// The text is not a dimension expression.
    #[error("`{text}` is not a dimension: expected {expected} at byte {at}")]
    Syntax {
        /// The whole text.
        text: String,
        /// Byte offset of the problem.
        at: usize,
        /// What would have been accepted there.
        expected: &'static str,
    },
}

impl Dim {
    /// The constant `n`; `i64::MAX` and `i64::MIN` stand for unbounded.
    pub fn constant(n: i64) -> Dim {
        Dim(Repr::Const(n))
    }

    /// The symbol `name`, an integer of at least 0. A name that starts with `?` is late: a node's result binds it
    /// at run time.
    pub fn sym(name: &str) -> Dim {
        Dim(Repr::Sym(Arc::from(name)))
    }

    /// The value, if it is the same for all bindings.
    pub fn as_const(&self) -> Option<i64> {
        match self.0 {
            Repr::Const(n) => Some(n),
            Repr::Sym(_) | Repr::Sum(_) => None,
        }
    }

    /// The name, if this is one symbol and nothing else.
    pub fn as_sym(&self) -> Option<&str> {
        match &self.0 {
            Repr::Sym(name) => Some(name),
            Repr::Const(_) | Repr::Sum(_) => None,
        }
    }

    /// Whether a late (`?`) symbol is mentioned.
    pub fn is_late(&self) -> bool {
        let mut late = false;
        self.visit_symbols(&mut |name| late |= name.starts_with('?'));
        late
    }

    /// All symbols mentioned, sorted.
    pub fn symbols(&self) -> BTreeSet<Arc<str>> {
        let mut symbols = BTreeSet::new();
        self.visit_symbols(&mut |name| {
            symbols.insert(name.clone());
        });
        symbols
    }

    fn visit_symbols(&self, visit: &mut dyn FnMut(&Arc<str>)) {
        match &self.0 {
            Repr::Const(_) => {}
            Repr::Sym(name) => visit(name),
            Repr::Sum(terms) => {
                for atom in terms.iter().flat_map(|term| &term.atoms) {
                    match atom {
                        Atom::Sym(name) => visit(name),
                        Atom::FloorDiv(_) | Atom::Min(_) | Atom::Max(_) => {
                            atom.parts().iter().for_each(|part| part.visit_symbols(visit));
                        }
                    }
                }
            }
        }
    }
}

impl Atom {
    /// The expressions inside; none for a symbol.
    fn parts(&self) -> &[Dim] {
        match self {
            Atom::Sym(_) => &[],
            Atom::FloorDiv(parts) => &parts[..],
            Atom::Min(parts) | Atom::Max(parts) => parts,
        }
    }
}
