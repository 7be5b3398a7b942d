//! The arena: which buffers share memory, and where each begins once the symbols are bound.
//!
//! Placement happens once, under a representative binding: the largest buffer first, each into the tightest gap among
//! those that live with it. What is kept is not the offsets but who lies below whom ([`Buffer::after`]), so that two
//! buffers that live together are disjoint for every binding. Buffers are numbered from the bottom up; `after` names
//! only smaller numbers, and [`Arena::layout`] is one pass.
//!
//! ```text
//! life of a 0..1, b 1..2, c 2..3, sizes 3, 2, 1   ->   b0 = a, b1 = c after nothing (a is dead), b2 = b after b0 b1
//! ```

use crate::model::{Buffer, BufferId, Entry};
use ir::Dim;
use ir::dim::DimError;
use std::collections::HashMap;

/// Every buffer begins at a multiple of this many bytes: a cache line, and the widest vector.
pub const ALIGN: u64 = 64;

/// Value of every symbol when buffers are placed.
const REPRESENTATIVE: i64 = 64;

/// Why an arena cannot be laid out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A size mentions a symbol without a value, or does not fit a 64-bit integer.
    #[error("the size of buffer b{buffer}: {source}")]
    Size {
        /// The buffer.
        buffer: u32,
        /// What is wrong.
        source: DimError,
    },
    /// A size is negative.
    #[error("the size of buffer b{buffer} is {bytes}")]
    Negative {
        /// The buffer.
        buffer: u32,
        /// The size.
        bytes: i64,
    },
    /// All buffers together do not fit memory.
    #[error("the arena is larger than memory")]
    TooLarge,
}

/// What [`Arena::layout`] computes; reused, it allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// First byte of every buffer.
    pub offsets: Vec<u64>,
    /// Size of every buffer, not rounded.
    pub sizes: Vec<u64>,
    /// Bytes of the whole arena.
    pub total: u64,
    distinct: Vec<i64>,
}

/// The buffers of an entry, prepared so that laying them out is fast: every distinct size is evaluated once.
#[derive(Clone, Debug)]
pub struct Arena {
    distinct: Vec<(Dim, u32)>,
    size: Vec<u32>,
    /// Ends of the lists in `after`.
    ends: Vec<u32>,
    after: Vec<u32>,
}

impl Arena {
    /// Prepares an entry's buffers. `after` lists must name smaller numbers only, as the checker makes sure.
    pub fn new(entry: &Entry) -> Arena {
        let mut known: HashMap<&Dim, u32> = HashMap::new();
        let mut arena = Arena { distinct: vec![], size: vec![], ends: vec![], after: vec![] };
        for (at, buffer) in entry.buffers.iter().enumerate() {
            let index = *known.entry(&buffer.bytes).or_insert_with(|| {
                arena.distinct.push((buffer.bytes.clone(), at as u32));
                arena.distinct.len() as u32 - 1
            });
            arena.size.push(index);
            arena.after.extend(buffer.after.iter().map(|b| b.0));
            arena.ends.push(arena.after.len() as u32);
        }
        arena
    }

    /// Offsets and sizes under a binding of the symbols. Allocates only when `out` is too small.
    pub fn layout(&self, symbols: &dyn Fn(&str) -> Option<i64>, out: &mut Offsets) -> Result<(), LayoutError> {
        let Offsets { offsets, sizes, total, distinct } = out;
        distinct.clear();
        for (dim, buffer) in &self.distinct {
            let bytes = dim.eval(symbols).map_err(|source| LayoutError::Size { buffer: *buffer, source })?;
            if bytes < 0 {
                return Err(LayoutError::Negative { buffer: *buffer, bytes });
            }
            distinct.push(bytes);
        }
        offsets.clear();
        sizes.clear();
        *total = 0;
        let mut first = 0;
        for (size, last) in self.size.iter().zip(&self.ends) {
            let mut offset = 0;
            for below in &self.after[first..*last as usize] {
                let below = *below as usize;
                offset = offset.max(end(offsets[below], sizes[below])?);
            }
            first = *last as usize;
            let bytes = distinct[*size as usize] as u64;
            *total = (*total).max(end(offset, bytes)?);
            offsets.push(offset);
            sizes.push(bytes);
        }
        Ok(())
    }
}

/// The first aligned byte behind a buffer.
fn end(offset: u64, bytes: u64) -> Result<u64, LayoutError> {
    let end = offset.checked_add(bytes).and_then(|n| n.checked_next_multiple_of(ALIGN));
    end.filter(|n| *n <= isize::MAX as u64).ok_or(LayoutError::TooLarge)
}

/// [`Arena::layout`] for once.
pub fn layout(entry: &Entry, symbols: &dyn Fn(&str) -> Option<i64>) -> Result<Offsets, LayoutError> {
    let mut out = Offsets::default();
    Arena::new(entry).layout(symbols, &mut out)?;
    Ok(out)
}

/// A buffer that has not been placed: `first` to `last` are the steps that touch it.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub bytes: Dim,
    pub first: u32,
    pub last: u32,
}

