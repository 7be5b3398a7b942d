//! Inputs for a model that nobody has inputs for: random, but such that the model's operators accept them.

use crate::Error;
use ir::eval::Symbols;
use ir::graph::Graph;
use ir::{CoreOp, DType, Datum, Dim, Op, Tensor, TensorType, Value, ValueType};
use plan::Entry;
use runtime::text::philox4x32;
use std::collections::BTreeMap;

/// What random inputs are made of.
#[derive(Clone, Debug, Default)]
pub struct RandomInputs {
    /// The same seed gives the same inputs.
    pub seed: u64,
    /// Symbols that shall have these values; others get small ones.
    pub dims: BTreeMap<String, i64>,
    /// Inputs that are given.
    pub given: BTreeMap<String, Datum>,
}

/// Inputs for an entry.
pub(crate) fn inputs(entry: &Entry, options: &RandomInputs) -> Result<Vec<Datum>, Error> {
    let graph = &entry.graph;
    let known = graph.input_symbols();
    if let Some(name) = options.dims.keys().find(|n| !known.contains(n.as_str())) {
        let known = known.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(", ");
        return Err(Error::Symbol { name: name.clone(), known });
    }
    let symbols = bind(graph, options);
    let mut random = Random { seed: options.seed, at: 0 };
    let make = |id: &ir::NodeId| {
        let v = Value::from(*id);
        match options.given.get(&**graph.name(v)) {
            Some(datum) => Ok(datum.clone()),
            None => value(graph, v, &symbols, &mut random),
        }
    };
    graph.inputs.iter().map(make).collect()
}

/// Values of all symbols: those asked for, those of given inputs, small ones for the rest, and what constraints say.
fn bind(graph: &Graph, options: &RandomInputs) -> Symbols {
    let mut symbols: Symbols = options.dims.iter().map(|(s, n)| (s.as_str().into(), *n)).collect();
    for id in &graph.inputs {
        let v = Value::from(*id);
        if let Some(datum) = options.given.get(&**graph.name(v)) {
            ir::eval::bind(graph.ty(v), datum, &mut symbols);
        }
    }
    solve(graph, &mut symbols);
    // Masks come last: they are as wide as what they mask.
    let is_mask = |id: &ir::NodeId| graph.name((*id).into()).to_ascii_lowercase().contains("mask");
    let (masks, others): (Vec<ir::NodeId>, Vec<ir::NodeId>) = graph.inputs.iter().partition(|id| is_mask(id));
    for id in others.iter().chain(&masks) {
        let Some(ty) = graph.tensor_ty((*id).into()) else { continue };
        for (axis, d) in ty.dims().unwrap_or_default().iter().enumerate() {
            let Some(s) = d.as_sym().filter(|s| !symbols.contains_key(*s)) else { continue };
            let masked = if is_mask(id) && axis == 1 { masked_steps(graph, &symbols) } else { None };
            let guessed = masked.unwrap_or_else(|| guess(graph.name((*id).into()), s, ty, axis));
            symbols.insert(s.into(), guessed);
            solve(graph, &mut symbols);
        }
    }
    symbols
}

/// How many steps a mask covers: the new ones, and those in the caches.
fn masked_steps(graph: &Graph, symbols: &Symbols) -> Option<i64> {
    let steps = |names: &[&str], axis: usize| {
        graph.inputs.iter().find_map(|id| {
            let name = graph.name((*id).into()).to_ascii_lowercase();
            let d = graph.tensor_ty((*id).into())?.dims()?.get(axis)?;
            if names.iter().any(|n| name.contains(n)) { d.eval(&|s| symbols.get(s).copied()).ok() } else { None }
        })
    };
    let new = steps(&["input_ids", "inputs_embeds", "decoder_input"], 1)?;
    Some(new + steps(&["past", "cache"], 2).unwrap_or(0))
}

/// Gives a value to symbols that a constraint determines.
fn solve(graph: &Graph, symbols: &mut Symbols) {
    for _ in 0..graph.constraints.len() {
        let mut found = None;
        for c in &graph.constraints {
            for (open, other) in [(&c.left, &c.right), (&c.right, &c.left)] {
                let value = other.eval(&|s| symbols.get(s).copied());
                let name = open.as_sym().filter(|s| !symbols.contains_key(*s));
                if let (Some(name), Ok(value)) = (name, value) {
                    found = found.or(Some((name.to_string(), value)));
                }
            }
        }
        let Some((name, value)) = found else { return };
        symbols.insert(name.into(), value);
    }
}

