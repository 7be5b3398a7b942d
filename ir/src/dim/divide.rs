//! Division: the floor of a quotient, its ceiling, and exact division of polynomials.
//!
//! A floor division keeps only what cannot be divided: `floordiv(4*S + 7, 2)` is `2*S + floordiv(7, 2)`, so
//! `2*S + 3`. Identities hold wherever the divisor is not zero, where the quotient has no value anyway.

use std::sync::Arc;

use super::build::unbounded;
use super::{Atom, Dim, Repr, Term, Truth};

/// Rounds towards negative infinity; `None` if `by` is zero or the quotient does not fit.
pub(super) fn floor(number: i64, by: i64) -> Option<i64> {
    let quotient = number.checked_div(by)?;
    let inexact = number % by != 0;
    Some(if inexact && (number < 0) != (by < 0) { quotient - 1 } else { quotient })
}

impl Dim {
    /// `self / by`, rounded towards negative infinity.
    pub fn floor_div(&self, by: &Dim) -> Dim {
        if self.has_unbounded() || by.has_unbounded() {
            return self.floor_div_unbounded(by);
        }
        let never_zero = by.as_const() != Some(0);
        if never_zero && let Some(quotient) = self.exact_div(by) {
            return quotient;
        }
        if let Some(quotient) = constant_quotient(self, by) {
            return quotient;
        }
        if let Some(simpler) = cancel_common(self, by).or_else(|| split(self, by)).or_else(|| join(self, by)) {
            return simpler;
        }
        let atom = Atom::FloorDiv(Arc::new([self.clone(), by.clone()]));
        let interval = atom.interval();
        match interval.single() {
            Some(n) => Dim::constant(n),
            None => Dim::from_atom(atom),
        }
    }

    /// `self / by`, rounded towards positive infinity.
    pub fn ceil_div(&self, by: &Dim) -> Dim {
        if by.at_least(0) == Truth::Yes {
            return (self + by - 1).floor_div(by);
        }
        -((-self).floor_div(by))
    }

    /// The `q` for which `q * by` is identical to `self`, if there is one; `None` also for a zero divisor.
    pub fn exact_div(&self, by: &Dim) -> Option<Dim> {
        if by.as_const() == Some(1) {
            return Some(self.clone());
        }
        if self.has_unbounded() || by.has_unbounded() {
            return None;
        }
        if let (Some(number), Some(by)) = (self.as_const(), by.as_const()) {
            return (number.checked_rem(by)? == 0).then(|| Dim::constant(number / by));
        }
        let divisor = by.terms();
        let lead = divisor.first()?;
        let mut rest = self.clone();
        let mut quotient = Vec::new();
        // The leading term falls with each round, so this ends; the count only bounds the work.
        for _ in 0..super::MAX_SIZE {
            let Some(first) = rest.terms().into_iter().next() else {
                break;
            };
            let term = first.divided_by(lead)?;
            rest = rest - Dim::from_terms(vec![term.clone()]).times(by);
            quotient.push(term);
        }
        let quotient = Dim::from_terms(quotient);
        (!quotient.has_unbounded() && quotient.times(by) == *self).then_some(quotient)
    }

    /// Unbounded numbers stay unbounded; everything else is left as it stands.
    fn floor_div_unbounded(&self, by: &Dim) -> Dim {
        match (&self.0, &by.0) {
            (_, Repr::Const(1)) => self.clone(),
            (Repr::Const(n), Repr::Const(by)) if unbounded(*n) && !unbounded(*by) && *by != 0 => {
                if *by > 0 {
                    self.clone()
                } else {
                    -self
                }
            }
            _ => Dim::from_atom(Atom::FloorDiv(Arc::new([self.clone(), by.clone()]))),
        }
    }
}

fn constant_quotient(number: &Dim, by: &Dim) -> Option<Dim> {
    floor(number.as_const()?, by.as_const()?).map(Dim::constant)
}

