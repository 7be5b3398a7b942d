//! Nodes, their results, and where they came from.

use super::NodeId;
use crate::ops::{Fact, Op};
use crate::tensor::Tensor;
use smallvec::SmallVec;
use std::sync::Arc;

/// One result of a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Value {
    /// The node.
    pub node: NodeId,
    /// Which of its results.
    pub result: u16,
}

impl From<NodeId> for Value {
    fn from(node: NodeId) -> Value {
        Value { node, result: 0 }
    }
}

/// Where a node came from: ONNX node names, several after a fusion.
pub type Origin = SmallVec<[Arc<str>; 1]>;

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A parameter of the graph.
    Input,
    /// A constant. Its data is missing when the graph was read from text without its weights.
    Weight(Option<Tensor>),
    /// The operand that was left out, printed `_`.
    Absent,
    /// An operator.
    Op(Op),
}

/// A node with its results.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// One unique name per result.
    pub names: SmallVec<[Arc<str>; 1]>,
    /// One fact per result.
    pub facts: SmallVec<[Fact; 1]>,
    /// ONNX nodes it stands for.
    pub origin: Origin,
    /// Creation order: the tie-break that keeps text output independent of slot reuse.
    pub(super) seq: u32,
}

impl Node {
    /// The operator, when it is one.
    pub fn op(&self) -> Option<&Op> {
        match &self.kind {
            Kind::Op(op) => Some(op),
            _ => None,
        }
    }
}

/// A result of the graph with the name its users know.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The ONNX output name.
    pub name: Arc<str>,
    /// What it shows.
    pub value: Value,
}
