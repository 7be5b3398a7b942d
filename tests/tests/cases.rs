//! The cases below `cases/`: operators that ONNX's own suite does not test, with ONNX Runtime's answers (see
//! `cases/make_cases.py`), on the reference evaluator and on the CPU backend.

use fastinference::cases::{self, Allowed};
use fastinference::importer::{self, Options};
use fastinference::{CompileOptions, Datum, Model, ValueType};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// f32 arithmetic in another order; a case that needs more says so in its case.json.
const ALLOWED: Allowed = Allowed { rtol: 1e-4, atol: 1e-5, equal_nan: true };

/// A model ready to run, with the types of its inputs and outputs.
struct Runner {
    inputs: Vec<ValueType>,
    outputs: Vec<ValueType>,
    run: Box<Run>,
}

type Run = dyn FnMut(&[Datum]) -> Result<Vec<Datum>, String>;

fn reference(model: &Path) -> Result<Runner, String> {
    let graph = importer::import(model, &Options::default()).map_err(|e| e.to_string())?.graph;
    Ok(Runner {
        inputs: graph.inputs.iter().map(|id| graph.ty((*id).into()).clone()).collect(),
        outputs: graph.outputs.iter().map(|o| graph.ty(o.value).clone()).collect(),
        run: Box::new(move |inputs| ir::eval::run(&graph, inputs).map_err(|e| e.to_string())),
    })
}

fn cpu(model: &Path) -> Result<Runner, String> {
    let model = Model::open(model, &CompileOptions::default()).map_err(|e| e.to_string())?;
    let mut session = model.session(1);
    Ok(Runner {
        inputs: model.inputs().iter().map(|p| p.ty.clone()).collect(),
        outputs: model.outputs().iter().map(|p| p.ty.clone()).collect(),
        run: Box::new(move |inputs| session.run(inputs).map(<[Datum]>::to_vec).map_err(|e| e.to_string())),
    })
}

fn run_case(folder: &Path, open: fn(&Path) -> Result<Runner, String>) -> Result<(), String> {
    let case = cases::read(folder, ALLOWED).map_err(|e| e.to_string())?;
    let mut runner = open(&case.model)?;
    let (inputs, outputs) = (runner.inputs.clone(), runner.outputs.clone());
    for set in &case.sets {
        let given = set.inputs(&inputs.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
        let expected = set.outputs(&outputs.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
        // Twice, so that nothing may stay from the first time.
        for _ in 0..2 {
            let found = (runner.run)(&given)?;
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                cases::compare(found, expected, case.allowed).map_err(|e| format!("output {i}: {e}"))?;
            }
        }
    }
    Ok(())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

fn run_all(open: fn(&Path) -> Result<Runner, String>) {
    let all = cases::find(&folder()).unwrap();
    assert!(all.len() > 300, "only {} cases were found", all.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(reason) = run_case(case, open) {
                        failed.lock().unwrap().push(format!("{}: {reason}", case.file_name().unwrap().display()));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    assert!(failed.is_empty(), "{} of {} cases fail:\n{}", failed.len(), all.len(), failed.join("\n"));
}

#[test]
fn the_reference_gives_the_expected_results() {
    run_all(reference);
}

#[test]
fn the_cpu_gives_the_expected_results() {
    run_all(cpu);
}
