//! Which names mean which values while a graph is imported.
//!
//! A body of `If`, `Loop` or `Scan` becomes a closed graph: a name of the surroundings that it mentions becomes a further
//! input of the body (a capture), and constants above [`SMALL`] elements move to the outermost graph, so that no body
//! owns a weight.

use std::collections::HashMap;
use std::sync::Arc;

use ir::graph::{Graph, Value};
use ir::ops::Fact;
use ir::tensor::Tensor;

use crate::error::{Failure, Failures, ImportError};
use crate::external::Folder;
use crate::node::NodeError;
use crate::proto::{AttrValue, Function};

/// Constants of at most this many elements are copied into the bodies that use them.
pub(crate) const SMALL: usize = 16;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// A value of the graph.
    Value(Value),
    /// An operand that the caller of a function left out.
    Absent,
    /// The result of a node that could not be imported; its readers are not looked at.
    Failed,
}

/// The names in force.
#[derive(Default)]
pub(crate) struct Names {
    map: HashMap<Arc<str>, Entry>,
    /// Per open block, what its names meant before.
    blocks: Vec<Vec<(Arc<str>, Option<Entry>)>>,
}

impl Names {
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.map.get(name)
    }

    pub fn set(&mut self, name: &str, entry: Entry) {
        let name: Arc<str> = name.into();
        let before = self.map.insert(name.clone(), entry);
        if let Some(block) = self.blocks.last_mut() {
            block.push((name, before));
        }
    }

    /// Until [`Names::close`], names that are set hide earlier ones.
    pub fn open(&mut self) {
        self.blocks.push(vec![]);
    }

    pub fn close(&mut self) {
        for (name, before) in self.blocks.pop().unwrap_or_default().into_iter().rev() {
            match before {
                Some(entry) => self.map.insert(name, entry),
                None => self.map.remove(&name),
            };
        }
    }
}

/// What the graph under construction takes from the one around it.
#[derive(Default)]
pub(crate) struct Captures {
    /// Value outside and the input that stands for it, in order.
    pub pairs: Vec<(Value, Value)>,
    /// Small constants that were copied: value outside and inside.
    copies: HashMap<Value, Value>,
    /// Data of the inputs that stand for constants.
    pub constants: HashMap<Value, Tensor>,
}

/// The surroundings of a body.
pub(crate) trait Outer {
    /// What a name means there.
    fn resolve(&mut self, name: &str) -> Option<Entry>;
    /// What is known of a value there, and its data if it is a constant.
    fn fact(&self, v: Value) -> (Fact, Option<Tensor>);
    /// A name for the input that captures a value.
    fn name(&self, v: Value) -> Arc<str>;
    /// Keeps a constant in the outermost graph; a value of this one.
    fn keep(&mut self, name: &str, tensor: &Tensor) -> Value;
}

/// A graph under construction, as its bodies see it.
pub(crate) struct Frame<'a> {
    pub graph: &'a mut Graph,
    pub names: &'a mut Names,
    pub captures: &'a mut Captures,
    pub outer: Option<&'a mut (dyn Outer + 'a)>,
    /// Whether names of the surroundings are visible; not inside a function.
    pub sees_outer: bool,
}

impl Frame<'_> {
    /// The input that stands for a value of the surroundings.
    fn capture(&mut self, outside: Value) -> Value {
        if let Some((_, inside)) = self.captures.pairs.iter().find(|(o, _)| *o == outside) {
            return *inside;
        }
        if let Some(inside) = self.captures.copies.get(&outside) {
            return *inside;
        }
        let outer = self.outer.as_deref_mut().expect("only bodies capture");
        let ((fact, data), name) = (outer.fact(outside), outer.name(outside));
        if let Some(small) = data.as_ref().filter(|t| t.len() <= SMALL) {
            let inside = self.graph.constant(&name, small.clone());
            self.captures.copies.insert(outside, inside);
            return inside;
        }
        let inside = self.graph.input(&name, fact.ty.clone());
        self.graph.refine(inside, Fact { ty: fact.ty, elements: fact.elements, constant: None });
        self.captures.pairs.push((outside, inside));
        if let Some(data) = data {
            self.captures.constants.insert(inside, data);
        }
        inside
    }
}

impl Outer for Frame<'_> {
    fn resolve(&mut self, name: &str) -> Option<Entry> {
        if let Some(entry) = self.names.get(name) {
            return Some(entry.clone());
        }
        if !self.sees_outer {
            return None;
        }
        match self.outer.as_deref_mut()?.resolve(name)? {
            entry @ (Entry::Failed | Entry::Absent) => Some(entry),
            Entry::Value(outside) => {
                let inside = Entry::Value(self.capture(outside));
                // Not through `set`: what a capture means does not end with a block.
                self.names.map.insert(name.into(), inside.clone());
                Some(inside)
            }
        }
    }

    fn fact(&self, v: Value) -> (Fact, Option<Tensor>) {
        let data = self.graph.constant_of(v).or_else(|| self.captures.constants.get(&v));
        (self.graph.fact(v).clone(), data.cloned())
    }

    fn name(&self, v: Value) -> Arc<str> {
        self.graph.name(v).clone()
    }

    fn keep(&mut self, name: &str, tensor: &Tensor) -> Value {
        match &mut self.outer {
            Some(outer) if tensor.len() > SMALL => {
                let outside = outer.keep(name, tensor);
                self.capture(outside)
            }
            _ => self.graph.constant(name, tensor.clone()),
        }
    }
}

/// The surroundings, borrowed for less long.
pub(crate) fn reborrow<'b>(outer: &'b mut Option<&mut (dyn Outer + '_)>) -> Option<&'b mut (dyn Outer + 'b)> {
    match outer {
        Some(outer) => Some(&mut **outer),
        None => None,
    }
}

/// What is the same for a whole list of nodes: the model, and the function or graph the nodes are in.
pub(crate) struct Place<'a> {
    pub functions: &'a HashMap<(&'a str, &'a str, &'a str), &'a Function>,
    pub folder: Option<&'a Folder>,
    pub ir_version: i64,
    /// Operator sets in force.
    pub opsets: &'a [(String, i64)],
    /// Attributes of the call, for nodes inside a function.
    pub attributes: HashMap<&'a str, &'a AttrValue>,
    /// Put before node names: who called.
    pub prefix: String,
    /// Functions and bodies around, for the limit on nesting.
    pub depth: usize,
    /// Functions that are being expanded.
    pub calls: Vec<(&'a str, &'a str, &'a str)>,
}

impl Place<'_> {
    pub const MAX_DEPTH: usize = 48;
}

/// Failures so far, and how many nodes were imported.
#[derive(Default)]
pub(crate) struct Progress {
    pub failures: Failures,
    pub nodes: usize,
    pub warnings: Vec<String>,
}

impl Progress {
    pub const MAX_NODES: usize = 400_000;

    /// Notes a failed node; an error that ends the import comes back.
    pub fn fail(&mut self, node: &str, op: &str, error: NodeError) -> Result<(), ImportError> {
        let failure = |reason| Failure { node: node.to_string(), op: op.to_string(), reason };
        let list = match &error {
            NodeError::Unsupported(_) => &mut self.failures.unsupported,
            _ => &mut self.failures.wrong,
        };
        let failure = match error {
            NodeError::Unsupported(reason) | NodeError::Wrong(reason) => failure(reason),
            NodeError::Reported => return Ok(()),
            NodeError::Fatal(error) => return Err(*error),
        };
        // Bodies may be imported several times.
        if !list.contains(&failure) {
            list.push(failure);
        }
        Ok(())
    }
}
