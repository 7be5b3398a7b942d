//! The commands as a user meets them: what they print, write and refuse.

mod common;

use common::*;
use std::fs;
use std::process::{Command, Stdio};

#[test]
fn help_names_every_command_and_version_says_the_version() {
    let folder = tempfile::tempdir().unwrap();
    let help = good(folder.path(), &["--help"]);
    for command in ["compile", "run", "generate", "inspect", "verify", "conformance", "doctor", "demo"] {
        let about = good(folder.path(), &[command, "--help"]);
        let first = about.lines().next().unwrap();
        assert!(help.contains(first.trim_end_matches('.')), "{command}: {first:?} is not in\n{help}");
    }
    assert_eq!(good(folder.path(), &["--version"]).trim(), format!("fastinference {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_ends_with_2() {
    let (folder, _) = folder_with_tiny();
    let usage = |arguments: &[&str]| bad(folder.path(), 2, arguments);
    usage(&[]);
    usage(&["fly"]);
    usage(&["run", "tiny.onnx", "--quantum"]);
    usage(&["run", "tiny.onnx", "--dim", "batch"]);
    usage(&["run", "tiny.onnx", "--rtol", "1"]);
    usage(&["run", "tiny.onnx", "--repeat", "0"]);
    usage(&["run", "tiny.onnx", "--input", "x=x.txt"]);
    assert!(usage(&["run", "tiny.onnx", "--device", "tpu"]).contains("`auto`, `cpu`, `hip:0` and `hip:sim`"));
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_names_it() {
    let (folder, _) = folder_with_tiny();
    let error = bad(folder.path(), 1, &["run", "tiny.onnx", "--device", "hip:63"]);
    assert!(error.contains("the device hip:63"), "{error}");
}

#[test]
fn a_model_is_compiled_run_inspected_and_verified() {
    let (folder, _) = folder_with_tiny();
    let at = folder.path();
    let summary = good(at, &["compile", "tiny.onnx"]);
    assert!(summary.contains("tiny.plan") && summary.contains("nodes"), "{summary}");
    assert!(summary.contains(", written in "), "{summary}");
    assert_eq!(names(at), ["tiny.onnx", "tiny.plan"]);
    fs::write(at.join("x.npy"), npy("(1, 2)", &[1.0, -1.0])).unwrap();
    for model in ["tiny.plan", "tiny.onnx"] {
        let shown =
            good(at, &["run", model, "--input", "x=x.npy", "--output-dir", "out", "--repeat", "3", "--profile"]);
        assert!(shown.contains("out y f32[1, 3]  10.00000 20.00000 30.00000"), "{shown}");
        assert!(shown.contains("ready in "), "{shown}");
        assert!(shown.contains("time of 3 runs: min") && shown.contains("time by operator"), "{shown}");
        assert_eq!(names(&at.join("out")), ["output_0.npy", "outputs.json"]);
        let listed: serde_json::Value =
            serde_json::from_slice(&fs::read(at.join("out/outputs.json")).unwrap()).unwrap();
        assert_eq!(listed[0]["name"], "y");
        assert_eq!(listed[0]["dtype"], "f32");
        assert_eq!(listed[0]["shape"], serde_json::json!([1, 3]));
        good(at, &["run", model, "--input", "x=x.npy", "--expect", "out"]);
    }
    let facts: serde_json::Value = serde_json::from_str(&good(at, &["inspect", "tiny.plan", "--json"])).unwrap();
    let count: u64 = facts["ops"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(count, facts["nodes"].as_array().unwrap().len() as u64);
    assert!(good(at, &["inspect", "tiny.onnx"]).contains("in       x f32[batch, 2]"));
    assert!(facts.get("device").is_none());
    let on_device = ["inspect", "tiny.onnx", "--device", "hip:sim"];
    let shown = good(at, &on_device);
    assert!(shown.contains("on sim: 100.0% of the flops, ") && !shown.contains("beside the device"), "{shown}");
    let facts: serde_json::Value = serde_json::from_str(&good(at, &[&on_device[..], &["--json"]].concat())).unwrap();
    assert_eq!((&facts["device"]["share"], &facts["device"]["exceptions"]), (&1.0.into(), &serde_json::json!([])));
    assert!(good(at, &["inspect", "tiny.onnx", "--dot"]).starts_with("digraph"));
    good(at, &["inspect", "tiny.plan", "--html", "page.html"]);
    let page = fs::read_to_string(at.join("page.html")).unwrap();
    assert!(page.contains("tiny.plan") && !page.contains("{{") && !page.contains("http"), "{page}");
    assert!(good(at, &["verify", "tiny.plan", "--against", "tiny.onnx"]).contains("verified"));
}

#[test]
fn a_plan_for_a_device_says_how_much_is_queued_and_is_inspected_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let ports = ([float_port("x", &["batch", "2"])], [float_port("y", &["batch", "2"])]);
    let nodes = [node("Exp", "a", &["x"], &["h"]), node("Softmax", "b", &["h"], &["y"])];
    fs::write(at.join("net.onnx"), model(&nodes, &[], &ports.0, &ports.1)).unwrap();
    for (every, waits) in [("auto", None), ("never", None), ("1", Some("so that the device holds 1 at most"))] {
        good(at, &["compile", "net.onnx", "--target", "gfx1151", "--sync-every", every, "--force"]);
        let shown = good(at, &["inspect", "net.plan"]);
        assert!(shown.contains("on gfx1151: 100.0% of the flops"), "{shown}");
        assert_eq!(waits.is_some(), shown.contains("  waits  "), "{shown}");
        assert!(waits.is_none_or(|waits| shown.contains(waits)), "{shown}");
        assert!(!good(at, &["inspect", "net.plan", "--device", "cpu"]).contains("on gfx1151"));
    }
}

#[test]
fn the_processor_takes_no_pace_but_its_plan_keeps_it_for_a_device() {
    let (folder, _) = folder_with_tiny();
    let at = folder.path();
    assert!(bad(at, 2, &["compile", "tiny.onnx", "--sync-every", "4"]).contains("--target gfx1151"));
    for device in [&["--device", "cpu"][..], &["--device", "auto"], &[]] {
        let words = [&["run", "tiny.onnx", "--sync-every", "4"], device].concat();
        assert!(bad(at, 2, &words).contains("--device hip:0"), "{device:?}");
    }
    for target in ["cpu,gfx1151", "gfx1151", "gfx1151,cpu"] {
        for every in [1, 3] {
            let every = every.to_string();
            good(at, &["compile", "tiny.onnx", "--target", target, "--sync-every", &every, "--force"]);
            let waits = format!("so that the device holds {every} at most");
            assert!(good(at, &["inspect", "tiny.plan", "--device", "hip:sim"]).contains(&waits), "{target} {every}");
            assert!(!good(at, &["inspect", "tiny.plan", "--device", "cpu"]).contains("  waits  "));
        }
    }
}

#[test]
fn a_result_that_overflows_f16_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let ports = ([float_port("x", &["1", "2"])], [float_port("y", &["1", "2"])]);
    let nodes = [node("MatMul", "product", &["x", "w"], &["y"])];
    fs::write(at.join("net.onnx"), model(&nodes, &[floats("w", &[2, 2], &[300.0; 4])], &ports.0, &ports.1)).unwrap();
    good(at, &["compile", "net.onnx", "--compute", "f16"]);
    fs::write(at.join("x.npy"), npy("(1, 2)", &[300.0, -1.0])).unwrap();
    fs::write(at.join("nan.npy"), npy("(1, 2)", &[300.0, f32::NAN])).unwrap();
    let told = |model: &str, input: &str| {
        let ran = run(at, &["run", model, "--input", &format!("x={input}")]);
        String::from_utf8_lossy(&ran.stderr).contains("`y` has values that are not finite")
    };
    assert!(told("net.plan", "x.npy"));
    assert!(!told("net.plan", "nan.npy"), "what goes in not finite may come out so");
    assert!(!told("net.onnx", "x.npy"));
}

#[test]
fn random_inputs_take_the_sizes_asked_for() {
    let (folder, _) = folder_with_tiny();
    let shown = good(folder.path(), &["run", "tiny.onnx", "--dim", "batch=7"]);
    assert!(shown.contains("in  x f32[7, 2] (random)") && shown.contains("out y f32[7, 3]"), "{shown}");
    assert_eq!(
        good(folder.path(), &["run", "tiny.onnx", "--seed", "5"]).lines().nth(1),
        good(folder.path(), &["run", "tiny.onnx", "--seed", "5"]).lines().nth(1),
    );
    assert!(bad(folder.path(), 1, &["run", "tiny.onnx", "--dim", "time=7"]).contains("batch"));
}

#[test]
fn names_that_the_model_or_the_compiler_does_not_know_are_errors() {
    let (folder, _) = folder_with_tiny();
    let refused = |flag: &str, value: &str| bad(folder.path(), 1, &["compile", "tiny.onnx", flag, value]);
    assert!(refused("--dim", "time=7").contains("batch"));
    assert!(refused("--stop-after", "polish").contains("fold-constants"));
    assert!(refused("--print-after", "polish").contains("fold-constants"));
    assert_eq!(names(folder.path()), ["tiny.onnx"]);
    assert!(good(folder.path(), &["compile", "tiny.onnx", "--print-after", "import"]).contains("matmul"));
    assert!(
        good(folder.path(), &["compile", "tiny.onnx", "--verify", "--force"]).contains("verified   every pass, with ")
    );
}

#[test]
fn a_model_is_compiled_to_compute_in_a_narrower_type() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let weights: Vec<f32> = (0..4096).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect();
    let ports = ([float_port("x", &["batch", "64"])], [float_port("y", &["batch", "64"])]);
    let nodes = [node("MatMul", "first", &["x", "w"], &["h"]), node("Exp", "e", &["h"], &["y"])];
    fs::write(at.join("net.onnx"), model(&nodes, &[floats("w", &[64, 64], &weights)], &ports.0, &ports.1)).unwrap();
    good(at, &["compile", "net.onnx"]);
    let bytes = |plan: &str| fs::metadata(at.join(plan).join("weights.safetensors")).unwrap().len();
    for (compute, rtol) in [("f16", "0.01"), ("bf16", "0.08")] {
        let plan = format!("{compute}.plan");
        let compile = ["compile", "net.onnx", "--compute", compute, "-o", &plan];
        let summary = good(at, &compile);
        let line = format!("  compute    {compute}; 1 node in f32 all the same (--explain says why)");
        assert!(summary.contains(&line), "{summary}");
        let explained = good(at, &[&compile[..], &["--explain", "--verify", "--force"]].concat());
        assert!(explained.contains("  verified   every pass before narrow-floats, with "), "{explained}");
        assert!(explained.contains("  exp 1: its results leave the range or the precision of the type"), "{explained}");
        assert!(bytes(&plan) < bytes("net.plan") * 3 / 5, "{} of {}", bytes(&plan), bytes("net.plan"));
        let shown = good(at, &["inspect", &plan]);
        assert!(
            shown.contains("out      y f32[batch, 64]") && shown.contains(&format!("{compute} in 2 nodes")),
            "{shown}"
        );
        assert!(good(at, &["inspect", "net.onnx", "--compute", compute]).contains(&format!("{compute} in 2 nodes")));
        assert!(bad(at, 1, &["inspect", &plan, "--compute", "f32"]).contains("compiled with"));
        // Exactly what its own graph says, and what the model says but for rounding.
        good(at, &["verify", &plan]);
        good(at, &["verify", &plan, "--against", "net.onnx", "--rtol", rtol, "--atol", rtol]);
        bad(at, 1, &["verify", &plan, "--against", "net.onnx", "--rtol", "1e-6", "--atol", "1e-6"]);
    }
    good(at, &["compile", "net.onnx", "--compute", "f32", "-o", "f32.plan"]);
    assert_eq!(fs::read(at.join("f32.plan/graph.ir")).unwrap(), fs::read(at.join("net.plan/graph.ir")).unwrap());
    assert!(bad(at, 2, &["compile", "net.onnx", "--compute", "f8"]).contains("expected f32, f16 or bf16"));
    // What is narrow in the file is not widened.
    let half = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/random_normal_float16/model.onnx");
    let refused = bad(at, 1, &["compile", half, "--compute", "f32", "-o", "half.plan"]);
    assert!(refused.contains("computes in f16 itself, first at `"), "{refused}");
    assert!(refused.contains("nothing is widened"), "{refused}");
}

#[test]
fn linked_weights_stay_in_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let weights: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let ports = ([float_port("x", &["64"])], [float_port("y", &["64"])]);
    // The node's name moves the data; at one length in four it is aligned, so that it need not be copied.
    for name in ["a", "ab", "abc", "abcd"] {
        let (add, w) = (node("Add", name, &["x", "w"], &["y"]), floats("w", &[64], &weights));
        fs::write(at.join("add.onnx"), model(&[add], &[w], &ports.0, &ports.1)).unwrap();
        good(at, &["compile", "add.onnx", "--link-weights", "--force"]);
        good(at, &["verify", "add.plan", "--against", "add.onnx"]);
        if fs::read_to_string(at.join("add.plan/plan.yaml")).unwrap().contains("link") {
            fs::remove_file(at.join("add.onnx")).unwrap();
            assert!(bad(at, 1, &["run", "add.plan"]).contains("add.onnx"));
            return;
        }
    }
    panic!("no plan has a linked weight");
}

