//! Every way of breaking a plan for a device that we know of is refused: by the plan's checker, or by what the backend asks of a
//! plan before it touches a device. No device is needed.
//!
//! ```text
//! copy x to the device       a mutant reads another place, or leaves the copy out
//! launch linear              a mutant takes memory of the host, too little scratch memory, or another kernel
//! sync 1 -> 0                a mutant only paces here, waits too late, or the wrong way round
//! pace 1 -> 0 "every 3"      a mutant queues more
//! ```
//!
//! `MUTATED_MODELS`, a list of models with spaces between, adds models to those here.

mod mutants;

use backend_hip::examine;
use fastinference::plan::{Plan, check};
use fastinference::{CompileOptions, DeviceOptions, Pacing, compile};
use fastinference_tests::models::samples;
use fastinference_tests::random::Random;
use mutants::{Mutant, mutants};
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

/// How many mutants of a kind one entry is good for. Without optimisation fewer, so that tests stay quick while one works.
const MOST: usize = if cfg!(debug_assertions) { 12 } else { 60 };

/// The host waits for the device at the latest after so many steps.
const PACE: u32 = 3;

/// Who refuses a mutant.
#[derive(Default)]
struct Tally {
    checker: usize,
    backend: usize,
    missed: Vec<String>,
}

fn planned(path: &Path) -> Plan {
    let on = DeviceOptions { sync_every: NonZeroU32::new(PACE).map(Pacing::Every), ..DeviceOptions::default() };
    let options = CompileOptions { target: Some("gfx1151".into()), on, ..CompileOptions::default() };
    let compiled = compile(path, &options, &mut ()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    compiled.plan().clone().into_plan()
}

fn plans() -> Vec<(String, Plan)> {
    let folder = tempfile::tempdir().unwrap();
    let mut plans = vec![];
    for sample in samples() {
        let home = folder.path().join(sample.name);
        fs::create_dir(&home).unwrap();
        for (name, content) in &sample.files {
            fs::write(home.join(name), content).unwrap();
        }
        fs::write(home.join("model.onnx"), &sample.model).unwrap();
        plans.push((sample.name.to_string(), planned(&home)));
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe");
    plans.push(("shakespeare-moe".into(), planned(&example)));
    let more = std::env::var("MUTATED_MODELS").unwrap_or_default();
    for path in more.split_whitespace().map(PathBuf::from) {
        plans.push((path.display().to_string(), planned(&path)));
    }
    plans
}

/// Some mutants of each kind, the same on every machine.
fn chosen(all: Vec<Mutant>, random: &mut Random) -> Vec<Mutant> {
    let mut kinds: BTreeMap<&'static str, Vec<Mutant>> = BTreeMap::new();
    all.into_iter().for_each(|m| kinds.entry(m.kind).or_default().push(m));
    let some = |mut of_kind: Vec<Mutant>| {
        while of_kind.len() > MOST {
            of_kind.swap_remove(random.below(of_kind.len()));
        }
        of_kind
    };
    kinds.into_values().flat_map(some).collect()
}

#[test]
fn every_mutant_is_refused() {
    let mut tally: BTreeMap<&'static str, Tally> = BTreeMap::new();
    let mut random = Random::new(6);
    for (name, plan) in plans() {
        let checked = check(plan.clone()).unwrap_or_else(|found| panic!("{name}: {}", found[0]));
        examine(&checked).unwrap_or_else(|e| panic!("{name}: {e}"));
        for entry in 0..plan.entries.len() {
            for mutant in chosen(mutants(&plan, entry), &mut random) {
                let of_kind = tally.entry(mutant.kind).or_default();
                let mut broken = plan.clone();
                (mutant.make)(&mut broken);
                match check(broken).map(|checked| examine(&checked)) {
                    Err(_) => of_kind.checker += 1,
                    Ok(Err(_)) => of_kind.backend += 1,
                    Ok(Ok(())) => of_kind.missed.push(format!("{name}, {}: {}", plan.entries[entry].name, mutant.what)),
                }
            }
        }
    }
    let mut sum = (0, 0);
    for (kind, t) in &tally {
        let (found, made) = (t.checker + t.backend, t.checker + t.backend + t.missed.len());
        println!("device plans, {kind}: {found} of {made} mutants found, {} of them by the backend", t.backend);
        sum = (sum.0 + found, sum.1 + made);
    }
    println!("all: {} of {} mutants of device plans", sum.0, sum.1);
    let missed: Vec<String> =
        tally.iter().flat_map(|(kind, t)| t.missed.iter().map(move |m| format!("{kind}: {m}"))).collect();
    assert!(missed.is_empty(), "missed {}: {:#?}", missed.len(), &missed[..missed.len().min(40)]);
}
