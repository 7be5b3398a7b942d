//! `compile`: makes a plan of a model and says what became of it.

use crate::failure::Failure;
use crate::flags::DimFlags;
use crate::models;
use crate::progress::Stages;
use crate::units;
use clap::Args;
use fastinference::{Carried, CompileOptions, Compiled, Compute, Device, DeviceOptions, Pacing, Report, is_processor};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Compiles a model to a plan.
#[derive(Args)]
pub struct Flags {
    /// An .onnx file, or a folder with model.onnx
    model: PathBuf,
    /// Where the plan goes [default: beside the model, named after it]
    #[arg(short, long, value_name = "PLAN")]
    output: Option<PathBuf>,
    /// Replaces an existing plan
    #[arg(long)]
    force: bool,
    /// Leaves weights that need no repacking in the model's own files
    #[arg(long)]
    link_weights: bool,
    /// The architecture that the plan is for: `cpu`, `gfx1151`, `sm_90`; a list, such as `gfx1151,gfx1100`, adds code objects for more
    #[arg(long, value_name = "ARCH", default_value = "cpu", value_delimiter = ',')]
    target: Vec<String>,
    /// What the model's f32 becomes, sums aside: `f32`, `f16`, `bf16` [default: what the model says]
    #[arg(long, value_name = "TYPE")]
    compute: Option<Compute>,
    /// Wherever a device runs the plan, the host waits for it at the latest after so many steps: a number, `auto` (by cost) or
    /// `never` [default: auto]
    #[arg(long, value_name = "STEPS")]
    sync_every: Option<Pacing>,
    #[command(flatten)]
    dims: DimFlags,
    /// Evaluates the graph before and after every pass and compares the results
    #[arg(long)]
    verify: bool,
    /// Ends after the pass of this name
    #[arg(long, value_name = "PASS")]
    stop_after: Option<String>,
    /// Prints the graph after the pass of this name; may be repeated
    #[arg(long, value_name = "PASS")]
    print_after: Vec<String>,
    /// Lists the places where a rewrite almost fitted, and why not; with --compute also what stays f32, and why
    #[arg(long)]
    explain: bool,
}

/// Runs the command.
pub fn main(flags: Flags) -> Result<(), Failure> {
    if flags.sync_every.is_some() && flags.target.iter().all(|target| is_processor(target)) {
        return Err(Failure::usage(
            "the processor has no queue to wait for: --sync-every goes with --target gfx1151 and the like",
        ));
    }
    let plan = flags.output.clone().unwrap_or_else(|| default_plan(&flags.model));
    may_write(&plan, flags.force)?;
    let options = CompileOptions {
        link_weights: flags.link_weights,
        dims: flags.dims.to_map(),
        compute: flags.compute,
        verify: flags.verify,
        stop_after: flags.stop_after.clone(),
        print_after: flags.print_after.clone(),
        target: flags.target.first().cloned(),
        code_for: flags.target.iter().skip(1).cloned().collect(),
        on: DeviceOptions { sync_every: flags.sync_every, ..models::on(Device::Cpu) },
    };
    let mut stages = Stages::new(&flags.print_after);
    let saved = fastinference::compile(&flags.model, &options, &mut stages).and_then(|compiled| {
        fastinference::Progress::stage(&mut stages, "writing the plan");
        let started = Instant::now();
        let bytes = compiled.save(&plan, flags.force)?;
        Ok((compiled, bytes, started.elapsed()))
    });
    stages.finish();
    let (compiled, bytes, writing) = saved?;
    let mut out = io::stdout().lock();
    summary(&mut out, &flags.model, &plan, &compiled, (bytes, writing))?;
    if let Some(compute) = flags.compute.filter(|_| !compiled.report().kept_f32.is_empty()) {
        stayed(&mut out, compute, compiled.report(), flags.explain)?;
    }
    if flags.explain {
        explain(&mut out, compiled.report())?;
    }
    Ok(())
}

fn default_plan(model: &Path) -> PathBuf {
    if model.is_dir() { model.join("model.plan") } else { model.with_extension("plan") }
}

fn may_write(plan: &Path, force: bool) -> Result<(), Failure> {
    let Ok(found) = fs::symlink_metadata(plan) else { return Ok(()) };
    let exists = Failure::work(format!("{} exists already", plan.display()));
    if !force {
        return Err(exists.with_help("use --force to replace it, or name another place with -o"));
    }
    let empty = || fs::read_dir(plan).is_ok_and(|mut entries| entries.next().is_none());
    if found.is_dir() && (models::is_plan(plan) || empty()) {
        return Ok(());
    }
    Err(Failure::work(format!("{} is not a plan, so it is not replaced", plan.display()))
        .with_help("name another place with -o"))
}

