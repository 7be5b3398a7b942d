//! What a model means: graph, operators, types, symbolic dimensions, text form, verifier and reference evaluator.
//!
//! A [`graph::Graph`] holds typed values of [`ops::Op`]s; [`text`] prints and reads it; [`eval`] says what it computes.

pub mod attr;
pub mod dim;
pub mod dtype;
pub mod eval;
pub mod graph;
pub mod minifloat;
pub mod mmap;
pub mod ops;
pub mod scalar;
pub mod scalar_expr;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;

pub use dim::{Dim, Truth};
pub use dtype::DType;
pub use graph::{Graph, NodeId, Origin, Value};
pub use ops::{CoreOp, HostOp, Op};
pub use tensor::{Datum, Tensor};
pub use types::{Shape, TensorType, ValueType};
pub use verify::{Verified, verify};
