//! Computes in f16 or bf16 what an f32 model spends its time on: half the bytes of weights, caches and activations.
//!
//! Products, convolutions, attention, caches and norms always become narrow; their sums are in f32 within a kernel. Elementwise
//! operators and movement follow what they read: narrow where nothing they meet stayed f32. Exponentials, powers, sums and whatever
//! else leaves the range or the precision of the narrow type stays f32, and so do parameters and results of the graph, but for
//! the caches of a `step`. Constants are rounded here; finite ones become at most the largest number of the type. A cast stands
//! only where a narrow value meets an f32 operator, so there is never a pair of them, and the model's own casts stay.
//!
//! ```ir before
//! graph @layer(%x: f32[T, 2]) {
//!   %w = const [1.0, 2.0, 3.0, 1000000000.0] : f32[2, 2]
//!   %h = linear(%x, %w) : f32[T, 2]
//!   %a = relu(%h) : f32[T, 2]
//!   %e = exp(%a) : f32[T, 2]
//!   %y = linear(%e, %w) : f32[T, 2]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @layer(%x: f32[T, 2]) {
//!   %x.1 = cast(%x) {to = f16} : f16[T, 2]
//!   %w = const [1.0, 2.0, 3.0, 65504.0] : f16[2, 2]
//!   %h = linear(%x.1, %w) : f16[T, 2]
//!   %a = relu(%h) : f16[T, 2]
//!   %a.2 = cast(%a) {to = f32} : f32[T, 2]
//!   %e = exp(%a.2) : f32[T, 2]
//!   %e.2 = cast(%e) {to = f16} : f16[T, 2]
//!   %y = linear(%e.2, %w) : f16[T, 2]
//!   %y.2 = cast(%y) {to = f32} : f32[T, 2]
//!   return %y.2 as "y"
//! }
//! ```

mod choice;
mod constants;
mod role;

use crate::pass::{Body, Context, Miss, Pass};
use choice::Choice;
pub use constants::Narrowed;
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{Cast, CoreOp, Fact, Op};
use ir::types::TensorType;
use ir::{DType, ValueType};
use role::Role;
use std::collections::HashMap;

/// The name of [`TO_F16`] and [`TO_BF16`].
pub const NAME: &str = "narrow-floats";

/// See the module.
pub const TO_F16: Pass = Pass { name: NAME, body: Body::Whole(|graph, cx| narrow(graph, cx, DType::F16)) };

/// See the module.
pub const TO_BF16: Pass = Pass { name: NAME, body: Body::Whole(|graph, cx| narrow(graph, cx, DType::BF16)) };

fn narrow(graph: &mut Graph, cx: &mut Context, to: DType) {
    // Weights come into a body as parameters: they would be rounded in every round.
    if cx.in_body {
        return;
    }
    let choice = Choice::of(graph, to);
    let order = graph.order();
    for state in &choice.states {
        let ty = graph.tensor_ty((*state).into()).map(|t| TensorType { dtype: to, shape: t.shape.clone() });
        graph.refine((*state).into(), Fact::of(ty.expect("a cache is a tensor").into()));
    }
    let mut rewrite =
        Rewrite { to, choice: &choice, narrow: HashMap::new(), wide: HashMap::new(), casts: HashMap::new() };
    rewrite.narrow.extend(choice.states.iter().map(|state| (Value::from(*state), Value::from(*state))));
    let mut constants = vec![];
    for id in order {
        if graph.op(id).is_none() {
            continue;
        }
        match rewrite.node(graph, id, &mut cx.narrowed, &mut constants) {
            Ok(Some(new)) => cx.note("narrow", graph, new, Ok(())),
            Ok(None) => {}
            Err(reason) => {
                let name = graph.op(id).expect("it was asked for").name();
                cx.note(name, graph, id.into(), Err(Miss::Refused(reason)));
            }
        }
    }
    rewrite.outputs(graph);
    graph.remove_dead();
    // A constant that nobody reads in f32 any more leaves its name to the narrow one.
    for (name, new) in constants {
        if graph.contains(new.node) {
            graph.rename(new, &name);
        }
    }
}

/// A graph on its way: which new value stands for an old one, in the narrow type and in its own.
struct Rewrite<'c> {
    to: DType,
    choice: &'c Choice,
    narrow: HashMap<Value, Value>,
    wide: HashMap<Value, Value>,
    /// Casts and constants that may be read again, by the old value and the type that they give it.
    casts: HashMap<(Value, DType), Value>,
}

/// Constants that were made, and the names of those they were made of.
type Made = Vec<(std::sync::Arc<str>, Value)>;

