//! `conformance`: runs folders of ONNX test cases and counts what passes.
//!
//! Every case runs on its own thread, where a panic is caught and a time limit holds. Known gaps are listed in a file with their
//! reasons; a listed case that passes fails the run, so that the list stays true. Random results that are not the expected ones
//! are held to their shape and element type; such cases are counted.

mod case;
mod known;
mod meta;

use crate::failure::Failure;
use crate::progress;
use case::{Outcome, Verdict};
use clap::Args;
use fastinference::Device;
use fastinference::cases::{self, Allowed};
use known::Known;
use meta::Tolerances;
use serde::Serialize;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Runs folders of ONNX test cases.
#[derive(Args)]
pub struct Flags {
    /// Folders to search for cases (model.onnx beside test_data_set_0)
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Only cases whose name contains this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Relative difference allowed where neither case.json nor meta.csv says
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    rtol: f64,
    /// Absolute difference allowed where neither case.json nor meta.csv says
    #[arg(long, value_name = "X", default_value_t = 1e-7)]
    atol: f64,
    /// Where to run: `auto`, `cpu`, or `reference` for the reference evaluation of the imported graph
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: CaseDevice,
    /// The same as `--device reference`
    #[arg(long, conflicts_with = "device")]
    reference: bool,
    /// Cases to run at once; 0 means one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// Threads for each case
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Seconds that a case may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    time_limit: u64,
    /// A file of known gaps, one `NAME: REASON` a line; a listed case that passes fails the run. May be given several times
    #[arg(long, value_name = "FILE")]
    known: Vec<PathBuf>,
    /// Prints one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// What runs a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseDevice {
    /// A device that runs plans.
    Plan(Device),
    /// The reference evaluation.
    Reference,
}

impl FromStr for CaseDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<CaseDevice, String> {
        match text {
            "reference" => Ok(CaseDevice::Reference),
            _ => text.parse().map(CaseDevice::Plan).map_err(|e| format!("{e} (or `reference`)")),
        }
    }
}

/// What became of a case.
#[derive(Serialize)]
struct CaseResult<'a> {
    name: &'a str,
    verdict: Verdict,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<&'a str>,
    milliseconds: f64,
}

#[derive(Serialize, Default)]
struct Totals {
    passed: usize,
    failed: usize,
    unsupported: usize,
    skipped: usize,
    /// Failed and unsupported cases that are listed, counted nowhere else.
    known_gaps: usize,
    /// How many of the passed cases gave other random numbers than expected.
    by_shape: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { passed, failed, unsupported, skipped, known_gaps, by_shape } = self;
        write!(f, "{passed} passed, {failed} failed, {unsupported} unsupported, {skipped} skipped")?;
        if *known_gaps > 0 {
            write!(f, ", {}", crate::units::plural(*known_gaps, "known gap"))?;
        }
        if *by_shape > 0 {
            write!(f, " ({by_shape} passed by shape and element type: their results are random)")?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Object<'a> {
    #[serde(flatten)]
    totals: &'a Totals,
    /// Known gaps that pass now.
    unexpectedly_passed: &'a [&'a str],
    cases: Vec<CaseResult<'a>>,
}

/// A case that was run.
struct Done {
    name: String,
    outcome: Outcome,
    elapsed: Duration,
}

/// Runs the command.
pub fn main(flags: Flags) -> Result<(), Failure> {
    let known = Known::read(&flags.known)?;
    let found = find(&flags)?;
    if found.is_empty() {
        return Err(Failure::work("there are no test cases in the folders given")
            .with_help("a case is a folder that holds model.onnx and test_data_set_0"));
    }
    case::keep_panics_quiet();
    let done = run_all(&found, &flags);
    report(&done, &known, &flags)
}

/// A case to run.
pub struct Found {
    /// Its path below the folder given, or its own name.
    pub name: String,
    /// Where it is.
    pub folder: PathBuf,
    /// Tolerance where its case.json does not say.
    pub allowed: Allowed,
}

