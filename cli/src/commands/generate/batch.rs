//! `generate --batch`: continues every line of a file, as many at a time as there are slots.

use super::{Flags, object};
use crate::failure::Failure;
use crate::{models, units};
use fastinference::generate::GenerateOptions;
use fastinference::{BatchGenerator, BatchOptions};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

/// Runs the command.
pub fn main(file: &Path, flags: &Flags) -> Result<(), Failure> {
    let text = fs::read_to_string(file).map_err(|e| Failure::work(format!("{}: {e}", file.display())))?;
    let prompts: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_string).collect();
    if prompts.is_empty() {
        return Err(
            Failure::usage(format!("{} holds no prompts", file.display())).with_help("write one prompt per line")
        );
    }
    let started = Instant::now();
    let (model, text) = models::open_with_text(&flags.model, flags.on.on()?)?;
    let slots = (flags.slots.slots as usize).min(prompts.len());
    let limits = BatchOptions { slots, max_len: flags.slots.max_len, ..BatchOptions::default() };
    let mut generator = BatchGenerator::new(&model, text, flags.on.threads, limits)?;
    let loading = started.elapsed();
    let options =
        GenerateOptions { sampling: flags.how.sampling(), max_tokens: flags.how.max_tokens, stop: flags.stop.clone() };
    let started = Instant::now();
    // Results are printed in order, each as soon as those before it are there.
    let mut waiting: Vec<Option<String>> = prompts.iter().map(|_| None).collect();
    let (mut next, mut broken) = (0, None);
    let mut out = io::stdout().lock();
    let results = generator.generate(&prompts, &options, &mut |i, generated| {
        waiting[i] = Some(match flags.json {
            true => object(generated, loading),
            false => format!("{}{}\n", prompts[i], generated.text),
        });
        while let Some(shown) = waiting.get_mut(next).and_then(Option::take) {
            let written = writeln!(out, "{shown}").and_then(|()| out.flush());
            broken = broken.take().or(written.err());
            next += 1;
        }
    })?;
    if let Some(error) = broken {
        return Err(error.into());
    }
    let taken = started.elapsed();
    let new: usize = results.iter().map(|r| r.new_ids.len()).sum();
    let given: usize = results.iter().map(|r| r.prompt_ids.len()).sum();
    eprintln!(
        "{} of {given} tokens, {new} new tokens in {} ({:.1} new tokens/s with {})",
        units::plural(prompts.len(), "prompt"),
        units::time(taken),
        units::rate(new, taken),
        units::plural(slots, "slot"),
    );
    Ok(())
}
