//! Steps of different streams happen in any order that syncs allow: vector clocks prove that conflicting accesses are
//! ordered, within a run and from one run to the next, which may overlap it.
//!
//! A sync of kind `Order` without which nothing conflicts is refused: it would only cost time. A sync of kind `Pace` is
//! exempt, and nothing may rely on it.

use super::order::Below;
use super::{Finding, places};
use crate::model::{BufferId, Entry, Place, Step, Stream, SyncKind};
use std::collections::BTreeMap;

/// Steps times syncs that are worth walking to find idle syncs.
const MAX_WORK: usize = 1 << 28;

pub(super) fn check(entry: &Entry, findings: &mut Vec<Finding>) {
    let orders = |step: &Step| matches!(step, Step::Sync(sync) if sync.kind == SyncKind::Order);
    let syncs: Vec<usize> = (0..entry.steps.len()).filter(|at| orders(&entry.steps[*at])).collect();
    let streams = streams(entry);
    if streams.len() < 2 && syncs.is_empty() {
        return;
    }
    let mut about = |step: usize, problem: String| {
        findings.push(Finding { entry: entry.name.clone(), step: Some(step), node: None, problem });
    };
    if syncs.len().saturating_mul(entry.steps.len()) > MAX_WORK {
        return about(0, format!("{} syncs are too many to be proven needed", syncs.len()));
    }
    if let Some((step, problem)) = race(entry, &streams, None) {
        return about(step, problem);
    }
    for sync in syncs {
        if race(entry, &streams, Some(sync)).is_none() {
            about(sync, "this sync orders nothing that needs it".into());
        }
    }
}

fn streams(entry: &Entry) -> BTreeMap<Stream, usize> {
    let mut found = BTreeMap::new();
    for step in &entry.steps {
        match step {
            Step::Launch(launch) => drop(found.insert(launch.stream, 0)),
            Step::Copy(transfer) => drop(found.insert(transfer.stream, 0)),
            Step::Sync(sync) => found.extend([(sync.signaller, 0), (sync.waiter, 0)]),
        }
    }
    found.values_mut().enumerate().for_each(|(i, index)| *index = i);
    found
}

/// The last accesses to something: the write, and the latest read of each stream, as (stream, time, step).
#[derive(Clone, Default)]
struct Accesses {
    write: Option<Event>,
    reads: Vec<Event>,
}

#[derive(Clone, Copy)]
struct Event {
    stream: usize,
    time: u32,
    step: usize,
}

impl Accesses {
    /// An earlier access that a stream with this clock need not have seen the end of.
    fn open(&self, clock: &[u32], writes: bool) -> Option<Event> {
        let unseen = |e: &&Event| clock[e.stream] < e.time;
        let read = self.reads.iter().find(unseen).filter(|_| writes);
        self.write.as_ref().filter(unseen).or(read).copied()
    }

    fn add(&mut self, event: Event, writes: bool) {
        if writes {
            (self.write, self.reads) = (Some(event), vec![]);
            return;
        }
        self.reads.retain(|e| e.stream != event.stream);
        self.reads.push(event);
    }
}

/// The first race of two overlapping runs, leaving out the sync at step `without`.
fn race(entry: &Entry, streams: &BTreeMap<Stream, usize>, without: Option<usize>) -> Option<(usize, String)> {
    let mut clocks = vec![vec![0u32; streams.len()]; streams.len()];
    let mut accesses: BTreeMap<Place, Accesses> = BTreeMap::new();
    let mut below = Below::new(&entry.buffers);
    // Buffers whose last accesses some stream may not have seen.
    let mut recent: Vec<u32> = vec![];
    for at in (0..entry.steps.len()).chain(0..entry.steps.len()) {
        let step = &entry.steps[at];
        let (stream, written) = match step {
            Step::Sync(sync) => {
                if sync.kind == SyncKind::Order && without != Some(at) {
                    let signaller = clocks[streams[&sync.signaller]].clone();
                    let waiter = &mut clocks[streams[&sync.waiter]];
                    waiter.iter_mut().zip(signaller).for_each(|(w, s)| *w = (*w).max(s));
                }
                continue;
            }
            Step::Launch(launch) => {
                let scratch = launch.scratch.map(Place::Buffer);
                let writes = launch.writes.iter().map(|loc| loc.place.clone());
                let frees = launch.frees.iter().map(|slot| Place::Slot(*slot));
                (streams[&launch.stream], writes.chain(scratch).chain(frees).collect::<Vec<_>>())
            }
            Step::Copy(transfer) => (streams[&transfer.stream], vec![transfer.to.place.clone()]),
        };
        clocks[stream][stream] += 1;
        let event = Event { stream, time: clocks[stream][stream], step: at };
        for place in places(step) {
            if matches!(place, Place::Input(_) | Place::Weight(_) | Place::None) {
                continue;
            }
            let writes = written.contains(&place);
            let open = accesses.get(&place).and_then(|a| a.open(&clocks[stream], writes));
            if let Some(other) = open {
                return Some((at, format!("no sync orders it after step {}, and both use {place}", other.step)));
            }
            if let Place::Buffer(id) = place {
                recent.retain(|r| {
                    let seen = |a: &Accesses| clocks.iter().all(|clock| a.open(clock, true).is_none());
                    *r != id.0 && !accesses.get(&Place::Buffer(BufferId(*r))).is_none_or(seen)
                });
                for other in &recent {
                    let open = accesses[&Place::Buffer(BufferId(*other))].open(&clocks[stream], true);
                    let apart = |b: &mut Below<'_>| b.holds((*other).min(id.0), (*other).max(id.0));
                    if let Some(event) = open.filter(|_| !apart(&mut below)) {
                        let problem = format!(
                            "no sync orders it after step {}: b{other} may share bytes with {place}",
                            event.step
                        );
                        return Some((at, problem));
                    }
                }
                recent.push(id.0);
            }
            accesses.entry(place).or_default().add(event, writes);
        }
    }
    None
}
