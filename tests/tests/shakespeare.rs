//! The model of the demo writes what the reference implementation wrote, through the library, from its folder and from its plan.

use fastinference::text::Sampling;
use fastinference::{CompileOptions, Compute, GenerateOptions, Generator, Model, compile};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe")
}

fn goldens() -> Vec<serde_json::Value> {
    serde_json::from_slice(&std::fs::read(folder().join("golden.json")).unwrap()).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

#[test]
fn every_prompt_is_continued_as_recorded() {
    check(None);
}

#[test]
fn every_prompt_is_continued_as_recorded_in_f16() {
    check(Some(Compute::F16));
}

fn check(compute: Option<Compute>) {
    let home = tempfile::tempdir().unwrap();
    let plan = home.path().join("model.plan");
    compile(&folder(), &CompileOptions { compute, ..CompileOptions::default() }, &mut ())
        .unwrap()
        .save(&plan, false)
        .unwrap();
    let model = Model::load(&plan).unwrap();
    // The plan carries the tokenizer and the configuration along.
    let mut generator = Generator::open(&model, &plan, 0).unwrap();
    let goldens = goldens();
    assert!(goldens.len() >= 3);
    // Without optimisation one, so that tests stay quick while one works.
    let count = if cfg!(debug_assertions) { 1 } else { goldens.len() };
    for golden in goldens.into_iter().take(count) {
        let expected = ids(&golden["new_ids"]);
        let options = GenerateOptions { sampling: Sampling::greedy(), max_tokens: expected.len(), stop: vec![] };
        let mut shown = String::new();
        let mut show = |piece: &str| {
            shown.push_str(piece);
            ControlFlow::Continue(())
        };
        let done = generator.generate(golden["prompt"].as_str().unwrap(), &options, &mut show).unwrap();
        assert_eq!(done.prompt_ids, ids(&golden["prompt_ids"]));
        assert_eq!(done.new_ids, expected, "{}", golden["prompt"]);
        assert_eq!(shown, golden["text"].as_str().unwrap());
    }
}
