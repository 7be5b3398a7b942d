//! Graphs, imported and compiled, print as text that reads back as the same graph; compiling twice gives the same plan.

use fastinference::{CompileOptions, compile, importer};
use fastinference_tests::models::samples;
use std::fs;
use std::path::{Path, PathBuf};

/// The samples and the example model, each in a folder.
fn folders(home: &Path) -> Vec<PathBuf> {
    let mut folders = vec![];
    // Without optimisation it is left out, so that tests stay quick while one works.
    if !cfg!(debug_assertions) {
        folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe"));
    }
    for sample in samples() {
        let folder = home.join(sample.name);
        fs::create_dir(&folder).unwrap();
        for (name, content) in &sample.files {
            fs::write(folder.join(name), content).unwrap();
        }
        fs::write(folder.join("model.onnx"), &sample.model).unwrap();
        folders.push(folder);
    }
    folders
}

#[test]
fn graphs_survive_their_text() {
    let home = tempfile::tempdir().unwrap();
    for folder in folders(home.path()) {
        let imported = importer::import(&folder.join("model.onnx"), &importer::Options::default()).unwrap().graph;
        let compiled = compile(&folder, &CompileOptions::default(), &mut ()).unwrap();
        for graph in [&imported, &compiled.plan().entries[0].graph] {
            let text = graph.to_string();
            let back = ir::text::parse(&text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", folder.display()));
            assert_eq!(back.to_string(), text, "{}", folder.display());
        }
    }
}

#[test]
fn compiling_twice_gives_the_same_files() {
    let home = tempfile::tempdir().unwrap();
    for folder in folders(home.path()) {
        let files = ["plan.yaml", "graph.ir", "weights.safetensors"];
        let [first, second] = ["first.plan", "second.plan"].map(|name| {
            let plan = home.path().join(name);
            compile(&folder, &CompileOptions::default(), &mut ()).unwrap().save(&plan, true).unwrap();
            files.map(|file| fs::read(plan.join(file)).unwrap())
        });
        for ((name, a), b) in files.iter().zip(&first).zip(&second) {
            assert!(a == b, "{}: {name} differs", folder.display());
        }
    }
}
