//! What a backend is to the rest: it lowers graphs, loads checked plans, and opens sessions on them.

use crate::slots::{Batch, SlotOptions, Slots, StepError};
use ir::Datum;
use ir::eval::GraphError;
use ir::graph::Origin;
use ir::ops::EvalError;
use ir::tensor::Aligned;
use plan::{CheckedPlan, Port, Target, Weights};
use std::sync::Arc;
use std::time::Duration;

/// A device kind that can run plans.
pub trait Backend: Target + Send + Sync {
    /// Prepares a plan for running: kernels are chosen, weights are brought where they are needed.
    fn load(&self, plan: Arc<CheckedPlan>, weights: Weights) -> Result<Box<dyn Loaded>, LoadError>;
}

/// What every backend asks first of a plan that it loads: that it was made for `target`, and that its weights are there and of their
/// sizes.
pub fn fits(target: &str, plan: &CheckedPlan, weights: &Weights) -> Result<(), LoadError> {
    if plan.target != target {
        return Err(LoadError::Target { expected: target.to_string(), found: plan.target.clone() });
    }
    for (name, info) in &plan.weights {
        let fail = |reason: String| LoadError::Weight { name: name.clone(), reason };
        let weight = weights.get(name).ok_or_else(|| fail("it is not among the weights given".into()))?;
        let needed = info.layout.bytes(info.dtype, &info.dims);
        if info.dtype != ir::DType::Str && needed != Some(weight.bytes().len()) {
            return Err(fail(format!("it has {} bytes, its type needs {needed:?}", weight.bytes().len())));
        }
    }
    Ok(())
}

/// A plan that is ready to run; any number of sessions share it.
pub trait Loaded: Send + Sync {
    /// The plan.
    fn plan(&self) -> &CheckedPlan;
    /// Opens a session with `threads` threads (0: all of the machine).
    fn session(&self, threads: usize) -> Box<dyn Session>;
    /// Steps by the kernel that runs them, of `main` and its bodies: (ONNX origin, operator, kernel).
    fn kernels(&self) -> Vec<StepKernel>;
}

/// Which kernel runs a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepKernel {
    /// First result of the node.
    pub node: Arc<str>,
    /// ONNX nodes it stands for.
    pub origin: Origin,
    /// Operator.
    pub op: &'static str,
    /// Kernel; `reference` when the operator's reference evaluation runs.
    pub kernel: &'static str,
}

/// Runs one plan, one call at a time. Many sessions of one plan may run on different threads.
pub trait Session: Send {
    /// The inputs of `main`, in order.
    fn inputs(&self) -> &[Port];
    /// The outputs of `main`, in order.
    fn outputs(&self) -> &[Port];
    /// Runs `main`. The results stay valid until the next call; cloning one keeps it (and then the next call allocates a
    /// new one). With shapes seen before and plannable types, a call allocates nothing.
    fn run(&mut self, inputs: &[Datum]) -> Result<&[Datum], RunError>;
    /// Makes room for sequences, all empty, and forgets those that there were. Fails when the plan has no entry `step`, or when the
    /// caches would be too large.
    fn open_slots(&mut self, _options: SlotOptions) -> Result<(), StepError> {
        Err(StepError::NoStep)
    }
    /// The sequences; `None` before [`Session::open_slots`].
    fn slots(&self) -> Option<&Slots> {
        None
    }
    /// Runs `step`: appends tokens to the sequences of a batch, and returns the logits `[B, V]` after the last token of each, in the
    /// batch's order. They stay valid until the next call. With shapes seen in the call before and no growth, nothing is allocated.
    fn step(&mut self, _batch: &Batch) -> Result<&Datum, StepError> {
        Err(StepError::NoStep)
    }
    /// Keeps the first `len` tokens of a slot's sequence, all where it has fewer; 0 empties the slot.
    fn truncate(&mut self, _slot: u32, _len: usize) -> Result<(), StepError> {
        Err(StepError::NoStep)
    }
    /// Gives the session memory for an output (its number in order). Runs write the output there and return a tensor that lies
    /// in it, until [`Session::take_output`]. A run fails when the memory is too short, or a result in it is still held.
    ///
    /// Fails when the size of the output depends on data, or the device cannot write to memory of the caller's.
    fn bind_output(&mut self, output: usize, _memory: Aligned) -> Result<(), RunError> {
        let reason = "this device cannot write to memory of the caller's".to_string();
        Err(RunError::Output { name: output.to_string().into(), reason })
    }
    /// Takes back the memory that was bound to an output; the results of the last run are no longer valid. Fails when none is
    /// bound, or a clone of a result in it is still held.
    fn take_output(&mut self, output: usize) -> Result<Aligned, RunError> {
        let reason = "no memory is bound to it".to_string();
        Err(RunError::Output { name: output.to_string().into(), reason })
    }
    /// Turns measuring of every step on or off, and clears what was measured.
    fn set_profiling(&mut self, on: bool);
    /// What was measured: per step of `main`, `step` and their bodies, the number of calls and their time.
    fn profile(&self) -> Vec<StepTime>;
    /// Bytes of working memory that the session holds now.
    fn memory_bytes(&self) -> usize;
}

