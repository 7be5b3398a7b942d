//! The graph of a model. The only file that names petgraph.
//!
//! Edges are the single truth for operands; order is deterministic; a [`NodeId`] never outlives a rewrite.

mod states;

use crate::dim::Dim;
use crate::ops::{Constraint, Fact, Op, Operands, TypeError};
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};
use petgraph::Direction::{Incoming, Outgoing};
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

mod late;
mod node;
mod retype;
use late::LateSymbols;
pub use node::{Kind, Node, Origin, Output, Value};

/// Names a node until the next rewrite; petgraph reuses the slots of removed nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(NodeIndex);

impl NodeId {
    /// A number that no other node of the graph has until the next rewrite.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

#[derive(Clone, Copy, Debug)]
struct Use {
    operand: u16,
    result: u16,
}

/// A typed, acyclic graph with value semantics.
#[derive(Clone, Default)]
pub struct Graph {
    dag: StableDiGraph<Node, Use>,
    /// Name in the text form.
    pub name: String,
    /// Parameters, in order.
    pub inputs: Vec<NodeId>,
    /// Results, in order.
    pub outputs: Vec<Output>,
    /// Parameters among `inputs` that are kept from run to run.
    states: Vec<NodeId>,
    /// What typing took for granted.
    pub constraints: BTreeSet<Constraint>,
    taken: HashSet<Arc<str>>,
    /// Numbers from which on names of this beginning are free.
    numbered: HashMap<Arc<str>, u32>,
    absent: Option<NodeId>,
    next_seq: u32,
    next_late: u32,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// An empty graph for a body of this one: its late symbols continue the numbering, so they never clash.
    pub fn child(&self, name: impl Into<String>) -> Graph {
        Graph { next_late: self.next_late, ..Graph::new(name) }
    }

    /// Continues numbering late symbols after `body`'s.
    pub fn adopt_numbering(&mut self, body: &Graph) {
        self.next_late = self.next_late.max(body.next_late);
    }

    /// A symbol no other value of this graph has, bound when a result exists.
    pub fn fresh_late_dim(&mut self) -> Dim {
        self.next_late += 1;
        Dim::sym(&format!("?{}", self.next_late - 1))
    }

    fn unique(&mut self, hint: &str) -> Arc<str> {
        let hint = if hint.is_empty() { "v" } else { hint };
        let mut name: Arc<str> = hint.into();
        let mut n = self.numbered.get(hint).copied().unwrap_or(1);
        while self.taken.contains(&name) {
            name = format!("{hint}.{n}").into();
            n += 1;
        }
        // Many values of one name would otherwise be counted through again and again.
        if n > 64 {
            self.numbered.insert(hint.into(), n);
        }
        self.taken.insert(name.clone());
        name
    }

    fn add(&mut self, kind: Kind, hints: &[&str], facts: SmallVec<[Fact; 1]>, origin: Origin) -> NodeId {
        let seq = self.next_seq;
        self.next_seq += 1;
        let first = hints.first().copied().unwrap_or("v").to_string();
        let names = (0..facts.len())
            .map(|i| match hints.get(i) {
                Some(hint) => self.unique(hint),
                None => self.unique(&format!("{first}.{i}")),
            })
            .collect();
        NodeId(self.dag.add_node(Node { kind, names, facts, origin, seq }))
    }

    /// Adds a parameter.
    pub fn input(&mut self, name: &str, ty: impl Into<ValueType>) -> Value {
        let node = self.add(Kind::Input, &[name], SmallVec::from_iter([Fact::of(ty.into())]), Origin::new());
        self.inputs.push(node);
        node.into()
    }

    /// Adds a constant.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> Value {
        let fact = Fact::constant(tensor.clone());
        self.add(Kind::Weight(Some(tensor)), &[name], SmallVec::from_iter([fact]), Origin::new()).into()
    }

    /// Adds a constant whose data comes later: see [`Graph::attach`].
    pub fn weight(&mut self, name: &str, ty: TensorType) -> Value {
        let fact = Fact::of(ty.into());
        self.add(Kind::Weight(None), &[name], SmallVec::from_iter([fact]), Origin::new()).into()
    }

