//! What holds for all bindings: intervals, and the three-valued questions built on them.
//!
//! Symbols range over `[0, inf)`. Plain intervals forget that two parts move together, so where they do not decide,
//! minima, maxima and floor divisions are replaced by what they are known to be at most or at least: `S - min(S, P)`
//! is at least `S - S`.

use super::build::unbounded;
use super::divide::floor;
use super::divide::gcd;
use super::{Atom, Dim, Repr, Term, Truth};

const INF: i128 = i128::MAX / 4;
const LOW: i128 = i64::MIN as i128;
const HIGH: i128 = i64::MAX as i128;

/// How many minima, maxima and divisions one proof may replace, one inside the other.
const DEPTH: u32 = 3;

/// How many replacements one proof may try in all.
const TRIES: u32 = 24;

/// All values from `lo` to `hi`; `-INF` and `INF` are open ends, other ends fit an `i64`.
#[derive(Clone, Copy)]
pub(super) struct Interval {
    pub(super) lo: i128,
    pub(super) hi: i128,
}

impl Dim {
    /// The smallest and the largest value over all bindings, as far as they can be proven; `None` is an open end.
    pub fn bounds(&self) -> (Option<i64>, Option<i64>) {
        let (lo, hi) = (self.proven_lower(), -self.negated_lower());
        let finite = |n: i128| i64::try_from(n).ok();
        (finite(lo), finite(hi))
    }

    /// Whether the value is at least `n`.
    pub fn at_least(&self, n: i64) -> Truth {
        let plain = self.interval();
        if plain.lo >= n.into() || (plain.hi >= n.into() && self.proven_lower() >= n.into()) {
            return Truth::Yes;
        }
        if plain.hi < n.into() || -self.negated_lower() < n.into() {
            return Truth::No;
        }
        Truth::Unknown
    }

    /// Whether two dimensions have the same value.
    pub fn same(&self, other: &Dim) -> Truth {
        if self.has_unbounded() || other.has_unbounded() {
            let (a, b) = (self.interval(), other.interval());
            return if a.hi < b.lo || b.hi < a.lo { Truth::No } else { Truth::Unknown };
        }
        if self == other {
            return Truth::Yes;
        }
        let difference = self - other;
        if difference.has_unbounded() {
            return Truth::Unknown;
        }
        match difference.bounds() {
            (Some(0), Some(0)) => Truth::Yes,
            (Some(lo), _) if lo > 0 => Truth::No,
            (_, Some(hi)) if hi < 0 => Truth::No,
            _ if difference.never_zero_by_remainder() => Truth::No,
            _ => Truth::Unknown,
        }
    }

    /// `2*x + 1` is never 0: the common factor of the other coefficients does not divide the constant.
    fn never_zero_by_remainder(&self) -> bool {
        let terms = self.terms();
        let common = terms.iter().filter(|term| !term.atoms.is_empty()).fold(0, |g, term| gcd(g, term.coef));
        let constant = terms.last().filter(|term| term.atoms.is_empty()).map_or(0, |term| term.coef);
        common > 1 && constant % common != 0
    }

    /// The interval that each part's own interval gives.
    pub(super) fn interval(&self) -> Interval {
        match &self.0 {
            Repr::Const(n) => Interval::constant(*n),
            Repr::Sym(_) => Interval::SYMBOL,
            Repr::Sum(terms) => terms.iter().fold(Interval::constant(0), |sum, term| sum.plus(term.interval())),
        }
    }

    fn negated_lower(&self) -> i128 {
        (-self).proven_lower()
    }

    /// A value that this is never below, or `-INF`.
    fn proven_lower(&self) -> i128 {
        self.lower(DEPTH, &mut { TRIES })
    }

    fn lower(&self, depth: u32, tries: &mut u32) -> i128 {
        let plain = self.interval().lo;
        let Repr::Sum(terms) = &self.0 else {
            return plain;
        };
        if depth == 0 || self.has_unbounded() {
            return plain;
        }
        let mut best = plain;
        for (at, term) in terms.iter().enumerate() {
            for place in 0..term.atoms.len() {
                best = best.max(self.lower_without(terms, at, place, depth, tries).unwrap_or(-INF));
            }
        }
        best
    }

    /// A lower bound found by replacing one atom of one term; `None` if nothing is known of the atom.
    fn lower_without(&self, terms: &[Term], at: usize, place: usize, depth: u32, tries: &mut u32) -> Option<i128> {
        let term = &terms[at];
        let mut lower = |scale: i64, by: &Dim| {
            *tries = tries.checked_sub(1)?;
            Some(replaced(terms, at, place, scale, by).lower(depth - 1, tries))
        };
        let rest_is_positive = || term.without(place).interval().lo >= 0;
        match &term.atoms[place] {
            Atom::Sym(_) => None,
            Atom::FloorDiv(parts) => {
                let by = parts[1].as_const().filter(|by| *by > 0 && rest_is_positive())?;
                let scaled = if term.coef < 0 { parts[0].clone() } else { &parts[0] - (by - 1) };
                Some(ceil_of(lower(by, &scaled)?, by))
            }
            atom @ (Atom::Min(parts) | Atom::Max(parts)) => {
                // The atom is one of its members; on the right side it is also within all of them.
                let any_member = matches!(atom, Atom::Min(_)) == (term.coef < 0) && rest_is_positive();
                let each = parts.iter().map(|part| lower(1, part).unwrap_or(-INF));
                if any_member { each.max() } else { each.min() }
            }
        }
    }
}

