//! Damaged and hostile models end in an error, or run: never in a panic, a hang, or gigabytes of memory.

use fastinference::{CompileOptions, Model, RandomInputs};
use fastinference_tests::message::{mutate, parse, write};
use fastinference_tests::models::{Sample, samples};
use fastinference_tests::random::{Random, mutate_bytes};
use fastinference_tests::watch::{End, Tally, watched};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Without optimisation fewer, so that tests stay quick while one works.
const MUTANTS: usize = if cfg!(debug_assertions) { 150 } else { 1000 };
const LIMIT: Duration = Duration::from_secs(60);

/// Compiles a model, runs it once and writes its plan.
fn exercise(path: &Path) -> Result<(), String> {
    let failed = |e: fastinference::Error| e.to_string();
    let model = Model::open(path, &CompileOptions::default()).map_err(failed)?;
    let inputs = model.random_inputs(&RandomInputs::default()).map_err(failed)?;
    model.session(1).run(&inputs).map_err(|e| e.to_string())?;
    Ok(())
}

fn put(folder: &Path, sample: &Sample, bytes: &[u8]) {
    for (name, content) in &sample.files {
        fs::write(folder.join(name), content).unwrap();
    }
    fs::write(folder.join("model.onnx"), bytes).unwrap();
}

#[test]
fn every_sample_runs_as_it_is() {
    for sample in samples() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), &sample, &sample.model);
        assert_eq!(exercise(&folder.path().join("model.onnx")), Ok(()), "{}", sample.name);
        let message = parse(&sample.model).unwrap();
        assert_eq!(write(&message), sample.model, "{}", sample.name);
    }
}

#[test]
fn mutants_are_refused_or_run() {
    let samples = samples();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let mut tally = Tally::default();
    for number in 0..MUTANTS {
        let sample = &samples[number % samples.len()];
        let mut random = Random::new(number as u64);
        let mut bytes = sample.model.clone();
        // Two of three change fields and leave the file readable.
        if random.below(3) == 0 {
            mutate_bytes(&mut random, &mut bytes);
        } else {
            let mut message = parse(&bytes).unwrap();
            for _ in 0..1 + random.below(3) {
                mutate(&mut random, &mut message);
            }
            bytes = write(&message);
        }
        put(folder.path(), sample, &bytes);
        let at = path.clone();
        let end = watched(LIMIT, move || exercise(&at));
        if matches!(end, End::Panicked(_) | End::Hung) {
            keep(&format!("{}-{number}.onnx", sample.name), &bytes);
        }
        tally.count(&format!("{} {number}", sample.name), end);
    }
    tally.finish("models");
}

/// Leaves a mutant that broke something where it can be looked at.
fn keep(name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutants");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}
