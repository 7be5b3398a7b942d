//! Reads ONNX files into graphs; the only room that knows ONNX.
//!
//! [`import`] reads a file, [`import_bytes`] a model in memory. Everything that a model needs and the importer lacks is
//! reported at once, grouped by operator: see [`Failures`].

mod attribute;
mod body;
pub mod datum;
pub mod encode;
mod error;
pub mod external;
mod function;
mod import;
mod node;
mod ops;
mod order;
pub mod proto;
mod scope;
pub mod tensor;
#[cfg(test)]
mod tests;
mod types;

pub use error::{Failure, Failures, ImportError};
pub use import::{Imported, Info, Options, import, import_bytes};
pub use ops::operators;
pub use types::dtype;