#[test]
fn other_results_than_expected_end_with_1() {
    let (folder, _) = folder_with_tiny();
    let at = folder.path();
    fs::write(at.join("input_0.npy"), npy("(1, 2)", &[0.0, 0.0])).unwrap();
    fs::write(at.join("output_0.npy"), npy("(1, 3)", &[10.0, 20.0, 31.0])).unwrap();
    let error = bad(at, 1, &["run", "tiny.onnx", "--input-dir", ".", "--expect", "."]);
    assert!(error.contains("output `y`") && error.contains("expected 31"), "{error}");
    good(at, &["run", "tiny.onnx", "--input-dir", ".", "--expect", ".", "--rtol", "0.1"]);
}

#[test]
fn a_wrong_input_is_told_what_the_model_takes() {
    let (folder, _) = folder_with_tiny();
    let at = folder.path();
    fs::write(at.join("x.npy"), npy("(3,)", &[1.0; 3])).unwrap();
    let error = bad(at, 1, &["run", "tiny.onnx", "--input", "image=x.npy"]);
    assert!(error.contains("no input `image`") && error.contains("x f32[batch, 2]"), "{error}");
    let error = bad(at, 1, &["run", "tiny.onnx", "--input", "x=x.npy", "--output-dir", "out"]);
    assert!(error.contains('x') && error.contains("f32[batch, 2]") && error.contains("f32[3]"), "{error}");
    assert!(bad(at, 1, &["run", "tiny.onnx", "--input", "x=none.npy"]).contains("none.npy"));
    assert!(!at.join("out").exists(), "a failed run writes nothing");
}

