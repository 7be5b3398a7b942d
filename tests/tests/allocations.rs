//! A run or step with shapes seen before allocates nothing: on the caller's thread and on the session's workers.

use fastinference::{Batch, CompileOptions, Datum, Model, RandomInputs, SlotOptions};
use fastinference_tests::counting_allocator::{Counting, allocations};
use fastinference_tests::models::samples;
use std::path::Path;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of every call: the least of several calls after two that warm up, since a worker may take part for the first
/// time in any of them, and the test harness has a thread of its own.
fn of_every_run(model: &Model, inputs: &[Datum], threads: usize) -> u64 {
    let mut session = model.session(threads);
    session.run(inputs).unwrap();
    session.run(inputs).unwrap();
    let mut of_one_run = || {
        let before = allocations();
        session.run(inputs).unwrap();
        allocations() - before
    };
    (0..8).map(|_| of_one_run()).min().expect("eight calls")
}

/// [`of_every_run`] for steps over caches: two sequences get a token each.
fn of_every_step(model: &Model, threads: usize) -> u64 {
    let mut session = model.session(threads);
    session.open_slots(SlotOptions { slots: 2, max_len: 256, max_bytes: u64::MAX }).unwrap();
    let mut batch = Batch::default();
    batch.push(1, &[3]);
    batch.push(0, &[5]);
    session.step(&batch).unwrap();
    session.step(&batch).unwrap();
    let mut of_one_step = || {
        let before = allocations();
        session.step(&batch).unwrap();
        allocations() - before
    };
    (0..8).map(|_| of_one_step()).min().expect("eight calls")
}

// One test, because the count is of the whole process.
#[test]
fn a_run_with_known_shapes_allocates_nothing() {
    let before = allocations();
    drop(vec![0u8; 1000]);
    assert!(allocations() > before, "allocations are counted");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe");
    let model = Model::open(&example, &CompileOptions::default()).unwrap();
    let inputs = model.random_inputs(&RandomInputs::default()).unwrap();
    for threads in [1, 2] {
        assert_eq!(of_every_run(&model, &inputs, threads), 0, "shakespeare-moe on {threads} threads");
        assert_eq!(of_every_step(&model, threads), 0, "its steps on {threads} threads");
    }
    for sample in samples() {
        // Sizes that depend on data, control flow, sequences and text live in slots, which allocate.
        if ["branches", "looping", "scanning", "sequences", "late", "texts"].contains(&sample.name) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in &sample.files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        std::fs::write(folder.path().join("model.onnx"), &sample.model).unwrap();
        let model = Model::open(folder.path(), &CompileOptions::default()).unwrap();
        let inputs = model.random_inputs(&RandomInputs::default()).unwrap();
        let reference: Vec<_> = model.kernels().into_iter().filter(|k| k.kernel == "reference").collect();
        let count = of_every_run(&model, &inputs, 2);
        println!("{}: {count} allocations, {} reference steps", sample.name, reference.len());
        assert!(count == 0 || !reference.is_empty(), "{}: {count} allocations", sample.name);
    }
}
