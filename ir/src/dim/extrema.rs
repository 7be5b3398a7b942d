//! Minimum and maximum: flattened, sorted, and without members that another one is proven to beat.

use std::cmp::Ordering;

use super::{Atom, Dim, Truth};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Min,
    Max,
}

impl Dim {
    /// The smaller of the two.
    pub fn min(&self, other: &Dim) -> Dim {
        Dim::min_of([self.clone(), other.clone()])
    }

    /// The larger of the two.
    pub fn max(&self, other: &Dim) -> Dim {
        Dim::max_of([self.clone(), other.clone()])
    }

    /// The smallest of some dimensions; unbounded (`i64::MAX`) if there are none.
    pub fn min_of(dims: impl IntoIterator<Item = Dim>) -> Dim {
        extreme(Kind::Min, dims)
    }

    /// The largest of some dimensions; unbounded (`i64::MIN`) if there are none.
    pub fn max_of(dims: impl IntoIterator<Item = Dim>) -> Dim {
        extreme(Kind::Max, dims)
    }
}

impl PartialOrd for Dim {
    fn partial_cmp(&self, other: &Dim) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Dim {
    fn cmp(&self, other: &Dim) -> Ordering {
        self.0.cmp(&other.0)
    }

    // `a.min(b)` on owned values resolves to this trait, where the structurally smaller one would be a wrong size.
    fn min(self, other: Dim) -> Dim {
        Dim::min_of([self, other])
    }

    fn max(self, other: Dim) -> Dim {
        Dim::max_of([self, other])
    }
}

fn extreme(kind: Kind, dims: impl IntoIterator<Item = Dim>) -> Dim {
    let mut members = Vec::new();
    for dim in dims {
        match (kind, dim.as_atom()) {
            (Kind::Min, Some(Atom::Min(parts))) | (Kind::Max, Some(Atom::Max(parts))) => {
                members.extend(parts.iter().cloned());
            }
            _ => members.push(dim),
        }
    }
    members.sort();
    members.dedup();
    let (weakest, strongest) = match kind {
        Kind::Min => (Dim::constant(i64::MAX), Dim::constant(i64::MIN)),
        Kind::Max => (Dim::constant(i64::MIN), Dim::constant(i64::MAX)),
    };
    if members.contains(&strongest) {
        return strongest;
    }
    members.retain(|member| *member != weakest);
    let mut at = 0;
    while at < members.len() {
        let beaten = (0..members.len()).any(|by| by != at && beats(kind, &members[by], &members[at]));
        if beaten {
            members.remove(at);
        } else {
            at += 1;
        }
    }
    match members.len() {
        0 => weakest,
        1 => members.remove(0),
        _ => Dim::from_atom(match kind {
            Kind::Min => Atom::Min(members.into()),
            Kind::Max => Atom::Max(members.into()),
        }),
    }
}

/// Whether `winner` is proven to be at least as extreme as `loser` for all bindings.
fn beats(kind: Kind, winner: &Dim, loser: &Dim) -> bool {
    let margin = match kind {
        Kind::Min => loser - winner,
        Kind::Max => winner - loser,
    };
    !margin.has_unbounded() && margin.at_least(0) == Truth::Yes
}
