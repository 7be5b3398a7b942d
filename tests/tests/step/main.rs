//! The entry `step` agrees with `main`: sequences of different lengths in one batch, prompts in random chunks, are what each
//! sequence is alone.

mod merged;

use fastinference::{Batch, CompileOptions, Decoder, Model, Session, SlotOptions};
use std::path::{Path, PathBuf};

/// A small generator, so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// One batch of four: lengths before it 0, 1, 7 and 100, prefilled in random chunks; then ragged chunks and single tokens.
fn agrees(model: &Model, vocabulary: usize) {
    const BEFORE: [usize; 4] = [0, 1, 7, 100];
    const SLOTS: [u32; 4] = [3, 0, 5, 2];
    let mut random = Random(11);
    let mut session = model.session(2);
    session.open_slots(SlotOptions { slots: 6, max_len: 400, max_bytes: u64::MAX }).unwrap();
    let mut histories: Vec<Vec<u32>> = vec![vec![]; 4];
    let mut batch = Batch::default();
    let mut left = BEFORE;
    while left.iter().any(|n| *n > 0) {
        batch.clear();
        for i in 0..4 {
            let count = (1 + random.below(40)).min(left[i]);
            if count > 0 && random.below(3) > 0 {
                extend(&mut histories[i], &mut batch, SLOTS[i], count, vocabulary, &mut random);
                left[i] -= count;
            }
        }
        if !batch.parts.is_empty() {
            session.step(&batch).unwrap();
        }
    }
    for counts in [[5, 1, 3, 2], [1, 1, 1, 1], [1, 1, 1, 1]] {
        batch.clear();
        for i in 0..4 {
            extend(&mut histories[i], &mut batch, SLOTS[i], counts[i], vocabulary, &mut random);
        }
        let logits = session.step(&batch).unwrap().as_tensor().unwrap().to_f64().unwrap();
        for (i, history) in histories.iter().enumerate() {
            let found = &logits[i * vocabulary..(i + 1) * vocabulary];
            compare(&format!("sequence {i} of {} tokens", history.len()), found, &alone(model, history));
        }
    }
    let lengths: Vec<usize> = SLOTS.iter().map(|s| session.slots().unwrap().lengths()[*s as usize]).collect();
    assert_eq!(lengths, histories.iter().map(Vec::len).collect::<Vec<_>>());
}

fn extend(history: &mut Vec<u32>, batch: &mut Batch, slot: u32, n: usize, vocabulary: usize, random: &mut Random) {
    let tokens: Vec<u32> = (0..n).map(|_| random.below(vocabulary) as u32).collect();
    batch.push(slot, &tokens);
    history.extend(tokens);
}

/// What `main` gives for the whole sequence at once.
fn alone(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut session: Box<dyn Session> = model.session(2);
    let mut decoder = Decoder::new(session.inputs(), session.outputs()).unwrap();
    let mut logits = vec![];
    decoder.step(&mut *session, tokens, &mut logits).unwrap();
    logits
}

/// Chunks are summed in another order than the whole: rounding differs, the choice of a token does not.
fn compare(what: &str, found: &[f64], expected: &[f32]) {
    let largest = expected.iter().fold(1f32, |m, v| m.max(v.abs())) as f64;
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - *e as f64).abs() <= 1e-4 * largest, "{what}: logit {i} is {f}, alone it is {e}");
    }
}

#[test]
fn shakespeare_steps_as_it_runs_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe");
    let model = Model::open(&folder, &CompileOptions::default()).unwrap();
    agrees(&model, 2048);
}

/// The step takes the branch with a past, and agrees with `main`, which takes the other one for a whole sequence.
#[test]
fn a_merged_decoder_steps_as_it_runs_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, merged::model()).unwrap();
    let model = Model::open(&path, &CompileOptions::default()).unwrap();
    let step = model.plan().entries.iter().find(|e| e.name == "step").expect("there is a step");
    let count =
        |op: &str| step.graph.order().into_iter().filter(|n| step.graph.op(*n).is_some_and(|o| o.name() == op)).count();
    assert_eq!(["if", "kv_write", "cached_attention"].map(count), [0, 1, 1]);
    agrees(&model, merged::VOCABULARY);
}

/// Large models: FASTINFERENCE_MODELS names folders or files, separated by `:`.
#[test]
#[ignore = "needs models that are not in the repository: set FASTINFERENCE_MODELS"]
fn other_models_step_as_they_run_alone() {
    let list = std::env::var("FASTINFERENCE_MODELS").expect("FASTINFERENCE_MODELS names models");
    for path in list.split(':').map(PathBuf::from) {
        println!("{}", path.display());
        let model =
            Model::open(&path, &CompileOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let entries = &model.plan().entries;
        let step = entries.iter().find(|e| e.name == "step").unwrap_or_else(|| panic!("{}: no step", path.display()));
        let vocabulary = step.outputs[0].ty.as_tensor().unwrap().dims().unwrap()[1].as_const().unwrap() as usize;
        agrees(&model, vocabulary);
    }
}