/// `floordiv(g*x, g*y)` is `floordiv(x, y)`. A constant divisor is made positive, and the constant of the number need
/// not be a multiple of a constant `g`: `floordiv(2*S + 1, 4)` is `floordiv(S, 2)`.
fn cancel_common(number: &Dim, by: &Dim) -> Option<Dim> {
    if let Some(n) = by.as_const() {
        if n == 0 {
            return None;
        }
        if n < 0 {
            return Some((-number).floor_div(&-by));
        }
        let mut terms = number.terms();
        let common = terms.iter().filter(|term| !term.atoms.is_empty()).fold(n, |g, term| gcd(g, term.coef));
        if common == 1 {
            return None;
        }
        for term in &mut terms {
            term.coef = floor(term.coef, common).expect("the common factor is at least 2");
        }
        return Some(Dim::from_terms(terms).floor_div(&Dim::constant(n / common)));
    }
    let (numbers, divisors) = (number.terms(), by.terms());
    let mut all = numbers.iter().chain(&divisors);
    let mut common = all.next()?.clone();
    common.coef = common.coef.checked_abs()?;
    for term in all {
        common.coef = gcd(common.coef, term.coef);
        common.atoms = common_atoms(&common.atoms, &term.atoms);
    }
    if common.coef == 1 && common.atoms.is_empty() {
        return None;
    }
    let reduce = |terms: &[Term]| terms.iter().map(|term| term.divided_by(&common)).collect::<Option<Vec<_>>>();
    Some(Dim::from_terms(reduce(&numbers)?).floor_div(&Dim::from_terms(reduce(&divisors)?)))
}

/// Moves the terms that the divisor divides out of the floor. Symbol coefficients keep their sign, so that bounds stay
/// as tight as they were; the constant left inside is between 0 and the divisor.
fn split(number: &Dim, by: &Dim) -> Option<Dim> {
    let divisors = by.terms();
    let [divisor] = &divisors[..] else {
        return None;
    };
    let (mut outside, mut inside) = (Vec::new(), Vec::new());
    for term in number.terms() {
        let Some(mut whole) = term.over(divisor) else {
            inside.push(term);
            continue;
        };
        whole.coef = match by.as_const() {
            Some(n) if term.atoms.is_empty() => floor(term.coef, n)?,
            _ => term.coef / divisor.coef,
        };
        let left = term.coef - whole.coef * divisor.coef;
        outside.push(whole);
        inside.push(Term { coef: left, atoms: term.atoms });
    }
    let outside = Dim::from_terms(outside);
    if outside.as_const() == Some(0) {
        return None;
    }
    Some(outside + Dim::from_terms(inside).floor_div(by))
}

/// `floordiv(floordiv(x, a) + c, b)` is `floordiv(x + a*c, a*b)` for positive constants `a` and `b`.
fn join(number: &Dim, by: &Dim) -> Option<Dim> {
    let outer = by.as_const().filter(|by| *by > 0)?;
    let terms = number.terms();
    let (first, shift) = match &terms[..] {
        [first] => (first, 0),
        [first, last] if last.atoms.is_empty() => (first, last.coef),
        _ => return None,
    };
    let [Atom::FloorDiv(parts)] = &first.atoms[..] else {
        return None;
    };
    let inner = parts[1].as_const().filter(|by| *by > 0 && first.coef == 1)?;
    let divisor = outer.checked_mul(inner).filter(|n| !unbounded(*n))?;
    let number = &parts[0] + Dim::constant(shift.checked_mul(inner)?);
    (!number.has_unbounded()).then(|| number.floor_div(&Dim::constant(divisor)))
}

impl Term {
    /// The quotient, if it is exact.
    fn divided_by(&self, by: &Term) -> Option<Term> {
        if self.coef.checked_rem(by.coef)? != 0 {
            return None;
        }
        let quotient = self.over(by)?;
        Some(Term { coef: self.coef / by.coef, ..quotient })
    }

    /// The quotient of the atoms alone, if it is exact; the coefficient is 1.
    fn over(&self, by: &Term) -> Option<Term> {
        let mut atoms = self.atoms.clone();
        for atom in &by.atoms {
            let at = atoms.iter().position(|own| own == atom)?;
            atoms.remove(at);
        }
        Some(Term { coef: 1, atoms })
    }
}

fn common_atoms(left: &[Atom], right: &[Atom]) -> Vec<Atom> {
    let mut right = right.to_vec();
    let mut common = left.to_vec();
    common.retain(|atom| {
        let at = right.iter().position(|other| other == atom);
        at.map(|at| right.remove(at)).is_some()
    });
    common
}

/// The greatest common divisor; neither is `i64::MIN`.
pub(super) fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.abs(), b.abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