fn find(flags: &Flags) -> Result<Vec<Found>, Failure> {
    let default = Allowed { rtol: flags.rtol, atol: flags.atol, equal_nan: true };
    let mut found = vec![];
    for root in &flags.folders {
        let tolerances = Tolerances::of(root, default)?;
        for folder in cases::find(root)? {
            let below = folder.strip_prefix(root).unwrap_or(&folder);
            let own = folder.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
            let name = match below.to_string_lossy() {
                below if below.is_empty() => own.clone().unwrap_or_else(|| folder.display().to_string()),
                below => below.replace('\\', "/"),
            };
            if flags.filter.as_ref().is_none_or(|text| name.contains(text.as_str())) {
                let allowed = tolerances.of_case(&own.unwrap_or_default());
                found.push(Found { name, folder, allowed });
            }
        }
    }
    Ok(found)
}

fn run_all(found: &[Found], flags: &Flags) -> Vec<Done> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = if flags.jobs == 0 { cores } else { flags.jobs };
    let device = if flags.reference { CaseDevice::Reference } else { flags.device };
    let limit = Duration::from_secs(flags.time_limit);
    let bar = progress::bar(found.len());
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    let mut done: Vec<(usize, Done)> = std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (next, send) = (&next, send.clone());
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = found.get(i) else { return };
                    let (outcome, elapsed) = case::run_limited(case, device, flags.threads, limit);
                    if send.send((i, Done { name: case.name.clone(), outcome, elapsed })).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let counted = receive.iter().inspect(|(_, done)| {
            bar.set_message(done.name.clone());
            bar.inc(1);
        });
        counted.collect()
    });
    bar.finish_and_clear();
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, done)| done).collect()
}

fn report(done: &[Done], known: &Known, flags: &Flags) -> Result<(), Failure> {
    let mut totals = Totals::default();
    let mut surprises = vec![];
    for d in done {
        let listed = known.reason(&d.name).is_some();
        match d.outcome.verdict {
            Verdict::Passed => {
                totals.passed += 1;
                totals.by_shape += usize::from(d.outcome.by_shape);
                if listed {
                    surprises.push(d.name.as_str());
                }
            }
            Verdict::Failed | Verdict::Unsupported if listed => totals.known_gaps += 1,
            Verdict::Failed => totals.failed += 1,
            Verdict::Unsupported => totals.unsupported += 1,
            Verdict::Skipped => totals.skipped += 1,
        }
    }
    let mut out = io::stdout().lock();
    if flags.json {
        let cases = done.iter().map(|d| CaseResult {
            name: &d.name,
            verdict: d.outcome.verdict,
            reason: &d.outcome.reason,
            known: known.reason(&d.name),
            milliseconds: crate::units::milliseconds(d.elapsed),
        });
        let object = Object { totals: &totals, unexpectedly_passed: &surprises, cases: cases.collect() };
        writeln!(out, "{}", serde_json::to_string_pretty(&object).expect("plain data has a JSON form"))?;
    } else {
        for d in done.iter().filter(|d| d.outcome.verdict != Verdict::Passed) {
            let known = known.reason(&d.name).map_or_else(String::new, |why| format!(" [known: {why}]"));
            writeln!(out, "{} {}: {}{known}", d.outcome.verdict.word(), d.name, d.outcome.reason.replace('\n', "; "))?;
        }
        surprises.iter().try_for_each(|name| writeln!(out, "passes {name}, though it is listed as a known gap"))?;
        writeln!(out, "{totals}")?;
    }
    // Without a list nobody says which operators should be there.
    let wrong = totals.failed + if flags.known.is_empty() { 0 } else { totals.unsupported };
    match (wrong, surprises.len()) {
        (0, 0) => Ok(()),
        (0, n) => Err(Failure::work(format!("{} passed", crate::units::plural(n, "known gap")))
            .with_help("remove them from the list of known gaps")),
        (n, _) if !flags.known.is_empty() => {
            Err(Failure::work(format!("{} did not pass and no known gap", crate::units::plural(n, "case"))))
        }
        (n, _) => Err(Failure::work(format!("{} failed", crate::units::plural(n, "case")))),
    }
}
