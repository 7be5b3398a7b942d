//! Building normal forms: terms are sorted, merged and compacted here and nowhere else.
//!
//! Terms are ordered by falling degree, then by atoms; within one degree comparing sorted atom lists is a
//! multiplicative order, so the first term is a leading term in the sense of polynomial division.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Atom, Dim, MAX_NESTING, MAX_SIZE, Repr, Term};

/// Products of more term pairs than this are not expanded.
const MAX_PAIRS: usize = 4096;

/// Whether a coefficient stands for "unbounded".
pub(super) fn unbounded(n: i64) -> bool {
    n == i64::MAX || n == i64::MIN
}

/// Sum of coefficients; unbounded absorbs, and the two unbounded ends together give `i64::MAX`.
pub(super) fn add_coef(a: i64, b: i64) -> i64 {
    match (unbounded(a), unbounded(b)) {
        (true, true) => a.max(b),
        (true, false) => a,
        (false, true) => b,
        (false, false) => a.saturating_add(b),
    }
}

/// Product of coefficients; unbounded absorbs everything except zero.
pub(super) fn mul_coef(a: i64, b: i64) -> i64 {
    if a == 0 || b == 0 {
        return 0;
    }
    if !unbounded(a) && !unbounded(b) {
        return a.saturating_mul(b);
    }
    if (a < 0) == (b < 0) { i64::MAX } else { i64::MIN }
}

impl Dim {
    /// The terms of the sum, leading term first, the constant last.
    pub(super) fn terms(&self) -> Vec<Term> {
        match &self.0 {
            Repr::Const(0) => Vec::new(),
            Repr::Const(n) => vec![Term { coef: *n, atoms: Vec::new() }],
            Repr::Sym(name) => vec![Term { coef: 1, atoms: vec![Atom::Sym(name.clone())] }],
            Repr::Sum(terms) => terms.to_vec(),
        }
    }

    /// The normal form of a sum of terms whose atoms are sorted.
    pub(super) fn from_terms(mut terms: Vec<Term>) -> Dim {
        terms.sort_by(|a, b| b.atoms.len().cmp(&a.atoms.len()).then_with(|| a.atoms.cmp(&b.atoms)));
        terms.dedup_by(|next, kept| {
            let like = next.atoms == kept.atoms;
            if like {
                kept.coef = add_coef(kept.coef, next.coef);
            }
            like
        });
        terms.retain(|term| term.coef != 0);
        match &terms[..] {
            [] => return Dim::constant(0),
            [Term { coef, atoms }] if atoms.is_empty() => return Dim::constant(*coef),
            [Term { coef: 1, atoms }] => {
                if let [Atom::Sym(name)] = &atoms[..] {
                    return Dim(Repr::Sym(name.clone()));
                }
            }
            _ => {}
        }
        for term in &mut terms {
            // Inside a sum the sign is printed apart from the number, so the negative end is reached one earlier.
            if term.coef == -i64::MAX {
                term.coef = i64::MIN;
            }
        }
        let size: usize = terms.iter().map(Term::size).sum();
        let nesting = terms.iter().map(Term::nesting).max().unwrap_or(0);
        let dim = Dim(Repr::Sum(terms.into()));
        if size <= MAX_SIZE && nesting <= MAX_NESTING {
            return dim;
        }
        let negative = dim.interval().lo < 0;
        opaque(&dim, negative)
    }

    pub(super) fn from_atom(atom: Atom) -> Dim {
        Dim::from_terms(vec![Term { coef: 1, atoms: vec![atom] }])
    }

    pub(super) fn plus(&self, other: &Dim) -> Dim {
        match (&self.0, &other.0) {
            (Repr::Const(a), Repr::Const(b)) => Dim::constant(add_coef(*a, *b)),
            (Repr::Const(0), _) => other.clone(),
            (_, Repr::Const(0)) => self.clone(),
            _ => {
                let mut terms = self.terms();
                terms.extend(other.terms());
                Dim::from_terms(terms)
            }
        }
    }

