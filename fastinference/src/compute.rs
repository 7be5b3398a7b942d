//! The type that a model computes in.

use crate::Error;
use ir::{DType, Graph};
use std::fmt;
use std::str::FromStr;

/// What activations, weights and caches become; sums are in f32 within a kernel, whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// What the model itself says, which must be f32.
    F32,
    /// IEEE binary16: 11 bits of precision up to 65504.
    F16,
    /// The upper half of f32: 8 bits of precision, the range of f32.
    BF16,
}

impl Compute {
    /// Every one of them.
    pub const ALL: [Compute; 3] = [Compute::F32, Compute::F16, Compute::BF16];

    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            Compute::F32 => DType::F32,
            Compute::F16 => DType::F16,
            Compute::BF16 => DType::BF16,
        }
    }

    /// The type that f32 is narrowed to, if it is.
    pub(crate) fn narrower(self) -> Option<DType> {
        Some(self.dtype()).filter(|d| *d != DType::F32)
    }

    /// Fails where f32 was asked of a model that says otherwise itself: nothing is widened.
    pub(crate) fn check(self, graph: &Graph) -> Result<(), Error> {
        if self.narrower().is_some() {
            return Ok(());
        }
        let half = |id: &ir::NodeId| {
            let narrow = |v: ir::Value| graph.tensor_ty(v).is_some_and(|t| matches!(t.dtype, DType::F16 | DType::BF16));
            graph.op(*id).is_some() && graph.results(*id).any(narrow)
        };
        let Some(id) = graph.order().into_iter().find(half) else { return Ok(()) };
        let node = graph.node(id);
        let found = node.facts.iter().filter_map(|f| f.ty.as_tensor()).map(|t| t.dtype.name()).next().unwrap_or("f16");
        let at = node.origin.first().unwrap_or(&node.names[0]).to_string();
        Err(Error::Narrow { at, found })
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype().name())
    }
}

impl FromStr for Compute {
    type Err = String;

    fn from_str(text: &str) -> Result<Compute, String> {
        Compute::ALL
            .into_iter()
            .find(|c| c.dtype().name() == text)
            .ok_or_else(|| "expected f32, f16 or bf16".to_string())
    }
}
