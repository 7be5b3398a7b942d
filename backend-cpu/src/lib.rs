//! The CPU backend: plans for the processor, and sessions that run them with SIMD kernels on all cores.
//!
//! [`Cpu`] plans (`target`) and loads; `program` holds what does not depend on sizes, `session` the working memory and
//! the loop over steps; `lower` chooses among the `kernels`. An operator without a kernel runs its reference evaluation.

mod arena;
mod control;
mod host;
mod kernel;
pub mod kernels;
mod loaded;
mod lower;
mod program;
mod session;
mod step;
mod target;

pub use target::Cpu;
