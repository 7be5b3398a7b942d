//! Tiny tokenizers for tests: every byte, a few merges, two special tokens; and a SentencePiece-like one with byte fallback.

use std::path::Path;

use crate::text::Tokenizer;

/// A byte-level BPE tokenizer with a vocabulary to be filled in by [`with_vocabulary`].
pub const BYTE_LEVEL: &str = r#"{
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": ID_BEGIN, "content": "<|begin|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": ID_END, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
  ],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": VOCAB, "merges": MERGES}
}"#;

const FALLBACK: &str = r#"{
  "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
  "normalizer": {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
  "pre_tokenizer": null, "post_processor": null,
  "decoder": {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": VOCAB, "merges": MERGES}
}"#;

const MERGES: [(&str, &str); 9] =
    [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "t"), ("Ġ", "c"), ("Ġ", "h"), ("Ã", "©"), ("ð", "Ł"), ("ðŁ", "ĺ")];

/// Fills in the 256 bytes, the merged tokens, the merges and the special tokens.
pub fn with_vocabulary(json: &str) -> String {
    let mut tokens: Vec<String> = (0..=255u8).map(|byte| byte_char(byte).into()).collect();
    tokens.extend(MERGES.iter().map(|(left, right)| format!("{left}{right}")));
    let merges: Vec<String> = MERGES.iter().map(|(l, r)| format!("{l} {r}")).collect();
    json.replace("VOCAB", &vocabulary(&tokens))
        .replace("MERGES", &serde_json::to_string(&merges).unwrap())
        .replace("ID_BEGIN", &tokens.len().to_string())
        .replace("ID_END", &(tokens.len() + 1).to_string())
}

/// The byte-level tokenizer.
pub fn byte_level() -> Tokenizer {
    load(&with_vocabulary(BYTE_LEVEL))
}

/// The same with a post-processor that begins every text with `<|begin|>`.
pub fn byte_level_with_begin() -> Tokenizer {
    let template = r#""post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [ID_BEGIN], "tokens": ["<|begin|>"]}}}"#;
    load(&with_vocabulary(&BYTE_LEVEL.replace(r#""post_processor": null"#, template)))
}

/// A SentencePiece-like tokenizer: `▁` for spaces, a leading space stripped, unknown characters as byte tokens.
pub fn byte_fallback() -> Tokenizer {
    let mut tokens: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    tokens.extend(["▁", "a", "b", "c", "▁a", "é"].map(String::from));
    let json = FALLBACK.replace("VOCAB", &vocabulary(&tokens)).replace("MERGES", r#"["▁ a"]"#);
    load(&json)
}

/// Loads a tokenizer from its JSON text.
pub fn load(json: &str) -> Tokenizer {
    Tokenizer::from_bytes(json.as_bytes(), Path::new("sample.json")).unwrap()
}

fn vocabulary(tokens: &[String]) -> String {
    let ids: serde_json::Map<String, serde_json::Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    serde_json::to_string(&ids).unwrap()
}

/// GPT-2's printable stand-in for a byte: the byte itself if printable, else a character from U+0100 on.
pub fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return byte.into();
    }
    let rank = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + rank).expect("ranks stay below 256")
}
