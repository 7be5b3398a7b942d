//! Experts whose weights are gathered for every pair of token and expert: `gather(w, ids)`, a product, the activation, a second
//! gather and product, and the weighted sum over the experts of a token.

use super::emit::Layer;
use super::expert::{self, Product, Space, Weight};
use super::look::{
    core, dims, elements, is_below, name, operand, peel, peel_clamps, repeated_rows, scalar, size, token_numbers,
};
use super::quantised;
use crate::pass::Miss;
use ir::Dim;
use ir::dim::Truth;
use ir::graph::{Graph, Value};
use ir::ops::{CoreOp, ReduceFn, Reduction};
use std::cell::Cell;

/// Rows are pairs; every weight is gathered with the same ids.
#[derive(Default)]
pub(super) struct Gathered {
    pub ids: Cell<Option<Value>>,
    pub experts: Cell<Option<usize>>,
    /// Why a quantised weight among them cannot be taken.
    refused: Cell<Option<Miss>>,
}

/// What was gathered, and how.
pub(super) struct Lookup {
    pub table: Value,
    pub experts: usize,
    ids: Value,
}

impl Gathered {
    /// The table of so many dimensions that a value was gathered from, by the ids of the layer.
    fn table(&self, graph: &Graph, v: Value, rank: usize) -> Option<Value> {
        let found = lookup(graph, v)?;
        let fits = dims(graph, found.table)?.len() == rank;
        (fits && self.takes(&found)).then_some(found.table)
    }

    /// Whether it was gathered by the ids of the layer, which the first one says.
    pub(super) fn takes(&self, found: &Lookup) -> bool {
        let ids = self.ids.get().is_none_or(|known| known == found.ids);
        let fits = ids && self.experts.get().is_none_or(|n| n == found.experts);
        if fits {
            self.ids.set(Some(found.ids));
            self.experts.set(Some(found.experts));
        }
        fits
    }

    /// `miss`, unless a quantised weight is the cause.
    fn cause(&self, miss: Miss) -> Miss {
        self.refused.get().unwrap_or(miss)
    }
}

/// The table that a value was gathered from along its first dimension.
pub(super) fn lookup(graph: &Graph, v: Value) -> Option<Lookup> {
    let (CoreOp::Gather(_) | CoreOp::GatherNd(_)) = core(graph, v)? else { return None };
    let (table, index) = (operand(graph, v, 0), operand(graph, v, 1));
    let shape = dims(graph, table)?;
    let fits = match core(graph, v)? {
        CoreOp::Gather(op) => op.axis == 0 || op.axis == -(shape.len() as i64),
        CoreOp::GatherNd(op) => op.batch_dims == 0 && dims(graph, index)?.last()?.as_const() == Some(1),
        _ => false,
    };
    let experts = size(shape.first().filter(|_| fits)?)?;
    let inside = peel_clamps(graph, index, experts);
    let ids = if is_below(graph, inside, experts) { inside } else { peel(graph, index, &["reshape"]) };
    Some(Lookup { table, experts, ids })
}

impl Space for Gathered {
    fn weight(&self, graph: &Graph, v: Value) -> Option<(Weight, bool)> {
        let (mut at, mut straight) = (v, true);
        loop {
            match quantised::read(graph, at, self) {
                Some(Ok(found)) => return Some((Weight::Quantised(Box::new(found)), straight)),
                Some(Err(miss)) => {
                    self.refused.set(Some(miss));
                    return None;
                }
                None => {}
            }
            let shape = dims(graph, at)?;
            let from = dims(graph, graph.operands(at.node).first().copied()?)?;
            match core(graph, at)? {
                CoreOp::Reshape(_) if from.len() >= 2 && shape.len() >= 2 => {
                    // Only the dimensions before the matrix may change.
                    if from[from.len() - 2..] != shape[shape.len() - 2..] {
                        return None;
                    }
                }
                CoreOp::Transpose(op) => {
                    let rank = op.perm.len() as i64;
                    let swaps = (0..rank - 2).chain([rank - 1, rank - 2]);
                    if rank < 2 || !op.perm.iter().copied().eq(swaps) {
                        return None;
                    }
                    straight = !straight;
                }
                _ => return self.table(graph, at, 3).map(|t| (Weight::Table(t), straight)),
            }
            at = operand(graph, at, 0);
        }
    }

    fn bias(&self, graph: &Graph, v: Value) -> Option<Weight> {
        let v = peel(graph, v, &["reshape"]);
        self.table(graph, v, 2).map(Weight::Table)
    }
}

/// The layer whose weighted sum is the `reduce` at `root`.
pub(super) fn find(graph: &Graph, root: Value) -> Result<Layer, Miss> {
    let Some(CoreOp::Reduce(op)) = core(graph, root) else { return Err(Miss::NoEffect) };
    let summed = operand(graph, root, 0);
    let shape = dims(graph, summed).ok_or(Miss::NoEffect)?;
    let reduced = op.reduced(shape.len()).map_err(|_| Miss::NoEffect)?;
    let axis = reduced.iter().position(|r| *r).ok_or(Miss::NoEffect)?;
    if op.f != ReduceFn::Sum || reduced.iter().filter(|r| **r).count() != 1 {
        return Err(Miss::NoEffect);
    }
    let (k, width) = (shape[axis].clone(), super::look::product(&shape[axis + 1..]));
    let space = Gathered::default();
    let (down, weights) = weighted(graph, summed, &space).ok_or(Miss::NoEffect)?;
    layer(graph, root, down, weights, &space, (&k, &width))
}

