//! What mutants ask about the steps of an entry, and how they change them.

use fastinference::plan::{
    Buffer, BufferId, COPY, Entry, Launch, Loc, Place, Plan, SlotId, Step, Stream, SyncPoint, Transfer,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn launches(entry: &Entry) -> impl Iterator<Item = (usize, &Launch)> {
    entry.steps.iter().enumerate().filter_map(|(at, step)| match step {
        Step::Launch(launch) => Some((at, launch)),
        Step::Copy(_) | Step::Sync(_) => None,
    })
}

pub(super) fn launch_at(entry: &mut Entry, at: usize) -> &mut Launch {
    match &mut entry.steps[at] {
        Step::Launch(launch) => launch,
        other => panic!("{other:?} is not a launch"),
    }
}

pub(super) fn copy_at(entry: &mut Entry, at: usize) -> &mut Transfer {
    match &mut entry.steps[at] {
        Step::Copy(transfer) => transfer,
        other => panic!("{other:?} is not a copy"),
    }
}

pub(super) fn sync_at(entry: &mut Entry, at: usize) -> &mut SyncPoint {
    match &mut entry.steps[at] {
        Step::Sync(sync) => sync,
        other => panic!("{other:?} is not a sync"),
    }
}

/// Steps that are no syncs.
pub(super) fn work(entry: &Entry) -> Vec<usize> {
    (0..entry.steps.len()).filter(|at| !matches!(entry.steps[*at], Step::Sync(_))).collect()
}

/// Takes a step out, and lets buffers live on through the same steps.
pub(super) fn drop_step(entry: &mut Entry, at: usize) {
    entry.steps.remove(at);
    for buffer in &mut entry.buffers {
        buffer.first -= u32::from(buffer.first as usize > at);
        buffer.last -= u32::from(buffer.last as usize > at);
    }
}

pub(super) fn repeat_step(entry: &mut Entry, at: usize) {
    entry.steps.insert(at, entry.steps[at].clone());
    for buffer in &mut entry.buffers {
        buffer.first += u32::from(buffer.first as usize > at);
        buffer.last += u32::from(buffer.last as usize >= at);
    }
}

/// Places that a step reads, and those that it writes.
pub(super) fn touched(step: &Step) -> (Vec<Place>, Vec<Place>) {
    let of = |locs: &[Loc]| locs.iter().map(|loc| loc.place.clone()).collect::<Vec<Place>>();
    match step {
        Step::Launch(launch) => (of(&launch.reads), of(&launch.writes)),
        Step::Copy(t) => (vec![t.from.place.clone()], vec![t.to.place.clone()]),
        Step::Sync(_) => (vec![], vec![]),
    }
}

/// Places that some step, or the caller, reads.
pub(super) fn read_values(entry: &Entry) -> BTreeSet<Place> {
    let ports = entry.outputs.iter().chain(&entry.states).map(|port| port.value.place.clone());
    entry.steps.iter().flat_map(|step| touched(step).0).chain(ports).collect()
}

pub(super) fn places(plan: &Plan, entry: &Entry) -> Vec<Place> {
    let inputs = (0..entry.inputs.len()).map(|i| Place::Input(i as u32));
    let outputs = (0..entry.outputs.len()).map(|i| Place::Output(i as u32));
    let states = (0..entry.states.len()).map(|i| Place::State(i as u32));
    let buffers = (0..entry.buffers.len()).map(|i| Place::Buffer(BufferId(i as u32)));
    let slots = (0..entry.slots).map(|i| Place::Slot(SlotId(i)));
    let weights = plan.weights.keys().take(4).map(|w| Place::Weight(w.clone()));
    inputs.chain(outputs).chain(states).chain(buffers).chain(slots).chain(weights).chain([Place::None]).collect()
}

/// Whether a place is the device's memory.
pub(super) fn sides(entry: &Entry) -> impl Fn(&Place) -> bool {
    let mut device = BTreeSet::new();
    for (_, launch) in launches(entry).filter(|(_, l)| l.stream != Stream::HOST) {
        device.extend(launch.reads.iter().chain(&launch.writes).map(|loc| loc.place.clone()));
        device.extend(launch.scratch.map(Place::Buffer));
    }
    for step in &entry.steps {
        if let Step::Copy(t) = step
            && !device.contains(&t.from.place)
        {
            device.insert(t.to.place.clone());
        }
    }
    move |place| matches!(place, Place::Buffer(_)) && device.contains(place)
}

/// Which values places hold, after some steps.
#[derive(Default)]
pub(super) struct Content(BTreeMap<Place, Vec<String>>);

impl Content {
    /// Whether two places hold the same, so that it does not matter which is read.
    pub(super) fn same(&self, a: &Place, b: &Place) -> bool {
        let of = |p: &Place| self.0.get(p).cloned().unwrap_or_else(|| vec![p.to_string()]);
        of(a) == of(b)
    }

    pub(super) fn step(&mut self, step: &Step) {
        let moved =
            |content: &Content, from: &Place| content.0.get(from).cloned().unwrap_or_else(|| vec![from.to_string()]);
        match step {
            Step::Launch(l) if l.kernel == COPY => {
                let held = moved(self, &l.reads[0].place);
                self.0.insert(l.writes[0].place.clone(), held);
            }
            Step::Launch(l) => {
                for (i, loc) in l.writes.iter().enumerate() {
                    self.0.insert(loc.place.clone(), vec![format!("{}.{i}", l.node)]);
                }
            }
            Step::Copy(t) => {
                let held = moved(self, &t.from.place);
                self.0.insert(t.to.place.clone(), held);
            }
            Step::Sync(_) => {}
        }
    }
}

/// Whether `low` is below `high` by their lists.
pub(super) fn below(buffers: &[Buffer], low: BufferId, high: BufferId) -> bool {
    buffers[high.0 as usize].after.iter().any(|b| *b == low || b.0 > low.0 && below(buffers, low, *b))
}

pub(super) fn live_together(entry: &Entry, a: usize, b: usize) -> bool {
    let (a, b) = (&entry.buffers[a], &entry.buffers[b]);
    a.first <= b.last && b.first <= a.last
}

pub(super) fn rename(step: &mut Step, from: BufferId, to: BufferId) {
    let change = |loc: &mut Loc| {
        if loc.place == Place::Buffer(from) {
            loc.place = Place::Buffer(to);
        }
    };
    match step {
        Step::Launch(l) => {
            l.reads.iter_mut().chain(&mut l.writes).for_each(change);
        }
        Step::Copy(t) => [&mut t.from, &mut t.to].into_iter().for_each(change),
        Step::Sync(_) => {}
    }
}

/// Buffers after one that was removed move up.
pub(super) fn renumber(entry: &mut Entry, gone: BufferId) {
    for step in &mut entry.steps {
        for id in gone.0 + 1..=entry.buffers.len() as u32 {
            rename(step, BufferId(id), BufferId(id - 1));
            if let Step::Launch(l) = step
                && l.scratch == Some(BufferId(id))
            {
                l.scratch = Some(BufferId(id - 1));
            }
        }
    }
}