#[test]
fn files_that_are_no_model_are_errors_and_leave_nothing() {
    let (folder, path) = folder_with_tiny();
    let at = folder.path();
    let whole = fs::read(&path).unwrap();
    fs::write(at.join("text.onnx"), "<!DOCTYPE html><html>").unwrap();
    fs::write(at.join("empty.onnx"), "").unwrap();
    fs::create_dir(at.join("folder")).unwrap();
    for length in [1, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        fs::write(at.join(format!("cut{length}.onnx")), &whole[..length]).unwrap();
    }
    let before = names(at);
    for name in before.iter().filter(|n| *n != "tiny.onnx") {
        for command in ["compile", "run", "inspect"] {
            let error = bad(at, 1, &[command, name]);
            assert!(error.starts_with("error: "), "{error}");
        }
    }
    assert!(bad(at, 1, &["run", "absent.onnx"]).contains("absent.onnx"));
    assert!(bad(at, 1, &["compile", "folder"]).contains("model.onnx"));
    assert_eq!(names(at), before);
}

#[test]
fn a_bad_node_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let ports = ([float_port("x", &["2"])], [float_port("y", &["2"])]);
    let one = |node| model(&[node], &[], &ports.0, &ports.1);
    fs::write(folder.path().join("op.onnx"), one(node("Levitate", "rise", &["x"], &["y"]))).unwrap();
    let error = bad(folder.path(), 1, &["run", "op.onnx"]);
    assert!(error.contains("Levitate") && error.contains("rise"), "{error}");
    fs::write(folder.path().join("name.onnx"), one(node("Relu", "rise", &["nothing"], &["y"]))).unwrap();
    let error = bad(folder.path(), 1, &["run", "name.onnx"]);
    assert!(error.contains("nothing") && error.contains("rise"), "{error}");
}

