//! Damaged and hand-edited plans end in an error, or run: never in a panic, a hang, or gigabytes of memory.

use fastinference::plan::Hash;
use fastinference::{CompileOptions, Model, RandomInputs, compile};
use fastinference_tests::models::samples;
use fastinference_tests::random::{Random, mutate_bytes, mutate_text};
use fastinference_tests::watch::{Tally, watched};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Without optimisation fewer, so that tests stay quick while one works.
const MUTANTS: usize = if cfg!(debug_assertions) { 150 } else { 1000 };
const LIMIT: Duration = Duration::from_secs(60);

fn exercise(plan: &Path) -> Result<(), String> {
    let failed = |e: fastinference::Error| e.to_string();
    let model = Model::load(plan).map_err(failed)?;
    let inputs = model.random_inputs(&RandomInputs::default()).map_err(failed)?;
    model.session(1).run(&inputs).map_err(|e| e.to_string())?;
    Ok(())
}

fn plans(folder: &Path) -> Vec<PathBuf> {
    let mut plans = vec![];
    for sample in samples() {
        let home = folder.join(sample.name);
        fs::create_dir(&home).unwrap();
        for (name, content) in &sample.files {
            fs::write(home.join(name), content).unwrap();
        }
        fs::write(home.join("model.onnx"), &sample.model).unwrap();
        let plan = home.join("model.plan");
        compile(&home, &CompileOptions::default(), &mut ()).unwrap().save(&plan, false).unwrap();
        assert_eq!(exercise(&plan), Ok(()), "{}", sample.name);
        plans.push(plan);
    }
    plans
}

/// Makes plan.yaml name the hash of the graph as it is now, as somebody would who edits both.
fn sign(plan: &Path, graph: &str) {
    let yaml = fs::read_to_string(plan.join("plan.yaml")).unwrap();
    let line = yaml.lines().find(|l| l.starts_with("graph: ")).unwrap().to_string();
    fs::write(plan.join("plan.yaml"), yaml.replace(&line, &format!("graph: {}", Hash::of(graph.as_bytes())))).unwrap();
}

#[test]
fn mutants_are_refused_or_run() {
    let folder = tempfile::tempdir().unwrap();
    let plans = plans(folder.path());
    let mut tally = Tally::default();
    for number in 0..MUTANTS {
        let plan = &plans[number % plans.len()];
        let mut random = Random::new(number as u64);
        let files = ["plan.yaml", "graph.ir", "weights.safetensors"];
        let before = files.map(|f| fs::read(plan.join(f)).unwrap());
        let file = *random.pick(&["plan.yaml", "plan.yaml", "graph.ir", "graph.ir", "weights.safetensors"]);
        let whole = fs::read(plan.join(file)).unwrap();
        match String::from_utf8(whole.clone()) {
            Ok(mut text) if file != "weights.safetensors" => {
                for _ in 0..1 + random.below(2) {
                    if !text.trim().is_empty() && text.contains(|c: char| c.is_ascii_digit()) {
                        text = mutate_text(&mut random, &text);
                    }
                }
                fs::write(plan.join(file), &text).unwrap();
                if file == "graph.ir" && random.below(8) > 0 {
                    sign(plan, &text);
                }
            }
            _ => {
                let mut bytes = whole;
                // The header is what a reader trusts.
                let header = bytes.len().min(8 + 600);
                let mut start = bytes[..header].to_vec();
                mutate_bytes(&mut random, &mut start);
                bytes.splice(..header, start);
                fs::write(plan.join(file), bytes).unwrap();
            }
        }
        let at = plan.clone();
        tally.count(&format!("{} {file} {number}", plan.display()), watched(LIMIT, move || exercise(&at)));
        for (name, bytes) in files.iter().zip(before) {
            fs::write(plan.join(name), bytes).unwrap();
        }
    }
    tally.finish("plans");
}
