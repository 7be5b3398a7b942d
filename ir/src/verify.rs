//! The verifier: what must hold of every graph between passes.

use crate::dim::Dim;
use crate::graph::{Graph, Kind, NodeId};
use crate::ops::{Fact, Operands};
use crate::types::TensorType;
use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// A graph that [`verify`] has accepted.
#[derive(Clone, Copy)]
pub struct Verified<'a>(&'a Graph);

impl<'a> Verified<'a> {
    /// The graph.
    pub fn graph(self) -> &'a Graph {
        self.0
    }
}

/// What is wrong with a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Edges form a cycle.
    #[error("the graph has a cycle")]
    Cycle,
    /// An operator's operands do not fit, or its types are not what its rule gives.
    #[error("`{name}`: {reason}")]
    Node {
        /// First result of the node.
        name: Arc<str>,
        /// What is wrong.
        reason: String,
    },
    /// An attribute or type mentions a symbol that nothing binds before it is needed.
    #[error("`{name}` mentions the symbol `{symbol}`, which no input or earlier result binds")]
    Symbol {
        /// First result of the node.
        name: Arc<str>,
        /// The symbol.
        symbol: Arc<str>,
    },
}

/// Checks a whole graph: no cycle, unique names, every type what its rule gives, every symbol bound before use.
pub fn verify(graph: &Graph) -> Result<Verified<'_>, VerifyError> {
    verify_within(graph, &BTreeSet::new())
}

/// [`verify`] for a body whose surroundings bind `outer` symbols.
pub fn verify_within<'a>(graph: &'a Graph, outer: &BTreeSet<Arc<str>>) -> Result<Verified<'a>, VerifyError> {
    if graph.is_cyclic() {
        return Err(VerifyError::Cycle);
    }
    let mut bound: BTreeSet<Arc<str>> = outer.clone();
    bound.extend(graph.input_symbols());
    let mut names = HashSet::new();
    for id in graph.order() {
        let node = graph.node(id);
        let fail = |reason: String| VerifyError::Node { name: node.names[0].clone(), reason };
        if let Some(twice) = node.names.iter().find(|n| !names.insert((*n).clone())) {
            return Err(fail(format!("the name `{twice}` is used twice")));
        }
        if let Kind::Op(_) = node.kind {
            check_types(graph, id).map_err(fail)?;
            let symbol = check_symbols(graph, id, &mut bound);
            symbol.map_or(Ok(()), |symbol| Err(VerifyError::Symbol { name: node.names[0].clone(), symbol }))?;
        }
    }
    let failed = |(id, reason)| VerifyError::Node { name: graph.node(id).names[0].clone(), reason };
    graph.check_states().map_err(failed)?;
    Ok(Verified(graph))
}

fn check_types(graph: &Graph, id: NodeId) -> Result<(), String> {
    let node = graph.node(id);
    let op = node.op().expect("the caller checked");
    let operands = graph.operands(id);
    let facts: Vec<&Fact> = operands.iter().map(|v| graph.fact(*v)).collect();
    let next_late = Cell::new(u32::MAX / 2);
    let types = op.infer(&Operands::new(&facts, &next_late)).map_err(|e| e.to_string())?;
    let declared = node.facts.iter().map(|f| &f.ty);
    if types.len() != node.facts.len() || !declared.zip(&types).all(|(d, t)| d.compatible(t)) {
        let found: Vec<_> = types.iter().map(ToString::to_string).collect();
        return Err(format!("its types are not what `{}` gives: {}", op.name(), found.join(", ")));
    }
    Ok(())
}

/// The first symbol that is not bound; late symbols that stand alone in a result type are bound by it.
fn check_symbols(graph: &Graph, id: NodeId, bound: &mut BTreeSet<Arc<str>>) -> Option<Arc<str>> {
    let mut missing: Option<Arc<str>> = None;
    let op = graph.op(id).expect("the caller checked");
    if !op.has_body() {
        op.clone().map_dims(&mut |d: &Dim| {
            let unbound = d.symbols().into_iter().find(|s| !bound.contains(s));
            missing = missing.take().or(unbound);
            d.clone()
        });
    }
    let types = graph.results(id).filter_map(|v| graph.tensor_ty(v).cloned()).collect::<Vec<_>>();
    let dims = |t: &TensorType| t.dims().map(<[Dim]>::to_vec).unwrap_or_default();
    let dims: Vec<Dim> = types.iter().flat_map(dims).collect();
    bound.extend(dims.iter().filter(|d| d.is_late()).filter_map(|d| d.as_sym().map(Arc::from)));
    let unbound = dims.iter().flat_map(Dim::symbols).find(|s| !bound.contains(s));
    missing.or(unbound)
}
