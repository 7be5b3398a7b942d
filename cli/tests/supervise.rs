//! A device in a worker process: whatever becomes of the worker fails one request, and the next is served.
//!
//! The simulator stands for the device; faults are given to its driver on purpose.

use fastinference::ir::{self, Tensor};
use fastinference::plan::{GraphWeights, WriteOptions, write};
use fastinference::{
    Batch, CodeEvent, CodeWatch, Datum, Device, DeviceOptions, Fault, Model, RunError, Session, SlotOptions, StepError,
    Supervise,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_fastinference");

/// A plan with work for the device and for the host, in a folder of its own.
struct Scene {
    home: tempfile::TempDir,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Scene {
    fn new() -> Option<Scene> {
        let there = |c: &&str| Command::new(c).arg("--version").output().is_ok_and(|o| o.status.success());
        if !["clang++-19", "clang++", "g++"].iter().any(there) {
            println!("skipped: no C++ compiler is here to make the simulator");
            return None;
        }
        let text = "graph @g(%x: f32[N, 8]) { %w = weight : f32[64, 8] %a = linear(%x, %w) %b = cum_sum(%a) {axis = 1} \
             %h = acos(%b) %c = relu(%a) %y = add(%c, %b) return %y, %h }";
        let mut g = ir::text::parse(text).unwrap();
        let w = g.order().into_iter().find(|id| &*g.node(*id).names[0] == "w").unwrap();
        let values: Vec<f32> = (0..512).map(|i| (i % 13) as f32 / 7.0 - 0.9).collect();
        g.attach(w, Tensor::from_slice(&[64, 8], &values).unwrap()).unwrap();
        let model = Model::from_graph(ir::verify(&g).unwrap()).unwrap();
        let home = tempfile::tempdir().unwrap();
        let plan = home.path().join("model.plan");
        write(model.plan(), &GraphWeights::new(model.plan()), &plan, WriteOptions::default()).unwrap();
        Some(Scene { home, notes: Arc::default() })
    }

    fn plan(&self) -> PathBuf {
        self.home.path().join("model.plan")
    }

    fn on(&self, supervise: Supervise) -> DeviceOptions {
        let notes = self.notes.clone();
        DeviceOptions {
            device: Device::Simulator,
            code_objects: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels")),
            watch: CodeWatch::new(move |event| {
                if let CodeEvent::Note(note) = event {
                    notes.lock().unwrap().push(note);
                }
            }),
            supervise: Some(supervise),
            ..DeviceOptions::default()
        }
    }

    fn session(&self, faults: &[&str], change: impl FnOnce(&mut Supervise)) -> Box<dyn Session> {
        let mut supervise = Supervise::new(PROGRAM, &["worker"]);
        supervise.faults = faults.iter().map(|f| f.parse::<Fault>().unwrap()).collect();
        change(&mut supervise);
        Model::load_on(&self.plan(), &self.on(supervise)).unwrap().session(1)
    }

    /// Fails unless a run of `n` rows gives what the processor gives.
    fn runs(&self, session: &mut dyn Session, n: usize) {
        let x = input(n);
        let model = Model::load(&self.plan()).unwrap();
        let want = model.session(1).run(std::slice::from_ref(&x)).unwrap().to_vec();
        let got = session.run(&[x]).unwrap_or_else(|e| panic!("{e}"));
        for (got, want) in got.iter().zip(&want) {
            let (got, want) = (got.as_tensor().unwrap(), want.as_tensor().unwrap());
            assert_eq!(got.dims(), want.dims());
            for (a, b) in got.to_f64().unwrap().iter().zip(want.to_f64().unwrap()) {
                assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0) || a.is_nan() && b.is_nan(), "{a} is not {b}");
            }
        }
    }
}

fn input(n: usize) -> Datum {
    let values: Vec<f32> = (0..8 * n).map(|i| (i % 11) as f32 / 5.0 - 1.0).collect();
    Tensor::from_slice(&[n, 8], &values).unwrap().into()
}

