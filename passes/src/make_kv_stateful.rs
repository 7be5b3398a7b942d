//! Makes the entry `step` of a decoder: many sequences at once, over caches that the session keeps.
//!
//! A decoder takes past keys and values and returns them with new rows behind. Here each such pair becomes a state, of which
//! every sequence owns a slot: `kv_write` puts the new rows there, `cached_attention` attends to them. Sequences differ in
//! length, so every use of the past length becomes one of `lengths`: a new row i stands at `lengths[b] + i`, masks of ones
//! with a causal rule are folded into the attention, and positions (an input, `Range(P, P + S)`, or sums of the mask) are
//! computed from the lengths. What else needs the past length stops the pass, with the ONNX node that does. Logits are
//! computed for the last new row of each sequence only.
//!
//! ```ir before
//! graph @main(%input_ids: i64[B, S], %attention_mask: i64[B, P + S], %past.k: f32[B, 2, P, 8], %past.v: f32[B, 2, P, 8]) {
//!   %table = weight : f32[100, 32]
//!   %mask = cast(%attention_mask) {to = bool} : bool[B, P + S]
//!   %mask4 = reshape(%mask) {shape = [B, 1, 1, P + S]} : bool[B, 1, 1, P + S]
//!   %x = gather(%table, %input_ids) {axis = 0} : f32[B, S, 32]
//!   %k = slice(%x) {axes = [2], ends = [16], starts = [0], steps = [1]} : f32[B, S, 16]
//!   %y, %k1, %v1 = attention(%x, %k, %k, %mask4, %past.k, %past.v) {causal = true, kv_heads = 2, present = true, q_heads = 4} : f32[B, S, 32], f32[B, 2, P + S, 8], f32[B, 2, P + S, 8]
//!   %logits = linear(%y, %table) : f32[B, S, 100]
//!   return %logits, %k1 as "present.k", %v1 as "present.v"
//! }
//! ```
//! ```ir after
//! graph @step(%input_ids: i32[B, S], %slots: i32[B], %lengths: i32[B], %counts: i32[B], state %past.k: f32[slots, 2, capacity, 8], state %past.v: f32[slots, 2, capacity, 8]) {
//!   %table = weight : f32[100, 32]
//!   %x = gather(%table, %input_ids) {axis = 0} : f32[B, S, 32]
//!   %k = slice(%x) {axes = [2], ends = [16], starts = [0], steps = [1]} : f32[B, S, 16]
//!   %past.k.next = kv_write(%slots, %lengths, %counts, %past.k, %k) : f32[slots, 2, capacity, 8]
//!   %past.v.next = kv_write(%slots, %lengths, %counts, %past.v, %k) : f32[slots, 2, capacity, 8]
//!   %y = cached_attention(%x, %past.k.next, %past.v.next, %slots, %lengths, %counts) {heads = 4} : f32[B, S, 32]
//!   %one.row = const [1] : i32[]
//!   %last.row = sub(%counts, %one.row) : i32[B]
//!   %last.row.1 = reshape(%last.row) {shape = [B, 1]} : i32[B, 1]
//!   %y.last = gather_nd(%y, %last.row.1) {batch_dims = 1} : f32[B, 32]
//!   %logits = linear(%y.last, %table) : f32[B, 100]
//!   return %logits, %past.k.next as "past.k", %past.v.next as "past.v"
//! }
//! ```

mod caches;
mod field;
mod inputs;
mod logits;
mod positions;
mod statics;

