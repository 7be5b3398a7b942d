//! What the inputs of a decoder are: tokens, masks, positions, lengths and caches.
//!
//! Structure says which inputs are caches and lengths; names only tell masks, positions and tokens apart, which are all
//! integers of `[batch, sequence]`.

use super::field::{Field, Fields, Pred, axis};
use crate::pass::Miss;
use ir::DType;
use ir::dim::Dim;
use ir::graph::{Graph, Value};
use ir::ops::{CoreOp, Op};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The inputs, with the sizes that they have in common.
pub(super) struct Inputs {
    /// The tokens `[B, S]`.
    pub ids: Value,
    /// B.
    pub batch: Dim,
    /// S.
    pub steps: Dim,
    past: Dim,
    pasts: BTreeSet<Value>,
    /// What the other inputs hold, by contract.
    known: BTreeMap<Value, Field>,
}

/// The past length where no dimension says it: caches of a fixed size.
const PAST: &str = "past#";

impl Inputs {
    /// Reads the inputs of a graph, and writes the sizes that are the same by contract as one. `None`: no decoder with caches.
    pub fn read(graph: &mut Graph) -> Result<Option<Inputs>, (Value, Miss)> {
        let inputs: Vec<Value> = graph.inputs.iter().map(|n| (*n).into()).collect();
        let pasts: BTreeSet<Value> = inputs.iter().copied().filter(|v| is_cache(graph, *v)).collect();
        let Some(first) = pasts.iter().next().copied() else { return Ok(None) };
        let refuse = |reason| Err((first, Miss::Refused(reason)));
        let Some(ids) = tokens(graph, &inputs) else { return refuse("no input looks like tokens (`input_ids`)") };
        let dims = graph.tensor_ty(ids).and_then(|t| t.dims()).unwrap_or_default();
        let [batch, steps] = [&dims[0], &dims[1]].map(Clone::clone);
        if batch.as_sym().is_none() {
            return Err((ids, Miss::Refused("the batch is fixed: sequences cannot be batched")));
        }
        if steps.as_sym().is_none() && steps.as_const() != Some(1) {
            return Err((ids, Miss::Refused("the number of new tokens is fixed")));
        }
        let past = past_symbol(graph, &pasts);
        let same = same_sizes(graph, &inputs, &pasts, [&batch, &steps, &past]);
        graph.map_dims(&mut |d| d.substitute(&|s| same.get(s).cloned()));
        let mut found = Inputs { ids, batch, steps, past, pasts, known: BTreeMap::new() };
        for v in inputs.into_iter().filter(|v| *v != ids && !found.pasts.contains(v)) {
            if let Some(field) = found.meaning(graph, v) {
                found.known.insert(v, field);
            }
        }
        Ok(Some(found))
    }

    /// Rows that a sequence has before this step, as the graph calls it.
    pub fn past_length(&self) -> &Dim {
        &self.past
    }

    /// Whether a value is a cache as it was before this step.
    pub fn is_past(&self, v: Value) -> bool {
        self.pasts.contains(&v)
    }

    /// Formulas of the graph's values.
    pub fn fields<'g>(&self, graph: &'g Graph) -> Fields<'g> {
        Fields::new(graph, self.known.iter().map(|(v, f)| (*v, f.clone())))
    }

    /// What an input holds when nothing is padded and sequences follow each other.
    fn meaning(&self, graph: &Graph, v: Value) -> Option<Field> {
        let ty = graph.tensor_ty(v)?;
        let dims = ty.dims()?;
        let name = graph.name(v).to_ascii_lowercase();
        let one = match ty.dtype {
            DType::Bool => Field::Bool(Pred::Const(true)),
            d if d.is_float() => Field::Num(1.0),
            _ => Field::Int(Dim::constant(1)),
        };
        let is_index = matches!(ty.dtype, DType::I64 | DType::I32);
        if let Some(length) = is_index.then(|| self.length(graph, v)).flatten() {
            return Some(Field::Int(length));
        }
        match dims {
            [_, _] if name.contains("mask") => Some(one),
            [_, s] if is_index && name.contains("position") && *s == self.steps => {
                Some(Field::Int(&self.past + &axis(1)))
            }
            [s] if is_index && name.contains("position") && *s == self.steps => Some(Field::Int(&self.past + &axis(0))),
            // A mask that is added to scores, or keeps them.
            [_, _, s, _] if *s == self.steps && is_mask(graph, v) => {
                let until = Pred::at_least_zero(&(&self.past + &axis(2)) - &axis(3));
                Some(match ty.dtype {
                    DType::Bool => Field::Bool(until),
                    _ => Field::Select(until, Box::new(Field::Num(0.0)), Box::new(Field::Num(f64::NEG_INFINITY))),
                })
            }
            _ => None,
        }
    }

    /// Lengths are known by who reads them.
    fn length(&self, graph: &Graph, v: Value) -> Option<Dim> {
        let total = &self.past + &self.steps;
        let of = |(reader, operand): (_, u16)| match (graph.op(reader)?, operand) {
            (Op::CoreOp(CoreOp::TensorScatter(_)), 2) => Some(self.past.clone()),
            (Op::CoreOp(CoreOp::Attention(_)), 6) => Some(total.clone()),
            (Op::CoreOp(CoreOp::GroupQueryAttention(_)), 5) => Some(&total - &Dim::constant(1)),
            (Op::CoreOp(CoreOp::GroupQueryAttention(_)), 6) => Some(total.clone()),
            _ => None,
        };
        graph.readers(v).into_iter().find_map(of)
    }
}

