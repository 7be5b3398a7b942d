//! Why an operator cannot be typed, and why it cannot be evaluated.

use crate::tensor::TensorError;

/// Why operands do not fit an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// Too few or too many operands.
    #[error("expected {expected} operands, found {found}")]
    Arity {
        /// How many are allowed, in words.
        expected: String,
        /// How many there are.
        found: usize,
    },
    /// One operand is wrong.
    #[error("operand {operand}: {reason}")]
    Operand {
        /// Its position.
        operand: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Attributes and operands together make no sense.
    #[error("{0}")]
    Invalid(String),
}

/// Why an operator could not compute its results from these values.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// The values break the operator's contract: an index out of range, lengths that do not match.
    #[error("{0}")]
    Invalid(String),
    /// A tensor could not be made or read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A dimension could not be computed.
    #[error(transparent)]
    Dim(#[from] crate::dim::DimError),
}
