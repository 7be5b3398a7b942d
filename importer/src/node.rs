//! What a handler sees of the ONNX node it imports, and how it adds operators to the graph.
//!
//! A handler is registered for (domain, operator) in the table of its file in `ops/`. It reads operands and attributes,
//! pushes operators and returns one value per result:
//!
//! ```text
//! fn flatten(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
//!     let x = cx.input(0)?;
//!     let axis = cx.attr_i64("axis", 1)?;
//!     ...
//!     cx.one(Reshape { shape }, &[x])
//! }
//! ```
//!
//! Errors name what is wrong with the node; its name and operator are added by the caller.

use std::cell::Cell;
use std::sync::Arc;

use ir::dim::Dim;
use ir::dtype::DType;
use ir::graph::{Graph, NodeId, Origin, Value};
use ir::ops::{Fact, Op, Operands};
use ir::tensor::Tensor;
use ir::types::{TensorType, ValueType};

use crate::error::ImportError;
use crate::proto::{Function, Node};
use crate::scope::{Captures, Entry, Frame, Names, Outer, Place, Progress, reborrow};

/// Why a node cannot be imported.
#[derive(Debug)]
pub(crate) enum NodeError {
    /// The operator or this use of it is not supported.
    Unsupported(String),
    /// Operands, attributes or types contradict each other.
    Wrong(String),
    /// A node in its body failed, which has been noted.
    Reported,
    /// The import ends.
    Fatal(Box<ImportError>),
}

impl NodeError {
    pub fn wrong(reason: impl Into<String>) -> NodeError {
        NodeError::Wrong(reason.into())
    }

    pub fn unsupported(reason: impl Into<String>) -> NodeError {
        NodeError::Unsupported(reason.into())
    }
}

/// Imports one node: its results, at least as many as the node names.
pub(crate) type Handler = fn(&mut NodeCx<'_>) -> Result<Vec<Value>, NodeError>;

/// The ONNX node being imported.
pub(crate) struct NodeCx<'a> {
    /// The graph that operators are added to.
    pub graph: &'a mut Graph,
    pub(crate) node: &'a Node,
    pub(crate) place: &'a Place<'a>,
    pub(crate) names: &'a mut Names,
    pub(crate) captures: &'a mut Captures,
    pub(crate) outer: Option<&'a mut (dyn Outer + 'a)>,
    pub(crate) sees_outer: bool,
    pub(crate) progress: &'a mut Progress,
    pub(crate) inputs: Vec<Option<Value>>,
    /// The node's name with its callers', or `OpType#index`.
    pub(crate) label: &'a str,
    /// Values that this handler made and that have no ONNX name yet.
    pub(crate) made: Vec<Value>,
}

impl<'a> NodeCx<'a> {
    /// The version of the operator set that the node's domain is imported with.
    pub fn opset(&self) -> i64 {
        opset(self.place, &self.node.domain)
    }

    /// Operand `i`, which must be there.
    pub fn input(&self, i: usize) -> Result<Value, NodeError> {
        self.opt(i).ok_or_else(|| NodeError::Wrong(format!("operand {i} is missing")))
    }

    /// Operand `i`; `None` where it is left out.
    pub fn opt(&self, i: usize) -> Option<Value> {
        self.inputs.get(i).copied().flatten()
    }

    /// Operand `i`, or the value that stands for a left-out one.
    pub fn or_absent(&mut self, i: usize) -> Value {
        self.opt(i).unwrap_or_else(|| self.graph.absent())
    }

    /// All operands, none of which may be left out.
    pub fn inputs(&self) -> Result<Vec<Value>, NodeError> {
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }

    /// How many operands the node lists, left-out ones included.
    pub fn n_inputs(&self) -> usize {
        self.inputs.len()
    }

    /// How many results the node lists, unwanted ones included.
    pub fn n_outputs(&self) -> usize {
        self.node.outputs.len()
    }

    /// Whether the node names result `i`.
    pub fn wants(&self, i: usize) -> bool {
        self.node.outputs.get(i).is_some_and(|name| !name.is_empty())
    }