impl Rewrite<'_> {
    /// Writes a node again where it changes. Gives its first result when it became narrow, and the reason when it stays f32.
    fn node(
        &mut self,
        graph: &mut Graph,
        id: NodeId,
        memo: &mut Narrowed,
        constants: &mut Made,
    ) -> Result<Option<Value>, &'static str> {
        let operands = graph.operands(id);
        let kept = self.choice.kept.get(&id).copied();
        let role = role::role(graph, id, self.to);
        if let (None, true, Role::Narrow(sides) | Role::Follow(sides)) = (kept, self.choice.narrow.contains(&id), &role)
        {
            let mut new = Vec::with_capacity(operands.len());
            for (i, v) in operands.iter().enumerate() {
                new.push(if sides.has(i) { self.narrowed(graph, *v, memo, constants) } else { self.free(*v) });
            }
            if let Some(node) = self.push(graph, id, &new, true) {
                return Ok(Some(node.into()));
            }
            return self.keep(graph, id, &operands, &role).and(Err("its operands do not fit in the narrow type"));
        }
        self.keep(graph, id, &operands, &role)?;
        kept.map_or(Ok(None), Err)
    }

    /// Writes a node again that keeps its types.
    fn keep(
        &mut self,
        graph: &mut Graph,
        id: NodeId,
        operands: &[Value],
        role: &Role,
    ) -> Result<Option<Value>, &'static str> {
        if let Some(Op::CoreOp(CoreOp::Cast(cast))) = graph.op(id)
            && cast.to == self.to
            && let Some(narrow) = self.narrow.get(&operands[0])
        {
            self.wide.insert(id.into(), *narrow);
            return Ok(None);
        }
        let elementwise = role::is_elementwise(graph, id);
        let new: Vec<Value> = operands
            .iter()
            .map(|v| match role {
                Role::Free => self.free(*v),
                _ => self.widened(graph, *v, !elementwise),
            })
            .collect();
        if new != operands {
            self.push(graph, id, &new, false).expect("operands are of the types that they had");
        }
        Ok(None)
    }

    /// Adds the node with other operands; its results take the names and what is known of the old ones.
    fn push(&mut self, graph: &mut Graph, id: NodeId, operands: &[Value], narrow: bool) -> Option<NodeId> {
        let (op, origin) = (graph.op(id)?.clone(), graph.node(id).origin.clone());
        let olds: Vec<Value> = graph.results(id).collect();
        let facts: Vec<Fact> = olds.iter().map(|v| self.fact(graph.fact(*v), narrow)).collect();
        let types: Vec<ValueType> = facts.iter().map(|f| f.ty.clone()).collect();
        let names: Vec<String> = olds.iter().map(|v| graph.name(*v).to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let node = graph.push_as(op, operands, &names, origin, Some(&types)).ok()?;
        for ((old, new), fact) in olds.into_iter().zip(graph.results(node).collect::<Vec<_>>()).zip(facts) {
            let changed = graph.ty(old) != &fact.ty;
            graph.take_name(old, new);
            graph.refine(new, fact);
            if changed {
                self.narrow.insert(old, new)
            } else {
                self.wide.insert(old, new)
            };
        }
        Some(node)
    }

    /// What is known of a result, in the narrow type where it becomes so.
    fn fact(&self, fact: &Fact, narrow: bool) -> Fact {
        match &fact.ty {
            ValueType::Tensor(t) if narrow && t.dtype == DType::F32 => {
                Fact::of(TensorType { dtype: self.to, shape: t.shape.clone() }.into())
            }
            _ => Fact { constant: None, ..fact.clone() },
        }
    }

    /// The value in the narrow type, if it is f32.
    fn narrowed(&mut self, graph: &mut Graph, v: Value, memo: &mut Narrowed, constants: &mut Made) -> Value {
        if let Some(narrow) = self.narrow.get(&v).or_else(|| self.casts.get(&(v, self.to))) {
            return *narrow;
        }
        let own = self.own(v);
        if graph.tensor_ty(own).is_none_or(|t| t.dtype != DType::F32) {
            return own;
        }
        let new = match graph.constant_of(own).cloned() {
            Some(tensor) => {
                let name = graph.name(own).clone();
                let new = graph.constant(&name, memo.narrow(&tensor, self.to));
                constants.push((name, new));
                new
            }
            // What the model widened from this very type.
            None => match self.cast_from(graph, v) {
                Some(narrow) => narrow,
                None => cast(graph, own, self.to),
            },
        };
        self.casts.insert((v, self.to), new);
        new
    }

    /// The narrow value that a cast of the model makes `v` of.
    fn cast_from(&self, graph: &Graph, v: Value) -> Option<Value> {
        let Some(Op::CoreOp(CoreOp::Cast(_))) = graph.op(v.node) else { return None };
        let from = graph.operands(v.node)[0];
        (graph.tensor_ty(from)?.dtype == self.to && !self.narrow.contains_key(&from)).then(|| self.own(from))
    }

    /// The value in its own type, by a cast where it became narrow; a shared one unless the reader will do it on the way.
    fn widened(&mut self, graph: &mut Graph, v: Value, shared: bool) -> Value {
        let Some(narrow) = self.narrow.get(&v).copied() else { return self.own(v) };
        if let (true, Some(known)) = (shared, self.casts.get(&(v, DType::F32))) {
            return *known;
        }
        let new = cast(graph, narrow, DType::F32);
        if shared {
            self.casts.insert((v, DType::F32), new);
        }
        new
    }

    /// The value for a reader that takes either type.
    fn free(&self, v: Value) -> Value {
        self.narrow.get(&v).copied().unwrap_or_else(|| self.own(v))
    }

    fn own(&self, v: Value) -> Value {
        self.wide.get(&v).copied().unwrap_or(v)
    }

    /// Results are of the types that they had; the next versions of caches of those of the caches.
    fn outputs(&mut self, graph: &mut Graph) {
        let plain = graph.plain_outputs().len();
        for i in 0..graph.outputs.len() {
            let v = graph.outputs[i].value;
            let state = i.checked_sub(plain).map(|at| graph.states()[at]);
            let narrow = state.is_some_and(|s| self.choice.states.contains(&s));
            graph.outputs[i].value = if narrow { self.free(v) } else { self.widened(graph, v, true) };
        }
    }
}

/// A conversion, named after what it converts.
fn cast(graph: &mut Graph, v: Value, to: DType) -> Value {
    let (name, origin) = (graph.name(v).clone(), graph.node(v.node).origin.clone());
    graph.apply(Cast { to, wrap: false }, &[v], &name, &origin).expect("every float is converted")
}

#[cfg(test)]
mod tests;