    /// Gives a weight read from text its data; the type must be the declared one.
    pub fn attach(&mut self, weight: NodeId, tensor: Tensor) -> Result<(), TypeError> {
        let node = &mut self.dag[weight.0];
        let fact = Fact::constant(tensor.clone());
        if !matches!(node.kind, Kind::Weight(_)) || !fact.ty.compatible(&node.facts[0].ty) {
            let reason =
                format!("weight `{}` is declared {}, its data is {}", node.names[0], node.facts[0].ty, fact.ty);
            return Err(TypeError::Invalid(reason));
        }
        node.kind = Kind::Weight(Some(tensor));
        node.facts[0] = fact;
        Ok(())
    }

    /// The operand that stands for one left out.
    pub fn absent(&mut self) -> Value {
        if let Some(node) = self.absent.filter(|n| self.dag.contains_node(n.0)) {
            return node.into();
        }
        let facts = SmallVec::from_iter([Fact::of(ValueType::Absent)]);
        let node = self.add(Kind::Absent, &["_"], facts, Origin::new());
        self.absent = Some(node);
        node.into()
    }

    /// Adds an operator; its result types come from its typing rule, never from the caller.
    pub fn push(
        &mut self,
        op: impl Into<Op>,
        operands: &[Value],
        names: &[&str],
        origin: Origin,
    ) -> Result<NodeId, TypeError> {
        self.push_as(op, operands, names, origin, None)
    }

    /// [`Graph::push`] with one result, returned as a value.
    pub fn apply(
        &mut self,
        op: impl Into<Op>,
        operands: &[Value],
        name: &str,
        origin: &Origin,
    ) -> Result<Value, TypeError> {
        Ok(self.push(op, operands, &[name], origin.clone())?.into())
    }

    /// [`Graph::push`] with types that somebody declared: where they are compatible with the inferred ones they win, which
    /// names late symbols and keeps refinements when a graph is read from text.
    pub fn push_as(
        &mut self,
        op: impl Into<Op>,
        operands: &[Value],
        names: &[&str],
        origin: Origin,
        declared: Option<&[ValueType]>,
    ) -> Result<NodeId, TypeError> {
        let op = op.into();
        let next_late = Cell::new(self.next_late);
        let (types, elements, assumed) = {
            let facts: Vec<&Fact> = operands.iter().map(|v| self.fact(*v)).collect();
            let operands = Operands::new(&facts, &next_late);
            let types = op.infer(&operands)?;
            let elements = if types.len() == 1 { op.elements(&operands) } else { None };
            (types, elements, operands.into_assumed())
        };
        if let Some(declared) = declared
            && (declared.len() != types.len() || !declared.iter().zip(&types).all(|(d, t)| d.compatible(t)))
        {
            let show = |ts: &[ValueType]| ts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let reason = format!("declared {}, but the typing rule gives {}", show(declared), show(&types));
            return Err(TypeError::Invalid(reason));
        }
        self.next_late = next_late.get();
        let types = declared.map_or(types, <[ValueType]>::to_vec);
        self.constraints.extend(assumed);
        let elements = elements.filter(|e| e.len() <= Fact::MAX_ELEMENTS);
        let facts = types
            .into_iter()
            .map(|ty| Fact { ty, elements: elements.clone().map(Into::into), constant: None })
            .collect();
        let node = self.add(Kind::Op(op), names, facts, origin);
        for (operand, v) in operands.iter().enumerate() {
            self.dag.add_edge(v.node.0, node.0, Use { operand: operand as u16, result: v.result });
        }
        Ok(node)
    }

    /// Declares a result of the graph.
    pub fn output(&mut self, name: &str, value: Value) {
        self.outputs.push(Output { name: name.into(), value });
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[id.0]
    }

    /// The operator of a node, when it is one.
    pub fn op(&self, id: NodeId) -> Option<&Op> {
        self.node(id).op()
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.dag.node_count()
    }

    /// Whether the node still exists.
    pub fn contains(&self, id: NodeId) -> bool {
        self.dag.contains_node(id.0)
    }

    /// The unique name of a value.
    pub fn name(&self, v: Value) -> &Arc<str> {
        &self.node(v.node).names[v.result as usize]
    }

    /// What is known of a value.
    pub fn fact(&self, v: Value) -> &Fact {
        &self.node(v.node).facts[v.result as usize]
    }

    /// The type of a value.
    pub fn ty(&self, v: Value) -> &ValueType {
        &self.fact(v).ty
    }

