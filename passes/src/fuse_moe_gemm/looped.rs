//! Loops over experts that a tracer unrolled: a sum with a term per expert.
//!
//! A term is the rows of one expert's tokens, scattered back (`x[token]`, the expert, times the weight, added at `token`), or all rows
//! times a weight that is zero where the expert was not chosen. Terms are proven alike but for the expert's number and
//! weights, and every expert must have its term.

use super::emit::Layer;
use super::expert::{self, Expert, Product, Space, Weight};
use super::look::{both_orders, core, dims, is_weight, name, operand, peel, repeated_rows, scalar};
use super::selection::{self, Chosen, component, integer, masked, pair_weights, token_rows};
use crate::pass::Miss;
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{CoreOp, Op, Reduction};
use std::collections::{HashMap, HashSet};

/// Weights of one expert are constants of their own, or entries of a table.
pub(super) struct Single;

impl Space for Single {
    fn weight(&self, graph: &Graph, v: Value) -> Option<(Weight, bool)> {
        let (mut at, mut straight) = (v, true);
        while let Some(CoreOp::Transpose(op)) = core(graph, at) {
            if op.perm != [1, 0] {
                return None;
            }
            straight = !straight;
            at = operand(graph, at, 0);
        }
        Some((entry(graph, at, 2)?, straight))
    }

    fn bias(&self, graph: &Graph, v: Value) -> Option<Weight> {
        entry(graph, v, 1)
    }
}

fn entry(graph: &Graph, v: Value, rank: usize) -> Option<Weight> {
    if is_weight(graph, v) {
        return (dims(graph, v)?.len() == rank).then_some(Weight::Own(v));
    }
    let v = peel(graph, v, &["reshape"]);
    let (table, at) = match core(graph, v)? {
        CoreOp::Gather(op) if op.axis == 0 => (operand(graph, v, 0), integer(graph, operand(graph, v, 1))?),
        CoreOp::Slice(op) => match (&op.axes[..], &op.starts[..], &op.ends[..], &op.steps[..]) {
            ([0], [start], [end], [1]) if end.as_const()? == start.as_const()? + 1 => {
                (operand(graph, v, 0), start.as_const()?)
            }
            _ => return None,
        },
        _ => return None,
    };
    (is_weight(graph, table) && dims(graph, table)?.len() == rank + 1).then_some(Weight::Entry(table, at))
}

/// A sum that is being taken apart.
#[derive(Default)]
struct Sum {
    scattered: Vec<(Value, Value, bool)>,
    products: Vec<Value>,
    others: Vec<Value>,
    nodes: Vec<NodeId>,
}

/// Remembers which sums were looked at, so that each is walked once.
#[derive(Default)]
pub(super) struct Seen(HashSet<NodeId>);

/// The layers that are terms of the sum at `root`, which nothing above it adds to.
pub(super) fn find(graph: &Graph, root: Value, seen: &mut Seen) -> Result<Layer, Miss> {
    if seen.0.contains(&root.node) {
        return Err(Miss::NoEffect);
    }
    let mut sum = take_apart(graph, root);
    seen.0.extend(sum.nodes.iter().copied());
    let mut tables = HashMap::new();
    if !sum.scattered.is_empty() {
        let terms: Result<Vec<Term>, Miss> =
            sum.scattered.iter().map(|(i, u, once)| scattered(graph, *i, *u, *once, &mut tables)).collect();
        sum.others.append(&mut sum.products);
        return layer(graph, root, terms?, sum.others);
    }
    let mut terms = vec![];
    for v in std::mem::take(&mut sum.products) {
        match all_tokens(graph, v) {
            Some(term) => terms.push(term?),
            None => sum.others.push(v),
        }
    }
    // One term alone is a shared expert or no expert at all.
    if terms.len() < 2 {
        return Err(Miss::NoEffect);
    }
    layer(graph, root, terms, sum.others)
}

fn take_apart(graph: &Graph, root: Value) -> Sum {
    let mut sum = Sum::default();
    let mut pending = vec![root];
    while let Some(v) = pending.pop() {
        let inside = v == root || graph.use_count(v) == 1;
        let x = |i: usize| operand(graph, v, i);
        match core(graph, v) {
            Some(CoreOp::Binary(_)) if inside && name(graph, v) == "add" => {
                sum.nodes.push(v.node);
                pending.extend([x(0), x(1)]);
            }
            Some(CoreOp::Binary(_)) if inside && name(graph, v) == "mul" => sum.products.push(v),
            Some(CoreOp::ScatterNd(op)) if inside => {
                take_scatter(graph, v, op.reduction, &mut sum, &mut pending);
            }
            Some(CoreOp::ScatterElements(op)) if inside && op.axis == 0 => {
                take_scatter(graph, v, op.reduction, &mut sum, &mut pending);
            }
            _ if scalar(graph, v) == Some(0.0) => {}
            _ => sum.others.push(v),
        }
    }
    sum
}

