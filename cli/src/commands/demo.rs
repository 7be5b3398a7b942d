//! `demo`: compiles the example model, says in five lines what the compiler did, and lets it write.

use super::compile::{reference, rewrites};
use super::generate::{SamplingFlags, show_speed, stream};
use crate::failure::Failure;
use crate::flags::RunFlags;
use crate::progress::Stages;
use crate::units;
use clap::Args;
use fastinference::generate::{GenerateOptions, Generator};
use fastinference::text::Sampling;
use fastinference::{CompileOptions, Compiled};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Compiles a small mixture-of-experts model trained on Shakespeare and lets it write a passage.
#[derive(Args)]
pub struct Flags {
    /// The beginning of the passage
    #[arg(default_value = "ROMEO:\n")]
    prompt: String,
    #[command(flatten)]
    how: SamplingFlags,
    #[command(flatten)]
    on: RunFlags,
}

/// Runs the command.
pub fn main(flags: Flags) -> Result<(), Failure> {
    let folder = example()?;
    let mut stages = Stages::new(&[]);
    let compiled = fastinference::compile(&folder, &CompileOptions::default(), &mut stages);
    stages.finish();
    let compiled = compiled?;
    let mut out = io::stdout().lock();
    five_lines(&mut out, &folder, &compiled)?;
    let elapsed = compiled.report().elapsed;
    let started = Instant::now();
    let model = compiled.into_model()?;
    write!(out, "\n{}", flags.prompt)?;
    out.flush()?;
    drop(out);
    let mut generator = Generator::open(&model, &folder, flags.on.threads)?;
    let loading = elapsed + started.elapsed();
    let how = flags.how;
    let sampling = Sampling {
        temperature: how.temperature.unwrap_or(0.8),
        top_k: how.top_k.or(Some(40)),
        top_p: how.top_p,
        seed: how.seed.unwrap_or(1),
    };
    let options = GenerateOptions { sampling, max_tokens: how.max_tokens, stop: vec![] };
    let generated = stream(&mut generator, &flags.prompt, &options, true)?;
    show_speed(&generated, loading);
    Ok(())
}

/// Looks in the current folder and those above it, then where the program was built.
fn example() -> Result<PathBuf, Failure> {
    const EXAMPLE: &str = "examples/shakespeare-moe";
    let here = std::env::current_dir().unwrap_or_default();
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates = here.ancestors().chain(built.ancestors()).map(|f| f.join(EXAMPLE));
    candidates.into_iter().find(|f| f.join("model.onnx").is_file()).ok_or_else(|| {
        Failure::work(format!("the example model was not found: there is no {EXAMPLE}/model.onnx here or above"))
            .with_help("run the demo inside a clone of the repository")
    })
}

fn five_lines(out: &mut dyn Write, folder: &Path, compiled: &Compiled) -> io::Result<()> {
    let report = compiled.report();
    let main = &compiled.plan().entries[0];
    let symbols = main.graph.input_symbols().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    writeln!(
        out,
        "read      {}: {} nodes, weights {}",
        folder.display(),
        report.nodes_before,
        units::bytes(report.weight_bytes)
    )?;
    writeln!(out, "rewrote   {} nodes into {}: {}", report.nodes_before, report.nodes_after, rewrites(report))?;
    writeln!(
        out,
        "planned   {} in an arena of {}, for every {symbols}",
        units::plural(main.steps.len(), "step"),
        units::plural(main.buffers.len(), "buffer")
    )?;
    writeln!(out, "reference {}", reference(report))?;
    writeln!(out, "proved    every read finds its value, in {} all in all", units::time(report.elapsed))
}