impl Life {
    fn overlaps(&self, other: &Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Places buffers: the result is numbered from the bottom up, with the new number of every old one.
pub(crate) fn place(lives: &[Life]) -> (Vec<Buffer>, Vec<BufferId>) {
    let offsets = representative_offsets(lives);
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|i| (offsets[*i], lives[*i].first, *i));
    let mut renumbered = vec![BufferId(0); lives.len()];
    order.iter().enumerate().for_each(|(new, old)| renumbered[*old] = BufferId(new as u32));

    let mut below: Vec<Vec<u32>> = Vec::with_capacity(lives.len());
    let mut buffers = Vec::with_capacity(lives.len());
    let mut implied = vec![u32::MAX; lives.len()];
    for (new, old) in order.iter().enumerate() {
        let life = &lives[*old];
        let all: Vec<u32> = (0..new as u32).filter(|lower| lives[order[*lower as usize]].overlaps(life)).collect();
        // From the top down: what lies below a kept neighbour need not be named.
        let mut after = vec![];
        for lower in all.iter().rev() {
            if implied[*lower as usize] == new as u32 {
                continue;
            }
            after.push(BufferId(*lower));
            below[*lower as usize].iter().for_each(|b: &u32| implied[*b as usize] = new as u32);
        }
        after.reverse();
        buffers.push(Buffer { bytes: life.bytes.clone(), after, first: life.first, last: life.last });
        below.push(all);
    }
    (buffers, renumbered)
}

/// Offsets under the representative binding: largest first, into the tightest gap among those that live together.
fn representative_offsets(lives: &[Life]) -> Vec<u64> {
    let size = |life: &Life| {
        let bytes = life.bytes.eval(&|_| Some(REPRESENTATIVE)).unwrap_or(0).max(1) as u64;
        // An expression that is huge for this binding must not overflow the others' offsets.
        bytes.min(1 << 40).next_multiple_of(ALIGN)
    };
    let sizes: Vec<u64> = lives.iter().map(size).collect();
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(sizes[*i]), lives[*i].first, *i));
    let mut offsets = vec![0; lives.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(lives.len());
    let mut taken: Vec<(u64, u64)> = vec![];
    for i in order {
        taken.clear();
        let neighbours = placed.iter().filter(|p| lives[**p].overlaps(&lives[i]));
        taken.extend(neighbours.map(|p| (offsets[*p], offsets[*p] + sizes[*p])));
        taken.sort_unstable();
        offsets[i] = tightest_gap(&taken, sizes[i]);
        placed.push(i);
    }
    offsets
}

/// Where `size` bytes fit most tightly between the `taken` spans (sorted, disjoint), else behind them all.
fn tightest_gap(taken: &[(u64, u64)], size: u64) -> u64 {
    let (mut at, mut best) = (0, None::<(u64, u64)>);
    for (start, end) in taken {
        let gap = start.saturating_sub(at);
        if gap >= size && best.is_none_or(|(tightest, _)| gap < tightest) {
            best = Some((gap, at));
        }
        at = at.max(*end);
    }
    best.map_or(at, |(_, at)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::Graph;

    fn life(bytes: impl Into<Dim>, first: u32, last: u32) -> Life {
        Life { bytes: bytes.into(), first, last }
    }

    fn entry(buffers: Vec<Buffer>) -> Entry {
        let graph = Graph::new("g");
        let (inputs, outputs, steps, bodies) = Default::default();
        Entry {
            name: "main".into(),
            graph,
            inputs,
            outputs,
            states: vec![],
            buffers,
            slots: 0,
            steps,
            pace: None,
            bodies,
        }
    }

    fn disjoint(lives: &[Life], at: &Offsets, renumbered: &[BufferId]) -> bool {
        let span = |i: usize| {
            let b = renumbered[i].0 as usize;
            (at.offsets[b], at.offsets[b] + at.sizes[b])
        };
        (0..lives.len()).all(|i| {
            (0..i).all(|j| {
                let ((a, b), (c, d)) = (span(i), span(j));
                !lives[i].overlaps(&lives[j]) || b <= c || d <= a || a == b || c == d
            })
        })
    }

    #[test]
    fn memory_is_reused_when_its_owner_is_dead() {
        let lives = [life(640, 0, 1), life(128, 1, 2), life(640, 2, 3)];
        let (buffers, _) = place(&lives);
        assert_eq!(layout(&entry(buffers), &|_| None).unwrap().total, 768);
    }

    #[test]
    fn offsets_stay_disjoint_for_every_binding() {
        // A fixed stream of numbers in place of a random one.
        let mut state = 7u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let (s, p) = (Dim::sym("S"), Dim::sym("P"));
        for _ in 0..50 {
            let lives: Vec<Life> = (0..40)
                .map(|_| {
                    let bytes = match next(4) {
                        0 => Dim::constant(next(5000) as i64),
                        1 => &s * next(300) as i64,
                        2 => &p * next(300) as i64 + &s,
                        _ => &s * &p * 2,
                    };
                    let first = next(60) as u32;
                    life(bytes, first, first + next(12) as u32)
                })
                .collect();
            let (buffers, renumbered) = place(&lives);
            let entry = entry(buffers);
            assert!(entry.buffers.iter().enumerate().all(|(i, b)| b.after.iter().all(|a| (a.0 as usize) < i)));
            for (s, p) in [(64, 64), (1, 1000), (1000, 1), (0, 7), (3, 0)] {
                let at = layout(&entry, &|name| Some(if name == "S" { s } else { p })).unwrap();
                assert!(disjoint(&lives, &at, &renumbered));
            }
        }
    }

    #[test]
    fn a_size_out_of_range_is_an_error() {
        let (buffers, _) = place(&[life(Dim::sym("S") - 3, 0, 0)]);
        let entry = entry(buffers);
        assert!(matches!(layout(&entry, &|_| Some(1)), Err(LayoutError::Negative { buffer: 0, bytes: -2 })));
        assert!(matches!(layout(&entry, &|_| None), Err(LayoutError::Size { .. })));
        assert!(matches!(layout(&entry, &|_| Some(i64::MAX)), Err(LayoutError::TooLarge)));
    }
}
