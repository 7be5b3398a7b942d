//! A plan for a GPU carries its kernels' code objects: those that it needs, for every architecture that was asked for.

use backend_hip::{Compiler, kernel_files};
use fastinference::plan::{CodeObject, StoreError, load};
use fastinference::{CompileOptions, DeviceOptions, Model, RandomInputs, compile};
use fastinference_tests::models::samples;
use std::fs;
use std::path::{Path, PathBuf};

/// A small model compiled for two architectures, or `None`, with a note, where no compiler is here.
fn plan(test: &str, folder: &Path, cache: Option<&Path>) -> Option<PathBuf> {
    if let Err(e) = Compiler::for_arch("gfx1151") {
        println!("{test} is skipped: {e}");
        return None;
    }
    let sample = samples().into_iter().find(|s| s.name == "perceptron").unwrap();
    fs::write(folder.join("model.onnx"), &sample.model).unwrap();
    let options = CompileOptions {
        target: Some("gfx1151".into()),
        code_for: vec!["gfx1100".into(), "gfx1151".into()],
        on: DeviceOptions { code_objects: cache.map(Path::to_owned), ..DeviceOptions::default() },
        ..CompileOptions::default()
    };
    let at = folder.join("model.plan");
    let compiled = compile(&folder.join("model.onnx"), &options, &mut ()).unwrap();
    let arches: Vec<&str> = compiled.report().code.iter().map(|c| c.arch.as_str()).collect();
    assert_eq!(arches, ["gfx1151", "gfx1100"]);
    assert!(
        compiled.report().code.iter().all(|c| c.compiler.is_ok() == cache.is_some()),
        "{:?}",
        compiled.report().code
    );
    compiled.save(&at, false).unwrap();
    Some(at)
}

#[test]
fn hip_plans_carry_the_code_that_they_need() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let Some(at) = plan("hip_plans_carry_the_code_that_they_need", folder.path(), Some(&cache)) else { return };
    let loaded = load(&at).unwrap();
    let needed: Vec<&str> = kernel_files(&loaded.plan).unwrap().into_iter().collect();
    for arch in ["gfx1151", "gfx1100"] {
        let of_arch = |o: &&CodeObject| o.info.arch == arch;
        let files: Vec<&str> = loaded.code.iter().filter(of_arch).map(|o| o.info.file()).collect();
        assert_eq!(files, needed, "{arch}");
        for object in loaded.code.iter().filter(of_arch) {
            assert!(object.path.starts_with(at.join("kernels").join(arch)));
            assert!(object.read().unwrap().starts_with(b"\x7fELF"), "{}", object.path.display());
            assert!(object.info.compiler.contains("clang"), "{}", object.info.compiler);
        }
    }
    let differ = |a: &CodeObject, b: &CodeObject| a.info.file() == b.info.file() && a.info.hash == b.info.hash;
    assert!(
        !loaded.code[needed.len()..].iter().any(|b| differ(&loaded.code[0], b)),
        "both architectures have one code"
    );
    // Other devices are not disturbed.
    let model = Model::load(&at).unwrap();
    assert_eq!(model.code().count(), 2 * needed.len());
    model.session(1).run(&model.random_inputs(&RandomInputs::default()).unwrap()).unwrap();
}

#[test]
fn hip_code_that_was_changed_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let Some(at) = plan("hip_code_that_was_changed_is_not_used", folder.path(), Some(&cache)) else { return };
    let loaded = load(&at).unwrap();
    let (first, second) = (&loaded.code[0], &loaded.code[1]);
    let mut bytes = fs::read(&first.path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&first.path, bytes).unwrap();
    assert!(matches!(first.read(), Err(StoreError::Code { .. })));
    fs::write(&second.path, b"").unwrap();
    assert!(matches!(second.read(), Err(StoreError::Code { .. })));
    fs::remove_file(&second.path).unwrap();
    assert!(matches!(second.read(), Err(StoreError::Io { .. })));
}

#[test]
fn hip_plans_are_made_without_a_place_for_code() {
    let folder = tempfile::tempdir().unwrap();
    let Some(at) = plan("hip_plans_are_made_without_a_place_for_code", folder.path(), None) else { return };
    assert!(load(&at).unwrap().code.is_empty() && !at.join("kernels").exists());
}