use crate::pass::{Body, Context, Miss, Pass};
use caches::{Append, Attend, Rotation};
use inputs::Inputs;
use ir::dim::Dim;
use ir::graph::{Graph, NodeId, Origin, Value};
use ir::ops::{KvWrite, Op, Reshape, Rope, Slice, Transpose};
use ir::{DType, Tensor, TensorType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// See the module. The graph of `main` becomes that of `step`, or stays as it is.
pub const PASS: Pass = Pass { name: "make-kv-stateful", body: Body::Whole(run) };

/// Name of the entry and its graph.
pub const STEP: &str = "step";

/// Gives an input that chooses between the first step and later ones (`use_cache_branch`) its value for later ones: a step
/// always has a cache, if an empty one. False where there is no such input.
pub fn take_cache_branch(graph: &mut Graph) -> bool {
    let chooses = |n: &NodeId| {
        let v = Value::from(*n);
        graph.name(v).to_ascii_lowercase().contains("use_cache")
            && graph.tensor_ty(v).is_some_and(|t| t.dtype == DType::Bool)
    };
    let Some(at) = graph.inputs.iter().position(chooses) else { return false };
    let input = Value::from(graph.inputs[at]);
    let Some(dims) = graph.tensor_ty(input).and_then(|t| t.shape.as_const()) else { return false };
    let Ok(yes) = Tensor::from_bools(&dims, &vec![true; dims.iter().product()]) else { return false };
    let yes = graph.constant("use_cache", yes);
    graph.replace(input, yes);
    graph.inputs.remove(at);
    graph.remove_dead();
    for id in graph.order() {
        // What is computed from the choice is known now.
        let _ = graph.retype(id);
    }
    true
}

fn run(graph: &mut Graph, cx: &mut Context) {
    let mut made = graph.clone();
    match make(&mut made) {
        Ok(true) => {
            *graph = made;
            let logits = graph.outputs[0].value;
            cx.note("step", graph, logits, Ok(()));
        }
        Ok(false) => {}
        Err(Refusal { at, miss }) => cx.note("step", &made, at, Err(miss)),
    }
}

/// What stopped the pass, and where in the graph that it was making.
struct Refusal {
    at: Value,
    miss: Miss,
}

/// Makes the step of a decoder; false where the graph is none.
fn make(graph: &mut Graph) -> Result<bool, Refusal> {
    if graph.outputs.is_empty() || graph.inputs.is_empty() {
        return Ok(false);
    }
    let refusal = |(at, miss)| Refusal { at, miss };
    let Some(inputs) = Inputs::read(graph).map_err(refusal)? else { return Ok(false) };
    let mut attends: Vec<Attend> = vec![];
    for id in graph.order() {
        attends.extend(caches::attend(graph, &inputs, id).map_err(|miss| Refusal { at: id.into(), miss })?);
    }
    let Some(first) = attends.first() else {
        let at = graph.inputs.iter().map(|n| Value::from(*n)).find(|v| inputs.is_past(*v)).unwrap_or(inputs.ids);
        return Err(Refusal { at, miss: Miss::Refused("no attention that was recognised reads the cache") });
    };
    let at = first.node.into();
    let logits = logits::find(graph, &inputs);
    let Some(logits) = logits else {
        return Err(Refusal { at, miss: Miss::Refused("there is no result of logits for every token") });
    };
    let mut step = Step::new(graph, &inputs);
    for attend in attends {
        step.attend(attend)?;
    }
    step.finish(logits)?;
    Ok(true)
}

/// The graph while it becomes a step.
struct Step<'g> {
    graph: &'g mut Graph,
    inputs: &'g Inputs,
    ids: Value,
    places: [Value; 3],
    positions: Value,
    /// Sizes of every state: slots and capacity.
    sizes: [Dim; 2],
    /// By what was the past: the state, the rows written and the next version.
    states: BTreeMap<Value, (Value, Value, Value)>,
    order: Vec<Value>,
}

