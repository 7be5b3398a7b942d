//! Pairs sorted by expert, one product per expert over its part of the rows, and the inverse order before tokens are summed:
//! what grouped products are exported as.

use super::emit::Layer;
use super::expert::{self, Product, Space, Weight};
use super::look::{both_orders, core, dims, elements, is_below, name, operand, peel, scalar, size};
use super::looped::{Single, merge_products};
use super::selection::integer;
use crate::pass::Miss;
use ir::Dim;
use ir::dim::Truth;
use ir::graph::{Graph, Value};
use ir::ops::{CoreOp, Op, ReduceFn, Reduction};

/// What keeps the order of elements and their integer values.
const VIEWS: &[&str] = &["reshape", "cast"];

/// Pairs in the order of their experts.
struct Sorted {
    /// Position of each pair before sorting.
    order: Value,
    /// The experts in order.
    sorted: Value,
    ids: Value,
}

impl Space for Sorted {
    fn weight(&self, _: &Graph, _: Value) -> Option<(Weight, bool)> {
        None
    }

    fn bias(&self, _: &Graph, _: Value) -> Option<Weight> {
        None
    }

    /// One product per expert, each over its part.
    fn product(&self, graph: &Graph, v: Value) -> Option<Product> {
        let Some(CoreOp::Concat(op)) = core(graph, v) else { return None };
        (op.axis == 0).then_some(())?;
        let parts = graph.operands(v.node);
        let mut products = vec![];
        let mut start = None;
        let mut rows = None;
        for (e, part) in parts.iter().enumerate() {
            let p = expert::product(graph, *part, &Single)?;
            let slice = peel(graph, p.x, &["reshape"]);
            if graph.op(slice.node)?.name() != "slice_by" {
                return None;
            }
            let cut = graph.operands(slice.node);
            let axis_0 = cut.get(3).is_none_or(|a| integer(graph, *a) == Some(0));
            let step_1 = cut.get(4).is_none_or(|s| graph.tensor_ty(*s).is_none() || integer(graph, *s) == Some(1));
            let begins = match start {
                None => integer(graph, cut[1]) == Some(0),
                Some(end) => cut[1] == end,
            };
            if !axis_0 || !step_1 || !begins || *rows.get_or_insert(cut[0]) != cut[0] {
                return None;
            }
            self.ends(graph, cut[2], e, parts.len())?;
            start = Some(cut[2]);
            products.push(p);
        }
        let merged = merge_products(&products)?;
        Some(Product { node: v.node, x: rows?, repeat: 1, ..merged })
    }

    /// Rows that are cleared where the expert is none of the model's, which never happens.
    fn through(&self, graph: &Graph, v: Value) -> Option<Value> {
        let Some(CoreOp::Select(_)) = core(graph, v) else { return None };
        let condition = peel(graph, operand(graph, v, 0), &["reshape", "expand"]);
        let outside = name(graph, condition) == "ge"
            && peel(graph, operand(graph, condition, 0), VIEWS) == self.sorted
            && scalar(graph, operand(graph, condition, 1)).is_some_and(|e| is_below(graph, self.ids, e as usize));
        (outside && scalar(graph, operand(graph, v, 1)) == Some(0.0)).then(|| operand(graph, v, 2))
    }
}

impl Sorted {
    /// Whether `v` is where the pairs of expert `e` end: an entry of the running sum of the counts.
    fn ends(&self, graph: &Graph, v: Value, e: usize, experts: usize) -> Option<()> {
        let v = peel(graph, v, VIEWS);
        let sums = match core(graph, v)? {
            CoreOp::Slice(op) => match (&op.axes[..], &op.starts[..], &op.ends[..], &op.steps[..]) {
                ([0], [start], [end], [1]) if (start.as_const()?, end.as_const()?) == (e as i64, e as i64 + 1) => {
                    operand(graph, v, 0)
                }
                _ => return None,
            },
            CoreOp::Gather(_) if integer(graph, operand(graph, v, 1)) == Some(e as i64) => operand(graph, v, 0),
            _ => return None,
        };
        let sums = peel(graph, sums, VIEWS);
        let Some(CoreOp::Cumulate(op)) = core(graph, sums) else { return None };
        if name(graph, sums) != "cum_sum" || op.exclusive || op.reverse {
            return None;
        }
        let counts = peel(graph, operand(graph, sums, 0), VIEWS);
        let Some(CoreOp::ScatterElements(op)) = core(graph, counts) else { return None };
        let one_each = scalar(graph, operand(graph, counts, 2)) == Some(1.0);
        let from_zero = scalar(graph, operand(graph, counts, 0)) == Some(0.0);
        let each = size(&dims(graph, counts)?[0])? == experts;
        if op.reduction != Reduction::Add || !one_each || !from_zero || !each || !is_below(graph, self.ids, experts) {
            return None;
        }
        let bin = operand(graph, counts, 1);
        (0..experts).all(|id| self.bin(graph, bin, id as f32, 16) == Some(id as f32)).then_some(())
    }

