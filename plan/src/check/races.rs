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

pub(crate) fn streams(entry: &Entry) -> BTreeMap<Stream, usize> {
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

/// What to do about an access that nothing orders after another of a different stream.
pub(crate) enum Open {
    /// The stream waits for the other one right before the step.
    Wait,
    /// The walk ends.
    Stop,
}

/// An access that nothing orders after another one.
pub(crate) struct Conflict {
    /// The step.
    pub at: usize,
    /// Its stream.
    pub waiter: Stream,
    /// Whose access came before.
    pub signaller: Stream,
    /// In words.
    pub problem: String,
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
pub(crate) fn race(
    entry: &Entry,
    streams: &BTreeMap<Stream, usize>,
    without: Option<usize>,
) -> Option<(usize, String)> {
    let mut first = None;
    walk(entry, streams, without, &mut |conflict| {
        first = Some((conflict.at, conflict.problem));
        Open::Stop
    });
    first
}

/// Runs the steps twice with a clock per stream and reports every access that no sync orders after an earlier one.
pub(crate) fn walk(
    entry: &Entry,
    streams: &BTreeMap<Stream, usize>,
    without: Option<usize>,
    open: &mut dyn FnMut(Conflict) -> Open,
) {
    let names: Vec<Stream> = streams.keys().copied().collect();
    let mut clocks = vec![vec![0u32; streams.len()]; streams.len()];
    // Waits that `open` asked for: (step, signaller, waiter). The second run makes them too.
    let mut asked: Vec<(usize, usize, usize)> = vec![];
    let mut accesses: BTreeMap<Place, Accesses> = BTreeMap::new();
    let mut below = Below::new(&entry.buffers);
    // Buffers whose last accesses some stream may not have seen.
    let mut recent: Vec<u32> = vec![];
    for at in (0..entry.steps.len()).chain(0..entry.steps.len()) {
        let step = &entry.steps[at];
        let (stream, written) = match step {
            Step::Sync(sync) => {
                if sync.kind == SyncKind::Order && without != Some(at) {
                    wait(&mut clocks, streams[&sync.signaller], streams[&sync.waiter]);
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
        for (_, signaller, waiter) in asked.iter().filter(|(step, ..)| *step == at) {
            wait(&mut clocks, *signaller, *waiter);
        }
        clocks[stream][stream] += 1;
        let event = Event { stream, time: clocks[stream][stream], step: at };
        let touched = || places(step).filter(|p| !matches!(p, Place::Input(_) | Place::Weight(_) | Place::None));
        for place in touched() {
            let writes = written.contains(&place);
            loop {
                let found = conflict(&place, writes, &clocks[stream], &accesses, &recent, &mut below);
                let Some((other, problem)) = found else { break };
                let (waiter, signaller) = (names[stream], names[other.stream]);
                match open(Conflict { at, waiter, signaller, problem }) {
                    Open::Stop => return,
                    Open::Wait => {
                        asked.push((at, other.stream, stream));
                        wait(&mut clocks, other.stream, stream);
                    }
                }
            }
            if let Place::Buffer(id) = place {
                recent.retain(|r| {
                    let seen = |a: &Accesses| clocks.iter().all(|clock| a.open(clock, true).is_none());
                    *r != id.0 && !accesses.get(&Place::Buffer(BufferId(*r))).is_none_or(seen)
                });
                recent.push(id.0);
            }
            accesses.entry(place).or_default().add(event, writes);
        }
    }
}

fn wait(clocks: &mut [Vec<u32>], signaller: usize, waiter: usize) {
    let signaller = clocks[signaller].clone();
    clocks[waiter].iter_mut().zip(signaller).for_each(|(w, s)| *w = (*w).max(s));
}

/// An earlier access that the one to `place` may overtake, and why that matters.
fn conflict(
    place: &Place,
    writes: bool,
    clock: &[u32],
    accesses: &BTreeMap<Place, Accesses>,
    recent: &[u32],
    below: &mut Below<'_>,
) -> Option<(Event, String)> {
    if let Some(other) = accesses.get(place).and_then(|a| a.open(clock, writes)) {
        return Some((other, format!("no sync orders it after step {}, and both use {place}", other.step)));
    }
    let Place::Buffer(id) = place else { return None };
    for other in recent.iter().filter(|other| **other != id.0) {
        let open = accesses[&Place::Buffer(BufferId(*other))].open(clock, true);
        if let Some(event) = open.filter(|_| !below.holds((*other).min(id.0), (*other).max(id.0))) {
            let step = event.step;
            return Some((
                event,
                format!("no sync orders it after step {step}: b{other} may share bytes with {place}"),
            ));
        }
    }
    None
}