impl<'g> Step<'g> {
    fn new(graph: &'g mut Graph, inputs: &'g Inputs) -> Step<'g> {
        graph.name = STEP.to_string();
        let name = graph.name(inputs.ids).to_string();
        graph.rename(inputs.ids, "ids");
        let dims = [inputs.batch.clone(), inputs.steps.clone()];
        let ids = graph.input(&name, TensorType::new(DType::I32, dims));
        let mut vector = |name: &str| graph.input(name, TensorType::new(DType::I32, [inputs.batch.clone()]));
        let places = [vector("slots"), vector("lengths"), vector("counts")];
        let positions = positions::by_sequence(graph, inputs, places[1], places[2]);
        let taken = symbols(graph);
        let sizes = ["slots", "capacity"].map(|name| {
            let mut name = name.to_string();
            while taken.contains(&*name) {
                name.push('_');
            }
            Dim::sym(&name)
        });
        Step { graph, inputs, ids, places, positions, sizes, states: BTreeMap::new(), order: vec![] }
    }

    fn attend(&mut self, attend: Attend) -> Result<(), Refusal> {
        let at = Value::from(attend.node);
        let refuse = |miss| Refusal { at, miss };
        let origin = self.graph.node(attend.node).origin.clone();
        let add = |step: &mut Step<'_>, op: Op, operands: &[Value], name: &str| {
            let name = format!("{}.{name}", step.graph.name(at));
            step.graph.apply(op, operands, &name, &origin).map_err(|_| refuse(Miss::Refused("the cache does not fit")))
        };
        let (mut query, mut keys, mut values) = (attend.query, attend.keys, attend.values);
        if let Some([heads, kv_heads]) = attend.packed {
            let width = self.graph.tensor_ty(query).and_then(|t| t.dims()).and_then(|d| d.get(2));
            let each = width.and_then(|w| w.exact_div(&Dim::constant(heads + 2 * kv_heads)));
            let each = each.ok_or_else(|| refuse(Miss::Refused("queries, keys and values do not lie side by side")))?;
            let mut from = Dim::constant(0);
            let mut part = |step: &mut Step<'_>, heads: i64, name: &str| {
                let to = &from + &(&each * heads);
                let slice = Slice { axes: vec![2], starts: vec![from.clone()], ends: vec![to.clone()], steps: vec![1] };
                from = to;
                add(step, slice.into(), &[attend.query], name)
            };
            query = part(self, heads, "q")?;
            keys.rows = part(self, kv_heads, "k")?;
            values.rows = part(self, kv_heads, "v")?;
        }
        if let Some(Rotation { cos, sin, positions, interleaved }) = attend.rotation {
            let positions = positions.unwrap_or(self.positions);
            let kv_heads = self.graph.tensor_ty(keys.past).and_then(|t| t.dims()).and_then(|d| d[1].as_const());
            let rotary =
                self.graph.tensor_ty(cos).and_then(|t| t.dims()).and_then(|d| d.last()?.as_const()).map(|n| 2 * n);
            let rope = |heads| Rope { heads, rotary, interleaved };
            query = add(self, rope(attend.op.heads).into(), &[query, cos, sin, positions], "q.rotated")?;
            keys.rows = add(self, rope(kv_heads).into(), &[keys.rows, cos, sin, positions], "k.rotated")?;
        }
        let keys = self.write(at, keys)?;
        let values = self.write(at, values)?;
        let [slots, lengths, counts] = self.places;
        let mut operands = vec![query, keys, values, slots, lengths, counts];
        operands.extend(attend.sinks);
        let new = add(self, attend.op.into(), &operands, "step")?;
        if !self.graph.ty(new).compatible(self.graph.ty(at)) {
            return Err(refuse(Miss::Refused("the attention over the cache gives another shape")));
        }
        self.graph.take_name(at, new);
        self.graph.replace(at, new);
        Ok(())
    }

    /// The next version of a cache.
    fn write(&mut self, at: Value, append: Append) -> Result<Value, Refusal> {
        let refuse = |reason| Refusal { at, miss: Miss::Refused(reason) };
        if let Some((_, rows, next)) = self.states.get(&append.past) {
            return if *rows == append.rows { Ok(*next) } else { Err(refuse("two attentions append to one cache")) };
        }
        let ty = self.graph.tensor_ty(append.past).cloned();
        let Some((dtype, [_, heads, _, width])) = ty.as_ref().and_then(|t| Some((t.dtype, t.dims()?))) else {
            return Err(refuse("the cache does not have four dimensions"));
        };
        if heads.as_const().is_none() || width.as_const().is_none() {
            return Err(refuse("the heads of the cache are not numbers"));
        }
        let name = self.graph.name(append.past).to_string();
        self.graph.rename(append.past, "past");
        let [slots, capacity] = self.sizes.clone();
        let state = self.graph.state(&name, TensorType::new(dtype, [slots, heads.clone(), capacity, width.clone()]));
        let rows = self.in_place(append.rows);
        let [slots, lengths, counts] = self.places;
        let origin = self.graph.node(at.node).origin.clone();
        let next = format!("{name}.next");
        let next = self.graph.apply(KvWrite {}, &[slots, lengths, counts, state, rows], &next, &origin);
        let next = next.map_err(|_| refuse("the new rows do not fit the cache"))?;
        self.states.insert(append.past, (state, append.rows, next));
        self.order.push(state);
        Ok(next)
    }

    /// Rows `[B, S, H D]` where heads were only moved out of them: what is written is the same, and nothing is moved.
    fn in_place(&self, rows: Value) -> Value {
        let inside = || {
            let Some(Op::CoreOp(ir::ops::CoreOp::Transpose(Transpose { perm }))) = self.graph.op(rows.node) else {
                return None;
            };
            let split = (perm[..] == [0, 2, 1, 3]).then(|| self.graph.operands(rows.node)[0])?;
            let Some(Op::CoreOp(ir::ops::CoreOp::Reshape(Reshape { shape }))) = self.graph.op(split.node) else {
                return None;
            };
            let flat = self.graph.operands(split.node)[0];
            let [b, s, w] = self.graph.tensor_ty(flat)?.dims()? else { return None };
            let [sb, ss, h, d] = &shape[..] else { return None };
            (b == sb && s == ss && *w == h * d).then_some(flat)
        };
        inside().unwrap_or(rows)
    }

    fn finish(self, logits: Value) -> Result<(), Refusal> {
        let Step { graph, inputs, ids, places, positions, states, order, .. } = self;
        graph.outputs.clear();
        let last = logits::of_last_rows(graph, inputs, logits, places[2]);
        graph.output("logits", last);
        take_tokens(graph, inputs.ids, ids);
        let next: BTreeMap<Value, Value> = states.values().map(|(state, _, next)| (*state, *next)).collect();
        for state in &order {
            graph.next_state(*state, next[state]);
        }
        positions::replace_all(graph, inputs, positions)?;
        let kept: Vec<NodeId> = [ids].iter().chain(&places).chain(&order).map(|v| v.node).collect();
        let old: Vec<NodeId> = std::mem::replace(&mut graph.inputs, kept);
        graph.remove_dead();
        let left = old
            .into_iter()
            .find(|n| graph.contains(*n) && !graph.inputs.contains(n) && graph.use_count((*n).into()) > 0);
        if let Some(input) = left {
            let at = graph.readers(input.into()).first().map_or(input.into(), |(reader, _)| Value::from(*reader));
            return Err(Refusal {
                at,
                miss: Miss::Refused("it needs an input that a step does not have, or the past itself"),
            });
        }
        forget_past(graph, inputs)
    }
}

