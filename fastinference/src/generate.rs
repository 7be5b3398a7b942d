//! Text from a language model: tokens in, logits out, one sequence at a time.

use crate::{Error, Model};
use runtime::text::{ModelConfig, Output, Sampler, Sampling, StopReason, StopRules, Tokenizer};
use runtime::{Decoder, Session};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// How text is generated.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// The most new tokens.
    pub max_tokens: usize,
    /// Texts that end generation; they are not shown.
    pub stop: Vec<String>,
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The prompt's tokens.
    pub prompt_ids: Vec<u32>,
    /// The new tokens, the one that ended the text included.
    pub new_ids: Vec<u32>,
    /// The text that was shown.
    pub text: String,
    /// Time until the first token.
    pub prefill: Duration,
    /// Time of all further tokens.
    pub decode: Duration,
    /// Why it ended; `None` when the caller ended it.
    pub stopped: Option<StopReason>,
}

/// A language model with its tokenizer.
pub struct Generator {
    session: Box<dyn Session>,
    tokenizer: Tokenizer,
    config: ModelConfig,
}

impl Generator {
    /// Prepares a model for generation; `folder` holds `tokenizer.json` and the configuration files.
    pub fn open(model: &Model, folder: &Path, threads: usize) -> Result<Generator, Error> {
        let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
        let config = ModelConfig::from_folder(folder)?;
        let session = model.session(threads);
        // Fails now, not after the first prompt, when the model is no language model.
        Decoder::new(session.inputs(), session.outputs())?;
        Ok(Generator { session, tokenizer, config })
    }

    /// Continues `prompt`. `show` gets each piece of text when it is complete, and may end generation.
    pub fn generate(
        &mut self,
        prompt: &str,
        options: &GenerateOptions,
        show: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let prompt_ids = self.tokenizer.encode(prompt)?;
        let mut rules = StopRules::of_model(&self.config).with_max_new_tokens(options.max_tokens);
        if !options.stop.is_empty() {
            rules = rules.with_strings(options.stop.clone());
        }
        let mut sampler = Sampler::new(options.sampling.clone(), self.config.vocab_size)?;
        let mut output = Output::new(&self.tokenizer, rules, prompt_ids.len())?;
        let mut decoder = Decoder::new(self.session.inputs(), self.session.outputs())?;
        let (mut new_ids, mut text, mut logits) = (vec![], String::new(), vec![]);
        let started = Instant::now();
        let (mut prefill, mut decode_started) = (Duration::ZERO, started);
        let mut ended = false;
        while output.stopped().is_none() {
            match new_ids.last() {
                None => decoder.step(&mut *self.session, &prompt_ids, &mut logits)?,
                Some(last) => decoder.step(&mut *self.session, &[*last], &mut logits)?,
            }
            let id = sampler.pick(&logits)?;
            if new_ids.is_empty() {
                prefill = started.elapsed();
                decode_started = Instant::now();
            }
            new_ids.push(id);
            let piece = output.push(id)?;
            text.push_str(&piece);
            if !piece.is_empty() && show(&piece).is_break() {
                ended = true;
                break;
            }
        }
        let decode = decode_started.elapsed();
        let stopped = if ended { None } else { output.stopped().cloned() };
        let rest = output.finish()?;
        if !rest.is_empty() && !ended {
            text.push_str(&rest);
            let _ = show(&rest);
        }
        Ok(Generated { prompt_ids, new_ids, text, prefill, decode, stopped })
    }
}
