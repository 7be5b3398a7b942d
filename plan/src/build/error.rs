//! Why there is no plan.

use ir::graph::Origin;
use ir::verify::VerifyError;
use ir::{Graph, NodeId};
use std::fmt;
use std::sync::Arc;

/// A node that a target cannot compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerError {
    /// First result of the node.
    pub node: Arc<str>,
    /// The operator.
    pub op: String,
    /// ONNX nodes that it stands for.
    pub origin: Origin,
    /// Why not.
    pub reason: String,
}

impl LowerError {
    /// The error for a node of `graph`.
    pub fn new(graph: &Graph, node: NodeId, reason: impl Into<String>) -> LowerError {
        let at = graph.node(node);
        let op = at.op().map_or("", |op| op.name()).to_string();
        LowerError { node: at.names[0].clone(), op, origin: at.origin.clone(), reason: reason.into() }
    }
}

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({}", self.node, self.op)?;
        if !self.origin.is_empty() {
            write!(f, ", from {}", self.origin.join(" + "))?;
        }
        write!(f, "): {}", self.reason)
    }
}

impl std::error::Error for LowerError {}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A node cannot be computed by the target.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The body of a node is not a valid graph.
    #[error("the body `{body}`: {source}")]
    Body {
        /// Its key.
        body: String,
        /// What is wrong with it.
        source: VerifyError,
    },
}