fn take_scatter(graph: &Graph, v: Value, reduction: Reduction, sum: &mut Sum, pending: &mut Vec<Value>) {
    let x = |i: usize| operand(graph, v, i);
    let into_zeros = scalar(graph, x(0)) == Some(0.0);
    let is_float = graph.tensor_ty(v).is_some_and(|t| t.dtype.is_float());
    match reduction {
        Reduction::Add if is_float => pending.push(x(0)),
        Reduction::None if is_float && into_zeros => {}
        _ => return sum.others.push(v),
    }
    sum.nodes.push(v.node);
    sum.scattered.push((x(1), x(2), reduction == Reduction::None));
}

/// What one term says.
struct Term {
    ids: Value,
    weights: Value,
    x: Value,
    expert: i64,
    /// Zero where nothing says how many there are.
    experts: usize,
    body: Expert,
}

const FOREIGN: Miss = Miss::Refused("a term of the sum is not an expert's rows times their weights");

/// Rows of an expert's tokens, added at their places.
fn scattered(
    graph: &Graph,
    index: Value,
    updates: Value,
    once: bool,
    tables: &mut HashMap<NodeId, Option<Chosen>>,
) -> Result<Term, Miss> {
    let index = peel(graph, index, &["reshape", "cast", "expand"]);
    let (list, row) = component(graph, index).ok_or(Miss::NoEffect)?;
    let chosen = *tables.entry(list).or_insert_with(|| selection::chosen(graph, list));
    let chosen = chosen.ok_or_else(|| unknown_choice(graph, list))?;
    if row != chosen.token_row {
        return Err(Miss::Refused("an expert's rows are not added at their tokens"));
    }
    if once && !is_top_k(graph, chosen.ids) {
        return Err(Miss::Refused("rows replace each other where a token may choose an expert twice"));
    }
    let updates = peel(graph, updates, &["reshape", "cast"]);
    let (down, weights) = both_orders(graph, updates, "mul")
        .into_iter()
        .find_map(|(rows, w)| {
            let weights = pair_weights(graph, w, list, &chosen)?;
            Some((expert::product(graph, rows, &Single)?, weights))
        })
        .ok_or(FOREIGN)?;
    let body = expert::expert(graph, down, &Single)?;
    let rows = |p: &Product| token_rows(graph, p.x, list, chosen.token_row);
    let x = rows(&body.up).ok_or(Miss::Refused("an expert does not read the rows of its tokens"))?;
    if body.linear.as_ref().is_some_and(|l| rows(l) != Some(x)) {
        return Err(Miss::Refused("gate and linear part read different rows"));
    }
    let Chosen { ids, experts, expert, .. } = chosen;
    Ok(Term { ids, weights, x, expert, experts, body })
}

fn is_top_k(graph: &Graph, ids: Value) -> bool {
    matches!(graph.op(ids.node), Some(Op::CoreOp(CoreOp::TopK(_)))) && ids.result == 1
}

/// Why it is not known which tokens chose an expert.
fn unknown_choice(graph: &Graph, list: NodeId) -> Miss {
    let mut v = peel(graph, operand(graph, list.into(), 0), &["cast", "reshape"]);
    if let Some(CoreOp::Gather(_)) = core(graph, v) {
        v = peel(graph, operand(graph, v, 1), &["cast", "reshape"]);
        let position = matches!(core(graph, v), Some(CoreOp::Slice(_) | CoreOp::Gather(_)));
        if position && graph.op(v.node).is_some() {
            return super::FROZEN;
        }
    }
    Miss::Refused("it is not clear which tokens chose an expert")
}

/// Rows of all tokens, times zero where the expert was not chosen.
fn all_tokens(graph: &Graph, v: Value) -> Option<Result<Term, Miss>> {
    both_orders(graph, v, "mul").into_iter().find_map(|(rows, mask)| {
        let (ids, weights, expert, experts) = masked(graph, mask)?;
        let down = expert::product(graph, rows, &Single)?;
        Some(all_rows(graph, down).map(|(x, body)| Term { ids, weights, x, expert, experts, body }))
    })
}

