//! Text from a language model: tokens in, logits out, one sequence at a time. Plans with an entry `step` keep the caches in the
//! session; the others get them back with every call of `main`.

use crate::{Error, Model};
use ir::{DType, Tensor};
use runtime::slots::Batch;
use runtime::text::{ModelConfig, Output, Sampler, Sampling, StopReason, StopRules, Tokenizer};
use runtime::{DecodeError, Decoder, Session, SlotOptions, StepError};
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

/// What turns text into tokens and back. Reading it needs no model, so that both can be opened at the same time.
pub struct TextFiles {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) config: ModelConfig,
}

impl TextFiles {
    /// `folder` holds `tokenizer.json` and the configuration files.
    pub fn open(folder: &Path) -> Result<TextFiles, Error> {
        let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
        Ok(TextFiles { tokenizer, config: ModelConfig::from_folder(folder)? })
    }
}

/// A language model with its tokenizer.
pub struct Generator {
    session: Box<dyn Session>,
    steps: bool,
    text: TextFiles,
}

impl Generator {
    /// Prepares a model for generation; `folder` holds `tokenizer.json` and the configuration files.
    pub fn open(model: &Model, folder: &Path, threads: usize) -> Result<Generator, Error> {
        Generator::new(model, TextFiles::open(folder)?, threads, None)
    }

    /// For sequences of at most `max_len` tokens; of what the configuration says when there is none.
    pub fn new(model: &Model, text: TextFiles, threads: usize, max_len: Option<usize>) -> Result<Generator, Error> {
        let mut session = model.session(threads);
        let max_len = max_len.or(text.config.max_position_embeddings);
        let steps = match session.open_slots(slot_options(1, max_len, u64::MAX)) {
            Ok(()) => true,
            Err(StepError::NoStep) => false,
            Err(e) => return Err(e.into()),
        };
        if !steps {
            // Fails now, not after the first prompt, when the model is no language model.
            Decoder::new(session.inputs(), session.outputs())?;
        }
        Ok(Generator { session, steps, text })
    }

    /// Continues `prompt`. `show` gets each piece of text when it is complete, and may end generation.
    pub fn generate(
        &mut self,
        prompt: &str,
        options: &GenerateOptions,
        show: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let prompt_ids = self.text.tokenizer.encode(prompt)?;
        let mut rules = StopRules::of_model(&self.text.config).with_max_new_tokens(options.max_tokens);
        if !options.stop.is_empty() {
            rules = rules.with_strings(options.stop.clone());
        }
        let mut sampler = Sampler::new(options.sampling.clone(), self.text.config.vocab_size)?;
        let mut output = Output::new(&self.text.tokenizer, rules, prompt_ids.len())?;
        let mut sequence = match self.steps {
            true => {
                self.session.truncate(0, 0)?;
                Sequence::Slot(Batch::default())
            }
            false => Sequence::Main(Box::new(Decoder::new(self.session.inputs(), self.session.outputs())?)),
        };
        let (mut new_ids, mut text, mut logits) = (vec![], String::new(), vec![]);
        let started = Instant::now();
        let (mut prefill, mut decode_started) = (Duration::ZERO, started);
        let mut ended = false;
        while output.stopped().is_none() {
            match new_ids.last() {
                None => sequence.step(&mut *self.session, &prompt_ids, &mut logits)?,
                Some(last) => sequence.step(&mut *self.session, &[*last], &mut logits)?,
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

/// Tokens of a prompt that go to the model at a time: bounds its working memory.
const CHUNK: usize = 512;

/// Where the one sequence lives.
enum Sequence {
    /// In slot 0 of the session.
    Slot(Batch),
    /// In the inputs of `main`.
    Main(Box<Decoder>),
}

impl Sequence {
    /// Appends tokens and writes the logits after the last one into `logits`.
    fn step(&mut self, session: &mut dyn Session, ids: &[u32], logits: &mut Vec<f32>) -> Result<(), Error> {
        let batch = match self {
            Sequence::Main(decoder) => return Ok(decoder.step(session, ids, logits)?),
            Sequence::Slot(batch) => batch,
        };
        let most = session.slots().map_or(CHUNK, |s| s.max_steps().clamp(1, CHUNK));
        let chunks = ids.len().div_ceil(most);
        for (i, chunk) in ids.chunks(most).enumerate() {
            batch.clear();
            batch.push(0, chunk);
            let answer = session.step(batch)?;
            if i + 1 == chunks {
                let wrong = || DecodeError::Answer(format!("{answer:?}"));
                logits_rows(answer.as_tensor().ok_or_else(wrong)?, 0, logits)?;
            }
        }
        Ok(())
    }
}

/// Row `b` of logits `[B, V]`.
pub(crate) fn logits_rows(logits: &Tensor, b: usize, into: &mut Vec<f32>) -> Result<(), Error> {
    let wrong = || Error::from(DecodeError::Answer(format!("{}{:?}", logits.dtype(), logits.dims())));
    let &[rows, width] = logits.dims() else { return Err(wrong()) };
    if b >= rows {
        return Err(wrong());
    }
    into.clear();
    match logits.dtype() {
        DType::F32 => into.extend_from_slice(&logits.as_slice::<f32>().map_err(|_| wrong())?[b * width..][..width]),
        _ => into.extend(logits.to_f64().map_err(|_| wrong())?[b * width..][..width].iter().map(|v| *v as f32)),
    }
    Ok(())
}

/// Room for sequences; without a length the model's tables bound it.
pub(crate) fn slot_options(slots: usize, max_len: Option<usize>, max_bytes: u64) -> SlotOptions {
    SlotOptions { slots, max_len: max_len.unwrap_or(1 << 20), max_bytes }
}
