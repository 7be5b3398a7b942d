//! Finds where streams must wait for each other, for a target that does not say so itself.
//!
//! The steps are walked with the checker's own clocks, for two runs that overlap; where an access may overtake an earlier
//! one, a sync is put right before it. A sync that a later one made idle is taken out again, so the checker, which refuses
//! missing and idle syncs, has nothing to say.
//!
//! ```text
//! copy x to the device            stream 1
//! launch exp                      stream 1
//! sync 1 -> 0                     placed: the host reads what stream 1 computes
//! launch unique                   stream 0
//! ```

use crate::check::races::{Open, race, streams, walk};
use crate::model::{Entry, Step, Stream, SyncKind, SyncPoint};
use std::collections::BTreeMap;

/// Puts the syncs in that the steps of an entry need.
pub(crate) fn place(entry: &mut Entry) {
    let mut needed: BTreeMap<usize, Vec<(Stream, Stream)>> = BTreeMap::new();
    let streams = streams(entry);
    if streams.len() < 2 {
        return;
    }
    walk(entry, &streams, None, &mut |conflict| {
        needed.entry(conflict.at).or_default().push((conflict.signaller, conflict.waiter));
        Open::Wait
    });
    let syncs = needed.into_iter().flat_map(|(at, pairs)| {
        let order = |(signaller, waiter)| SyncPoint { signaller, waiter, kind: SyncKind::Order };
        pairs.into_iter().rev().map(move |pair| (at, Step::Sync(order(pair))))
    });
    insert(entry, syncs.collect());
    let mut at = 0;
    while at < entry.steps.len() {
        let order = matches!(&entry.steps[at], Step::Sync(sync) if sync.kind == SyncKind::Order);
        match order && race(entry, &streams, Some(at)).is_none() {
            true => retain(entry, |step, _| step != at),
            false => at += 1,
        }
    }
}

/// Puts steps in before those of these numbers, which rise.
pub(crate) fn insert(entry: &mut Entry, new: Vec<(usize, Step)>) {
    let mut new = new.into_iter().peekable();
    let old = std::mem::take(&mut entry.steps);
    let mut moved = Vec::with_capacity(old.len());
    for (at, step) in old.into_iter().enumerate() {
        while let Some((_, step)) = new.next_if(|(before, _)| *before <= at) {
            entry.steps.push(step);
        }
        moved.push(entry.steps.len() as u32);
        entry.steps.push(step);
    }
    entry.steps.extend(new.map(|(_, step)| step));
    renumber(entry, &moved);
}

/// Takes steps out that touch no memory.
pub(crate) fn retain(entry: &mut Entry, keep: impl Fn(usize, &Step) -> bool) {
    let old = std::mem::take(&mut entry.steps);
    let mut moved = Vec::with_capacity(old.len());
    for (at, step) in old.into_iter().enumerate() {
        moved.push(entry.steps.len() as u32);
        if keep(at, &step) {
            entry.steps.push(step);
        }
    }
    renumber(entry, &moved);
}

fn renumber(entry: &mut Entry, moved: &[u32]) {
    for buffer in &mut entry.buffers {
        (buffer.first, buffer.last) = (moved[buffer.first as usize], moved[buffer.last as usize]);
    }
}
