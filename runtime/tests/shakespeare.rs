//! The tokenizer of the model in `examples/shakespeare-moe` gives the ids and texts that its golden.json records.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use runtime::text::{ModelConfig, Output, StopRules, TextStream, Tokenizer};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shakespeare-moe")
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(&folder().join("tokenizer.json")).unwrap()
}

#[derive(serde::Deserialize)]
struct Golden {
    prompt: String,
    prompt_ids: Vec<u32>,
    new_ids: Vec<u32>,
    text: String,
}

fn goldens() -> Vec<Golden> {
    let bytes = std::fs::read(folder().join("golden.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn prompts_have_the_recorded_ids() {
    let tokenizer = tokenizer();
    for golden in goldens() {
        assert_eq!(tokenizer.encode(&golden.prompt).unwrap(), golden.prompt_ids, "{}", golden.prompt);
    }
}

#[test]
fn streamed_answers_are_the_recorded_texts() {
    let tokenizer = tokenizer();
    let config = ModelConfig::from_folder(&folder()).unwrap();
    assert_eq!(config.vocab_size, Some(tokenizer.vocab_size()));
    for golden in goldens() {
        let rules = StopRules::of_model(&config).with_max_new_tokens(golden.new_ids.len());
        let mut output = Output::new(&tokenizer, rules, golden.prompt_ids.len()).unwrap();
        let pieces = golden.new_ids.iter().map(|&id| output.push(id).unwrap());
        assert_eq!(pieces.collect::<String>(), golden.text);
        assert!(output.stopped().is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_random_ids_make_the_whole_text(ids in prop::collection::vec(0u32..2050, 0..100)) {
        thread_local!(static TOKENIZER: Tokenizer = tokenizer());
        TOKENIZER.with(|tokenizer| {
            let mut stream = TextStream::new(tokenizer);
            let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            text += &stream.finish().unwrap();
            prop_assert_eq!(text, tokenizer.decode(&ids).unwrap());
            Ok(())
        })?;
    }
}
