//! Runs plans through traits: sessions, text, sampling.

pub mod backend;
pub mod decoder;
pub mod host;
pub mod slots;
pub mod text;

pub use backend::{Backend, LoadError, Loaded, RunError, Session, StepKernel, StepTime};
pub use decoder::{DecodeError, Decoder};
pub use host::{HostExecutor, HostWorker};
pub use slots::{Batch, Part, SlotOptions, Slots, StepError, StepModel};
