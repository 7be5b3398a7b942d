//! What can go wrong between text and ids, each with what to do about it.

use std::path::PathBuf;

/// An error of the text half of generation.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A tokenizer file was read but is not a tokenizer.
    #[error("{} is not a usable tokenizer.json: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        reason: String,
    },

    /// A configuration file is not a JSON object.
    #[error("{} is not a JSON object: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What the JSON parser said.
        reason: String,
    },

    /// A field of a configuration file has the wrong type.
    #[error("{}: field `{field}` is {found}, which is not {wanted}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field's name as written.
        field: &'static str,
        /// The value found, as JSON, shortened.
        found: String,
        /// What the field must be.
        wanted: &'static str,
    },

    /// The tokenizer refused a text or a list of ids.
    #[error("the tokenizer failed to {action}: {reason}")]
    Coding {
        /// "encode the text" or "decode the ids".
        action: &'static str,
        /// What the tokenizer library said.
        reason: String,
    },

    /// A sampling setting is out of its range.
    #[error("sampling setting `{setting}` is {found}: it must be {wanted}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// The value given.
        found: String,
        /// The values allowed.
        wanted: &'static str,
    },

    /// The logits hold a value that no token can be chosen from.
    #[error("logit {position} of {count} is {value}: the model computed no valid scores for the next token")]
    Logit {
        /// Index into the logits, which is the token's id.
        position: usize,
        /// How many logits there are.
        count: usize,
        /// NaN or +infinity.
        value: f32,
    },

    /// There is no token to choose.
    #[error("none of the {count} logits is above -infinity: there is no token to choose")]
    NoCandidate {
        /// How many logits there are.
        count: usize,
    },

    /// A stop string is empty and would stop before the first letter.
    #[error("stop string {index} is empty: give at least one character, or leave it out")]
    EmptyStop {
        /// Position in the list of stop strings.
        index: usize,
    },

    /// The prompt leaves no room for a single new token.
    #[error("the prompt has {prompt} tokens and the model's context is {context}: shorten the prompt to at most {}", context.saturating_sub(1))]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// `max_position_embeddings`.
        context: usize,
    },
}
