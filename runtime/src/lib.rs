//! Runs plans through traits: sessions, text, sampling.

pub mod backend;
pub mod decoder;
pub mod text;

pub use decoder::{DecodeError, Decoder};
pub use backend::{Backend, LoadError, Loaded, RunError, Session, StepKernel, StepTime};
