//! What text generation needs to know of a model: `config.json`, with `generation_config.json` beside it.
//!
//! Both files come with the model and hold much that doesn't matter here: unknown fields are ignored, `null` counts as
//! absent, every field may be missing, and a field of the wrong type is an error that names it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::text::TextError;

/// The fields used, under the names of Llama-like configurations (GPT-2's names are understood too).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelConfig {
    /// The architecture's family, such as `qwen2_moe`.
    pub model_type: Option<String>,
    /// Ids that end a text: those of generation_config.json, else those of config.json.
    pub eos_token_ids: Vec<u32>,
    /// The longest sequence, prompt included, that the model was made for.
    pub max_position_embeddings: Option<usize>,
    /// Number of logits per position.
    pub vocab_size: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: Option<usize>,
    /// Number of layers, which is the number of key-value caches.
    pub num_hidden_layers: Option<usize>,
    /// Query heads of a layer.
    pub num_attention_heads: Option<usize>,
    /// Key-value heads of a layer; the query heads where the file gives none.
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; hidden_size / num_attention_heads where the file gives none.
    pub head_dim: Option<usize>,
}

/// `eos_token_id` is one id or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl ModelConfig {
    /// Reads `config.json` and `generation_config.json` of a model's folder; either may be missing.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let config = File::read(folder.join("config.json"))?;
        let generation = File::read(folder.join("generation_config.json"))?;
        Self::from_files(&config, &generation)
    }

    fn from_files(config: &File, generation: &File) -> Result<Self, TextError> {
        let hidden_size = config.count(&["hidden_size", "n_embd"])?;
        let heads = config.count(&["num_attention_heads", "n_head"])?;
        let split = |width: usize, heads: usize| width.checked_div(heads);
        Ok(Self {
            model_type: config.get("model_type", "a string")?,
            eos_token_ids: match generation.eos()? {
                ids if ids.is_empty() => config.eos()?,
                ids => ids,
            },
            max_position_embeddings: config.count(&["max_position_embeddings", "n_positions"])?,
            vocab_size: config.count(&["vocab_size"])?,
            hidden_size,
            num_hidden_layers: config.count(&["num_hidden_layers", "n_layer"])?,
            num_attention_heads: heads,
            num_key_value_heads: config.count(&["num_key_value_heads"])?.or(heads),
            head_dim: match config.count(&["head_dim"])? {
                Some(width) => Some(width),
                None => hidden_size.zip(heads).and_then(|(w, h)| split(w, h)),
            },
        })
    }
}

/// A configuration file as its top-level fields; a missing file has none.
struct File {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl File {
    fn read(path: PathBuf) -> Result<Self, TextError> {
        match std::fs::read(&path) {
            Ok(bytes) => Self::parse(path, &bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self { path, fields: Map::new() }),
            Err(source) => Err(TextError::Read { path, source }),
        }
    }

    fn parse(path: PathBuf, bytes: &[u8]) -> Result<Self, TextError> {
        match serde_json::from_slice(bytes) {
            Ok(fields) => Ok(Self { path, fields }),
            Err(e) => Err(TextError::Config { path, reason: e.to_string() }),
        }
    }

    fn eos(&self) -> Result<Vec<u32>, TextError> {
        let wanted = "a token id or a list of token ids";
        Ok(match self.get("eos_token_id", wanted)? {
            Some(TokenIds::One(id)) => vec![id],
            Some(TokenIds::Many(ids)) => ids,
            None => Vec::new(),
        })
    }

    /// The first of the names that is present.
    fn count(&self, names: &[&'static str]) -> Result<Option<usize>, TextError> {
        for name in names {
            if let Some(count) = self.get(name, "a whole number of at least 0")? {
                return Ok(Some(count));
            }
        }
        Ok(None)
    }

    fn get<T: DeserializeOwned>(&self, field: &'static str, wanted: &'static str) -> Result<Option<T>, TextError> {
        let Some(value) = self.fields.get(field).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        match T::deserialize(value) {
            Ok(found) => Ok(Some(found)),
            Err(_) => Err(TextError::Field { path: self.path.clone(), field, found: shortened(value), wanted }),
        }
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    text.chars().take(60).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(config: &str, generation: &str) -> Result<ModelConfig, TextError> {
        ModelConfig::from_files(
            &File::parse("config.json".into(), config.as_bytes())?,
            &File::parse("generation_config.json".into(), generation.as_bytes())?,
        )
    }

    #[test]
    fn reads_what_it_needs_and_ignores_the_rest() {
        let found = config(
            r#"{"model_type": "qwen2_moe", "hidden_size": 192, "num_attention_heads": 6, "num_key_value_heads": 3,
                "num_hidden_layers": 4, "max_position_embeddings": 1024, "vocab_size": 2048, "eos_token_id": 0,
                "pad_token_id": null, "rope_parameters": {"rope_theta": 10000.0}}"#,
            "{}",
        )
        .unwrap();
        assert_eq!(found.eos_token_ids, [0]);
        assert_eq!(found.head_dim, Some(32));
        assert_eq!(found.num_key_value_heads, Some(3));
        assert_eq!(found.max_position_embeddings, Some(1024));
    }

    #[test]
    fn the_generation_config_decides_the_end_tokens() {
        let found = config(r#"{"eos_token_id": 5}"#, r#"{"eos_token_id": [7, 9]}"#).unwrap();
        assert_eq!(found.eos_token_ids, [7, 9]);
        let found = config(r#"{"eos_token_id": [5]}"#, r#"{"eos_token_id": null}"#).unwrap();
        assert_eq!(found.eos_token_ids, [5]);
    }

    #[test]
    fn understands_the_names_of_gpt2() {
        let found = config(r#"{"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024}"#, "{}").unwrap();
        assert_eq!(found.head_dim, Some(64));
        assert_eq!(found.num_key_value_heads, Some(12));
        assert_eq!(found.max_position_embeddings, Some(1024));
    }

    #[test]
    fn a_missing_folder_is_an_empty_configuration() {
        let found = ModelConfig::from_folder(Path::new("no/such/folder")).unwrap();
        assert_eq!(found, ModelConfig::default());
    }

    #[test]
    fn no_heads_are_no_head_width() {
        let found = config(r#"{"hidden_size": 8, "num_attention_heads": 0}"#, "{}").unwrap();
        assert_eq!(found.head_dim, None);
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        for (json, field) in [
            (r#"{"vocab_size": "2048"}"#, "vocab_size"),
            (r#"{"max_position_embeddings": -1}"#, "max_position_embeddings"),
            (r#"{"eos_token_id": ["</s>"]}"#, "eos_token_id"),
            (r#"{"hidden_size": 1.5}"#, "hidden_size"),
            (r#"{"model_type": []}"#, "model_type"),
        ] {
            let message = config(json, "{}").unwrap_err().to_string();
            assert!(message.contains(&format!("config.json: field `{field}` is ")), "{message}");
        }
        let message = config("{", "{}").unwrap_err().to_string();
        assert!(message.starts_with("config.json is not a JSON object"), "{message}");
    }
}
