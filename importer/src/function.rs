//! Functions that a model defines: each call is replaced by the function's nodes.

use std::collections::HashMap;

use ir::graph::Value;

use crate::attribute::attribute;
use crate::body::deeper;
use crate::error::ImportError;
use crate::import::nodes;
use crate::node::{NodeCx, NodeError, ops_domain};
use crate::proto::{AttrValue, Function};
use crate::scope::{Entry, Frame, Names, Outer};

impl<'a> NodeCx<'a> {
    /// Imports the nodes of `function` for this call: its results.
    pub(crate) fn expand(&mut self, function: &'a Function, operands: &[Entry]) -> Result<Vec<Value>, NodeError> {
        let key = (ops_domain(&function.domain), &*function.name, &*function.overload);
        if self.place.calls.contains(&key) {
            let reason = format!("the function `{}` calls itself", function.name);
            let node = self.label.to_string();
            return Err(NodeError::Fatal(Box::new(ImportError::Nesting { node, reason })));
        }
        if operands.len() > function.inputs.len() {
            let (most, found) = (function.inputs.len(), operands.len());
            return Err(NodeError::Wrong(format!("the function takes {most} operands, the node gives it {found}")));
        }
        let mut place = deeper(self.place, self.label, format!("{}/", self.label))?;
        place.calls.push(key);
        place.attributes = self.call_attributes(function);
        if !function.opset_imports.is_empty() {
            place.opsets = &function.opset_imports;
        }
        let mut names = Names::default();
        for (i, name) in function.inputs.iter().enumerate() {
            names.set(name, operands.get(i).cloned().unwrap_or(Entry::Absent));
        }
        let (outside, progress) = self.split();
        let mut frame = Frame { names: &mut names, sees_outer: false, ..outside };
        nodes(&function.nodes, &place, &mut frame, progress).map_err(|e| NodeError::Fatal(Box::new(e)))?;
        let mut results = vec![];
        for name in &function.outputs {
            match frame.resolve(name) {
                Some(Entry::Value(v)) => results.push(v),
                Some(Entry::Absent) => results.push(frame.graph.absent()),
                Some(Entry::Failed) => return Err(NodeError::Reported),
                None => {
                    let (reader, value) = (format!("the function `{}`", function.name), name.clone());
                    return Err(NodeError::Fatal(Box::new(ImportError::Undefined { reader, value })));
                }
            }
        }
        Ok(results)
    }

    /// The values of the function's attributes: those of the node, else the defaults.
    fn call_attributes(&self, function: &'a Function) -> HashMap<&'a str, &'a AttrValue> {
        let defaults = function.attribute_defaults.iter().map(|a| (&*a.name, &a.value));
        let mut values: HashMap<&str, &AttrValue> = defaults.collect();
        let given = self.node.attributes.iter();
        values.extend(given.filter_map(|a| Some((&*a.name, attribute(self.place, self.node, &a.name)?))));
        values
    }
}