    /// The type of a value.
    pub fn ty(&self, v: Value) -> &ValueType {
        self.graph.ty(v)
    }

    /// The type of a value, which must be a tensor.
    pub fn tensor(&self, v: Value) -> Result<&TensorType, NodeError> {
        let found = self.graph.ty(v);
        found.as_tensor().ok_or_else(|| NodeError::Wrong(format!("`{}` is {found}, not a tensor", self.graph.name(v))))
    }

    /// The element type of a value, which must be a tensor.
    pub fn dtype(&self, v: Value) -> Result<DType, NodeError> {
        Ok(self.tensor(v)?.dtype)
    }

    /// The dimensions of a tensor; `None` where its rank is unknown.
    pub fn dims(&self, v: Value) -> Option<Vec<Dim>> {
        Some(self.graph.tensor_ty(v)?.dims()?.to_vec())
    }

    /// The rank of a tensor, if it is known.
    pub fn rank(&self, v: Value) -> Option<usize> {
        Some(self.graph.tensor_ty(v)?.dims()?.len())
    }

    /// The dimensions of a tensor; an unknown rank is not supported, because of `why`.
    pub fn known_dims(&self, v: Value, why: &str) -> Result<Vec<Dim>, NodeError> {
        self.dims(v).ok_or_else(|| NodeError::Unsupported(format!("the rank of its operand is unknown, but {why}")))
    }

    /// The elements of a small integer tensor as expressions, if they are known.
    pub fn elements(&self, v: Value) -> Option<Vec<Dim>> {
        self.graph.fact(v).elements.as_deref().map(<[Dim]>::to_vec)
    }

    /// The elements of a small integer tensor, if all are known numbers.
    pub fn numbers(&self, v: Value) -> Option<Vec<i64>> {
        self.graph.fact(v).elements.as_deref()?.iter().map(Dim::as_const).collect()
    }

    /// The data of a constant.
    pub fn constant(&self, v: Value) -> Option<Tensor> {
        self.graph.constant_of(v).or_else(|| self.captures.constants.get(&v)).cloned()
    }

    /// The only element of a constant as a number.
    pub fn constant_number(&self, v: Value) -> Option<f64> {
        let t = self.constant(v)?;
        if t.len() == 1 { t.to_f64().ok()?.first().copied() } else { None }
    }

    /// Adds an operator with one result.
    pub fn push(&mut self, op: impl Into<Op>, operands: &[Value]) -> Result<Value, NodeError> {
        Ok(self.add(op.into(), operands)?.into())
    }

    /// [`NodeCx::push`] as the node's only result.
    pub fn one(&mut self, op: impl Into<Op>, operands: &[Value]) -> Result<Vec<Value>, NodeError> {
        Ok(vec![self.push(op, operands)?])
    }

    /// Adds an operator with `n` results.
    pub fn push_n(&mut self, op: impl Into<Op>, operands: &[Value], n: usize) -> Result<Vec<Value>, NodeError> {
        let id = self.add(op.into(), operands)?;
        let results: Vec<Value> = self.graph.results(id).collect();
        match results.len() == n {
            true => Ok(results),
            false => Err(NodeError::Wrong(format!("it has {} results, the node lists {n}", results.len()))),
        }
    }

    /// Adds an operator with `n` results whose sizes are operands, as its core twin where those are known.
    pub fn fold(&mut self, op: impl Into<Op>, operands: &[Value], n: usize) -> Result<Vec<Value>, NodeError> {
        let op = op.into();
        let facts: Vec<&Fact> = operands.iter().map(|v| self.graph.fact(*v)).collect();
        let core = op.fold_shape(&Operands::new(&facts, &Cell::new(0)));
        match core {
            Some((core, kept)) => {
                let operands: Vec<Value> = kept.iter().map(|i| operands[*i]).collect();
                self.push_n(core, &operands, n)
            }
            None => self.push_n(op, operands, n),
        }
    }

