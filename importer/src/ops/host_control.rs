//! `If`, `Loop` and `Scan`: bodies become closed graphs, typed so that every iteration fits.

use std::collections::HashSet;
use std::sync::Arc;

use ir::dim::Dim;
use ir::dtype::DType;
use ir::graph::{Graph, Value};
use ir::ops::host::{If, Loop, Scan, merge_types};
use ir::types::{Shape, TensorType, ValueType};

use super::Table;
use crate::body::Body;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "If", if_else), ("", "Loop", loop_body), ("", "Scan", scan)];

/// A known condition leaves only its branch.
fn if_else(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let condition = cx.input(0)?;
    let known = cx.constant_number(condition).or_else(|| cx.numbers(condition).map(|n| n[0] as f64));
    if let Some(holds) = known {
        return cx.inline(if holds != 0.0 { "then_branch" } else { "else_branch" }, &[]);
    }
    let (a, b) = (cx.body("then_branch", &[])?, cx.body("else_branch", &[])?);
    let operands = [&[condition], &a.captures[..], &b.captures[..]].concat();
    let n = a.graph.outputs.len();
    cx.push_n(If { then_branch: a.graph, else_branch: b.graph }, &operands, n)
}

fn loop_body(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (trips, condition) = (cx.or_absent(0), cx.or_absent(1));
    let carried: Vec<Value> = (2..cx.n_inputs()).map(|i| cx.input(i)).collect::<Result<_, _>>()?;
    let scalar = |dtype| ValueType::from(TensorType::new(dtype, [0i64; 0]));
    let body = settled(cx, "body", &[scalar(DType::I64), scalar(DType::Bool)], &carried, &[], 1)?;
    let operands = [&[trips, condition], &carried[..], &body.captures[..]].concat();
    let n = body.graph.outputs.len().saturating_sub(1);
    cx.push_n(Loop { body: body.graph, carried: carried.len() as i64 }, &operands, n)
}

/// Up to version 8 there is a batch dimension: a scan over it runs the actual scan.
fn scan(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let batched = cx.opset() < 9;
    if batched && cx.opt(0).is_some() {
        return cx.unsupported("sequence lengths of version 8");
    }
    let operands: Vec<Value> = (usize::from(batched)..cx.n_inputs()).map(|i| cx.input(i)).collect::<Result<_, _>>()?;
    let scanned = usize::try_from(cx.attr_i64("num_scan_inputs", 0)?).unwrap_or(0);
    let Some(states) = operands.len().checked_sub(scanned).filter(|_| scanned > 0) else {
        return Err(NodeError::wrong(format!("{scanned} of {} operands are scanned", operands.len())));
    };
    let n = cx.n_outputs();
    let stacked = n.checked_sub(states).ok_or_else(|| NodeError::wrong("it has fewer results than states"))?;
    let list = |cx: &NodeCx<'_>, name: &str, n: usize| {
        let given = cx.opt_ints(name)?.unwrap_or_else(|| vec![0; n]);
        match given.len() == n {
            true => Ok(given),
            false => Err(NodeError::wrong(format!("attribute `{name}` has {} entries, not {n}", given.len()))),
        }
    };
    let directions = if batched { "directions" } else { "scan_input_directions" };
    let scanned_axes = list(cx, "scan_input_axes", scanned)?;
    let scanned_backwards = list(cx, directions, scanned)?;
    let stacked_axes = list(cx, "scan_output_axes", stacked)?;
    let stacked_backwards = list(cx, "scan_output_directions", stacked)?;
    let mut given: Vec<ValueType> = operands.iter().map(|v| cx.ty(*v).clone()).collect();
    if batched {
        given = given.iter().map(|ty| without(ty, 0)).collect::<Result<_, _>>()?;
    }
    let slices = given[states..].iter().zip(&scanned_axes).map(|(ty, axis)| without(ty, *axis));
    let slices: Vec<ValueType> = slices.collect::<Result<_, _>>()?;
    let body = settled_types(cx, "body", &[], &given[..states], &slices, 0)?;
    if body.graph.outputs.len() != n {
        return Err(NodeError::wrong(format!("the body has {} results, the node {n}", body.graph.outputs.len())));
    }
    let all = [&operands[..], &body.captures[..]].concat();
    let op = Scan { body: body.graph.clone(), scanned_axes, scanned_backwards, stacked_axes, stacked_backwards };
    if !batched {
        return cx.push_n(op, &all, n);
    }
    let captures: Vec<ValueType> = body.captures.iter().map(|v| cx.ty(*v).clone()).collect();
    let inner = one_batch(cx.graph.child("batch"), op, &[&given[..], &captures[..]].concat(), n)?;
    cx.graph.adopt_numbering(&inner);
    let zeros = |n: usize| vec![0; n];
    let over = Scan {
        body: Arc::new(inner),
        scanned_axes: zeros(operands.len()),
        scanned_backwards: zeros(operands.len()),
        stacked_axes: zeros(n),
        stacked_backwards: zeros(n),
    };
    cx.push_n(over, &all, n)
}

