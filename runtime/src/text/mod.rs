//! The part of text generation that needs no model: text to ids, logits to an id, ids back to text, and when to stop.
//!
//! A generator encodes the prompt with [`Tokenizer`], picks each next id from the model's logits with [`Sampler`]
//! and pushes it into [`Output`], which returns the text that may be shown and the reason to stop, if any:
//!
//! ```no_run
//! # use runtime::text::*;
//! # fn next_logits(_: &[u32]) -> Vec<f32> { Vec::new() }
//! # fn main() -> Result<(), TextError> {
//! let folder = std::path::Path::new("examples/shakespeare-moe");
//! let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
//! let config = ModelConfig::from_folder(folder)?;
//! let mut ids = tokenizer.encode("ROMEO.\n")?;
//! let rules = StopRules::of_model(&config).with_max_new_tokens(128);
//! let mut sampler = Sampler::new(Sampling::greedy(), config.vocab_size)?;
//! let mut output = Output::new(&tokenizer, rules, ids.len())?;
//! while output.stopped().is_none() {
//!     let id = sampler.pick(&next_logits(&ids))?;
//!     ids.push(id);
//!     let text = output.push(id)?;
//!     // show `text`
//! }
//! # Ok(()) }
//! ```

mod config;
mod error;
mod output;
mod philox;
mod sampling;
mod stop;
mod stream;
mod tokenizer;

pub use config::ModelConfig;
pub use error::TextError;
pub use output::Output;
pub use philox::philox4x32;
pub use sampling::{Sampler, Sampling};
pub use stop::{StopReason, StopRules, StopStrings};
pub use stream::TextStream;
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod samples;
