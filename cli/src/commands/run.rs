//! `run`: feeds a model and shows, saves, compares or times what comes out.

use crate::failure::Failure;
use crate::flags::RunFlags;
use crate::inputs::{self, InputFlags};
use crate::models;
use crate::progress;
use crate::table::{Align, Table};
use crate::tensor_file;
use crate::units;
use clap::Args;
use fastinference::cases::{self, Allowed};
use fastinference::{CompileOptions, DType, Datum, Model, Port, Session, StepTime, Tensor};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Rows of the profile's table of nodes.
const NODES_SHOWN: usize = 30;

/// Runs a model on tensors.
#[derive(Args)]
pub struct Flags {
    /// A plan, an .onnx file, or a folder with model.onnx
    model: PathBuf,
    #[command(flatten)]
    inputs: InputFlags,
    /// Writes output_0.npy and so on into this folder, and outputs.json with names, types and shapes
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Compares the results with output_0.npy or output_0.pb and so on of this folder; exit code 1 when they differ
    #[arg(long, value_name = "DIR")]
    expect: Option<PathBuf>,
    /// Relative difference that --expect allows
    #[arg(long, value_name = "X", default_value_t = 1e-3, requires = "expect")]
    rtol: f64,
    /// Absolute difference that --expect allows
    #[arg(long, value_name = "X", default_value_t = 1e-3, requires = "expect")]
    atol: f64,
    /// Runs that are timed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Runs before those that are timed
    #[arg(long, value_name = "N", default_value_t = 0)]
    warmup: u32,
    /// Shows where the time goes, by operator and by node
    #[arg(long, conflicts_with = "supervise")]
    profile: bool,
    #[command(flatten)]
    on: RunFlags,
}

/// Runs the command.
pub fn main(flags: Flags) -> Result<(), Failure> {
    let started = Instant::now();
    let model = models::open(&flags.model, &CompileOptions { on: flags.on.on()?, ..CompileOptions::default() })?;
    let loading = started.elapsed();
    let given = inputs::gather(&model, &flags.inputs)?;
    let mut session = model.session(flags.on.threads);
    let mut out = io::stdout().lock();
    for (port, datum) in model.inputs().iter().zip(&given.data) {
        let made_up = given.made_up.iter().any(|n| **n == *port.name);
        writeln!(out, "in  {} {}{}", port.name, tensor_file::describe(datum), if made_up { " (random)" } else { "" })?;
    }
    let (results, times) = timed(&mut *session, &given.data, &flags)?;
    let (ports, memory) = (session.outputs(), session.memory_bytes() as u64);
    for (port, datum) in ports.iter().zip(&results) {
        writeln!(out, "out {} {}  {}", port.name, tensor_file::describe(datum), tensor_file::preview(datum))?;
    }
    if let Some(port) = overflowed(&model, &given.data, ports, &results) {
        eprintln!(
            "note: `{port}` has values that are not finite, though all inputs are finite; f16 ends at 65504: compile the model \
             with --compute bf16, or in f32"
        );
    }
    writeln!(out, "ready in {}", units::time(loading))?;
    show_times(&mut out, &times, memory)?;
    if flags.profile {
        show_profile(&mut out, session.profile())?;
    }
    if let Some(folder) = &flags.output_dir {
        save(folder, ports, &results)?;
    }
    match &flags.expect {
        Some(folder) => expect(&mut out, folder, ports, &results, &flags),
        None => Ok(()),
    }
}

/// The first result of a model in f16 that is not finite although everything that went in is.
fn overflowed<'p>(model: &Model, inputs: &[Datum], ports: &'p [Port], results: &[Datum]) -> Option<&'p str> {
    let floats = |t: &&Tensor| t.dtype().is_float();
    let tensors = |data: &Datum| data.as_tensor().filter(floats).and_then(|t| t.to_f64().ok());
    let finite = |data: &Datum| tensors(data).is_none_or(|values| values.iter().all(|v| v.is_finite()));
    let graph = &model.plan().entries[0].graph;
    let narrow = |v| graph.tensor_ty(v).is_some_and(|t| t.dtype == DType::F16);
    let in_f16 = graph.order().into_iter().any(|node| graph.op(node).is_some() && graph.results(node).any(narrow));
    if !in_f16 || !inputs.iter().all(finite) {
        return None;
    }
    ports.iter().zip(results).find(|(_, data)| !finite(data)).map(|(port, _)| &*port.name)
}