/// A float of four dimensions that something appends to: a cache of keys or values.
fn is_cache(graph: &Graph, v: Value) -> bool {
    let Some(ty) = graph.tensor_ty(v) else { return false };
    let rank = ty.dims().map(<[Dim]>::len);
    let appends = |(reader, operand): (_, u16)| match graph.op(reader) {
        Some(Op::CoreOp(op)) => match op {
            CoreOp::Attention(_) => matches!(operand, 4 | 5),
            CoreOp::GroupQueryAttention(_) => matches!(operand, 3 | 4),
            CoreOp::Concat(_) | CoreOp::TensorScatter(_) | CoreOp::ScatterElements(_) | CoreOp::ScatterNd(_) => {
                operand == 0
            }
            CoreOp::Transpose(_) | CoreOp::Slice(_) => true,
            CoreOp::Select(_) => operand == 2,
            _ => false,
        },
        _ => false,
    };
    ty.dtype.is_float() && rank == Some(4) && !is_mask(graph, v) && graph.readers(v).into_iter().any(appends)
}

fn is_mask(graph: &Graph, v: Value) -> bool {
    let name = graph.name(v).to_ascii_lowercase();
    name.contains("mask") || name.contains("bias")
}

fn tokens(graph: &Graph, inputs: &[Value]) -> Option<Value> {
    let is_matrix = |v: &Value| {
        let ty = graph.tensor_ty(*v);
        ty.is_some_and(|t| matches!(t.dtype, DType::I64 | DType::I32) && t.dims().is_some_and(|d| d.len() == 2))
    };
    let named = |v: &Value| {
        let name = graph.name(*v).to_ascii_lowercase();
        (name.contains("ids") || name.contains("token") || name == "input") && !name.contains("position")
    };
    inputs.iter().copied().find(|v| is_matrix(v) && named(v))
}

/// The past length: the caches' third dimension where they grow, else a symbol of its own.
fn past_symbol(graph: &Graph, pasts: &BTreeSet<Value>) -> Dim {
    let grows = |v: &Value| {
        let dims = graph.tensor_ty(*v)?.dims()?;
        let own = dims[2].as_sym()?;
        let grown = graph.outputs.iter().any(|o| {
            let dims = graph.tensor_ty(o.value).and_then(|t| t.dims()).unwrap_or_default();
            dims.len() == 4 && dims[2].as_sym() != Some(own) && dims[2].symbols().contains(own)
        });
        grown.then(|| dims[2].clone())
    };
    pasts.iter().find_map(grows).unwrap_or_else(|| Dim::sym(PAST))
}

/// Symbols that stand for the same number by contract: exporters give each input its own.
fn same_sizes(
    graph: &Graph,
    inputs: &[Value],
    pasts: &BTreeSet<Value>,
    [batch, steps, past]: [&Dim; 3],
) -> BTreeMap<Arc<str>, Dim> {
    let mut same: BTreeMap<Arc<str>, Dim> = BTreeMap::new();
    let grows = past.as_sym() != Some(PAST);
    let total = past + steps;
    for v in inputs {
        let Some(dims) = graph.tensor_ty(*v).and_then(|t| t.dims()) else { continue };
        let name = graph.name(*v).to_ascii_lowercase();
        let mut equal = |d: &Dim, to: &Dim| {
            if let Some(s) =
                d.as_sym().filter(|s| !s.is_empty() && d != to && [batch, steps, past].iter().all(|k| *k != d))
            {
                same.entry(s.into()).or_insert_with(|| to.clone());
            }
        };
        match dims {
            [b, _, p, _] if pasts.contains(v) => {
                equal(b, batch);
                if grows {
                    equal(p, past);
                }
            }
            [b, t] if name.contains("mask") => {
                equal(b, batch);
                if grows {
                    equal(t, &total);
                }
            }
            [b, s] if name.contains("position") => {
                equal(b, batch);
                equal(s, steps);
            }
            [s] if name.contains("position") => equal(s, steps),
            _ => {}
        }
    }
    same
}