    /// The bin that an expert is counted in.
    fn bin(&self, graph: &Graph, v: Value, id: f32, depth: usize) -> Option<f32> {
        if v == self.sorted || v == self.ids {
            return Some(id);
        }
        let depth = depth.checked_sub(1)?;
        let x = |i: usize| self.bin(graph, operand(graph, v, i), id, depth);
        let number = |i: usize| scalar(graph, operand(graph, v, i)).map(|n| n as f32);
        match name(graph, v) {
            "reshape" => x(0),
            "cast" if super::look::is_integer(graph, v) => x(0).map(f32::trunc),
            "cast" | "floor" => x(0).map(|b| if name(graph, v) == "floor" { b.floor() } else { b }),
            "relu" => x(0).map(|b| b.max(0.0)),
            "min" => Some(x(0)?.min(number(1)?)),
            "max" => Some(x(0)?.max(number(1)?)),
            "div" => Some(x(0)? / number(1)?),
            "mul" => Some(x(0)? * number(1)?),
            "sub" => Some(x(0)? - number(1)?),
            _ => None,
        }
    }

    /// Whether `v` is the token of each sorted pair: its position divided by `k`.
    fn is_token(&self, graph: &Graph, v: Value, k: i64) -> bool {
        let v = peel(graph, v, VIEWS);
        let x = |i: usize| operand(graph, v, i);
        if k == 1 && v == self.order {
            return true;
        }
        match name(graph, v) {
            "div" => peel(graph, x(0), VIEWS) == self.order && integer(graph, x(1)) == Some(k),
            // Division rounds down; a correction for negative positions is nothing.
            "sub" => self.is_token(graph, x(0), k) && self.is_nothing(graph, x(1)),
            _ => false,
        }
    }

    /// Whether something is one only for negative positions.
    fn is_nothing(&self, graph: &Graph, v: Value) -> bool {
        let v = peel(graph, v, VIEWS);
        let x = |i: usize| operand(graph, v, i);
        match name(graph, v) {
            "and" | "mul" => self.is_nothing(graph, x(0)) || self.is_nothing(graph, x(1)),
            "lt" => peel(graph, x(0), VIEWS) == self.order && scalar(graph, x(1)) == Some(0.0),
            "eq" => self.is_nothing(graph, x(0)) && scalar(graph, x(1)) == Some(1.0),
            _ => false,
        }
    }

    /// What rows taken in the sorted order are taken from.
    fn taken(&self, graph: &Graph, v: Value, by: impl Fn(Value) -> bool) -> Option<Value> {
        let v = peel(graph, v, &["reshape"]);
        let index = graph.operands(v.node).get(1).copied()?;
        let rows = match core(graph, v)? {
            CoreOp::Gather(op) => op.axis == 0,
            CoreOp::GatherNd(op) => op.batch_dims == 0 && dims(graph, index)?.last()?.as_const() == Some(1),
            _ => false,
        };
        (rows && by(index)).then(|| operand(graph, v, 0))
    }
}