#[test]
fn a_worker_gives_the_results_of_the_device() {
    let Some(scene) = Scene::new() else { return };
    let mut session = scene.session(&[], |_| ());
    for n in [3, 1, 0, 40, 3] {
        scene.runs(&mut *session, n);
    }
    assert!(session.memory_bytes() > 0);
    assert_eq!(session.open_slots(SlotOptions { slots: 1, max_len: 9, max_bytes: 99 }), Err(StepError::NoStep));
    scene.runs(&mut *session, 2);
}

#[test]
fn an_abort_fails_one_request_and_names_the_last_node() {
    let Some(scene) = Scene::new() else { return };
    let mut session = scene.session(&["launch:2:abort"], |_| ());
    let error = session.run(&[input(3)]).unwrap_err();
    println!("{error}");
    let RunError::Worker { node: Some(node), reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains("signal 6 SIGABRT"), "{reason}");
    // The second kernel that is launched.
    assert!(["a", "b", "c"].contains(&&**node), "{node}");
    for n in [3, 5] {
        scene.runs(&mut *session, n);
    }
}

#[test]
fn a_hang_is_ended_after_the_time_limit() {
    let Some(scene) = Scene::new() else { return };
    let mut session = scene.session(&["launch:2:hang"], |s| s.limit = Duration::from_secs(3));
    let started = Instant::now();
    let error = session.run(&[input(3)]).unwrap_err().to_string();
    println!("{error}");
    assert!(error.contains("did not answer within 3 s") && error.contains("at or before `"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30));
    scene.runs(&mut *session, 3);
}

#[test]
fn a_failing_call_is_reported_and_the_next_request_gets_a_new_worker() {
    let Some(scene) = Scene::new() else { return };
    for fault in ["launch:1:700:on", "to-device:2:719:on", "alloc:2:2:on"] {
        let mut session = scene.session(&[fault], |_| ());
        let error = session.run(&[input(3)]).unwrap_err().to_string();
        println!("{error}");
        let code = fault.split(':').nth(2).unwrap();
        assert!(error.contains(&format!("({code})")), "{fault}: {error}");
        scene.runs(&mut *session, 3);
    }
}

#[test]
fn a_killed_worker_is_replaced() {
    let Some(scene) = Scene::new() else { return };
    let file = scene.home.path().join("pid");
    let script = format!("echo $$ > {}; exec {PROGRAM} worker", file.display());
    let mut session = scene.session(&[], |s| {
        (s.program, s.arguments) = ("sh".into(), vec!["-c".into(), script]);
    });
    scene.runs(&mut *session, 3);
    let pid = || std::fs::read_to_string(&file).unwrap().trim().to_string();
    let first = pid();
    // A wrong input is the caller's fault: the worker stays.
    let wrong = Datum::from(Tensor::from_slice(&[1, 9], &[0f32; 9]).unwrap());
    assert!(session.run(&[wrong]).unwrap_err().to_string().contains("`x`"));
    scene.runs(&mut *session, 2);
    assert_eq!(pid(), first);
    assert!(Command::new("kill").args(["-9", &first]).status().unwrap().success());
    let error = session.run(&[input(3)]).unwrap_err().to_string();
    assert!(error.contains("SIGKILL"), "{error}");
    scene.runs(&mut *session, 3);
    assert_ne!(pid(), first);
}

#[test]
fn a_run_may_fall_back_to_the_processor_and_says_so() {
    let Some(scene) = Scene::new() else { return };
    for fault in ["launch:1:abort", "launch:1:700:on"] {
        let mut session = scene.session(&[fault], |s| s.fall_back = true);
        scene.runs(&mut *session, 4);
        let notes = std::mem::take(&mut *scene.notes.lock().unwrap());
        assert!(notes.len() == 1 && notes[0].contains("is done by the processor"), "{notes:?}");
        scene.runs(&mut *session, 4);
        assert!(scene.notes.lock().unwrap().is_empty());
    }
}