    pub(super) fn scaled(&self, by: i64) -> Dim {
        match (&self.0, by) {
            (_, 0) => Dim::constant(0),
            (_, 1) => self.clone(),
            (Repr::Const(n), _) => Dim::constant(mul_coef(*n, by)),
            _ => {
                let mut terms = self.terms();
                terms.iter_mut().for_each(|term| term.coef = mul_coef(term.coef, by));
                Dim::from_terms(terms)
            }
        }
    }

    pub(super) fn times(&self, other: &Dim) -> Dim {
        match (self.as_const(), other.as_const()) {
            (Some(n), _) => return other.scaled(n),
            (_, Some(n)) => return self.scaled(n),
            (None, None) => {}
        }
        let (left, right) = (self.terms(), other.terms());
        if left.len() * right.len() > MAX_PAIRS {
            let negative = self.interval().lo < 0 || other.interval().lo < 0;
            return opaque(&(self.min_max_order(other), "product"), negative);
        }
        let product = |a: &Term, b: &Term| {
            let mut atoms = a.atoms.clone();
            atoms.extend(b.atoms.iter().cloned());
            atoms.sort();
            Term { coef: mul_coef(a.coef, b.coef), atoms }
        };
        Dim::from_terms(left.iter().flat_map(|a| right.iter().map(move |b| product(a, b))).collect())
    }

    fn min_max_order<'a>(&'a self, other: &'a Dim) -> [&'a Dim; 2] {
        if self <= other { [self, other] } else { [other, self] }
    }

    /// Whether any coefficient, at any depth, stands for "unbounded".
    pub(super) fn has_unbounded(&self) -> bool {
        match &self.0 {
            Repr::Const(n) => unbounded(*n),
            Repr::Sym(_) => false,
            Repr::Sum(terms) => terms.iter().any(|term| {
                let parts = || term.atoms.iter().flat_map(Atom::parts);
                unbounded(term.coef) || parts().any(Dim::has_unbounded)
            }),
        }
    }

    /// The one atom this expression consists of, if it is one that is not a symbol.
    pub(super) fn as_atom(&self) -> Option<&Atom> {
        match &self.0 {
            Repr::Sum(terms) => match &terms[..] {
                [Term { coef: 1, atoms }] if atoms.len() == 1 => atoms.first(),
                _ => None,
            },
            Repr::Const(_) | Repr::Sym(_) => None,
        }
    }

    fn size(&self) -> usize {
        match &self.0 {
            Repr::Const(_) | Repr::Sym(_) => 1,
            Repr::Sum(terms) => terms.iter().map(Term::size).sum(),
        }
    }

    fn nesting(&self) -> usize {
        match &self.0 {
            Repr::Const(_) | Repr::Sym(_) => 0,
            Repr::Sum(terms) => terms.iter().map(Term::nesting).max().unwrap_or(0),
        }
    }
}

impl Term {
    fn size(&self) -> usize {
        let atom = |atom: &Atom| 1 + atom.parts().iter().map(Dim::size).sum::<usize>();
        1 + self.atoms.iter().map(atom).sum::<usize>()
    }

    fn nesting(&self) -> usize {
        let atom = |atom: &Atom| atom.parts().iter().map(Dim::nesting).max().map_or(0, |inner| 1 + inner);
        self.atoms.iter().map(atom).max().unwrap_or(0)
    }
}

/// A stand-in for an expression that is too large to keep. Equal content gives the same stand-in; one that may be
/// negative is a difference, because a symbol alone is never negative.
fn opaque(content: &impl Hash, may_be_negative: bool) -> Dim {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    let name = format!("?large.{:016x}", hasher.finish());
    if !may_be_negative {
        return Dim::sym(&name);
    }
    Dim::sym(&name).plus(&Dim::sym(&format!("{name}.below")).scaled(-1))
}
