//! Text for many prompts at a time, over the `step` entry of a model: each sequence lives in a slot, and a slot that is free is
//! given to the next prompt at once.
//!
//! Prompts go in as chunks between the steps in which all running sequences get one token, so that long prompts do not stop the
//! others.

use crate::generate::{GenerateOptions, Generated, TextFiles, logits_rows, slot_options};
use crate::{Error, Model};
use runtime::slots::Batch;
use runtime::text::{ModelConfig, Output, Sampler, StopRules, Tokenizer};
use runtime::{Session, StepError};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many sequences at a time, and how long.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions {
    /// The most sequences at a time.
    pub slots: usize,
    /// The most tokens of a sequence; as the model says where it is missing.
    pub max_len: Option<usize>,
    /// The most bytes for caches.
    pub max_bytes: u64,
    /// The most tokens of prompts in one step.
    pub chunk: usize,
}

impl Default for BatchOptions {
    fn default() -> BatchOptions {
        BatchOptions { slots: 8, max_len: None, max_bytes: u64::MAX, chunk: 256 }
    }
}

/// A language model that continues many prompts at a time.
pub struct BatchGenerator {
    session: Box<dyn Session>,
    text: TextFiles,
    options: BatchOptions,
}

/// A sequence in its slot.
struct Running<'t> {
    index: usize,
    slot: u32,
    prompt: Vec<u32>,
    /// How much of the prompt has been given to the model.
    fed: usize,
    sampler: Sampler,
    output: Output<'t>,
    new: Vec<u32>,
    text: String,
    started: Instant,
    prefill: Duration,
}

impl Running<'_> {
    /// What the model gets next: a part of the prompt, or the last token.
    fn next(&self, most: usize) -> &[u32] {
        let left = &self.prompt[self.fed..];
        match self.new.last() {
            Some(last) if left.is_empty() => std::slice::from_ref(last),
            _ => &left[..left.len().min(most)],
        }
    }

    fn is_prefilling(&self) -> bool {
        self.fed < self.prompt.len()
    }
}

impl BatchGenerator {
    /// Prepares a model for batches.
    pub fn new(model: &Model, text: TextFiles, threads: usize, options: BatchOptions) -> Result<BatchGenerator, Error> {
        let mut session = model.session(threads);
        let max_len = options.max_len.or(text.config.max_position_embeddings);
        session.open_slots(slot_options(options.slots, max_len, options.max_bytes))?;
        Ok(BatchGenerator { session, text, options })
    }

    /// Continues every prompt; the results are in the prompts' order. `done` sees each one as it is finished.
    pub fn generate(
        &mut self,
        prompts: &[String],
        options: &GenerateOptions,
        done: &mut dyn FnMut(usize, &Generated),
    ) -> Result<Vec<Generated>, Error> {
        let BatchGenerator { session, text: TextFiles { tokenizer, config }, options: limits } = self;
        let mut waiting: VecDeque<usize> = (0..prompts.len()).collect();
        let mut free: Vec<u32> = (0..limits.slots as u32).rev().collect();
        let mut running: Vec<Running<'_>> = vec![];
        let mut results: Vec<Option<Generated>> = prompts.iter().map(|_| None).collect();
        let (mut batch, mut chosen, mut row) = (Batch::default(), vec![], vec![]);
        let mut prefilled = false;
        let most = session.slots().map_or(1, |s| s.max_steps());
        while !waiting.is_empty() || !running.is_empty() {
            while let (Some(slot), Some(index)) = (free.last().copied(), waiting.front().copied()) {
                session.truncate(slot, 0)?;
                running.push(begin(tokenizer, config, options, &prompts[index], index, slot)?);
                free.pop();
                waiting.pop_front();
            }
            // Steps alternate while there is both.
            let decoding = running.iter().any(|r| !r.is_prefilling());
            prefilled = running.iter().any(Running::is_prefilling) && !(prefilled && decoding);
            choose(&running, prefilled, limits.chunk, most, &mut chosen);
            batch.clear();
            chosen.iter().for_each(|(at, most)| batch.push(running[*at].slot, running[*at].next(*most)));
            let logits = session.step(&batch)?.as_tensor().cloned();
            let logits = logits.ok_or_else(|| StepError::Batch("the model gave no logits".into()))?;
            for (b, (at, most)) in chosen.iter().enumerate() {
                let sequence = &mut running[*at];
                let count = sequence.next(*most).len();
                if sequence.is_prefilling() {
                    sequence.fed += count;
                }
                if !sequence.is_prefilling() {
                    logits_rows(&logits, b, &mut row)?;
                    advance(sequence, &row)?;
                }
            }
            let mut at = 0;
            while at < running.len() {
                if running[at].output.stopped().is_none() {
                    at += 1;
                    continue;
                }
                let sequence = running.swap_remove(at);
                free.push(sequence.slot);
                let (index, generated) = (sequence.index, finish(sequence)?);
                done(index, &generated);
                results[index] = Some(generated);
            }
        }
        Ok(results.into_iter().flatten().collect())
    }
}

/// Which sequences take part in the next step, and the most tokens of each.
fn choose(running: &[Running<'_>], prefill: bool, chunk: usize, steps: usize, chosen: &mut Vec<(usize, usize)>) {
    chosen.clear();
    if !prefill {
        chosen.extend((0..running.len()).filter(|i| !running[*i].is_prefilling()).map(|i| (i, 1)));
        return;
    }
    // The step computes as many rows as its longest part for each: parts of like length go together.
    let left = |i: &usize| running[*i].prompt.len() - running[*i].fed;
    let mut order: Vec<usize> = (0..running.len()).filter(|i| running[*i].is_prefilling()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(left(i)));
    let rows = order.first().map_or(1, left).clamp(1, chunk.min(steps).max(1));
    let most = (chunk / rows).max(1);
    chosen.extend(order.into_iter().take(most).map(|i| (i, rows)));
}

fn begin<'t>(
    tokenizer: &'t Tokenizer,
    config: &ModelConfig,
    options: &GenerateOptions,
    prompt: &str,
    index: usize,
    slot: u32,
) -> Result<Running<'t>, Error> {
    let prompt = tokenizer.encode(prompt)?;
    let mut rules = StopRules::of_model(config).with_max_new_tokens(options.max_tokens);
    if !options.stop.is_empty() {
        rules = rules.with_strings(options.stop.clone());
    }
    let sampler = Sampler::new(options.sampling.clone(), config.vocab_size)?;
    let output = Output::new(tokenizer, rules, prompt.len())?;
    if prompt.is_empty() {
        return Err(StepError::Batch("a prompt is empty".into()).into());
    }
    let (started, prefill) = (Instant::now(), Duration::ZERO);
    Ok(Running { index, slot, prompt, fed: 0, sampler, output, new: vec![], text: String::new(), started, prefill })
}

/// Adds the next token of a sequence.
fn advance(sequence: &mut Running<'_>, logits: &[f32]) -> Result<(), Error> {
    let id = sequence.sampler.pick(logits)?;
    if sequence.new.is_empty() {
        sequence.prefill = sequence.started.elapsed();
    }
    sequence.new.push(id);
    let piece = sequence.output.push(id)?;
    sequence.text.push_str(&piece);
    Ok(())
}

fn finish(sequence: Running<'_>) -> Result<Generated, Error> {
    let Running { prompt, output, new, mut text, started, prefill, .. } = sequence;
    let stopped = output.stopped().cloned();
    text.push_str(&output.finish()?);
    let decode = started.elapsed().saturating_sub(prefill);
    Ok(Generated { prompt_ids: prompt, new_ids: new, text, prefill, decode, stopped })
}
