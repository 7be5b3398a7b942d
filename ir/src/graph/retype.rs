//! Types that become more precise, and dimension expressions that are rewritten.

use super::late::late_number;
use super::{Graph, Kind, NodeId, Value};
use crate::dim::Dim;
use crate::ops::{Constraint, Fact, Operands, TypeError};
use crate::types::{Shape, ValueType};
use std::cell::Cell;
use std::sync::Arc;

impl Graph {
    /// Types a node anew from what is known of its operands now. What was known and is not derived again stays.
    ///
    /// Returns the late symbols that turned out to be expressions: whoever asked replaces them everywhere.
    pub fn retype(&mut self, id: NodeId) -> Result<Vec<(Arc<str>, Dim)>, TypeError> {
        let Some(op) = self.op(id) else { return Ok(vec![]) };
        let next_late = Cell::new(self.next_late);
        let (types, elements) = {
            let values = self.operands(id);
            let facts: Vec<&Fact> = values.iter().map(|v| self.fact(*v)).collect();
            let operands = Operands::new(&facts, &next_late);
            let types = op.infer(&operands)?;
            let elements = if types.len() == 1 { op.elements(&operands) } else { None };
            (types, elements.filter(|e| e.len() <= Fact::MAX_ELEMENTS))
        };
        let first_new = self.next_late;
        let is_new = |d: &Dim| d.symbols().iter().any(|s| late_number(s).is_some_and(|n| n >= first_new));
        let mut found = vec![];
        for (fact, new) in self.dag[id.0].facts.iter_mut().zip(types) {
            let (ValueType::Tensor(old), ValueType::Tensor(new)) = (&mut fact.ty, new) else { continue };
            let Shape::Ranked(dims) = new.shape else { continue };
            let Shape::Ranked(known) = &mut old.shape else {
                old.shape = Shape::Ranked(dims);
                self.next_late = next_late.get();
                continue;
            };
            for (known, d) in known.iter_mut().zip(dims) {
                let late = known.as_sym().filter(|s| late_number(s).is_some() && !is_new(&d) && d != *known);
                if let Some(late) = late {
                    found.push((late.into(), d.clone()));
                    *known = d;
                }
            }
        }
        if let (Some(elements), [fact]) = (elements, &mut self.dag[id.0].facts[..]) {
            fact.elements = Some(elements.into());
        }
        Ok(found)
    }

    /// Replaces what is known of a value by something more precise.
    pub fn refine(&mut self, v: Value, fact: Fact) {
        self.dag[v.node.0].facts[v.result as usize] = fact;
    }

    /// Rewrites the dimension expressions of one node: types, known elements and attributes.
    pub fn map_node_dims(&mut self, id: NodeId, f: &mut dyn FnMut(&Dim) -> Dim) {
        let node = &mut self.dag[id.0];
        if let Kind::Op(op) = &mut node.kind {
            op.map_dims(f);
        }
        let shared = std::cell::RefCell::new(&mut *f);
        for fact in &mut node.facts {
            fact.ty = fact.ty.map_dims(&|d| shared.borrow_mut()(d));
            fact.elements = fact.elements.take().map(|e| e.iter().map(|d| shared.borrow_mut()(d)).collect());
        }
    }

    /// Rewrites every dimension expression: types, known elements, constraints and attributes.
    pub fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        let ids: Vec<_> = self.dag.node_indices().collect();
        for id in ids {
            self.map_node_dims(NodeId(id), f);
        }
        let old = std::mem::take(&mut self.constraints);
        self.constraints = old
            .into_iter()
            .map(|c| Constraint { left: f(&c.left), right: f(&c.right) })
            .filter(|c| c.left != c.right)
            .collect();
    }
}
