//! What is known of a value, and what typing took for granted.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};
use std::fmt;
use std::sync::Arc;

/// What is known of a value while the graph is built.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Its type.
    pub ty: ValueType,
    /// The elements of a small i64, i32 or bool tensor (at most [`Fact::MAX_ELEMENTS`]), as expressions over the symbols;
    /// truth values are the constants 0 and 1.
    pub elements: Option<Arc<[Dim]>>,
    /// Its data, when it is a constant.
    pub constant: Option<Tensor>,
}

impl Fact {
    /// Longer tensors are data, not shapes.
    pub const MAX_ELEMENTS: usize = 64;

    /// Only a type.
    pub fn of(ty: ValueType) -> Fact {
        Fact { ty, elements: None, constant: None }
    }

    /// A constant; small integer and bool tensors also give their elements.
    pub fn constant(t: Tensor) -> Fact {
        let ty = TensorType::new(t.dtype(), t.dims().iter().copied()).into();
        let small = t.len() <= Fact::MAX_ELEMENTS && matches!(t.dtype(), DType::I64 | DType::I32 | DType::Bool);
        let elements = small.then(|| t.to_i64().ok()).flatten();
        let elements = elements.map(|e| e.into_iter().map(Dim::constant).collect());
        Fact { ty, elements, constant: Some(t) }
    }
}

/// Something typing had to take for granted; a plan checks it when symbols are bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Constraint {
    /// One side of the equation.
    pub left: Dim,
    /// The other side.
    pub right: Dim,
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.left, self.right)
    }
}