/// A graph of one scan.
fn one_batch(mut graph: Graph, op: Scan, types: &[ValueType], n: usize) -> Result<Graph, NodeError> {
    let inputs: Vec<Value> = types.iter().map(|ty| graph.input("x", ty.clone())).collect();
    let node = graph.push(op, &inputs, &[], Default::default()).map_err(|e| NodeError::wrong(e.to_string()))?;
    let results: Vec<Value> = graph.results(node).take(n).collect();
    results.into_iter().enumerate().for_each(|(i, v)| graph.output(&format!("y{i}"), v));
    Ok(graph)
}

/// The type of a slice.
fn without(ty: &ValueType, axis: i64) -> Result<ValueType, NodeError> {
    let Some(t) = ty.as_tensor() else { return Err(NodeError::wrong(format!("{ty} cannot be scanned"))) };
    let mut t = t.clone();
    if let Shape::Ranked(dims) = &mut t.shape {
        dims.remove(ir::ops::axis(axis, dims.len()).map_err(|e| NodeError::wrong(e.to_string()))?);
    }
    Ok(t.into())
}

/// A body whose carried inputs have types that hold for every iteration: `first` inputs, then the carried ones, then
/// `last`. Result `skip + i` is the next of carried value `i`.
pub(super) fn settled(
    cx: &mut NodeCx<'_>,
    name: &str,
    first: &[ValueType],
    carried: &[Value],
    last: &[ValueType],
    skip: usize,
) -> Result<Body, NodeError> {
    let carried: Vec<ValueType> = carried.iter().map(|v| cx.ty(*v).clone()).collect();
    settled_types(cx, name, first, &carried, last, skip)
}

fn settled_types(
    cx: &mut NodeCx<'_>,
    name: &str,
    first: &[ValueType],
    carried: &[ValueType],
    last: &[ValueType],
    skip: usize,
) -> Result<Body, NodeError> {
    let mut carried = carried.to_vec();
    // Dimensions that change become symbols which each iteration binds; ranks that change are unknown. Each type can
    // change once per dimension and once more for its rank, in practice all in the first two rounds.
    let mut ours: HashSet<Dim> = HashSet::new();
    for _ in 0..8 {
        let body = cx.body(name, &[first, &carried[..], last].concat())?;
        if body.graph.outputs.len() < skip + carried.len() {
            let reason = format!("the body has {} results, too few to carry on", body.graph.outputs.len());
            return Err(NodeError::wrong(reason));
        }
        let mut settled = true;
        for (i, ty) in carried.iter_mut().enumerate() {
            let next = body.graph.ty(body.graph.outputs[skip + i].value).clone();
            let graph = &mut *cx.graph;
            let merged = merge_types(ty, &next, &mut |old| {
                if ours.contains(old) {
                    return old.clone();
                }
                let new = graph.fresh_late_dim();
                ours.insert(new.clone());
                new
            });
            let merged = merged.ok_or_else(|| NodeError::wrong(format!("carried value {i} is {ty}, then {next}")))?;
            settled &= merged == *ty;
            *ty = merged;
        }
        if settled {
            return Ok(body);
        }
    }
    cx.unsupported("the types of its carried values never settle")
}
