//! Every way of breaking a plan that we know of is found by the checker.

mod common;

use common::{graph, plan_of, transformer};
use ir::Dim;
use plan::{BufferId, COPY, Entry, Launch, Loc, Place, Plan, SlotId, Step, check};
use std::collections::BTreeMap;

/// Mutants by kind: how many there were; those that the checker accepted are printed.
#[derive(Default)]
struct Tally {
    made: BTreeMap<&'static str, usize>,
    missed: Vec<String>,
}

impl Tally {
    fn try_mutant(&mut self, plan: &Plan, kind: &'static str, what: String, mutate: impl FnOnce(&mut Entry)) {
        let mut mutant = plan.clone();
        mutate(&mut mutant.entries[0]);
        *self.made.entry(kind).or_default() += 1;
        if check(mutant).is_ok() {
            self.missed.push(format!("{kind}: {what}"));
        }
    }
}

fn launch(entry: &mut Entry, step: usize) -> &mut Launch {
    match &mut entry.steps[step] {
        Step::Launch(launch) => launch,
        other => panic!("{other:?} is not a launch"),
    }
}

fn launches(entry: &Entry) -> Vec<(usize, Launch)> {
    let launches = entry.steps.iter().enumerate().filter_map(|(at, step)| match step {
        Step::Launch(launch) => Some((at, launch.clone())),
        _ => None,
    });
    launches.collect()
}

/// Whether `low` is below `high` by their lists.
fn below(entry: &Entry, low: BufferId, high: BufferId) -> bool {
    entry.buffers[high.0 as usize].after.iter().any(|b| *b == low || below(entry, low, *b))
}

fn places(entry: &Entry) -> Vec<Place> {
    let inputs = (0..entry.inputs.len()).map(|i| Place::Input(i as u32));
    let outputs = (0..entry.outputs.len()).map(|i| Place::Output(i as u32));
    let buffers = (0..entry.buffers.len()).map(|i| Place::Buffer(BufferId(i as u32)));
    let slots = (0..entry.slots).map(|i| Place::Slot(SlotId(i)));
    let weights = ["table", "wq0", "wk0", "scale"].map(|w| Place::Weight(w.into()));
    inputs.chain(outputs).chain(buffers).chain(slots).chain(weights).chain([Place::None]).collect()
}

fn mutate_all(plan: &Plan, tally: &mut Tally) {
    let entry = &plan.entries[0];
    for id in 0..entry.buffers.len() {
        let buffer = &entry.buffers[id];
        for (at, low) in buffer.after.iter().enumerate() {
            let mut without = entry.clone();
            without.buffers[id].after.remove(at);
            if !below(&without, *low, BufferId(id as u32)) {
                tally.try_mutant(plan, "overlap two buffers", format!("b{id}, b{}", low.0), |e| {
                    e.buffers[id].after.remove(at);
                });
            }
        }
        for (how, bytes) in [("by a byte", &buffer.bytes - &Dim::constant(1)), ("to nothing", Dim::constant(0))] {
            tally.try_mutant(plan, "shrink a buffer", format!("b{id} {how}"), |e| e.buffers[id].bytes = bytes);
        }
        for (first, last) in [(buffer.first + 1, buffer.last), (buffer.first, buffer.last.wrapping_sub(1))] {
            tally.try_mutant(plan, "shorten a life", format!("b{id}"), |e| {
                (e.buffers[id].first, e.buffers[id].last) = (first, last);
            });
        }
    }
    let launches = launches(entry);
    let all = places(entry);
    for (i, (at, step)) in launches.iter().enumerate() {
        tally.try_mutant(plan, "drop a step", format!("{at}"), |e| drop(e.steps.remove(*at)));
        // To copy twice is to copy once.
        if step.kernel != COPY {
            tally.try_mutant(plan, "repeat a step", format!("{at}"), |e| e.steps.insert(*at, e.steps[*at].clone()));
        }
        for (later, reader) in &launches[i + 1..] {
            let dependent = reader.reads.iter().any(|r| step.writes.iter().any(|w| w.place == r.place));
            if dependent {
                tally.try_mutant(plan, "swap dependent steps", format!("{at}, {later}"), |e| e.steps.swap(*at, *later));
            }
        }
        for operand in 0..step.reads.len() {
            for place in all.iter().filter(|p| **p != step.reads[operand].place) {
                tally.try_mutant(plan, "redirect an operand", format!("{at}: {operand} to {place}"), |e| {
                    launch(e, *at).reads[operand].place = place.clone();
                });
            }
            if step.reads[operand].place != Place::None {
                tally.try_mutant(plan, "move an operand", format!("{at}: {operand}"), |e| {
                    launch(e, *at).reads[operand].offset = Dim::constant(4);
                });
            }
        }
        for result in 0..step.writes.len() {
            for place in all.iter().filter(|p| **p != step.writes[result].place) {
                tally.try_mutant(plan, "redirect a result", format!("{at}: {result} to {place}"), |e| {
                    launch(e, *at).writes[result] = Loc::from(place.clone());
                });
            }
        }
        if let Some(scratch) = step.scratch {
            for other in (0..entry.buffers.len() as u32).map(BufferId).filter(|b| *b != scratch) {
                let buffer = &entry.buffers[other.0 as usize];
                // A buffer that lives now but is written later has nothing to lose.
                if (buffer.first as usize) < *at && *at <= buffer.last as usize {
                    tally.try_mutant(plan, "scratch over a value", format!("{at}: b{}", other.0), |e| {
                        launch(e, *at).scratch = Some(other);
                    });
                }
            }
        }
        for slot in &step.frees {
            let defined = launches.iter().find(|(_, l)| l.writes.iter().any(|w| w.place == Place::Slot(*slot)));
            for earlier in defined.expect("freed slots are written").0..*at {
                tally.try_mutant(plan, "free a slot early", format!("s{} at {earlier}", slot.0), |e| {
                    launch(e, *at).frees.retain(|s| s != slot);
                    launch(e, earlier).frees.push(*slot);
                });
            }
            tally.try_mutant(plan, "free a slot twice", format!("s{}", slot.0), |e| launch(e, *at).frees.push(*slot));
        }
        if &*step.node != "x0" {
            tally.try_mutant(plan, "name another node", format!("{at}"), |e| launch(e, *at).node = "x0".into());
        }
    }
    for output in 0..entry.outputs.len() {
        tally.try_mutant(plan, "move an output", format!("{output}"), |e| {
            e.outputs[output].value = Place::Input(0).into();
        });
    }
}

#[test]
fn every_mutant_is_found() {
    let g = graph(&transformer(2));
    let plan = plan_of(&g);
    if let Err(findings) = check(plan.clone()) {
        panic!("{}", findings.iter().map(|f| format!("{f}\n")).collect::<String>());
    }
    let mut tally = Tally::default();
    mutate_all(&plan, &mut tally);
    let missed = |kind: &str| tally.missed.iter().filter(|m| m.starts_with(kind)).count();
    for (kind, made) in &tally.made {
        println!("{kind}: {} of {made} mutants found", made - missed(kind));
    }
    println!(
        "all: {} of {}",
        tally.made.values().sum::<usize>() - tally.missed.len(),
        tally.made.values().sum::<usize>()
    );
    assert!(tally.missed.is_empty(), "missed: {:#?}", &tally.missed[..tally.missed.len().min(40)]);
}
