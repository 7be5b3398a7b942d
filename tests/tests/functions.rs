//! Models with functions give what onnxruntime makes of them, by reference evaluation and on the processor. The cases in
//! `functions/` are written by `functions/make.py`; ONNX's own suite has no function.

use fastinference::cases::{self, Allowed};
use fastinference::importer;
use fastinference::{CompileOptions, Model};
use std::path::Path;

#[test]
fn calls_of_functions_give_what_onnxruntime_gives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions");
    let found = cases::find(&folder).unwrap();
    assert_eq!(found.len(), 6);
    for folder in found {
        let case = cases::read(&folder, Allowed { rtol: 1e-6, atol: 0.0, equal_nan: true }).unwrap();
        let graph = importer::import(&case.model, &Default::default()).unwrap().graph;
        let model = Model::open(&case.model, &CompileOptions::default()).unwrap();
        let mut session = model.session(1);
        let inputs: Vec<_> = graph.inputs.iter().map(|id| graph.ty((*id).into())).collect();
        let outputs: Vec<_> = graph.outputs.iter().map(|o| graph.ty(o.value)).collect();
        for set in &case.sets {
            let (given, expected) = (set.inputs(&inputs).unwrap(), set.outputs(&outputs).unwrap());
            let reference = ir::eval::run(&graph, &given).unwrap();
            let planned = session.run(&given).unwrap();
            for (found, expected) in reference.iter().chain(planned).zip(expected.iter().chain(&expected)) {
                cases::compare(found, expected, case.allowed).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            }
        }
    }
}