    fn add(&mut self, op: Op, operands: &[Value]) -> Result<NodeId, NodeError> {
        let named = self.node.outputs.iter().find(|name| !name.is_empty());
        let hint = format!("{}.{}", named.map_or(self.label, |name| name), op.name());
        let origin: Origin = [Arc::from(self.label)].into_iter().collect();
        let name = op.name();
        match self.graph.push(op, operands, &[&hint], origin) {
            Ok(id) => {
                self.made.extend(self.graph.results(id));
                Ok(id)
            }
            Err(error) => {
                let found: Vec<String> =
                    operands.iter().map(|v| format!("`{}`: {}", self.graph.name(*v), self.graph.ty(*v))).collect();
                Err(NodeError::Wrong(format!("`{name}`: {error} (operands {})", found.join(", "))))
            }
        }
    }

    /// Adds a constant. In a body, constants of more than a few elements move to the outermost graph.
    pub fn add_constant(&mut self, tensor: Tensor) -> Value {
        let named = self.node.outputs.iter().find(|name| !name.is_empty());
        let hint = named.map_or_else(|| self.label.to_string(), |name| format!("{name}.const"));
        let value = self.frame().keep(&hint, &tensor);
        self.made.push(value);
        value
    }

    /// A scalar of i64.
    pub fn const_i64(&mut self, value: i64) -> Value {
        self.add_constant(Tensor::scalar(value))
    }

    /// A vector of i64.
    pub fn const_i64s(&mut self, values: &[i64]) -> Value {
        self.add_constant(Tensor::vector_i64(values))
    }

    /// A scalar of the element type of `v`.
    pub fn const_like(&mut self, v: Value, value: f64) -> Result<Value, NodeError> {
        let tensor = Tensor::from_f64(self.dtype(v)?, &[], &[value]).map_err(|e| NodeError::Wrong(e.to_string()))?;
        Ok(self.add_constant(tensor))
    }

    /// The error for a use of the operator that is not supported.
    pub fn unsupported<T>(&self, reason: impl Into<String>) -> Result<T, NodeError> {
        Err(NodeError::Unsupported(reason.into()))
    }

    /// The graph under construction as bodies see it.
    pub(crate) fn frame(&mut self) -> Frame<'_> {
        self.split().0
    }

    /// [`NodeCx::frame`], beside what else the import of inner nodes needs.
    pub(crate) fn split(&mut self) -> (Frame<'_>, &mut Progress) {
        let frame = Frame {
            graph: &mut *self.graph,
            names: &mut *self.names,
            captures: &mut *self.captures,
            outer: reborrow(&mut self.outer),
            sees_outer: self.sees_outer,
        };
        (frame, &mut *self.progress)
    }

    /// Gives results their ONNX names.
    pub(crate) fn bind(&mut self, results: &[Value]) -> Result<(), NodeError> {
        let node = self.node;
        for (i, name) in node.outputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let Some(v) = results.get(i).copied() else {
                return Err(NodeError::Unsupported(format!("result {i} (`{name}`) is not computed")));
            };
            if let Some(at) = self.made.iter().position(|made| *made == v) {
                self.made.swap_remove(at);
                self.graph.rename(v, &format!("{}{name}", self.place.prefix));
            }
            self.names.set(name, Entry::Value(v));
        }
        Ok(())
    }
}

/// The version that a domain is imported with. Files from before operator sets are version 1.
pub(crate) fn opset(place: &Place<'_>, domain: &str) -> i64 {
    let same = |d: &str| ops_domain(d) == ops_domain(domain);
    place.opsets.iter().filter(|(d, _)| same(d)).map(|(_, version)| *version).max().unwrap_or(1)
}

/// `ai.onnx` is another word for the empty domain.
pub(crate) fn ops_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// The function that a node calls, when the model defines one.
pub(crate) fn function<'a>(place: &Place<'a>, node: &Node) -> Option<&'a Function> {
    place.functions.get(&(ops_domain(&node.domain), &*node.op_type, &*node.overload)).copied()
}
