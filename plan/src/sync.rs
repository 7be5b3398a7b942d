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
    for (at, pairs) in needed.into_iter().rev() {
        for (signaller, waiter) in pairs {
            insert(entry, at, Step::Sync(SyncPoint { signaller, waiter, kind: SyncKind::Order }));
        }
    }
    let mut at = 0;
    while at < entry.steps.len() {
        let order = matches!(&entry.steps[at], Step::Sync(sync) if sync.kind == SyncKind::Order);
        match order && race(entry, &streams, Some(at)).is_none() {
            true => remove(entry, at),
            false => at += 1,
        }
    }
}

fn insert(entry: &mut Entry, at: usize, step: Step) {
    entry.steps.insert(at, step);
    for buffer in &mut entry.buffers {
        let moved = |step: &mut u32| *step += u32::from(*step as usize >= at);
        moved(&mut buffer.first);
        moved(&mut buffer.last);
    }
}

fn remove(entry: &mut Entry, at: usize) {
    entry.steps.remove(at);
    for buffer in &mut entry.buffers {
        let moved = |step: &mut u32| *step -= u32::from(*step as usize > at);
        moved(&mut buffer.first);
        moved(&mut buffer.last);
    }
}