fn all_rows(graph: &Graph, down: Product) -> Result<(Value, Expert), Miss> {
    let body = expert::expert(graph, down, &Single)?;
    let width = |p: &Product| dims(graph, p.x).and_then(|d| d.last().cloned());
    let rows = |p: &Product| width(p).and_then(|w| repeated_rows(graph, p.x, &w)).filter(|(_, r)| *r == 1);
    let (x, _) = rows(&body.up).ok_or(Miss::Refused("an expert does not read the rows of all tokens"))?;
    if body.linear.as_ref().is_some_and(|l| rows(l) != Some((x, 1))) {
        return Err(Miss::Refused("gate and linear part read different rows"));
    }
    Ok((x, body))
}

/// One layer from one term per expert.
fn layer(graph: &Graph, root: Value, mut terms: Vec<Term>, others: Vec<Value>) -> Result<Layer, Miss> {
    terms.sort_by_key(|t| t.expert);
    let first = terms.first().ok_or(Miss::NoEffect)?;
    let experts = match first.experts {
        0 => router_width(graph, first.ids).ok_or(Miss::Refused("the number of experts is not known"))?,
        n => n,
    };
    if terms.iter().any(|t| (t.ids, t.weights, t.x) != (first.ids, first.weights, first.x)) {
        return Err(Miss::Refused("the terms of the sum do not share tokens, ids and weights"));
    }
    if terms.iter().enumerate().any(|(e, t)| t.expert != e as i64) {
        return Err(Miss::Refused("two terms of the sum are the same expert, or one expert has none"));
    }
    if terms.len() != experts {
        return Err(super::FROZEN);
    }
    let body = merge(&terms.iter().map(|t| &t.body).collect::<Vec<_>>())?;
    let k = dims(graph, first.ids).and_then(|d| d.last()?.as_const());
    let repeat = k.ok_or(Miss::Refused("the number of experts of a token is not known"))?;
    let (x, ids, weights) = (first.x, first.ids, first.weights);
    Ok(Layer { root, x, repeat, ids, weights, experts: experts as i64, expert: body, plus: others })
}

/// How many experts the router of these ids chooses from.
fn router_width(graph: &Graph, ids: Value) -> Option<usize> {
    let ids = peel(graph, ids, &["reshape", "cast"]);
    if !is_top_k(graph, ids) {
        return None;
    }
    super::look::size(dims(graph, operand(graph, ids, 0))?.last()?)
}

/// Experts that are alike but for their weights.
fn merge(all: &[&Expert]) -> Result<Expert, Miss> {
    let unlike = Miss::Refused("the experts do not compute the same function of their weights");
    let first = *all.first().ok_or(unlike)?;
    let alike = |e: &Expert| {
        let shape = |e: &Expert| (e.gating, e.act, e.alpha, e.beta, e.limit, e.linear.is_some());
        shape(e) == shape(first)
    };
    if !all.iter().all(|e| alike(e)) {
        return Err(unlike);
    }
    let together = |part: &dyn Fn(&Expert) -> Option<Product>| -> Result<Option<Product>, Miss> {
        let parts: Option<Vec<Product>> = all.iter().map(|e| part(e)).collect();
        let Some(parts) = parts else { return Ok(None) };
        merge_products(&parts).ok_or(unlike).map(Some)
    };
    let up = together(&|e| Some(e.up.clone()))?.ok_or(unlike)?;
    let down = together(&|e| Some(e.down.clone()))?.ok_or(unlike)?;
    let linear = together(&|e| e.linear.clone())?;
    Ok(Expert { up, down, linear, ..first.clone() })
}

pub(super) fn merge_products(parts: &[Product]) -> Option<Product> {
    let first = parts.first()?;
    if parts.iter().any(|p| p.kn != first.kn || p.repeat != 1 || p.bias.is_some() != first.bias.is_some()) {
        return None;
    }
    let weight = merge_weights(&parts.iter().map(|p| p.weight.clone()).collect::<Vec<_>>())?;
    let biases: Option<Vec<Weight>> = parts.iter().map(|p| p.bias.clone()).collect();
    let bias = match biases {
        Some(all) => Some(merge_weights(&all)?),
        None => None,
    };
    Some(Product { weight, bias, ..first.clone() })
}

fn merge_weights(all: &[Weight]) -> Option<Weight> {
    let own: Option<Vec<Value>> = all.iter().map(|w| if let Weight::Own(v) = w { Some(*v) } else { None }).collect();
    if let Some(own) = own {
        return Some(Weight::Each(own));
    }
    let Weight::Entry(table, _) = all.first()? else { return None };
    let in_order = all.iter().enumerate().all(|(e, w)| *w == Weight::Entry(*table, e as i64));
    in_order.then_some(Weight::Table(*table))
}
