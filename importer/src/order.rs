//! Puts the nodes of a graph in an order in which every node comes after those whose results it reads.
//!
//! Nodes that are in order already stay where they are. What the bodies of a node read from outside counts as read by it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::error::ImportError;
use crate::proto::{AttrValue, Graph, Node};

/// Indices of `nodes`, in order.
pub(crate) fn order(nodes: &[Node]) -> Result<Vec<usize>, ImportError> {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for name in node.outputs.iter().filter(|n| !n.is_empty()) {
            if let Some(first) = makers.insert(name, i) {
                return Err(ImportError::Twice {
                    value: name.clone(),
                    first: format!("node {}", label(&nodes[first], first)),
                    second: format!("node {}", label(node, i)),
                });
            }
        }
    }
    let mut waits = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![vec![]; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        let mut reads = HashSet::new();
        free_names(node, &mut reads);
        let from: HashSet<usize> = reads.iter().filter_map(|name| makers.get(name).copied()).collect();
        waits[i] = from.len();
        from.into_iter().for_each(|maker| readers[maker].push(i));
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..nodes.len()).filter(|i| waits[*i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for reader in &readers[i] {
            waits[*reader] -= 1;
            if waits[*reader] == 0 {
                ready.push(Reverse(*reader));
            }
        }
    }
    if order.len() < nodes.len() {
        return Err(ImportError::Cycle { nodes: cycle(nodes, &makers, &waits) });
    }
    Ok(order)
}

/// The node's name, or its operator and position where it has none.
pub(crate) fn label(node: &Node, index: usize) -> String {
    match node.name.is_empty() {
        true => format!("{}#{index}", node.op_type),
        false => node.name.clone(),
    }
}

/// Adds the names that a node reads from the graph it is in.
fn free_names<'a>(node: &'a Node, names: &mut HashSet<&'a str>) {
    names.extend(node.inputs.iter().filter(|n| !n.is_empty()).map(String::as_str));
    for attribute in &node.attributes {
        match &attribute.value {
            AttrValue::Graph(graph) => free_in_graph(graph, names),
            AttrValue::Graphs(graphs) => graphs.iter().for_each(|graph| free_in_graph(graph, names)),
            _ => {}
        }
    }
}

fn free_in_graph<'a>(graph: &'a Graph, names: &mut HashSet<&'a str>) {
    let mut reads = HashSet::new();
    graph.nodes.iter().for_each(|node| free_names(node, &mut reads));
    reads.extend(graph.outputs.iter().map(|o| o.name.as_str()));
    graph.nodes.iter().flat_map(|n| &n.outputs).for_each(|name| {
        reads.remove(name.as_str());
    });
    let own = graph.inputs.iter().map(|i| &i.name).chain(graph.initializers.iter().map(|t| &t.name));
    own.chain(graph.sparse_initializers.iter().map(|t| &t.values.name)).for_each(|name| {
        reads.remove(name.as_str());
    });
    names.extend(reads);
}

/// The nodes of one cycle: every node that still waits reads from another such node, so following them comes round.
fn cycle(nodes: &[Node], makers: &HashMap<&str, usize>, waits: &[usize]) -> Vec<String> {
    let Some(start) = waits.iter().position(|w| *w > 0) else { return vec![] };
    let (mut path, mut at) = (vec![start], start);
    loop {
        let mut reads = HashSet::new();
        free_names(&nodes[at], &mut reads);
        let mut makers: Vec<usize> =
            reads.iter().filter_map(|n| makers.get(n).copied()).filter(|m| waits[*m] > 0).collect();
        makers.sort_unstable();
        let Some(next) = makers.first().copied() else { break };
        if let Some(first) = path.iter().position(|p| *p == next) {
            path.drain(..first);
            break;
        }
        path.push(next);
        at = next;
    }
    path.reverse();
    path.into_iter().map(|i| label(&nodes[i], i)).collect()
}
