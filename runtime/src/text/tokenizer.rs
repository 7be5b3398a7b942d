//! Text to ids and back, by a model's own `tokenizer.json`.
//!
//! The file says everything: normaliser, splitting, vocabulary, special tokens. Special tokens are added to an encoded
//! text only where the file's post-processor adds them. Truncation and padding, which some files carry from training,
//! are switched off: a prompt is never cut silently.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use crate::text::TextError;

/// A tokenizer loaded from `tokenizer.json`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Loads a `tokenizer.json`; fails naming the file if it can't be read or is not a tokenizer.
    pub fn from_file(path: &Path) -> Result<Self, TextError> {
        let bytes = std::fs::read(path).map_err(|source| TextError::Read { path: path.to_path_buf(), source })?;
        Self::from_bytes(&bytes, path)
    }

    /// Reads a tokenizer from the bytes of a `tokenizer.json`; `path` is named in errors only.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, TextError> {
        let unusable = |reason: String| TextError::Tokenizer { path: path.to_path_buf(), reason };
        // The library panics on text that isn't JSON, so that is found out first.
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|e| unusable(e.to_string()))?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(unusable)?;
        inner.with_truncation(None).map_err(|e| unusable(e.to_string()))?;
        inner.with_padding(None);
        Ok(Self { inner })
    }

    /// The ids of a text, with the special tokens that the file's post-processor adds, if any.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = guarded(|| self.inner.encode_fast(text, true));
        match encoding {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(reason) => Err(TextError::Coding { action: "encode the text", reason }),
        }
    }

    /// The text of all `ids` without special tokens; bytes that are not UTF-8 become U+FFFD.
    ///
    /// Ids outside the vocabulary have no text and are left out (models often pad their logits beyond it).
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        guarded(|| self.inner.decode(ids, true))
            .map_err(|reason| TextError::Coding { action: "decode the ids", reason })
    }

    /// Number of tokens, special and added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token written exactly as in the file, such as `<|im_end|>`.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

/// Runs a call of the tokenizer library, which panics on some inconsistent files (a template that names a special token
/// it doesn't define, a prefix longer than the tokens): that is bad input, so it becomes an error.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("tokenizer.json contradicts itself".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::samples;

    #[test]
    fn merges_apply_and_decode_returns_the_text() {
        let tokenizer = samples::byte_level();
        let ids = tokenizer.encode("the cat, the hat").unwrap();
        assert!(ids.len() < "the cat, the hat".len(), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), "the cat, the hat");
    }

    #[test]
    fn adds_no_special_token_unless_the_post_processor_does() {
        let plain = samples::byte_level();
        let begin = plain.id_of("<|begin|>").unwrap();
        assert!(!plain.encode("the").unwrap().contains(&begin));
        let templated = samples::byte_level_with_begin();
        assert_eq!(templated.encode("the").unwrap()[0], begin);
    }

    #[test]
    fn special_tokens_in_the_text_are_one_id_and_decode_to_nothing() {
        let tokenizer = samples::byte_level();
        let ids = tokenizer.encode("the<|end|>").unwrap();
        assert_eq!(ids.last().copied(), tokenizer.id_of("<|end|>"));
        assert_eq!(tokenizer.decode(&ids).unwrap(), "the");
    }

    #[test]
    fn truncation_of_the_file_is_switched_off() {
        let json = samples::BYTE_LEVEL.replace(
            r#""truncation": null"#,
            r#""truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}"#,
        );
        let tokenizer = samples::load(&samples::with_vocabulary(&json));
        assert!(tokenizer.encode("one two three").unwrap().len() > 2);
    }

    #[test]
    fn ids_outside_the_vocabulary_have_no_text() {
        let tokenizer = samples::byte_level();
        assert_eq!(tokenizer.decode(&[u32::MAX]).unwrap(), "");
    }

    #[test]
    fn a_file_that_contradicts_itself_is_an_error() {
        let prefixed = samples::BYTE_LEVEL
            .replace(r#""continuing_subword_prefix": null"#, r#""continuing_subword_prefix": "longer""#);
        let json = samples::with_vocabulary(&prefixed);
        let message = Tokenizer::from_bytes(json.as_bytes(), Path::new("t.json")).err().unwrap().to_string();
        assert!(message.starts_with("t.json is not a usable tokenizer.json: "), "{message}");
    }

    #[test]
    fn a_missing_or_broken_file_is_named() {
        let missing = Tokenizer::from_file(Path::new("no/such/tokenizer.json"));
        let message = missing.err().unwrap().to_string();
        assert!(message.contains("no/such/tokenizer.json"), "{message}");
        for broken in [
            r#"{"version" "1.0"}"#,
            r#"{"version": "1.0", "model": {"type": "BPE" "vocab"}}"#,
            "",
            "{",
            "[]",
            "{\"model\": 3}",
            "{\"version\": \"1.0\"}",
        ] {
            let message = Tokenizer::from_bytes(broken.as_bytes(), Path::new("t.json")).err().unwrap().to_string();
            assert!(message.starts_with("t.json is not a usable tokenizer.json: "), "{message}");
        }
    }
}
