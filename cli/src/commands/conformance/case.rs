//! One case: compiled, run on each of its data sets, compared.

use super::{CaseDevice, Found};
use crate::models;
use fastinference::cases::{self, Case};
use fastinference::importer::{self, ImportError};
use fastinference::ir::attr::Attr;
use fastinference::ir::ops::{HostOp, Op};
use fastinference::ir::{Graph, eval};
use fastinference::{CompileOptions, Datum, Error, Model, Session, ValueType};
use serde::Serialize;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Stack of a case's thread: models nest, and the thread is all that a hostile one may break.
const STACK: usize = 64 << 20;

/// The word for what became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every data set gave what was expected.
    Passed,
    /// A result is wrong, or there was none.
    Failed,
    /// The model needs an operator that the importer does not know.
    Unsupported,
    /// There is nothing to run, or the model trains, which is no part of inference.
    Skipped,
}

impl Verdict {
    /// The word in a line of output.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Unsupported => "unsupported",
            Verdict::Skipped => "skipped",
        }
    }
}

/// What became of a case, and why.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The word.
    pub verdict: Verdict,
    /// Empty when it passed.
    pub reason: String,
    /// Whether a random result was held to its shape and element type alone.
    pub by_shape: bool,
}

impl Outcome {
    fn new(verdict: Verdict, reason: impl ToString) -> Outcome {
        Outcome { verdict, reason: reason.to_string(), by_shape: false }
    }
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics of cases are results, not messages: they are remembered instead of printed.
pub fn keep_panics_quiet() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.with_borrow_mut(|text| *text = info.to_string().replace('\n', " "));
    }));
}

/// Runs a case on its own thread. A case that takes too long is left behind.
pub fn run_limited(case: &Found, device: CaseDevice, threads: usize, limit: Duration) -> (Outcome, Duration) {
    let started = Instant::now();
    let (send, receive) = mpsc::channel();
    let (folder, allowed) = (case.folder.clone(), case.allowed);
    let work = move || {
        let run = || run(folder, allowed, device, threads);
        let panicked = |_| Outcome::new(Verdict::Failed, format!("panic: {}", PANIC.with_borrow(String::clone)));
        // Nobody listens when the time is over.
        let _ = send.send(catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(panicked));
    };
    if let Err(error) = thread::Builder::new().stack_size(STACK).spawn(work) {
        return (Outcome::new(Verdict::Failed, format!("no thread: {error}")), started.elapsed());
    }
    let late = |_| Outcome::new(Verdict::Failed, format!("not done after {} s", limit.as_secs()));
    let outcome = receive.recv_timeout(limit).unwrap_or_else(late);
    (outcome, started.elapsed())
}

enum Runner {
    Plan { model: Model, session: Box<dyn Session> },
    Reference(Box<Graph>),
}

impl Runner {
    fn open(path: &std::path::Path, device: CaseDevice, threads: usize) -> Result<Runner, Error> {
        match device {
            CaseDevice::Reference => {
                Ok(Runner::Reference(Box::new(importer::import(path, &Default::default())?.graph)))
            }
            CaseDevice::Plan(device) => {
                let on = models::on(device);
                let options = CompileOptions { on, ..CompileOptions::default() };
                let model = Model::open(path, &options)?;
                let session = model.session(threads);
                Ok(Runner::Plan { model, session })
            }
        }
    }

    fn types(&self) -> (Vec<ValueType>, Vec<ValueType>) {
        match self {
            Runner::Plan { model, .. } => {
                let types = |ports: &[fastinference::Port]| ports.iter().map(|p| p.ty.clone()).collect();
                (types(model.inputs()), types(model.outputs()))
            }
            Runner::Reference(graph) => {
                let inputs = graph.inputs.iter().map(|id| graph.ty((*id).into()).clone()).collect();
                (inputs, graph.outputs.iter().map(|o| graph.ty(o.value).clone()).collect())
            }
        }
    }

    fn is_random(&self) -> bool {
        match self {
            Runner::Plan { model, .. } => model.plan().entries.iter().any(|e| draws(&e.graph)),
            Runner::Reference(graph) => draws(graph),
        }
    }

