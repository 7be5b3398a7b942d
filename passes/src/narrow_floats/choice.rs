//! Which nodes become narrow, before anything is rewritten.

use super::role::{Role, Sides, role};
use ir::DType;
use ir::graph::{Graph, Kind, NodeId, Value};
use ir::ops::{CoreOp, Op};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What was decided.
#[derive(Default)]
pub(super) struct Choice {
    /// Operators whose f32 results become narrow.
    pub(super) narrow: HashSet<NodeId>,
    /// Operators with f32 results that stay, and why.
    pub(super) kept: BTreeMap<NodeId, &'static str>,
    /// Caches that become narrow.
    pub(super) states: BTreeSet<NodeId>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kept {
    Narrow,
    /// A constant, or made of constants: as its readers wish.
    Either,
    Wide,
}

impl Choice {
    pub(super) fn of(graph: &Graph, to: DType) -> Choice {
        let mut choice = Choice { states: caches(graph), ..Choice::default() };
        let order = graph.order();
        let mut found: HashMap<NodeId, Kept> = HashMap::new();
        for id in &order {
            let kept = match &graph.node(*id).kind {
                Kind::Op(_) => choice.operator(graph, *id, to, &found),
                Kind::Input if choice.states.contains(id) => Kept::Narrow,
                Kind::Input | Kind::Absent => Kept::Wide,
                Kind::Weight(_) => Kept::Either,
            };
            if kept == Kept::Narrow && graph.op(*id).is_some() {
                choice.narrow.insert(*id);
            }
            found.insert(*id, kept);
        }
        for id in order.iter().rev().filter(|id| graph.op(**id).is_some() && found[*id] == Kept::Either) {
            if !graph.results(*id).any(|v| choice.is_wanted(graph, v, to)) {
                choice.kept.insert(*id, "only operators in f32 read it");
            } else if graph.results(*id).any(|v| choice.is_read_wide(graph, v, to)) {
                choice.kept.insert(*id, "it is read in f32 too");
            } else {
                choice.narrow.insert(*id);
            }
        }
        choice
    }

    fn operator(&mut self, graph: &Graph, id: NodeId, to: DType, found: &HashMap<NodeId, Kept>) -> Kept {
        if !graph.results(id).any(|v| is_f32(graph, v)) {
            return Kept::Wide;
        }
        let reason = match role(graph, id, to) {
            Role::Narrow(_) if self.writes_wide_cache(graph, id) => "a cache that it writes has other readers",
            Role::Narrow(_) => return Kept::Narrow,
            Role::Follow(sides) => match meet(graph, id, sides, found) {
                Kept::Wide => "it meets values that are f32",
                kept => return kept,
            },
            Role::Free => return Kept::Wide,
            Role::Wide(reason) => reason,
        };
        self.kept.insert(id, reason);
        Kept::Wide
    }

    fn writes_wide_cache(&self, graph: &Graph, id: NodeId) -> bool {
        let Some(Op::CoreOp(CoreOp::KvWrite(_))) = graph.op(id) else { return false };
        let caches = graph.operands(id);
        caches.iter().any(|v| is_f32(graph, *v) && graph.is_state(v.node) && !self.states.contains(&v.node))
    }

    /// Whether a narrow operator reads it as one of its narrow operands.
    fn is_wanted(&self, graph: &Graph, v: Value, to: DType) -> bool {
        graph.readers(v).into_iter().any(|(reader, operand)| {
            let takes = |sides: Sides| sides.has(usize::from(operand));
            self.narrow.contains(&reader)
                && matches!(role(graph, reader, to), Role::Narrow(sides) | Role::Follow(sides) if takes(sides))
        })
    }

    /// Whether it is a result of the graph, or an operator that stays f32 reads more than its sizes.
    fn is_read_wide(&self, graph: &Graph, v: Value, to: DType) -> bool {
        let stays = |reader| !self.narrow.contains(&reader) && !matches!(role(graph, reader, to), Role::Free);
        graph.outputs.iter().any(|o| o.value == v) || graph.readers(v).into_iter().any(|(reader, _)| stays(reader))
    }
}

fn is_f32(graph: &Graph, v: Value) -> bool {
    graph.tensor_ty(v).is_some_and(|t| t.dtype == DType::F32)
}

/// What an operator is that follows its operands.
fn meet(graph: &Graph, id: NodeId, sides: Sides, found: &HashMap<NodeId, Kept>) -> Kept {
    let operands = graph.operands(id);
    let floats = operands.iter().enumerate().filter(|(i, v)| sides.has(*i) && is_f32(graph, **v));
    let met: Vec<Kept> = floats.map(|(_, v)| found[&v.node]).collect();
    [Kept::Wide, Kept::Narrow].into_iter().find(|kept| met.contains(kept)).unwrap_or(Kept::Either)
}

/// The f32 caches that only writes of rows and attention over them read.
fn caches(graph: &Graph) -> BTreeSet<NodeId> {
    let mut found: BTreeSet<NodeId> =
        graph.states().iter().copied().filter(|s| is_f32(graph, (*s).into()) && is_cache(graph, *s)).collect();
    // A write keeps all its caches in one type.
    loop {
        let fits = |state: &&NodeId| {
            graph.readers((**state).into()).into_iter().all(|(reader, _)| {
                let others = graph.operands(reader).into_iter().map(|v| v.node);
                others.filter(|n| graph.is_state(*n)).all(|n| found.contains(&n))
            })
        };
        let fewer: BTreeSet<NodeId> = found.iter().filter(fits).copied().collect();
        if fewer.len() == found.len() {
            return found;
        }
        found = fewer;
    }
}

fn is_cache(graph: &Graph, state: NodeId) -> bool {
    let at = graph.states().iter().position(|s| *s == state).expect("it is a state");
    let next = graph.next_states()[at].value;
    let written = |reader: NodeId, operand: u16| match graph.op(reader) {
        Some(Op::CoreOp(CoreOp::KvWrite(_))) => {
            operand >= 3 && operand % 2 == 1 && next == Value { node: reader, result: (operand - 3) / 2 }
        }
        Some(Op::CoreOp(CoreOp::CachedAttention(_))) => operand == 1 || operand == 2,
        _ => false,
    };
    next.node != state && graph.readers(state.into()).into_iter().all(|(reader, operand)| written(reader, operand))
}
