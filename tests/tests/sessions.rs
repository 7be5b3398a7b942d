//! Sessions of one loaded model: on several threads at once, and with memory of the caller's for their outputs.

use fastinference::ir::tensor::{Aligned, Memory};
use fastinference::{CompileOptions, Datum, Model, RandomInputs, Tensor};
use std::path::{Path, PathBuf};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe")
}

fn inputs(model: &Model, seed: u64, steps: i64) -> Vec<Datum> {
    let symbol = model.inputs()[0].ty.as_tensor().unwrap().dims().unwrap()[1].as_sym().unwrap().to_string();
    model.random_inputs(&RandomInputs { seed, dims: [(symbol, steps)].into(), ..RandomInputs::default() }).unwrap()
}

#[test]
fn two_threads_run_two_sessions_of_one_loaded_plan() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("model.plan");
    let options = CompileOptions::default();
    fastinference::compile(&example(), &options, &mut ()).unwrap().save(&plan, false).unwrap();
    let model = Model::load(&plan).unwrap();
    // Different lengths, so that the sessions' arenas differ.
    let alone: Vec<Vec<Datum>> =
        (0..2).map(|i| model.session(1).run(&inputs(&model, i, 5 + i as i64)).unwrap().to_vec()).collect();
    std::thread::scope(|scope| {
        for (i, expected) in alone.iter().enumerate() {
            let model = &model;
            scope.spawn(move || {
                let mut session = model.session(1);
                let inputs = inputs(model, i as u64, 5 + i as i64);
                for _ in 0..3 {
                    assert!(session.run(&inputs).unwrap() == &expected[..], "session {i}");
                }
            });
        }
    });
}

/// `y = relu(x w)` for x: f32[N, 2].
fn small() -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().unwrap();
    let sample = fastinference_tests::models::samples().into_iter().find(|s| s.name == "perceptron").unwrap();
    std::fs::write(folder.path().join("model.onnx"), &sample.model).unwrap();
    let model = Model::open(folder.path(), &CompileOptions::default()).unwrap();
    (folder, model)
}

fn rows(n: usize, first: f32) -> Vec<Datum> {
    let values: Vec<f32> = (0..4 * n).map(|i| first + i as f32).collect();
    vec![Tensor::from_slice(&[n, 4], &values).unwrap().into()]
}

#[test]
fn outputs_are_written_to_memory_that_the_caller_binds() {
    let (_folder, model) = small();
    let mut session = model.session(1);
    let expected = session.run(&rows(2, 0.5)).unwrap()[0].clone();
    let memory = Aligned::zeroed(1000);
    let address = memory.bytes().as_ptr();
    session.bind_output(0, memory).unwrap();
    let found = session.run(&rows(2, 0.5)).unwrap()[0].clone();
    assert_eq!(found, expected);
    assert_eq!(found.as_tensor().unwrap().bytes().as_ptr(), address);
    // Held results keep their bytes: the next run is refused, and so is taking the memory back.
    assert!(session.run(&rows(2, 1.5)).unwrap_err().to_string().contains("still in use"));
    assert!(session.take_output(0).is_err());
    drop(found);
    // More rows, in the same place.
    session.run(&rows(7, 1.5)).unwrap();
    let memory = session.take_output(0).unwrap();
    assert_eq!(memory.bytes().as_ptr(), address);
    let expected = session.run(&rows(7, 1.5)).unwrap()[0].clone();
    let expected = expected.as_tensor().unwrap();
    assert_eq!(&memory.bytes()[..expected.bytes().len()], expected.bytes());
    assert_ne!(expected.bytes().as_ptr(), address);
}

#[test]
fn memory_that_is_too_short_is_an_error_that_names_the_output() {
    let (_folder, model) = small();
    let mut session = model.session(1);
    session.bind_output(0, Aligned::zeroed(24)).unwrap();
    session.run(&rows(2, 0.0)).unwrap();
    let error = session.run(&rows(3, 0.0)).unwrap_err().to_string();
    assert!(error.contains("`y`") && error.contains("36 bytes") && error.contains("24"), "{error}");
    // Nothing is lost.
    session.run(&rows(1, 0.0)).unwrap();
    assert!(session.bind_output(1, Aligned::zeroed(24)).is_err());
    assert!(model.session(1).take_output(0).is_err());
}

#[test]
fn a_backend_refuses_plans_of_another_target_and_weights_of_another_plan() {
    use backend_cpu::Cpu;
    use fastinference::ir;
    use fastinference::plan::{GraphWeights, Plan, Weights, build, check};
    use runtime::{Backend, LoadError};
    let planned = |n: usize, target: &dyn fastinference::plan::Target| -> Plan {
        let text = format!("graph @g(%x: f32[N, 70]) {{ %w = weight : f32[{n}, 70] %y = linear(%x, %w) return %y }}");
        let mut g = ir::text::parse(&text).unwrap();
        let w = g.order().into_iter().find(|id| &*g.node(*id).names[0] == "w").unwrap();
        g.attach(w, Tensor::from_slice(&[n, 70], &vec![0.5f32; n * 70]).unwrap()).unwrap();
        build(ir::verify(&g).unwrap(), target, "").unwrap()
    };
    let weights = |plan: &Plan| Weights::from_source(plan, &GraphWeights::new(plan)).unwrap();
    let (ours, theirs) = (planned(3, &Cpu), planned(3, &backend_hip::Planner::new("gfx1151")));
    let load =
        |plan: &Plan, weights: Weights| Cpu.load(check(plan.clone()).unwrap().into(), weights).map(|_| ()).unwrap_err();
    let error = load(&theirs, weights(&theirs));
    assert_eq!(error, LoadError::Target { expected: "cpu".into(), found: "gfx1151".into() });
    let error = load(&ours, weights(&planned(40, &Cpu))).to_string();
    assert!(error.contains("weight `w`: it has") && error.contains("its type needs"), "{error}");
    Cpu.load(check(ours.clone()).unwrap().into(), weights(&ours)).map(|_| ()).unwrap();
}
