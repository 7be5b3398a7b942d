//! A plan for a GPU carries its kernels' code objects: those that it needs, for every architecture that was asked for.

use backend_cpu::Cpu;
use backend_hip::{CodeEvent, CodeStore, CodeWatch, Compiler, Device, Hip, Platform, kernel_files};
use fastinference::plan::{CodeObject, Hash, StoreError, load};
use fastinference::{CompileOptions, DeviceOptions, Model, RandomInputs, compile};
use fastinference_tests::models::samples;
use runtime::Backend;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

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

/// What a plan says is code for this processor would run with all that this process may do.
#[test]
fn hip_code_of_a_plan_never_runs_on_this_processor() {
    if let Err(e) = Compiler::find(Platform::Simulator) {
        return println!("hip_code_of_a_plan_never_runs_on_this_processor is skipped: {e}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("linear.so");
    fs::write(&path, b"not to be loaded").unwrap();
    let source = kernels::source("linear", kernels::Source::Simulator).unwrap();
    let object = CodeObject::of_file(path, "sim", "linear", Hash::of(source.as_bytes()), "somebody").unwrap();
    let notes: Arc<Mutex<Vec<CodeEvent>>> = Arc::default();
    let heard = notes.clone();
    let watch = CodeWatch::new(move |event| heard.lock().unwrap().push(event));
    let device = Device::open(Platform::Simulator, 0).unwrap();
    let store = CodeStore::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels"));
    let hip = Hip::watched(device, store, Arc::new(Cpu), watch);
    hip.carry(vec![object]);
    let text = "graph @g(%x: f32[N, 8], %w: f32[4, 8]) { %y = linear(%x, %w) return %y }";
    let g = ir::text::parse(text).unwrap();
    let plan = plan::check(plan::build(ir::verify(&g).unwrap(), &hip, "").unwrap()).unwrap();
    let weights = plan::Weights::from_source(&plan, &plan::GraphWeights::new(&plan)).unwrap();
    hip.load(Arc::new(plan), weights).map(|_| ()).unwrap();
    let noted = |e: &CodeEvent| matches!(e, CodeEvent::Note(why) if why.contains("only what is compiled here"));
    assert!(notes.lock().unwrap().iter().any(noted), "{notes:?}");
}
