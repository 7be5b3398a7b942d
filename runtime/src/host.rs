//! The processor beside a device: runs the operators of a plan that have no device kernel.
//!
//! A backend with a device asks for a worker and hands it one step at a time; which backend stands behind it is its
//! creator's business, so no backend knows another.

use ir::ops::EvalError;
use ir::{Datum, Op};

/// Runs single operators on the processor.
pub trait HostExecutor: Send + Sync {
    /// A worker with so many threads (0: all of the machine); a session has one of its own.
    fn worker(&self, threads: usize) -> Box<dyn HostWorker>;
}

/// Runs one operator at a time.
pub trait HostWorker: Send {
    /// The results of an operator whose dimension expressions are numbers ([`Op::bind`]).
    fn run(&mut self, op: &Op, operands: &[Datum]) -> Result<Vec<Datum>, EvalError>;
}