    /// The tensor type of a value, when it is a tensor.
    pub fn tensor_ty(&self, v: Value) -> Option<&TensorType> {
        self.ty(v).as_tensor()
    }

    /// The data of a constant.
    pub fn constant_of(&self, v: Value) -> Option<&Tensor> {
        match &self.node(v.node).kind {
            Kind::Weight(t) => t.as_ref(),
            _ => None,
        }
    }

    /// All results of a node.
    pub fn results(&self, id: NodeId) -> impl Iterator<Item = Value> + use<> {
        (0..self.node(id).names.len() as u16).map(move |result| Value { node: id, result })
    }

    /// Operands in order; left-out ones are the [`Graph::absent`] node.
    pub fn operands(&self, id: NodeId) -> SmallVec<[Value; 4]> {
        let edges = self.dag.edges_directed(id.0, Incoming);
        let mut uses: SmallVec<[(u16, Value); 4]> = edges
            .map(|e| (e.weight().operand, Value { node: NodeId(e.source()), result: e.weight().result }))
            .collect();
        uses.sort_unstable_by_key(|(operand, _)| *operand);
        uses.into_iter().map(|(_, v)| v).collect()
    }

    /// Nodes that read a value, with the operand position, in creation order.
    pub fn readers(&self, v: Value) -> Vec<(NodeId, u16)> {
        let edges = self.dag.edges_directed(v.node.0, Outgoing);
        let mut found: Vec<_> =
            edges.filter(|e| e.weight().result == v.result).map(|e| (NodeId(e.target()), e.weight().operand)).collect();
        found.sort_by_key(|(n, operand)| (self.node(*n).seq, *operand));
        found
    }

    /// How many operands and graph outputs read this value.
    pub fn use_count(&self, v: Value) -> usize {
        let edges = self.dag.edges_directed(v.node.0, Outgoing);
        edges.filter(|e| e.weight().result == v.result).count() + self.outputs.iter().filter(|o| o.value == v).count()
    }

    /// Whether the graph itself returns this value.
    pub fn is_output(&self, v: Value) -> bool {
        self.outputs.iter().any(|o| o.value == v)
    }

    /// Whether `to` needs `from`, directly or through others.
    pub fn reaches(&self, from: NodeId, to: NodeId) -> bool {
        petgraph::algo::has_path_connecting(&self.dag, from.0, to.0, None)
    }

    /// Makes every reader of `old` read `new`.
    pub fn replace(&mut self, old: Value, new: Value) {
        self.replace_except(old, new, None);
    }

    /// Makes every reader of `old` but `except` read `new`.
    pub fn replace_except(&mut self, old: Value, new: Value, except: Option<NodeId>) {
        let edges = self.dag.edges_directed(old.node.0, Outgoing);
        let readers: Vec<_> = edges
            .filter(|e| e.weight().result == old.result && Some(NodeId(e.target())) != except)
            .map(|e| (e.id(), e.target(), *e.weight()))
            .collect();
        for (edge, reader, u) in readers {
            self.dag.remove_edge(edge);
            self.dag.add_edge(new.node.0, reader, Use { operand: u.operand, result: new.result });
        }
        for out in &mut self.outputs {
            if out.value == old {
                out.value = new;
            }
        }
    }

    /// Gives `new` the unique name of `old`, which gets a derived one; for rewrites that keep a value's meaning.
    pub fn take_name(&mut self, old: Value, new: Value) {
        let theirs = self.node(new.node).names[new.result as usize].clone();
        let ours = self.node(old.node).names[old.result as usize].clone();
        self.dag[old.node.0].names[old.result as usize] = theirs;
        self.dag[new.node.0].names[new.result as usize] = ours;
    }

    /// Renames a value; where the name is taken, a number makes it unique.
    pub fn rename(&mut self, v: Value, name: &str) {
        let old = self.node(v.node).names[v.result as usize].clone();
        self.taken.remove(&old);
        let name = self.unique(name);
        self.dag[v.node.0].names[v.result as usize] = name;
    }

    /// Adds ONNX node names to a node.
    pub fn extend_origin(&mut self, id: NodeId, more: &[Arc<str>]) {
        let origin = &mut self.dag[id.0].origin;
        for name in more {
            if !origin.contains(name) {
                origin.push(name.clone());
            }
        }
    }

