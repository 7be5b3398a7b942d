//! Positions by sequence: what counted on from the past length counts on from each sequence's own.

use super::Refusal;
use super::field::{Field, axis};
use super::inputs::Inputs;
use crate::pass::Miss;
use ir::dim::Dim;
use ir::graph::{Graph, Origin, Value};
use ir::ops::{Binary, Cast, CoreOp, Op, Range, Reshape};
use ir::scalar::BinaryFn;
use ir::{DType, Tensor};
use std::collections::HashMap;

/// The places of the new rows, `[B, S]` i64: `lengths[b] + i`; those beyond a sequence's count stay at its last one, so that
/// they are within every table that its own are in.
pub(super) fn by_sequence(graph: &mut Graph, inputs: &Inputs, lengths: Value, counts: Value) -> Value {
    let column = |graph: &mut Graph, v: Value, name: &str| {
        let wide = add(graph, Cast { to: DType::I64, wrap: false }, &[v], name);
        let shape = vec![inputs.batch.clone(), Dim::constant(1)];
        add(graph, Reshape { shape }, &[wide], name)
    };
    let steps = Range { start: Dim::constant(0), step: Dim::constant(1), length: inputs.steps.clone() };
    let steps = add(graph, steps, &[], "steps");
    let one = graph.constant("one", Tensor::scalar(1i64));
    let counts = column(graph, counts, "counts.column");
    let last = add(graph, Binary { f: BinaryFn::Sub }, &[counts, one], "last");
    let own = add(graph, Binary { f: BinaryFn::Min }, &[steps, last], "own");
    let lengths = column(graph, lengths, "lengths.column");
    add(graph, Binary { f: BinaryFn::Add }, &[own, lengths], "positions")
}

fn add(graph: &mut Graph, op: impl Into<Op>, operands: &[Value], name: &str) -> Value {
    graph.apply(op, operands, name, &Origin::new()).expect("sizes are the entry's own")
}

/// Replaces every value that counts on from the past length by `positions`. Values of one sequence, `[1, S, ..]`, become those
/// of the batch.
pub(super) fn replace_all(graph: &mut Graph, inputs: &Inputs, positions: Value) -> Result<(), Refusal> {
    let found = counting(graph, inputs);
    for (v, more) in found {
        let (Some(ty), true) = (graph.tensor_ty(v).cloned(), graph.use_count(v) > 0) else { continue };
        let name = graph.name(v).to_string();
        let mut new = positions;
        if more != 0 {
            let more = graph.constant("shift", Tensor::scalar(more));
            new = add(graph, Binary { f: BinaryFn::Add }, &[new, more], &name);
        }
        if ty.dtype != DType::I64 {
            new = add(graph, Cast { to: ty.dtype, wrap: false }, &[new], &name);
        }
        let mut shape = ty.dims().map(<[Dim]>::to_vec).unwrap_or_default();
        shape[0] = inputs.batch.clone();
        if shape.len() != 2 {
            new = add(graph, Reshape { shape }, &[new], &name);
        }
        substitute(graph, v, new, &inputs.batch)?;
    }
    Ok(())
}

/// Values `[1 or B, 1, .., S, .., 1]` that hold `P + i + c`, operands first, with c.
fn counting(graph: &Graph, inputs: &Inputs) -> Vec<(Value, i64)> {
    let mut fields = inputs.fields(graph);
    let mut found = vec![];
    for id in graph.order() {
        let v = Value::from(id);
        let Some(ty) = graph.tensor_ty(v).filter(|t| matches!(t.dtype, DType::I64 | DType::I32)) else { continue };
        let dims = ty.dims().unwrap_or_default();
        let along = (1..dims.len()).find(|i| dims[*i] == inputs.steps);
        let Some(along) = along else { continue };
        let is_one = |i: usize| dims[i].as_const() == Some(1);
        let plain = (1..dims.len()).all(|i| i == along || is_one(i)) && (is_one(0) || dims[0] == inputs.batch);
        let Some(Field::Int(d)) = (if plain { fields.of(v) } else { None }) else { continue };
        let step = if inputs.steps.as_const() == Some(1) { Dim::constant(0) } else { axis(along) };
        let rest = &(&d - inputs.past_length()) - &step;
        found.extend(rest.as_const().map(|more| (v, more)));
    }
    found
}

/// Makes the readers of `old` read `new`, typed anew where a batch of one became the batch.
fn substitute(graph: &mut Graph, old: Value, new: Value, batch: &Dim) -> Result<(), Refusal> {
    if graph.ty(old) == graph.ty(new) {
        graph.replace(old, new);
        return Ok(());
    }
    let mut changed: HashMap<Value, Value> = HashMap::from([(old, new)]);
    for id in graph.order() {
        let operands = graph.operands(id);
        if !operands.iter().any(|v| changed.contains_key(v)) {
            continue;
        }
        let Some(mut op) = graph.op(id).cloned() else { continue };
        let lifted = changed.contains_key(&operands[0]);
        if let Op::CoreOp(CoreOp::Reshape(Reshape { shape }) | CoreOp::Expand(ir::ops::Expand { shape })) = &mut op
            && let Some(first) = shape.first_mut().filter(|d| lifted && d.as_const() == Some(1))
        {
            *first = batch.clone();
        }
        let operands: Vec<Value> = operands.iter().map(|v| changed.get(v).copied().unwrap_or(*v)).collect();
        let names: Vec<String> = graph.node(id).names.iter().map(ToString::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let origin = graph.node(id).origin.clone();
        let refused =
            Refusal { at: id.into(), miss: Miss::Refused("it cannot take positions that differ by sequence") };
        let made = graph.push(op, &operands, &names, origin).map_err(|_| refused)?;
        let pairs: Vec<(Value, Value)> = graph.results(id).zip(graph.results(made)).collect();
        for (before, after) in pairs {
            graph.take_name(before, after);
            match graph.ty(before) == graph.ty(after) {
                true => graph.replace(before, after),
                false => drop(changed.insert(before, after)),
            }
        }
    }
    Ok(())
}