/// Runs as often as the flags say; gives the results of the last run.
fn timed(session: &mut dyn Session, inputs: &[Datum], flags: &Flags) -> Result<(Vec<Datum>, Vec<Duration>), Failure> {
    let rounds = flags.warmup.saturating_add(flags.repeat);
    let bar = progress::bar(rounds as usize);
    let (mut results, mut times) = (vec![], vec![]);
    for round in 0..rounds {
        if round == flags.warmup && flags.profile {
            session.set_profiling(true);
        }
        let started = Instant::now();
        let found = session.run(inputs).map_err(fastinference::Error::from)?;
        let elapsed = started.elapsed();
        if round >= flags.warmup {
            times.push(elapsed);
        }
        // Only the last results are kept: a clone makes the next run allocate.
        if round + 1 == rounds {
            results = found.to_vec();
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((results, times))
}

fn show_times(out: &mut dyn Write, times: &[Duration], memory: u64) -> io::Result<()> {
    let mut sorted = times.to_vec();
    sorted.sort();
    let memory = units::bytes(memory);
    let ms = units::milliseconds;
    match sorted[..] {
        [one] => writeln!(out, "time {:.3} ms, working memory {memory}", ms(one)),
        _ => {
            let (min, median, max) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
            let (min, median, max) = (ms(min), ms(median), ms(max));
            writeln!(
                out,
                "time of {} runs: min {min:.3} ms, median {median:.3} ms, max {max:.3} ms, working memory {memory}",
                times.len()
            )
        }
    }
}

#[derive(Default)]
struct Share {
    steps: usize,
    calls: u64,
    time: Duration,
}

fn show_profile(out: &mut dyn Write, mut steps: Vec<StepTime>) -> io::Result<()> {
    let total: Duration = steps.iter().map(|s| s.time).sum();
    let percent = |d: Duration| format!("{:.1} %", 100.0 * d.as_secs_f64() / total.as_secs_f64().max(1e-12));
    let mut by_op: BTreeMap<(&str, &str), Share> = BTreeMap::new();
    for s in &steps {
        let share = by_op.entry((s.step.op, s.step.kernel)).or_default();
        share.steps += 1;
        share.calls += s.calls;
        share.time += s.time;
    }
    let mut ops: Vec<_> = by_op.into_iter().collect();
    ops.sort_by(|a, b| b.1.time.cmp(&a.1.time).then(a.0.cmp(&b.0)));
    use Align::{Left, Right};
    let columns =
        [("op", Left), ("kernel", Left), ("steps", Right), ("calls", Right), ("time", Right), ("share", Right)];
    let mut table = Table::new(&columns);
    for ((op, kernel), s) in ops {
        let numbers = [s.steps.to_string(), s.calls.to_string(), units::time(s.time), percent(s.time)];
        table.row([op.to_string(), kernel.to_string()].into_iter().chain(numbers));
    }
    writeln!(out, "time by operator:")?;
    table.print(out)?;
    steps.sort_by(|a, b| b.time.cmp(&a.time).then(a.step.node.cmp(&b.step.node)));
    let columns = [
        ("node", Left),
        ("op", Left),
        ("kernel", Left),
        ("calls", Right),
        ("time", Right),
        ("share", Right),
        ("from", Left),
    ];
    let mut table = Table::new(&columns);
    for s in steps.iter().take(NODES_SHOWN) {
        let origin = s.step.origin.join(" + ");
        let words = [s.step.node.to_string(), s.step.op.to_string(), s.step.kernel.to_string()];
        table.row(words.into_iter().chain([s.calls.to_string(), units::time(s.time), percent(s.time), origin]));
    }
    writeln!(out, "time by node{}:", if steps.len() > NODES_SHOWN { ", the longest" } else { "" })?;
    table.print(out)
}

#[derive(Serialize)]
struct SavedOutput<'a> {
    name: &'a str,
    dtype: Option<&'static str>,
    shape: Option<&'a [usize]>,
    #[serde(rename = "type")]
    ty: String,
    file: String,
}

fn save(folder: &Path, ports: &[Port], results: &[Datum]) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|e| Failure::file(folder, e))?;
    let mut saved = vec![];
    for (i, (port, datum)) in ports.iter().zip(results).enumerate() {
        let tensor = datum.as_tensor();
        saved.push(SavedOutput {
            name: &port.name,
            dtype: tensor.map(|t| t.dtype().name()),
            shape: tensor.map(|t| t.dims()),
            ty: port.ty.to_string(),
            file: tensor_file::write(folder, &format!("output_{i}"), &port.name, datum)?,
        });
    }
    let text = serde_json::to_string_pretty(&saved).expect("plain data has a JSON form");
    tensor_file::write_file(&folder.join("outputs.json"), text.as_bytes())
}

fn expect(out: &mut dyn Write, folder: &Path, ports: &[Port], found: &[Datum], flags: &Flags) -> Result<(), Failure> {
    let allowed = Allowed { rtol: flags.rtol, atol: flags.atol, equal_nan: true };
    let mut wrong = vec![];
    for (i, (port, found)) in ports.iter().zip(found).enumerate() {
        let expected = inputs::numbered(folder, "output", i, &port.name, &port.ty)?;
        if let Err(difference) = cases::compare(found, &expected, allowed) {
            wrong.push(format!("output `{}`: {difference}", port.name));
        }
    }
    if wrong.is_empty() {
        writeln!(out, "as expected: {}", units::plural(ports.len(), "output"))?;
        return Ok(());
    }
    Err(Failure::work(wrong.join("\n")))
}