#[test]
fn an_existing_plan_is_only_replaced_on_request() {
    let (folder, _) = folder_with_tiny();
    let at = folder.path();
    good(at, &["compile", "tiny.onnx"]);
    assert!(bad(at, 1, &["compile", "tiny.onnx"]).contains("--force"));
    good(at, &["compile", "tiny.onnx", "--force"]);
    fs::create_dir(at.join("thesis")).unwrap();
    fs::write(at.join("thesis/text"), "years of work").unwrap();
    bad(at, 1, &["compile", "tiny.onnx", "-o", "thesis", "--force"]);
    assert_eq!(names(&at.join("thesis")), ["text"]);
    assert_eq!(names(at), ["thesis", "tiny.onnx", "tiny.plan"]);
}

#[test]
fn a_damaged_plan_is_an_error() {
    let (folder, _) = folder_with_tiny();
    let at = folder.path();
    good(at, &["compile", "tiny.onnx"]);
    let plan = at.join("tiny.plan");
    for name in names(&plan) {
        let whole = fs::read(plan.join(&name)).unwrap();
        // Without its last byte, a line feed, plan.yaml says the same.
        for length in [0, whole.len() / 2, whole.len() - 2] {
            fs::write(plan.join(&name), &whole[..length]).unwrap();
            let error = bad(at, 1, &["run", "tiny.plan"]);
            assert!(error.starts_with("error: "), "{name} cut to {length}: {error}");
        }
        fs::write(plan.join(&name), whole).unwrap();
    }
    good(at, &["run", "tiny.plan"]);
    let weights = plan.join("weights.safetensors");
    let mut changed = fs::read(&weights).unwrap();
    if let Some(last) = changed.last_mut().filter(|_| weights.metadata().unwrap().len() > 256) {
        *last ^= 0x40;
        fs::write(&weights, changed).unwrap();
        bad(at, 1, &["verify", "tiny.plan"]);
    }
}

