//! Buffers that live together must not share a byte: one must lie above the other by their `after` lists.
//!
//! At any step the living buffers must form a chain. A buffer that comes to life is therefore only compared with its two
//! neighbours in the chain; everything else follows.

use super::Finding;
use crate::model::{Buffer, Entry};
use std::collections::BTreeSet;

pub(super) fn check(entry: &Entry, findings: &mut Vec<Finding>) {
    let mut starts: Vec<u32> = (0..entry.buffers.len() as u32).collect();
    starts.sort_by_key(|id| entry.buffers[*id as usize].first);
    let mut ends = starts.clone();
    ends.sort_by_key(|id| entry.buffers[*id as usize].last);
    let mut ends = ends.into_iter().peekable();
    let mut below = Below::new(&entry.buffers);
    let mut living = BTreeSet::new();
    for id in starts {
        let first = entry.buffers[id as usize].first;
        while let Some(dead) = ends.next_if(|dead| entry.buffers[*dead as usize].last < first) {
            living.remove(&dead);
        }
        let lower = living.range(..id).next_back().copied();
        let upper = living.range(id..).next().copied();
        for (low, high) in lower.map(|low| (low, id)).into_iter().chain(upper.map(|high| (id, high))) {
            if !below.holds(low, high) {
                let problem = format!("b{low} and b{high} live together, but nothing keeps their bytes apart");
                findings.push(Finding { entry: entry.name.clone(), step: Some(first as usize), node: None, problem });
            }
        }
        living.insert(id);
    }
}

/// Answers whether a buffer lies below another, directly or through others.
pub(super) struct Below<'a> {
    buffers: &'a [Buffer],
    seen: Vec<u32>,
    round: u32,
    stack: Vec<u32>,
}

impl<'a> Below<'a> {
    pub(super) fn new(buffers: &'a [Buffer]) -> Below<'a> {
        Below { buffers, seen: vec![0; buffers.len()], round: 0, stack: vec![] }
    }

    /// Whether `low` lies below `high`; lists name smaller numbers only.
    pub(super) fn holds(&mut self, low: u32, high: u32) -> bool {
        self.round += 1;
        self.stack.clear();
        self.stack.push(high);
        while let Some(at) = self.stack.pop() {
            for next in self.buffers[at as usize].after.iter().map(|b| b.0) {
                if next == low {
                    return true;
                }
                if next > low && self.seen[next as usize] != self.round {
                    self.seen[next as usize] = self.round;
                    self.stack.push(next);
                }
            }
        }
        false
    }
}