    fn run(&mut self, inputs: &[Datum]) -> Result<Vec<Datum>, String> {
        match self {
            Runner::Plan { session, .. } => Ok(session.run(inputs).map_err(|e| e.to_string())?.to_vec()),
            Runner::Reference(graph) => eval::run(graph, inputs).map_err(|e| e.to_string()),
        }
    }
}

fn run(folder: PathBuf, allowed: cases::Allowed, device: CaseDevice, threads: usize) -> Outcome {
    let case = match cases::read(&folder, allowed) {
        Ok(case) if case.sets.is_empty() => return Outcome::new(Verdict::Skipped, "there are no data sets"),
        Ok(case) => case,
        Err(error) => return Outcome::new(Verdict::Failed, error),
    };
    let mut runner = match Runner::open(&case.model, device, threads) {
        Ok(runner) => runner,
        Err(Error::Import(error)) if error.code() == "import::unsupported" => return unsupported(&error),
        Err(error) => return Outcome::new(Verdict::Failed, error),
    };
    match data_sets(&case, &mut runner) {
        Ok(by_shape) => Outcome { by_shape, ..Outcome::new(Verdict::Passed, "") },
        Err(reason) => Outcome::new(Verdict::Failed, reason),
    }
}

/// The domain of ONNX's operators for training.
const TRAINING: &str = "ai.onnx.preview.training.";

fn unsupported(error: &ImportError) -> Outcome {
    if let ImportError::Nodes(failures) = error
        && failures.unsupported.iter().all(|f| f.op.starts_with(TRAINING))
    {
        return Outcome::new(
            Verdict::Skipped,
            format!("training is no part of inference: {}", failures.unsupported[0].op),
        );
    }
    Outcome::new(Verdict::Unsupported, error)
}

/// Runs the data sets; true when a random result was held to its shape and element type alone.
fn data_sets(case: &Case, runner: &mut Runner) -> Result<bool, String> {
    let mut by_shape = false;
    let (inputs, outputs) = runner.types();
    let (inputs, outputs): (Vec<_>, Vec<_>) = (inputs.iter().collect(), outputs.iter().collect());
    for set in &case.sets {
        let at = |reason: String| format!("set {}: {reason}", set.index);
        let given = set.inputs(&inputs).map_err(|e| at(e.to_string()))?;
        let found = runner.run(&given);
        if case.expect_error.contains(&set.index) {
            match found {
                Ok(_) => return Err(at("it must fail, but gave results".into())),
                Err(_) => continue,
            }
        }
        let found = found.map_err(at)?;
        let expected = set.outputs(&outputs).map_err(|e| at(e.to_string()))?;
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            if let Err(difference) = cases::compare(found, expected, case.allowed) {
                // Nobody else draws the same numbers from a seed.
                by_shape |= runner.is_random() && cases::same_shape(found, expected);
                if !by_shape {
                    return Err(at(format!("output {i}: {difference}")));
                }
            }
        }
    }
    Ok(by_shape)
}

/// Whether something in the graph, or in a body of it, draws random numbers.
fn draws(graph: &Graph) -> bool {
    graph.order().into_iter().filter_map(|id| graph.op(id)).any(|op| {
        let random = matches!(op, Op::HostOp(HostOp::Random(_) | HostOp::Multinomial(_) | HostOp::Dropout(_)));
        random || op.attrs().values().any(|a| matches!(a, Attr::Graph(body) if draws(body)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastinference::ir::text;

    #[test]
    fn a_graph_is_random_when_a_body_of_it_is() {
        let text = "graph @g(%c: bool[], %x: f32[N]) { %z = if(%c, %x, %x) {then_branch = graph @a(%p: f32[N]) { %q = OP return %q }, else_branch = graph @b(%p: f32[N]) { return %p }} return %z }";
        let random = "random(%p) {f = uniform, a = 0, b = 1, seed = 7, dtype = f32}";
        assert!(draws(&text::parse(&text.replace("OP", random)).unwrap()));
        assert!(!draws(&text::parse(&text.replace("OP", "exp(%p)")).unwrap()));
    }
}