#[test]
fn cases_are_counted_and_known_gaps_must_stay_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    case(at, "suite/right", &[15.0, 27.0, 39.0]);
    case(at, "suite/wrong", &[15.0, 27.0, 40.0]);
    for device in ["cpu", "reference"] {
        let output = run(at, &["conformance", "suite", "--json", "--device", device]);
        assert_eq!(output.status.code(), Some(1));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for (key, n) in [("passed", 1), ("failed", 1), ("unsupported", 0), ("skipped", 0)] {
            assert_eq!(object[key], n, "{device} {key}: {object}");
        }
        assert_eq!(object["cases"][1]["name"], "wrong");
        assert!(object["cases"][1]["reason"].as_str().unwrap().contains("expected 40"), "{object}");
    }
    fs::write(at.join("known"), "wrong: its data are wrong\n").unwrap();
    let shown = good(at, &["conformance", "suite", "--known", "known"]);
    assert!(shown.ends_with("1 passed, 0 failed, 0 unsupported, 0 skipped, 1 known gap\n"), "{shown}");
    fs::write(at.join("known"), "wrong: its data are wrong\nright: surely not\n").unwrap();
    assert!(bad(at, 1, &["conformance", "suite", "--known", "known"]).contains("1 known gap passed"));
    good(at, &["conformance", "suite", "--rtol", "0.1"]);
    fs::create_dir(at.join("empty")).unwrap();
    bad(at, 1, &["conformance", "empty"]);
}

#[test]
fn generating_with_a_model_that_has_no_tokenizer_is_an_error() {
    let (folder, _) = folder_with_tiny();
    let error = bad(folder.path(), 1, &["generate", "tiny.onnx", "hello"]);
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let (folder, _) = folder_with_tiny();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastinference"));
    let started = command.args(["inspect", "tiny.onnx", "--graph"]).current_dir(folder.path());
    let mut child = started.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_doctor_says_what_would_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let found: serde_json::Value = serde_json::from_str(&good(folder.path(), &["doctor", "--json"])).unwrap();
    assert_eq!(found["device"], "cpu");
    assert_eq!(found["version"], env!("CARGO_PKG_VERSION"));
    assert!(good(folder.path(), &["doctor"]).contains("cores"));
}