/// A size that such a dimension often has.
fn guess(input: &str, symbol: &str, ty: &TensorType, axis: usize) -> i64 {
    let name = symbol.to_ascii_lowercase();
    let rank = ty.dims().map_or(0, <[Dim]>::len);
    let channels = ty.dims().and_then(|d| d.get(1)?.as_const());
    match () {
        _ if name.contains("batch") || axis == 0 && rank > 1 => 1,
        _ if name.contains("past") || is_cache(input) => 4,
        _ if rank == 4 && axis >= 2 && matches!(channels, Some(1 | 3)) => 224,
        _ if rank == 4 && axis == 3 && ty.dims().and_then(|d| d[3].as_const()).is_none() => 8,
        _ => 8,
    }
}

/// Whether an input is a key-value cache by its name.
fn is_cache(input: &str) -> bool {
    let input = input.to_ascii_lowercase();
    ["past", "cache"].iter().any(|word| input.contains(word))
}

struct Random {
    seed: u64,
    at: u64,
}

impl Random {
    fn next(&mut self) -> u32 {
        self.at += 1;
        let counter = [self.at as u32, (self.at >> 32) as u32, 0, 0];
        philox4x32(counter, [self.seed as u32, (self.seed >> 32) as u32])[0]
    }
}

fn value(graph: &Graph, v: Value, symbols: &Symbols, random: &mut Random) -> Result<Datum, Error> {
    let name = graph.name(v);
    let refuse = |reason: String| Error::NoRandomInput { name: name.clone(), reason };
    let ValueType::Tensor(ty) = graph.ty(v) else {
        return Err(refuse(format!("it is {}, give it as a file", graph.ty(v))));
    };
    let dims = ty.dims().ok_or_else(|| refuse("its rank is unknown, give it as a file".into()))?;
    let size = |d: &Dim| {
        let n = d.eval(&|s| symbols.get(s).copied()).map_err(|e| refuse(e.to_string()))?;
        usize::try_from(n).map_err(|_| refuse(format!("its dimension {d} would be {n}")))
    };
    let dims: Vec<usize> = dims.iter().map(size).collect::<Result<_, _>>()?;
    let n = ir::tensor::count(&dims).map_err(|e| refuse(e.to_string()))?;
    if ty.dtype.bytes(n) > 1 << 34 {
        return Err(refuse(format!("{dims:?} would be very large; fix its symbols with --dim")));
    }
    let lower = name.to_ascii_lowercase();
    let made = match ty.dtype {
        DType::Str => Tensor::from_strings(&dims, vec!["text".to_string(); n]),
        DType::Bool => Tensor::from_bools(&dims, &vec![true; n]),
        d if d.is_float() => {
            let one = |_| random.next() as f64 / u32::MAX as f64 * 2.0 - 1.0;
            Tensor::from_f64(d, &dims, &(0..n).map(one).collect::<Vec<_>>())
        }
        d if lower.contains("mask") => Tensor::from_ints(d, &dims, &vec![1; n]),
        d if lower.contains("position") => {
            let row = dims.last().copied().unwrap_or(1).max(1);
            Tensor::from_ints(d, &dims, &(0..n).map(|i| (i % row) as i128).collect::<Vec<_>>())
        }
        d => {
            let below = vocabulary(graph, v).unwrap_or(2).max(1);
            Tensor::from_ints(d, &dims, &(0..n).map(|_| (random.next() as i64 % below) as i128).collect::<Vec<_>>())
        }
    };
    Ok(made.map_err(|e| refuse(e.to_string()))?.into())
}

/// Rows of the smallest table that a value indexes, directly or through casts and reshapes.
fn vocabulary(graph: &Graph, v: Value) -> Option<i64> {
    let rows = graph.readers(v).into_iter().filter_map(|(node, operand)| {
        let Some(Op::CoreOp(op)) = graph.op(node) else { return None };
        match op {
            CoreOp::Gather(gather) if operand == 1 => {
                let table = graph.operands(node)[0];
                let dims = graph.tensor_ty(table)?.dims()?;
                dims[gather.axis.rem_euclid(dims.len() as i64) as usize].as_const()
            }
            CoreOp::Cast(_) | CoreOp::Reshape(_) => vocabulary(graph, node.into()),
            _ => None,
        }
    });
    rows.min()
}
