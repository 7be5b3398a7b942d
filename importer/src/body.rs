//! Bodies of `If`, `Loop`, `Scan` and `SequenceMap`: as closed graphs, or in place where a condition is known.

use std::sync::Arc;

use ir::graph::{Graph, Value};
use ir::types::ValueType;

use crate::error::ImportError;
use crate::import::{constants, nodes};
use crate::node::{NodeCx, NodeError};
use crate::proto;
use crate::scope::{Captures, Entry, Frame, Names, Outer, Place, Progress};

/// A body as a closed graph: its inputs are those of the ONNX body, then the captures.
pub(crate) struct Body {
    /// The body.
    pub graph: Arc<Graph>,
    /// Values of the surrounding graph for the inputs that stand for them.
    pub captures: Vec<Value>,
}

impl<'a> NodeCx<'a> {
    /// Imports the body in attribute `name` for inputs of the given types. May be called again with other types.
    pub fn body(&mut self, name: &str, inputs: &[ValueType]) -> Result<Body, NodeError> {
        let body = self.checked_body(name, inputs.len())?;
        let place = self.inner_place(name)?;
        let mut graph = self.graph.child(if body.name.is_empty() { name } else { &body.name });
        let (mut names, mut captures) = (Names::default(), Captures::default());
        for (input, ty) in body.inputs.iter().zip(inputs) {
            let v = graph.input(&input.name, ty.clone());
            names.set(&input.name, Entry::Value(v));
        }
        let (mut outer, progress) = self.split();
        let outer: &mut (dyn Outer + '_) = &mut outer;
        let mut frame = Frame {
            graph: &mut graph,
            names: &mut names,
            captures: &mut captures,
            outer: Some(outer),
            sees_outer: true,
        };
        let results = contents(body, &place, &mut frame, progress)?;
        for (output, v) in body.outputs.iter().zip(results) {
            graph.output(&output.name, v);
        }
        graph.remove_dead();
        self.graph.adopt_numbering(&graph);
        let captures = captures.pairs.into_iter().map(|(outside, _)| outside).collect();
        Ok(Body { graph: Arc::new(graph), captures })
    }

    /// Imports the body in attribute `name` into the graph itself, its inputs standing for the given values: its results.
    pub fn inline(&mut self, name: &str, inputs: &[Value]) -> Result<Vec<Value>, NodeError> {
        let body = self.checked_body(name, inputs.len())?;
        let place = self.inner_place(name)?;
        self.names.open();
        for (input, v) in body.inputs.iter().zip(inputs) {
            self.names.set(&input.name, Entry::Value(*v));
        }
        let (mut frame, progress) = self.split();
        let results = contents(body, &place, &mut frame, progress);
        self.names.close();
        results
    }

    fn checked_body(&self, name: &str, inputs: usize) -> Result<&'a proto::Graph, NodeError> {
        let body = self.attr_graph(name)?;
        match body.inputs.len() == inputs {
            true => Ok(body),
            false => {
                let found = body.inputs.len();
                Err(NodeError::Wrong(format!("the body `{name}` has {found} inputs, the node gives it {inputs}")))
            }
        }
    }

    fn inner_place(&self, name: &str) -> Result<Place<'a>, NodeError> {
        deeper(self.place, self.label, format!("{}/{name}/", self.label))
    }
}

/// The place inside a body or function of the node called `label`.
pub(crate) fn deeper<'a>(place: &Place<'a>, label: &str, prefix: String) -> Result<Place<'a>, NodeError> {
    if place.depth >= Place::MAX_DEPTH {
        let reason = format!("bodies and functions are nested more than {} deep", Place::MAX_DEPTH);
        return Err(NodeError::Fatal(Box::new(ImportError::Nesting { node: label.to_string(), reason })));
    }
    Ok(Place {
        functions: place.functions,
        folder: place.folder,
        ir_version: place.ir_version,
        opsets: place.opsets,
        attributes: place.attributes.clone(),
        prefix,
        depth: place.depth + 1,
        calls: place.calls.clone(),
    })
}

/// Imports what a body holds: its results.
fn contents(
    body: &proto::Graph,
    place: &Place<'_>,
    frame: &mut Frame<'_>,
    progress: &mut Progress,
) -> Result<Vec<Value>, NodeError> {
    let fatal = |error| NodeError::Fatal(Box::new(error));
    constants(body, place, frame, &|_| true).map_err(fatal)?;
    nodes(&body.nodes, place, frame, progress).map_err(fatal)?;
    let mut results = vec![];
    for output in &body.outputs {
        match frame.resolve(&output.name) {
            Some(Entry::Value(v)) => results.push(v),
            Some(Entry::Absent) => results.push(frame.graph.absent()),
            Some(Entry::Failed) => return Err(NodeError::Reported),
            None => {
                let reader = format!("the body `{}`", place.prefix.trim_end_matches('/'));
                return Err(fatal(ImportError::Undefined { reader, value: output.name.clone() }));
            }
        }
    }
    Ok(results)
}