/// What the compiler did, for people; the last operand is the size of the plan and how long writing it took.
pub fn summary(
    out: &mut dyn Write,
    model: &Path,
    plan: &Path,
    compiled: &Compiled,
    (bytes, writing): (u64, Duration),
) -> io::Result<()> {
    let report = compiled.report();
    let (compiling, writing) = (units::time(report.elapsed), units::time(writing));
    writeln!(out, "compiled {} in {compiling}, written in {writing}", model.display())?;
    let weights = units::bytes(report.weight_bytes);
    writeln!(out, "  plan       {} ({}, weights {weights})", plan.display(), units::bytes(bytes))?;
    let (before, after) = (report.nodes_before, report.nodes_after);
    writeln!(out, "  nodes      {before} imported, {after} in the plan")?;
    match report.states {
        0 => writeln!(out, "  entries    main")?,
        states => writeln!(out, "  entries    main, step (batches of sequences over {states} caches)")?,
    }
    writeln!(out, "  rewrites   {}", rewrites(report))?;
    writeln!(out, "  reference  {}", reference(report))?;
    for carried in &report.code {
        writeln!(out, "  code       {}", code(carried))?;
    }
    match report.verified {
        Some(0) => writeln!(out, "  verified   no pass: no inputs were found that the model can be evaluated with")?,
        Some(n) => {
            let passes = if report.narrowed { "every pass before narrow-floats" } else { "every pass" };
            writeln!(out, "  verified   {passes}, with {}", units::plural(n, "evaluation"))?;
        }
        None => {}
    }
    for warning in &report.warnings {
        writeln!(out, "  warning    {warning}")?;
    }
    Ok(())
}

/// `gfx1151: 9 files, 400 KB, by clang version 19.1.7`, or why there is no code.
fn code(carried: &Carried) -> String {
    let (arch, bytes) = (&carried.arch, units::bytes(carried.bytes));
    match &carried.compiler {
        Ok(compiler) => format!("{arch}: {}, {bytes}, by {compiler}", units::plural(carried.files, "file")),
        Err(why) => format!("{arch}: none, kernels are compiled where the plan is first loaded ({why})"),
    }
}

/// `fold_shapes 120, fuse_norm 9`: the passes that changed something, in order.
pub fn rewrites(report: &Report) -> String {
    let counts = report.rewrites.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}"));
    let text = counts.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".into() } else { text }
}

/// Which operators have no kernel of their own.
pub fn reference(report: &Report) -> String {
    let counts: Vec<String> = report.reference.iter().map(|(op, n)| format!("{op} {n}")).collect();
    if counts.is_empty() {
        "nothing: every node has a kernel".into()
    } else {
        format!("{} (slow: no kernel yet)", counts.join(", "))
    }
}

/// `17 nodes stay f32 in f16 (see --explain)`, or each reason with its operators.
fn stayed(out: &mut dyn Write, compute: Compute, report: &Report, explain: bool) -> io::Result<()> {
    let count = |ops: &BTreeMap<&str, usize>| ops.values().sum::<usize>();
    let all = units::plural(report.kept_f32.values().map(count).sum(), "node");
    if !explain {
        return writeln!(out, "  compute    {compute}; {all} in f32 all the same (--explain says why)");
    }
    writeln!(out, "{all} in f32 where {compute} was asked for:")?;
    report.kept_f32.iter().try_for_each(|(reason, ops)| {
        let ops: Vec<String> = ops.iter().map(|(op, n)| format!("{op} {n}")).collect();
        writeln!(out, "  {}: {reason}", ops.join(", "))
    })
}

fn explain(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    if report.near_misses.is_empty() {
        return writeln!(out, "no rewrite almost fitted");
    }
    writeln!(out, "rewrites that almost fitted:")?;
    report.near_misses.iter().try_for_each(|miss| writeln!(out, "  {miss}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_lies_beside_the_model() {
        assert_eq!(default_plan(Path::new("a/net.onnx")), Path::new("a/net.plan"));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(default_plan(folder.path()), folder.path().join("model.plan"));
    }

    #[test]
    fn keeps_folders_that_are_no_plan() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), b"years of work").unwrap();
        assert!(may_write(folder.path(), true).is_err());
        fs::write(folder.path().join("plan.yaml"), b"").unwrap();
        assert!(may_write(folder.path(), true).is_ok());
        assert!(may_write(folder.path(), false).is_err());
    }
}