/// Tokens are i32 in a step: look-ups read them as they are.
fn take_tokens(graph: &mut Graph, old: Value, ids: Value) {
    let looks_up = |(reader, _): &(NodeId, u16)| graph.op(*reader).is_some_and(|op| op.name() == "gather");
    if graph.tensor_ty(old).is_some_and(|t| t.dtype == DType::I32) || graph.readers(old).iter().all(looks_up) {
        return graph.replace(old, ids);
    }
    let to = graph.tensor_ty(old).map_or(DType::I64, |t| t.dtype);
    let wide = graph.apply(ir::ops::Cast { to, wrap: false }, &[ids], "ids.wide", &Origin::new());
    graph.replace(old, wide.expect("integers are cast"));
}

/// Symbols that the graph mentions.
fn symbols(graph: &Graph) -> BTreeSet<Arc<str>> {
    let types = graph.order().into_iter().flat_map(|id| graph.results(id).collect::<Vec<_>>());
    let dims = types.filter_map(|v| graph.tensor_ty(v)?.dims().map(<[Dim]>::to_vec)).flatten();
    dims.flat_map(|d| d.symbols()).collect()
}

/// Nothing that is left may depend on the past length, in a type or an attribute.
fn forget_past(graph: &mut Graph, inputs: &Inputs) -> Result<(), Refusal> {
    let known = graph.input_symbols();
    let unbound = |d: &Dim| d.symbols().iter().any(|s| !s.starts_with('?') && !known.contains(s));
    let _ = inputs;
    for id in graph.order() {
        let mut needs = graph
            .results(id)
            .any(|v| graph.tensor_ty(v).and_then(|t| t.dims()).is_some_and(|dims| dims.iter().any(unbound)));
        if let Some(op) = graph.op(id).filter(|op| !op.has_body()) {
            op.clone().map_dims(&mut |d| {
                needs |= unbound(d);
                d.clone()
            });
        }
        if needs {
            let miss = Miss::Refused("it needs the past length, which differs by sequence");
            return Err(Refusal { at: id.into(), miss });
        }
    }
    graph.constraints.retain(|c| !unbound(&c.left) && !unbound(&c.right));
    Ok(())
}

#[cfg(test)]
mod tests;