/// The layer whose rows are added at their tokens by the scatter at `root`.
pub(super) fn find_added(graph: &Graph, root: Value) -> Result<Layer, Miss> {
    let reduction = match core(graph, root) {
        Some(CoreOp::ScatterNd(op)) => op.reduction,
        Some(CoreOp::ScatterElements(op)) if op.axis == 0 => op.reduction,
        _ => return Err(Miss::NoEffect),
    };
    let [base, index, rows] = graph.operands(root.node)[..] else { return Err(Miss::NoEffect) };
    let index = match core(graph, index) {
        // One number for all elements of a row.
        Some(CoreOp::Expand(_)) if name(graph, root) == "scatter_elements" => operand(graph, index, 0),
        _ if name(graph, root) == "scatter_nd" => index,
        _ => return Err(Miss::NoEffect),
    };
    let (tokens, k) = token_numbers(graph, index).ok_or(Miss::NoEffect)?;
    let shape = dims(graph, root).ok_or(Miss::NoEffect)?;
    if reduction != Reduction::Add || shape.len() != 2 || shape[0] != tokens {
        return Err(Miss::NoEffect);
    }
    let space = Gathered::default();
    let (down, weights) = weighted(graph, rows, &space).ok_or(Miss::NoEffect)?;
    let mut layer = layer(graph, root, down, weights, &space, (&Dim::constant(k), &shape[1]))?;
    if scalar(graph, base) != Some(0.0) {
        layer.plus.push(base);
    }
    Ok(layer)
}

/// A product and the weights of its rows.
fn weighted(graph: &Graph, v: Value, space: &Gathered) -> Option<(Product, Value)> {
    let v = peel(graph, v, &["reshape", "cast"]);
    super::look::both_orders(graph, v, "mul").into_iter().find_map(|(rows, weights)| {
        // Cheap to answer, and rarely true.
        (dims(graph, weights)?.last()?.as_const() == Some(1)).then_some(())?;
        Some((expert::product(graph, rows, space)?, weights))
    })
}

/// The layer with this second product, whose tokens have `k` experts and `width` outputs.
pub(super) fn layer(
    graph: &Graph,
    root: Value,
    down: Product,
    weights: Value,
    space: &Gathered,
    (k, width): (&Dim, &Dim),
) -> Result<Layer, Miss> {
    let expert = expert::expert(graph, down, space).map_err(|miss| space.cause(miss))?;
    let ids = space.ids.get().ok_or(Miss::NoEffect)?;
    let pairs = elements(graph, ids).ok_or(Miss::Refused("the number of pairs is not known"))?;
    let one_each = elements(graph, weights).is_some_and(|n| n.same(&pairs) == Truth::Yes);
    if !one_each {
        return Err(Miss::Refused("there is not one weight for each gathered expert"));
    }
    let outputs = expert::outputs(graph, &expert.down).map(|n| Dim::constant(n as i64));
    if outputs.as_ref() != Some(width) || dims(graph, ids).and_then(|d| d.last()) != Some(k) {
        return Err(Miss::Refused("the sum is not over the experts of a token"));
    }
    let (x, repeat) = rows(graph, &expert.up)?;
    if let Some(linear) = &expert.linear
        && rows(graph, linear)? != (x, repeat)
    {
        return Err(Miss::Refused("gate and linear part read different rows"));
    }
    let weights = peel(graph, weights, &["reshape"]);
    let experts = space.experts.get().unwrap_or(0) as i64;
    Ok(Layer { root, x, repeat, ids, weights, experts, expert, plus: vec![] })
}

/// The rows that a first product reads, and how many pairs share each.
fn rows(graph: &Graph, p: &Product) -> Result<(Value, i64), Miss> {
    let k = expert::inputs(graph, p).ok_or(Miss::NoEffect)?;
    let unknown = Miss::Refused("it is not clear which row of x an expert reads");
    let (x, repeat) = repeated_rows(graph, p.x, &k).ok_or(unknown)?;
    Ok((x, repeat * p.repeat))
}

/// A product with gathered weights that is nothing else of a known layer.
pub(super) struct Alone {
    pub product: Product,
    pub x: Value,
    pub repeat: i64,
    pub ids: Value,
    pub experts: i64,
}

/// The product at `root`, of a weight gathered for every row.
pub(super) fn find_alone(graph: &Graph, root: Value) -> Result<Alone, Miss> {
    let space = Gathered::default();
    let Some(product) = expert::product(graph, root, &space) else {
        return Err(space.cause(Miss::NoEffect));
    };
    let shape = dims(graph, root).ok_or(Miss::NoEffect)?;
    let rows_each = &shape[shape.len() - 2..];
    if rows_each.iter().all(|d| d.as_const() != Some(1)) {
        return Err(Miss::Refused("gathered weights meet more than one row each"));
    }
    let (x, repeat) = rows(graph, &product)?;
    let ids = space.ids.get().ok_or(Miss::NoEffect)?;
    Ok(Alone { product, x, repeat, ids, experts: space.experts.get().unwrap_or(0) as i64 })
}