/// `scale` times the sum, where `scale * atom` is replaced by `by` for one atom of one term.
fn replaced(terms: &[Term], at: usize, place: usize, scale: i64, by: &Dim) -> Dim {
    let others = [&terms[..at], &terms[at + 1..]].concat();
    let rest = Dim::from_terms(vec![terms[at].without(place)]).scaled(terms[at].coef);
    let dim = Dim::from_terms(others).scaled(scale) + rest.times(by);
    // Saturated arithmetic proves nothing.
    if dim.has_unbounded() { Dim::constant(i64::MIN) } else { dim }
}

fn ceil_of(n: i128, by: i64) -> i128 {
    if n <= -INF { -INF } else { -(-n).div_euclid(by.into()) }
}

impl Term {
    /// The product of the atoms but one, without the coefficient.
    fn without(&self, place: usize) -> Term {
        let mut atoms = self.atoms.clone();
        atoms.remove(place);
        Term { coef: 1, atoms }
    }

    fn interval(&self) -> Interval {
        self.atoms.iter().fold(Interval::constant(self.coef), |product, atom| product.times(atom.interval()))
    }
}

impl Atom {
    pub(super) fn interval(&self) -> Interval {
        let ends = || self.parts().iter().map(Dim::interval);
        match self {
            Atom::Sym(_) => Interval::SYMBOL,
            Atom::FloorDiv(parts) => parts[0].interval().floor_div(parts[1].interval()),
            Atom::Min(_) => ends().reduce(Interval::min).expect("a minimum has members"),
            Atom::Max(_) => ends().reduce(Interval::max).expect("a maximum has members"),
        }
    }
}

impl Interval {
    const SYMBOL: Interval = Interval { lo: 0, hi: INF };
    const ALL: Interval = Interval { lo: -INF, hi: INF };

    fn constant(n: i64) -> Interval {
        match n {
            i64::MAX => Interval { lo: HIGH, hi: INF },
            i64::MIN => Interval { lo: -INF, hi: LOW },
            n => Interval { lo: n.into(), hi: n.into() },
        }
    }

    /// The only value, if there is one.
    pub(super) fn single(self) -> Option<i64> {
        let n = i64::try_from(self.lo).ok()?;
        (self.lo == self.hi && !unbounded(n)).then_some(n)
    }

    /// Ends that left the range of `i64` become open, or stop at the range where that is still true.
    fn rounded(lo: i128, hi: i128) -> Interval {
        let lo = if lo < LOW { -INF } else { lo.min(HIGH) };
        let hi = if hi > HIGH { INF } else { hi.max(LOW) };
        Interval { lo, hi }
    }

    fn min(self, other: Interval) -> Interval {
        Interval { lo: self.lo.min(other.lo), hi: self.hi.min(other.hi) }
    }

    fn max(self, other: Interval) -> Interval {
        Interval { lo: self.lo.max(other.lo), hi: self.hi.max(other.hi) }
    }

    fn plus(self, other: Interval) -> Interval {
        // Open ends are far enough from the i64 range that adding two finite ones cannot cross it.
        Interval::rounded(self.lo.saturating_add(other.lo), self.hi.saturating_add(other.hi))
    }

    fn times(self, other: Interval) -> Interval {
        let corners = [
            product(self.lo, other.lo),
            product(self.lo, other.hi),
            product(self.hi, other.lo),
            product(self.hi, other.hi),
        ];
        let lo = corners.iter().copied().min().expect("four corners");
        let hi = corners.iter().copied().max().expect("four corners");
        Interval::rounded(lo, hi)
    }

    fn floor_div(self, by: Interval) -> Interval {
        if by.lo >= 0 {
            return self.floor_div_positive(by.lo.max(1), by.hi);
        }
        if by.hi <= 0 {
            let negated = Interval::rounded(-self.hi, -self.lo);
            return negated.floor_div_positive((-by.hi).max(1), -by.lo);
        }
        let reach = self.lo.abs().max(self.hi.abs());
        Interval::rounded(-reach, reach)
    }

    fn floor_div_positive(self, least: i128, most: i128) -> Interval {
        if most < least {
            return Interval::ALL; // Always a division by zero.
        }
        let lo = quotient(self.lo, if self.lo < 0 { least } else { most });
        let hi = quotient(self.hi, if self.hi < 0 { most } else { least });
        Interval::rounded(lo, hi)
    }
}

fn product(a: i128, b: i128) -> i128 {
    if a == 0 || b == 0 {
        return 0;
    }
    if a.abs() >= INF || b.abs() >= INF {
        return if (a < 0) == (b < 0) { INF } else { -INF };
    }
    a * b
}

fn quotient(a: i128, by: i128) -> i128 {
    if a.abs() >= INF {
        return a;
    }
    if by >= INF {
        return if a < 0 { -1 } else { 0 };
    }
    match (i64::try_from(a), i64::try_from(by)) {
        (Ok(a), Ok(by)) => floor(a, by).map_or(INF, i128::from),
        _ => a.div_euclid(by),
    }
}