#[test]
fn a_worker_that_cannot_load_says_why() {
    let Some(scene) = Scene::new() else { return };
    let load = |change: &dyn Fn(&mut Supervise)| {
        let mut supervise = Supervise::new(PROGRAM, &["worker"]);
        change(&mut supervise);
        Model::load_on(&scene.plan(), &scene.on(supervise)).map(|_| ()).unwrap_err().to_string()
    };
    let missing = load(&|s| s.program = "/nowhere/fastinference".into());
    assert!(missing.contains("/nowhere/fastinference"), "{missing}");
    let other =
        load(&|s| (s.program, s.arguments) = ("sh".into(), vec!["-c".into(), "echo nonsense and more of it".into()]));
    assert!(other.contains("garbled"), "{other}");
    let failing = load(&|s| s.faults = vec!["alloc:1:2".parse().unwrap()]);
    assert!(failing.contains("out of memory"), "{failing}");
    let aborting = load(&|s| s.faults = vec!["init:1:abort".parse().unwrap()]);
    assert!(aborting.contains("SIGABRT"), "{aborting}");
}

/// Slots live in the worker; without a GPU, `auto` is the processor there.
#[test]
fn sequences_that_died_with_their_worker_are_refused_until_cleared() {
    let Some(scene) = Scene::new() else { return };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe");
    let plan = scene.home.path().join("shakespeare.plan");
    fastinference::compile(&example, &Default::default(), &mut ()).unwrap().save(&plan, false).unwrap();
    let file = scene.home.path().join("pid");
    let script = format!("echo $$ > {}; exec {PROGRAM} worker", file.display());
    let supervise = Supervise::new("sh", &["-c", &script]);
    let on = DeviceOptions { device: Device::Auto, ..scene.on(supervise) };
    let model = Model::load_on(&plan, &on).unwrap();
    let alone = Model::load(&plan).unwrap();
    let options = SlotOptions { slots: 2, max_len: 64, max_bytes: u64::MAX };
    let (mut session, mut expected) = (model.session(1), alone.session(1));
    session.open_slots(options).unwrap();
    expected.open_slots(options).unwrap();
    let batch = |parts: &[(u32, &[u32])]| {
        let mut batch = Batch::default();
        parts.iter().for_each(|(slot, tokens)| batch.push(*slot, tokens));
        batch
    };
    let both = batch(&[(0, &[5, 9, 2]), (1, &[7])]);
    let want = expected.step(&both).unwrap().clone();
    assert_eq!(session.step(&both).unwrap(), &want);
    assert_eq!(session.slots(), expected.slots());
    let pid = std::fs::read_to_string(&file).unwrap();
    assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    assert!(session.step(&batch(&[(1, &[3])])).unwrap_err().to_string().contains("SIGKILL"));
    // Slot 0 was not part of that batch, and is lost all the same.
    let lost = session.step(&batch(&[(0, &[4])])).unwrap_err().to_string();
    assert!(lost.contains("slot 0 was lost"), "{lost}");
    for slot in 0..2 {
        session.truncate(slot, 0).unwrap();
        expected.truncate(slot, 0).unwrap();
    }
    assert_eq!(session.step(&both).unwrap(), &want);
    assert_eq!(expected.step(&both).unwrap(), &want);
    assert_eq!(session.slots(), expected.slots());
}

#[test]
fn the_command_supervises() {
    let Some(scene) = Scene::new() else { return };
    let run = |args: &[&str]| {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let output = Command::new(PROGRAM).args(args).env("FASTINFERENCE_CACHE", cache).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let plan = scene.plan().display().to_string();
    let (code, out, err) = run(&["run", &plan, "--device", "hip:sim", "--supervise", "--time-limit", "120"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("out y f32["), "{out}");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe").display().to_string();
    let words = ["generate", &example, "ROMEO.", "--max-tokens", "6"];
    let (code, plain, err) = run(&words);
    assert_eq!(code, Some(0), "{err}");
    let (code, supervised, err) = run(&[&words[..], &["--supervise"]].concat());
    assert_eq!((code, &supervised), (Some(0), &plain), "{err}");
    // What nobody can act on is told: without a GPU, `auto` is the processor.
    let (code, _, err) = run(&["run", &plan, "--supervise", "--sync-every", "4"]);
    let gpu = DeviceOptions { device: Device::Gpu(0), ..scene.on(Supervise::new(PROGRAM, &["worker"])) };
    let processor = Model::load_on(&scene.plan(), &gpu).is_err();
    assert_eq!((code, err.contains("has no queue to wait for")), (Some(0), processor), "{err}");
    let (code, _, err) = run(&["run", &plan, "--time-limit", "5"]);
    assert!(code == Some(2) && err.contains("--supervise"), "{err}");
}
