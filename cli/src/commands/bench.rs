//! `bench`: how fast a language model reads prompts and writes tokens, at several numbers of sequences.

use crate::failure::Failure;
use crate::flags::RunFlags;
use crate::table::{Align, Table};
use crate::{models, units};
use clap::Args;
use fastinference::{Batch, Model, Session, SlotOptions, StepModel};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Measures a language model: tokens per second of prompts and of generation.
///
/// Prompts and tokens are drawn at random, for every sequence others: time does not depend on them, but for the experts of a
/// mixture. Every sequence gets a prompt of the same length and then one token per step; the median step counts.
#[derive(Args)]
pub struct Flags {
    /// A plan, or a folder with model.onnx
    model: PathBuf,
    /// Numbers of sequences at a time
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [1, 8, 32])]
    batch: Vec<usize>,
    /// Tokens of every prompt
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt: usize,
    /// Steps of generation
    #[arg(long, value_name = "N", default_value_t = 32)]
    steps: usize,
    /// The most tokens of prompts in one step
    #[arg(long, value_name = "N", default_value_t = 256)]
    chunk: usize,
    /// Prints one JSON object per number of sequences
    #[arg(long)]
    json: bool,
    /// Prints where the time of the last measurement went
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    on: RunFlags,
}

/// What one number of sequences gave.
#[derive(Serialize)]
struct Measured {
    batch: usize,
    prefill_tokens_per_s: f64,
    decode_ms: f64,
    decode_tokens_per_s: f64,
    cache_bytes: u64,
}

/// Runs the command.
pub fn main(flags: Flags) -> Result<(), Failure> {
    let model = models::open_cached(&flags.model, flags.on.on()?)?;
    let step = StepModel::of(model.plan()).ok_or_else(|| {
        Failure::work(format!("{} has no entry `step`, so sequences cannot be batched", flags.model.display()))
            .with_help("`compile --explain` says why; `run --repeat` measures `main`")
    })?;
    let vocabulary = vocabulary(&model, &step);
    let mut session = model.session(flags.on.threads);
    let mut out = io::stdout().lock();
    let columns = ["batch", "prefill tokens/s", "decode step", "decode tokens/s", "caches"];
    let mut table = Table::new(&columns.map(|c| (c, Align::Right)));
    for batch in flags.batch.iter().copied().filter(|b| *b > 0) {
        session.set_profiling(flags.profile);
        let measured = measure(&mut *session, &flags, batch, step.row_bytes, vocabulary)?;
        if flags.json {
            writeln!(out, "{}", serde_json::to_string(&measured).expect("plain data has a JSON form"))?;
        }
        table.row([
            batch.to_string(),
            format!("{:.1}", measured.prefill_tokens_per_s),
            units::time(Duration::from_secs_f64(measured.decode_ms / 1e3)),
            format!("{:.1}", measured.decode_tokens_per_s),
            units::bytes(measured.cache_bytes),
        ]);
    }
    if !flags.json {
        table.print(&mut out)?;
    }
    if flags.profile {
        profile(&mut out, &*session)?;
    }
    Ok(())
}

/// Number of logits.
fn vocabulary(model: &Model, step: &StepModel) -> usize {
    let ty = model.plan().entries[step.entry].outputs.first().and_then(|o| o.ty.as_tensor());
    ty.and_then(|t| t.dims()?.last()?.as_const()).map_or(2, |n| n as usize)
}

/// A number that looks drawn at random (the finaliser of splitmix64, <https://prng.di.unimi.it/splitmix64.c>).
fn mixed(n: usize) -> u64 {
    let mut z = (n as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn measure(
    session: &mut dyn Session,
    flags: &Flags,
    batch: usize,
    row_bytes: u64,
    vocabulary: usize,
) -> Result<Measured, Failure> {
    let failed = |e: fastinference::StepError| Failure::work(e.to_string());
    let options = SlotOptions { slots: batch, max_len: flags.prompt + flags.steps + 2, max_bytes: u64::MAX };
    session.open_slots(options).map_err(failed)?;
    let prompt_len = flags.prompt.max(1);
    let token = |slot: usize, i: usize| (mixed(slot << 32 | i) % vocabulary as u64) as u32;
    let prompts: Vec<Vec<u32>> = (0..batch).map(|slot| (0..prompt_len).map(|i| token(slot, i)).collect()).collect();
    let mut step = Batch::default();
    let mut prefill = Duration::ZERO;
    // Once to touch all memory, once to measure.
    for round in 0..2 {
        (0..batch as u32).try_for_each(|slot| session.truncate(slot, 0)).map_err(failed)?;
        let started = Instant::now();
        let rows = prompt_len.min(flags.chunk.max(1));
        let together = (flags.chunk / rows).max(1);
        for first in (0..batch).step_by(together) {
            for from in (0..prompt_len).step_by(rows) {
                step.clear();
                let chunk = from..prompt_len.min(from + rows);
                let slots = first..batch.min(first + together);
                slots.for_each(|slot| step.push(slot as u32, &prompts[slot][chunk.clone()]));
                session.step(&step).map_err(failed)?;
            }
        }
        prefill = started.elapsed();
        if round == 0 && flags.prompt > 512 {
            break;
        }
    }
    let mut times = vec![];
    for i in 0..flags.steps.max(1) + 1 {
        step.clear();
        (0..batch).for_each(|slot| step.push(slot as u32, &[token(slot, prompt_len + i)]));
        let started = Instant::now();
        session.step(&step).map_err(failed)?;
        times.push(started.elapsed());
    }
    // The first step lays out memory.
    times.remove(0);
    times.sort();
    let median = times[times.len() / 2];
    let capacity = session.slots().map_or(0, |s| s.capacity()) as u64;
    Ok(Measured {
        batch,
        prefill_tokens_per_s: units::rate(batch * prompt_len, prefill),
        decode_ms: units::milliseconds(median),
        decode_tokens_per_s: units::rate(batch, median),
        cache_bytes: batch as u64 * capacity * row_bytes,
    })
}

/// Time by operator and kernel.
fn profile(out: &mut dyn Write, session: &dyn Session) -> io::Result<()> {
    let mut sums: std::collections::BTreeMap<(&str, &str), Duration> = Default::default();
    let times = session.profile();
    for time in &times {
        *sums.entry((time.step.op, time.step.kernel)).or_default() += time.time;
    }
    let mut sums: Vec<_> = sums.into_iter().filter(|(_, t)| !t.is_zero()).collect();
    sums.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    let mut table = Table::new(&[("op", Align::Left), ("kernel", Align::Left), ("time", Align::Right)]);
    sums.iter().for_each(|((op, kernel), time)| table.row([op.to_string(), kernel.to_string(), units::time(*time)]));
    table.print(out)
}