    /// Replaces the operator of a node by one that gives the same results of the same types.
    pub fn set_op(&mut self, id: NodeId, op: impl Into<Op>) {
        let kind = &mut self.dag[id.0].kind;
        debug_assert!(matches!(kind, Kind::Op(_)), "only operators are replaced");
        *kind = Kind::Op(op.into());
    }

    /// Symbols that the graph's inputs bind when they are given: a dimension that is just the symbol.
    pub fn input_symbols(&self) -> BTreeSet<Arc<str>> {
        let types = self.inputs.iter().filter_map(|n| self.tensor_ty((*n).into()));
        let dims = types.filter_map(TensorType::dims).flatten();
        dims.filter_map(|d| d.as_sym().map(Arc::from)).collect()
    }

    /// Topological order of all nodes; ties go to the node created first.
    ///
    /// A node whose attributes mention a late symbol comes after the node that binds it, which no edge may say.
    pub fn order(&self) -> Vec<NodeId> {
        let mut waiting: HashMap<NodeIndex, usize> = HashMap::with_capacity(self.dag.node_count());
        let mut ready = BinaryHeap::new();
        for n in self.dag.node_indices() {
            let count = self.dag.edges_directed(n, Incoming).count();
            waiting.insert(n, count);
            if count == 0 {
                ready.push(Reverse((self.dag[n].seq, n)));
            }
        }
        let mut order = Vec::with_capacity(waiting.len());
        let mut late = LateSymbols::default();
        loop {
            let Some(Reverse((seq, n))) = ready.pop() else {
                // Symbols that nothing binds: the verifier says so.
                match late.release_any() {
                    Some((seq, n)) => {
                        ready.push(Reverse((seq, n.0)));
                        continue;
                    }
                    None => return order,
                }
            };
            if self.next_late > 0 && late.park(&self.dag[n], (seq, NodeId(n))) {
                continue;
            }
            order.push(NodeId(n));
            if self.next_late > 0 {
                ready.extend(late.bind(&self.dag[n]).into_iter().map(|(seq, n)| Reverse((seq, n.0))));
            }
            for e in self.dag.edges_directed(n, Outgoing) {
                let left = waiting.get_mut(&e.target()).expect("every node is waiting");
                *left -= 1;
                if *left == 0 {
                    ready.push(Reverse((self.dag[e.target()].seq, e.target())));
                }
            }
        }
    }

    /// Whether edges form a cycle; then [`Graph::order`] is incomplete.
    pub fn is_cyclic(&self) -> bool {
        petgraph::algo::is_cyclic_directed(&self.dag)
    }

    /// Removes a node that nothing reads, and then what only it needed; inputs stay. True when it was removed.
    pub fn prune(&mut self, id: NodeId) -> bool {
        let unread = |g: &Graph, n: NodeIndex| {
            g.dag.neighbors_directed(n, Outgoing).next().is_none()
                && !matches!(g.dag[n].kind, Kind::Input)
                && !g.outputs.iter().any(|o| o.value.node.0 == n)
        };
        let mut candidates = vec![id.0];
        let mut removed = false;
        while let Some(n) = candidates.pop() {
            if !self.dag.contains_node(n) || !unread(self, n) {
                continue;
            }
            candidates.extend(self.dag.neighbors_directed(n, Incoming));
            let node = self.dag.remove_node(n).expect("it was just found");
            node.names.iter().for_each(|name| {
                self.taken.remove(name);
            });
            removed = true;
        }
        removed
    }

    /// Removes what no output needs; inputs stay.
    pub fn remove_dead(&mut self) -> usize {
        let before = self.dag.node_count();
        let outputs = self.outputs.iter().map(|o| o.value.node.0);
        let mut live: Vec<NodeIndex> = outputs.chain(self.inputs.iter().map(|n| n.0)).collect();
        let mut seen = HashSet::new();
        while let Some(n) = live.pop() {
            if seen.insert(n) {
                live.extend(self.dag.neighbors_directed(n, Incoming));
            }
        }
        let dead: Vec<_> = self.dag.node_indices().filter(|n| !seen.contains(n)).collect();
        for n in dead {
            if let Some(node) = self.dag.remove_node(n) {
                node.names.iter().for_each(|name| {
                    self.taken.remove(name);
                });
            }
        }
        before - self.dag.node_count()
    }
}

/// Two graphs are equal when they print the same.
impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        self.to_string() == other.to_string()
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