/// The layer whose sum over the experts of a token is the `reduce` at `root`.
pub(super) fn find(graph: &Graph, root: Value) -> Result<Layer, Miss> {
    let Some(CoreOp::Reduce(op)) = core(graph, root) else { return Err(Miss::NoEffect) };
    let summed = operand(graph, root, 0);
    let shape = dims(graph, summed).ok_or(Miss::NoEffect)?;
    let reduced = op.reduced(shape.len()).map_err(|_| Miss::NoEffect)?;
    let over = reduced.len() == 3 && reduced[..] == [false, true, false];
    let (true, ReduceFn::Sum, Some(k)) = (over, op.f, shape[1.min(shape.len() - 1)].as_const()) else {
        return Err(Miss::NoEffect);
    };
    let back = peel(graph, summed, &["reshape", "cast"]);
    let space = unsorted(graph, back).ok_or(Miss::NoEffect)?;
    let rows = peel(graph, operand(graph, back, 0), &["reshape", "cast"]);
    let is_order = |v: Value| peel(graph, v, VIEWS) == space.order;
    let found = both_orders(graph, rows, "mul").into_iter().find_map(|(rows, weights)| {
        let weights = space.taken(graph, peel(graph, weights, VIEWS), is_order)?;
        Some((expert::product(graph, rows, &space)?, peel(graph, weights, &["reshape"])))
    });
    let why = Miss::Refused("the sorted rows are not one product per expert times their weights");
    let (down, weights) = found.ok_or(why)?;
    let expert = expert::expert(graph, down, &space)?;
    let rows = |p: &Product| {
        let rows = space.through(graph, p.x).unwrap_or(p.x);
        space.taken(graph, rows, |index| space.is_token(graph, index, k))
    };
    let x = rows(&expert.up).ok_or(Miss::Refused("it is not clear which row of x an expert reads"))?;
    if expert.linear.as_ref().is_some_and(|l| rows(l) != Some(x)) {
        return Err(Miss::Refused("gate and linear part read different rows"));
    }
    let experts = match &expert.up.weight {
        Weight::Each(all) => all.len(),
        Weight::Table(v) => dims(graph, *v).and_then(|d| size(&d[0])).unwrap_or(0),
        Weight::Entry(..) | Weight::Own(_) | Weight::Quantised(_) => 0,
    };
    let per_token = dims(graph, space.ids).and_then(|d| d.last().cloned()) == Some(Dim::constant(k));
    let one_each = elements(graph, space.ids).zip(elements(graph, weights));
    if !per_token || one_each.is_none_or(|(a, b)| a.same(&b) != Truth::Yes) {
        return Err(Miss::Refused("the sum is not over the experts of a token"));
    }
    let ids = space.ids;
    Ok(Layer { root, x, repeat: k, ids, weights, experts: experts as i64, expert, plus: vec![] })
}

/// The sorting that `v = rows[inverse]` undoes.
fn unsorted(graph: &Graph, v: Value) -> Option<Sorted> {
    let index = match core(graph, v)? {
        CoreOp::Gather(op) if op.axis == 0 => operand(graph, v, 1),
        CoreOp::GatherNd(op) if op.batch_dims == 0 => operand(graph, v, 1),
        _ => return None,
    };
    let inverse = peel(graph, index, VIEWS);
    let (order, positions) = match core(graph, inverse)? {
        CoreOp::ScatterNd(op) if op.reduction == Reduction::None => {
            (operand(graph, inverse, 1), operand(graph, inverse, 2))
        }
        CoreOp::ScatterElements(op) if op.reduction == Reduction::None => {
            (operand(graph, inverse, 1), operand(graph, inverse, 2))
        }
        _ => return None,
    };
    let counts = match core(graph, peel(graph, positions, VIEWS))? {
        CoreOp::Range(op) => op.start.as_const() == Some(0) && op.step.as_const() == Some(1),
        _ => false,
    };
    let order = peel(graph, order, VIEWS);
    let Some(Op::CoreOp(CoreOp::TopK(sort))) = graph.op(order.node) else { return None };
    let keys = operand(graph, order, 0);
    let [pairs] = dims(graph, keys)? else { return None };
    let all = sort.k.same(pairs) == Truth::Yes && !sort.largest && order.result == 1;
    let ids = peel(graph, keys, VIEWS);
    (counts && all).then_some(Sorted { order, sorted: Value { node: order.node, result: 0 }, ids })
}
