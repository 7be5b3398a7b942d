//! `generate`: continues a prompt. Text goes to standard output as it comes, speeds to standard error.

mod batch;

use crate::failure::Failure;
use crate::flags::{RunFlags, SlotFlags};
use crate::models;
use crate::units;
use clap::Args;
use fastinference::generate::{GenerateOptions, Generated, Generator};
use fastinference::text::{Sampling, StopReason};
use serde::Serialize;
use std::io::{self, IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Continues a prompt with a language model.
///
/// The most probable token is taken each time, unless a flag asks for sampling. The prompt goes to the model as it is, without a
/// chat template.
#[derive(Args)]
pub struct Flags {
    /// A plan, or a folder with model.onnx, tokenizer.json and config.json
    model: PathBuf,
    /// The text to continue; read from standard input when it is missing or `-`
    prompt: Option<String>,
    /// Continues every line of a file, many at a time, and prints the results in order
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    batch: Option<PathBuf>,
    #[command(flatten)]
    slots: SlotFlags,
    #[command(flatten)]
    how: SamplingFlags,
    /// Ends before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Prints one JSON object at the end instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    on: RunFlags,
}

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
pub struct SamplingFlags {
    /// The most tokens to add
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// Samples: 1 as the model says, lower is safer, 0 takes the most probable token [default: 0, or 1 with another sampling flag]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Samples among the K most probable tokens
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Samples among the most probable tokens that together reach the probability P
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Samples with this seed: the same seed gives the same text
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingFlags {
    fn sampling(&self) -> Sampling {
        let asked = self.top_k.is_some() || self.top_p.is_some() || self.seed.is_some();
        let temperature = self.temperature.unwrap_or(if asked { 1.0 } else { 0.0 });
        Sampling { temperature, top_k: self.top_k, top_p: self.top_p, seed: self.seed.unwrap_or(0) }
    }
}

/// Runs the command.
pub fn main(flags: Flags) -> Result<(), Failure> {
    if let Some(file) = &flags.batch {
        return batch::main(file, &flags);
    }
    let prompt = match flags.prompt.as_deref() {
        Some(text) if text != "-" => text.to_string(),
        _ => from_standard_input()?,
    };
    let started = Instant::now();
    let (model, text) = models::open_with_text(&flags.model, flags.on.on()?)?;
    let mut generator = Generator::new(&model, text, flags.on.threads, flags.slots.max_len)?;
    let loading = started.elapsed();
    let options =
        GenerateOptions { sampling: flags.how.sampling(), max_tokens: flags.how.max_tokens, stop: flags.stop.clone() };
    let generated = stream(&mut generator, &prompt, &options, !flags.json)?;
    if flags.json {
        writeln!(io::stdout().lock(), "{}", object(&generated, loading))?;
    }
    show_speed(&generated, loading);
    Ok(())
}

fn from_standard_input() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        return Err(Failure::usage("there is no prompt")
            .with_help("give it as the second argument, or on standard input: echo \"Once upon a time\" | fastinference generate FOLDER"));
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(|e| Failure::work(format!("standard input: {e}")))?;
    // The line feed that ends a file is not part of what was said.
    Ok(text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t)).to_string())
}

/// Generates, and shows the text as it comes. Ctrl-C ends it early with what was said so far; a second one ends the process.
pub fn stream(
    generator: &mut Generator,
    prompt: &str,
    options: &GenerateOptions,
    show: bool,
) -> Result<Generated, Failure> {
    let stopped = interrupted();
    let mut broken = None;
    let mut out = io::stdout().lock();
    let mut last = String::new();
    let generated = generator.generate(prompt, options, &mut |piece: &str| {
        if show && !piece.is_empty() {
            let written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
            if let Err(error) = written {
                broken = Some(error);
                return ControlFlow::Break(());
            }
            last = piece.to_string();
        }
        if stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some(error) = broken {
        return Err(error.into());
    }
    let generated = generated?;
    if show && !last.ends_with('\n') {
        writeln!(out)?;
    }
    Ok(generated)
}

/// A flag that the first Ctrl-C raises.
fn interrupted() -> Arc<AtomicBool> {
    let raised = Arc::new(AtomicBool::new(false));
    let handler = raised.clone();
    // Without a handler Ctrl-C ends the process, which is no worse than before.
    let _ = ctrlc::set_handler(move || {
        if handler.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    raised
}

/// Says on standard error how fast it was; `loading` is the time until the model was ready.
pub fn show_speed(generated: &Generated, loading: Duration) {
    let (prompt, new) = (generated.prompt_ids.len(), generated.new_ids.len());
    // The first new token comes out of the prefill.
    let decoded = new.saturating_sub(1);
    eprintln!(
        "ready in {}, prefill {prompt} tokens in {} ({:.1} tokens/s), decode {decoded} tokens in {} ({:.1} tokens/s), ended by {}",
        units::time(loading),
        units::time(generated.prefill),
        units::rate(prompt, generated.prefill),
        units::time(generated.decode),
        units::rate(decoded, generated.decode),
        word(&generated.stopped),
    );
}

/// Why it ended, in one word or two.
fn word(stopped: &Option<StopReason>) -> &'static str {
    match stopped {
        Some(StopReason::EndToken(_)) => "end token",
        Some(StopReason::StopString(_)) => "stop text",
        Some(StopReason::MaxTokens) => "max tokens",
        Some(StopReason::ContextFull) => "full context",
        None => "interrupt",
    }
}

#[derive(Serialize)]
struct Object<'a> {
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    text: &'a str,
    stopped: &'static str,
    timing: Timing,
}

#[derive(Serialize)]
struct Timing {
    load_ms: f64,
    prefill_ms: f64,
    prefill_tokens_per_s: f64,
    decode_ms: f64,
    decode_tokens_per_s: f64,
}

fn object(generated: &Generated, loading: Duration) -> String {
    let timing = Timing {
        load_ms: units::milliseconds(loading),
        prefill_ms: units::milliseconds(generated.prefill),
        prefill_tokens_per_s: units::rate(generated.prompt_ids.len(), generated.prefill),
        decode_ms: units::milliseconds(generated.decode),
        decode_tokens_per_s: units::rate(generated.new_ids.len().saturating_sub(1), generated.decode),
    };
    let object = Object {
        prompt_ids: &generated.prompt_ids,
        ids: &generated.new_ids,
        text: &generated.text,
        stopped: word(&generated.stopped),
        timing,
    };
    serde_json::to_string(&object).expect("plain data has a JSON form")
}
