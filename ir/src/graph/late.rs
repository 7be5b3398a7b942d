//! Symbols that are bound when a result exists: which nodes wait for them while the graph is ordered.

use super::{Kind, Node, NodeId};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Nodes whose attributes mention late symbols, while nothing has bound these.
#[derive(Default)]
pub(super) struct LateSymbols {
    bound: HashSet<Arc<str>>,
    parked: BTreeMap<Arc<str>, Vec<(u32, NodeId)>>,
    given_up: bool,
}

impl LateSymbols {
    /// Sets a node aside when a symbol that it mentions is not bound.
    pub(super) fn park(&mut self, node: &Node, entry: (u32, NodeId)) -> bool {
        let Kind::Op(op) = &node.kind else { return false };
        if self.given_up || op.has_body() {
            return false;
        }
        let mut missing: Option<Arc<str>> = None;
        op.clone().map_dims(&mut |d| {
            if missing.is_none() && d.is_late() {
                missing = d.symbols().into_iter().find(|s| late_number(s).is_some() && !self.bound.contains(s));
            }
            d.clone()
        });
        let Some(symbol) = missing else { return false };
        self.parked.entry(symbol).or_default().push(entry);
        true
    }

    /// Notes what a node's results bind; returns the nodes that waited for it.
    pub(super) fn bind(&mut self, node: &Node) -> Vec<(u32, NodeId)> {
        let dims = node.facts.iter().filter_map(|f| f.ty.as_tensor()?.dims()).flatten();
        let symbols: Vec<Arc<str>> =
            dims.filter_map(|d| d.as_sym().filter(|s| s.starts_with('?'))).map(Arc::from).collect();
        let new = symbols.into_iter().filter(|s| self.bound.insert(s.clone())).collect::<Vec<_>>();
        new.iter().filter_map(|s| self.parked.remove(s)).flatten().collect()
    }

    pub(super) fn release_any(&mut self) -> Option<(u32, NodeId)> {
        self.given_up = true;
        let symbol = self.parked.keys().next()?.clone();
        let mut nodes = self.parked.remove(&symbol)?;
        let first = nodes.remove(0);
        if !nodes.is_empty() {
            self.parked.insert(symbol, nodes);
        }
        Some(first)
    }
}

/// The number of a late symbol that typing made.
pub(super) fn late_number(symbol: &str) -> Option<u32> {
    symbol.strip_prefix('?')?.parse().ok()
}
