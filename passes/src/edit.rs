//! One rewrite in progress: what it made, so that it can be named, typed, and taken back.

use crate::pass::Miss;
use crate::pattern::Pattern;
use ir::graph::{Graph, NodeId, Origin, Value};
use ir::ops::{Constraint, Fact, Op, Operands};
use ir::{DType, Tensor, Truth, ValueType};
use std::cell::Cell;

/// A graph and the place in it that is being rewritten.
pub struct Edit<'g> {
    /// The graph.
    pub graph: &'g mut Graph,
    root: Value,
    origin: Origin,
    made: Vec<NodeId>,
}

impl<'g> Edit<'g> {
    /// A rewrite of `root`, whose replacement stands for the ONNX nodes of all `nodes`.
    pub fn new(graph: &'g mut Graph, root: Value, nodes: impl IntoIterator<Item = NodeId>) -> Edit<'g> {
        let mut origin = Origin::new();
        for node in nodes {
            for name in &graph.node(node).origin {
                if !origin.contains(name) {
                    origin.push(name.clone());
                }
            }
        }
        Edit { graph, root, origin, made: vec![] }
    }

    /// Adds an operator, named after the root. Refuses what does not type, or needs more assumptions than the model has.
    pub fn apply(&mut self, op: impl Into<Op>, operands: &[Value]) -> Result<Value, Miss> {
        let op = op.into();
        let next_late = Cell::new(u32::MAX / 2);
        let assumed = {
            let facts: Vec<&Fact> = operands.iter().map(|v| self.graph.fact(*v)).collect();
            let operands = Operands::new(&facts, &next_late);
            op.infer(&operands).map_err(|_| Miss::Refused("the operands do not fit the new operator"))?;
            operands.into_assumed()
        };
        if !assumed.iter().all(|c| follows(self.graph, c)) {
            return Err(Miss::Refused("the new operator would assume more about the shapes than the model does"));
        }
        let name = self.graph.name(self.root).clone();
        let value = self.graph.apply(op, operands, &name, &self.origin);
        let value = value.map_err(|_| Miss::Refused("the operands do not fit the new operator"))?;
        self.made.push(value.node);
        Ok(value)
    }

    /// [`Edit::apply`], unless the operator reads these operands already somewhere: then that value.
    pub fn reuse(&mut self, op: impl Into<Op>, operands: &[Value]) -> Result<Value, Miss> {
        let op = op.into();
        let same = |n: &NodeId| self.graph.op(*n) == Some(&op) && self.graph.operands(*n).as_slice() == operands;
        let found = operands.first().and_then(|v| self.graph.readers(*v).into_iter().map(|(n, _)| n).find(same));
        match found {
            Some(node) => Ok(node.into()),
            None => self.apply(op, operands),
        }
    }

    /// Adds a constant.
    pub fn constant(&mut self, tensor: Tensor) -> Value {
        let name = self.graph.name(self.root).clone();
        let value = self.graph.constant(&name, tensor);
        self.made.push(value.node);
        value
    }

    /// The replacement also stands for these nodes.
    pub fn covers(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            for name in self.graph.node(node).origin.clone() {
                if !self.origin.contains(&name) {
                    self.origin.push(name);
                }
            }
        }
    }

    /// Adds a constant without dimensions.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Value {
        let tensor = Tensor::from_f64(dtype, &[], &[value]).expect("one element fits");
        self.constant(tensor)
    }

    /// The element type of a tensor value.
    pub fn dtype(&self, v: Value) -> Option<DType> {
        Some(self.graph.tensor_ty(v)?.dtype)
    }

    /// The rank of a tensor value, when it is known.
    pub fn rank(&self, v: Value) -> Option<usize> {
        Some(self.graph.tensor_ty(v)?.dims()?.len())
    }

    /// Whether `v` is the root of `pattern` with `name` standing for `value`.
    pub fn is(&self, v: Value, pattern: &str, name: &str, value: Value) -> bool {
        Pattern::new(pattern).matches(self.graph, v).is_some_and(|m| m[name] == value)
    }

    /// Fails with `reason` unless `holds`.
    pub fn require(&self, holds: bool, reason: &'static str) -> Result<(), Miss> {
        if holds { Ok(()) } else { Err(Miss::Refused(reason)) }
    }

    /// Gives `new` the root's name and type and makes every reader of the root read it.
    pub(crate) fn settle(&mut self, new: Value) -> Result<Value, Miss> {
        if new == self.root {
            return Err(Miss::NoEffect);
        }
        let (old_fact, fact) = (self.graph.fact(self.root).clone(), self.graph.fact(new).clone());
        let made = self.made.contains(&new.node);
        let fits = if made { old_fact.ty.compatible(&fact.ty) } else { surely_same(&old_fact.ty, &fact.ty) };
        if !fits {
            return Err(Miss::Refused("the replacement is not surely of the same type"));
        }
        if made {
            self.graph.take_name(self.root, new);
        } else {
            let origin = self.origin.clone();
            self.graph.extend_origin(new.node, &origin);
        }
        let ty = if made { old_fact.ty } else { fact.ty };
        let elements = fact.elements.or(old_fact.elements);
        self.graph.refine(new, Fact { ty, elements, constant: fact.constant });
        self.graph.replace(self.root, new);
        Ok(new)
    }

    /// [`Edit::settle`] for an operator with several results, whose other results take the places of the root's.
    pub(crate) fn settle_all(&mut self, new: Value) -> Result<Value, Miss> {
        let olds: Vec<Value> = self.graph.results(self.root.node).collect();
        self.settle_each(new, &olds)
    }

    /// [`Edit::settle`] for an operator whose results take the places of `olds`, of which the root is the first.
    pub(crate) fn settle_each(&mut self, new: Value, olds: &[Value]) -> Result<Value, Miss> {
        let others: Vec<(Value, Value)> = olds.iter().copied().zip(self.graph.results(new.node)).skip(1).collect();
        let fits = |(old, new): &(Value, Value)| self.graph.ty(*old).compatible(self.graph.ty(*new));
        if !others.iter().all(fits) {
            return Err(Miss::Refused("the replacement is not surely of the same type"));
        }
        let new = self.settle(new)?;
        for (old, new) in others {
            let old_fact = self.graph.fact(old).clone();
            self.graph.take_name(old, new);
            self.graph.refine(new, old_fact);
            self.graph.replace(old, new);
        }
        Ok(new)
    }

    /// The nodes that were made, in order.
    pub(crate) fn finish(self) -> Vec<NodeId> {
        self.made
    }

    /// Removes what was made.
    pub(crate) fn abandon(self) {
        for node in self.made.into_iter().rev() {
            if self.graph.contains(node) {
                self.graph.prune(node);
            }
        }
    }
}

/// Whether two types are equal for every binding.
fn surely_same(a: &ValueType, b: &ValueType) -> bool {
    match (a, b) {
        (ValueType::Tensor(a), ValueType::Tensor(b)) => {
            a == b || a.dtype == b.dtype && a.shape.same(&b.shape) == Truth::Yes
        }
        (a, b) => a == b,
    }
}

/// Whether a chain of the model's own equations leads from one side to the other: what one reshape and the next assume is
/// enough for both at once.
fn follows(graph: &Graph, c: &Constraint) -> bool {
    let mut equal = vec![&c.left];
    let mut at = 0;
    while at < equal.len() {
        let from = equal[at];
        for known in &graph.constraints {
            for (a, b) in [(&known.left, &known.right), (&known.right, &known.left)] {
                if a == from && !equal.contains(&b) {
                    equal.push(b);
                }
            }
        }
        at += 1;
    }
    equal.contains(&&c.right)
}