/// Time spent in a step.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// Which step.
    pub step: StepKernel,
    /// How often it ran.
    pub calls: u64,
    /// Time of all calls.
    pub time: Duration,
}

/// Why a plan could not be loaded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LoadError {
    /// A weight that the plan names is not there, or not of its size.
    #[error("weight `{name}`: {reason}")]
    Weight {
        /// The weight.
        name: Arc<str>,
        /// What is wrong with it.
        reason: String,
    },
    /// The plan was made for something else.
    #[error("the plan was made for `{found}`, not for `{expected}`: compile the model again")]
    Target {
        /// This backend.
        expected: String,
        /// The plan's target.
        found: String,
    },
    /// The device is not there, or failed.
    #[error("the device: {0}")]
    Device(String),
    /// A step that this backend cannot run.
    #[error("step `{node}`: {reason}")]
    Step {
        /// First result of its node.
        node: Arc<str>,
        /// What is wrong.
        reason: String,
    },
}

/// Why a run failed. Nothing of the session is lost; the next run may succeed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// The inputs do not fit the plan.
    #[error(transparent)]
    Inputs(#[from] GraphError),
    /// A node failed.
    #[error("`{node}` ({op}{}): {source}", from(origin))]
    Node {
        /// First result of the node.
        node: Arc<str>,
        /// Operator.
        op: &'static str,
        /// ONNX nodes it stands for.
        origin: Origin,
        /// What went wrong.
        source: EvalError,
    },
    /// An output cannot be written to the memory bound to it.
    #[error("output `{name}`: {reason}")]
    Output {
        /// The output.
        name: Arc<str>,
        /// Why not.
        reason: String,
    },
    /// The device failed, or cannot run a node with these sizes.
    #[error("the device, at `{node}`: {reason}")]
    Device {
        /// First result of the node that it was at.
        node: Arc<str>,
        /// What went wrong.
        reason: String,
    },
    /// The process that runs the device died, or did not answer in time. The next run gets a new one.
    #[error("the worker failed{}: {reason}", at(node))]
    Worker {
        /// First result of the last node that it gave to the device.
        node: Option<Arc<str>>,
        /// What became of it.
        reason: String,
    },
    /// What the process that runs the device reports.
    #[error("{0}")]
    Reported(String),
    /// A size that this binding of the symbols gives cannot be had.
    #[error("working memory for these input sizes: {0}")]
    Memory(String),
}

fn at(node: &Option<Arc<str>>) -> String {
    node.as_ref().map_or(String::new(), |node| format!(" at or before `{node}`"))
}

fn from(origin: &Origin) -> String {
    match &origin[..] {
        [] => String::new(),
        names => format!(", from {}", names.join(" + ")),
    }
}
