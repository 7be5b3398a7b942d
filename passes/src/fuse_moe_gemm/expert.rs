//! What one expert computes for a row: `down(gate(up x))`, read off the nodes whatever space their rows live in.

use super::look::{core, dims, is_integer, name, operand, scalar, size};
use super::quantised::Quantised;
use crate::pass::Miss;
use ir::Dim;
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{ActivationFn, CoreOp, Gating};

/// A product with an expert's weight.
#[derive(Clone, Debug)]
pub(super) struct Product {
    /// What identifies it.
    pub node: NodeId,
    /// Its rows.
    pub x: Value,
    /// How often a row of `x` is used because dimensions are broadcast.
    pub repeat: i64,
    /// The weight, as the space understands it.
    pub weight: Weight,
    /// Whether it is stored `[k, n]`.
    pub kn: bool,
    /// The bias.
    pub bias: Option<Weight>,
}

/// Where the numbers of a weight are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Weight {
    /// In a table with one entry per expert.
    Table(Value),
    /// In one entry of a table.
    Entry(Value, i64),
    /// In a constant of its own.
    Own(Value),
    /// In one constant per expert.
    Each(Vec<Value>),
    /// As codes in a table with one entry per expert, with scales.
    Quantised(Box<Quantised>),
}

/// How the forms differ: what an expert's weights look like among the rows of an expert.
pub(super) trait Space {
    /// The weight that the second operand of a `matmul` is (`[.., k, n]`), or the first (`[.., n, k]`, times a column):
    /// and whether it is stored `[k, n]`.
    fn weight(&self, graph: &Graph, v: Value) -> Option<(Weight, bool)>;
    /// The bias that something added to a product is.
    fn bias(&self, graph: &Graph, v: Value) -> Option<Weight>;
    /// A product that is not one node.
    fn product(&self, _graph: &Graph, _v: Value) -> Option<Product> {
        None
    }
    /// What a value shows unchanged.
    fn through(&self, _graph: &Graph, _v: Value) -> Option<Value> {
        None
    }
}

/// One expert of every kind, or all of them at once.
#[derive(Clone, Debug)]
pub(super) struct Expert {
    pub up: Product,
    /// The linear part, where it has a weight of its own.
    pub linear: Option<Product>,
    pub gating: Gating,
    pub act: Option<ActivationFn>,
    pub alpha: Option<f32>,
    pub beta: Option<f32>,
    pub limit: Option<f32>,
    pub down: Product,
}

/// Nodes between two products at most.
const MAX_NODES: usize = 48;

/// A value of a row, up to the products that it is made from.
#[derive(Clone, Debug)]
enum Expr {
    Product(Product),
    Slice { of: Box<Expr>, start: i64, step: i64, len: i64 },
    Unary(&'static str, Box<Expr>),
    Binary(&'static str, Box<Expr>, Box<Expr>),
    Scalar(f64),
}

/// The product that a value is, through views and an added bias.
pub(super) fn product(graph: &Graph, v: Value, space: &dyn Space) -> Option<Product> {
    match read(graph, v, space, &mut MAX_NODES.clone())? {
        Expr::Product(p) => Some(p),
        _ => None,
    }
}

/// The expert whose last layer is `down`.
pub(super) fn expert(graph: &Graph, down: Product, space: &dyn Space) -> Result<Expert, Miss> {
    let refused = Miss::Refused("what lies between the two layers of an expert is not a known activation");
    let hidden = read(graph, down.x, space, &mut MAX_NODES.clone()).ok_or(refused)?;
    let found = gated(&hidden).or_else(|| single(&hidden)).ok_or(refused)?;
    let Gated { gate, linear, act, alpha, beta, limit } = found;
    let (up, linear, gating) = halves(gate, linear)?;
    Ok(Expert { up, linear, gating, act, alpha, beta, limit, down })
}

fn read(graph: &Graph, v: Value, space: &dyn Space, budget: &mut usize) -> Option<Expr> {
    *budget = budget.checked_sub(1)?;
    if let Some(number) = scalar(graph, v) {
        return Some(Expr::Scalar(number));
    }
    if let Some(product) = space.product(graph, v) {
        return Some(Expr::Product(product));
    }
    if let Some(shown) = space.through(graph, v) {
        return read(graph, shown, space, budget);
    }
    let x = |i: usize| operand(graph, v, i);
    match core(graph, v)? {
        CoreOp::Reshape(_) => read(graph, x(0), space, budget),
        CoreOp::Cast(_) if !is_integer(graph, v) && !is_integer(graph, x(0)) => read(graph, x(0), space, budget),
        CoreOp::Linear(op) => {
            let operands = graph.operands(v.node);
            let (weight, transposed) = space.weight(graph, operands[1])?;
            let bias = match operands.get(2) {
                Some(b) => Some(space.bias(graph, *b)?),
                None => None,
            };
            Some(Expr::Product(Product { node: v.node, x: x(0), repeat: 1, weight, kn: op.kn == transposed, bias }))
        }
        CoreOp::MatMul(_) => matmul(graph, v, space).map(Expr::Product),
        CoreOp::Slice(op) => {
            let dims_in = dims(graph, x(0))?;
            let ([axis], [start], [end], [step]) = (&op.axes[..], &op.starts[..], &op.ends[..], &op.steps[..]) else {
                return None;
            };
            let axis = axis.rem_euclid(dims_in.len() as i64) as usize;
            let n = dims_in[axis].as_const()?;
            // Only a part of each row.
            if *step < 1 || dims_in[axis + 1..].iter().any(|d| d.as_const() != Some(1)) {
                return None;
            }
            let clamp = |d: &Dim| d.as_const().map(|i| if i < 0 { (i + n).max(0) } else { i.min(n) });
            let (start, end) = (clamp(start)?, clamp(end)?);
            let len = (end - start).max(0).div_euclid(*step) + i64::from((end - start).max(0) % step != 0);
            Some(Expr::Slice { of: Box::new(read(graph, x(0), space, budget)?), start, step: *step, len })
        }
        CoreOp::Unary(_) => Some(Expr::Unary(name(graph, v), Box::new(read(graph, x(0), space, budget)?))),
        CoreOp::Binary(_) => {
            if name(graph, v) == "add"
                && let Some(biased) = biased(graph, (x(0), x(1)), space, budget)
            {
                return Some(biased);
            }
            let (a, b) = (read(graph, x(0), space, budget)?, read(graph, x(1), space, budget)?);
            Some(Expr::Binary(name(graph, v), Box::new(a), Box::new(b)))
        }
        _ => None,
    }
}

/// A product plus a bias.
fn biased(graph: &Graph, (a, b): (Value, Value), space: &dyn Space, budget: &mut usize) -> Option<Expr> {
    for (x, bias) in [(a, b), (b, a)] {
        let Some(bias) = space.bias(graph, bias) else { continue };
        if let Some(Expr::Product(p)) = read(graph, x, space, budget)
            && p.bias.is_none()
        {
            return Some(Expr::Product(Product { bias: Some(bias), ..p }));
        }
    }
    None
}

/// Rows times matrices, or matrices times columns.
fn matmul(graph: &Graph, v: Value, space: &dyn Space) -> Option<Product> {
    let (a, b) = (operand(graph, v, 0), operand(graph, v, 1));
    let (da, db) = (dims(graph, a)?, dims(graph, b)?);
    if da.len() < 2 || db.len() < 2 {
        return None;
    }
    let (lead_a, lead_b) = (&da[..da.len() - 2], &db[..db.len() - 2]);
    if let Some((weight, kn)) = space.weight(graph, b) {
        let repeat = broadcast_rows(lead_a, lead_b)?;
        // More rows than one per matrix are rows of an expert only where matrices are per expert.
        return Some(Product { node: v.node, x: a, repeat, weight, kn, bias: None });
    }
    let (weight, kn) = space.weight(graph, a)?;
    let column = db.last()?.as_const() == Some(1);
    column.then_some(())?;
    let repeat = broadcast_rows(lead_b, lead_a)?;
    Some(Product { node: v.node, x: b, repeat, weight, kn: !kn, bias: None })
}

/// How often each row is used when its leading dimensions are broadcast to those of the weights, row after row.
fn broadcast_rows(rows: &[Dim], weights: &[Dim]) -> Option<i64> {
    let one = Dim::constant(1);
    if weights.is_empty() || rows == weights {
        return Some(1);
    }
    let lead = weights.len().checked_sub(rows.len())?;
    let row = |i: usize| if i < lead { &one } else { &rows[i - lead] };
    let first = (0..weights.len()).find(|i| *row(*i) != weights[*i])?;
    let all_ones = (first..weights.len()).all(|i| *row(i) == one);
    all_ones.then(|| super::look::product(&weights[first..]).as_const()).flatten()
}

/// Two rows of numbers that a gate combines.
struct Gated<'e> {
    gate: &'e Expr,
    linear: Option<&'e Expr>,
    act: Option<ActivationFn>,
    alpha: Option<f32>,
    beta: Option<f32>,
    limit: Option<f32>,
}

/// `act(min(g, limit)) * (clamp(u, -limit, limit) + beta)`.
fn gated(e: &Expr) -> Option<Gated<'_>> {
    let Expr::Binary("mul", a, b) = e else { return None };
    for (act, linear) in [(a, b), (b, a)] {
        let Some((f, alpha, gate)) = activation(act) else { continue };
        let (linear, beta) = plus(linear);
        let (gate, most) = at_most(gate);
        let (linear, within) = within(linear)?;
        if most != within || !is_part(gate) || !is_part(linear) {
            continue;
        }
        return Some(Gated { gate, linear: Some(linear), act: Some(f), alpha, beta, limit: most });
    }
    // A plain product of two layers (bilinear), or `(u + beta) * g * sigmoid(g)` grouped the other way.
    regrouped(a, b).or_else(|| regrouped(b, a))
}

/// `(linear * g) * sigmoid(alpha g)`.
fn regrouped<'e>(product: &'e Expr, sigmoid: &'e Expr) -> Option<Gated<'e>> {
    let (Expr::Binary("mul", a, b), Expr::Unary("sigmoid", s)) = (product, sigmoid) else { return None };
    for (g, linear) in [(a, b), (b, a)] {
        let (inner, alpha) = times(s);
        if !same(inner, g) {
            continue;
        }
        let (linear, beta) = plus(linear);
        let (gate, most) = at_most(g);
        let (linear, bounds) = within(linear)?;
        if most == bounds && is_part(gate) && is_part(linear) {
            return Some(Gated { gate, linear: Some(linear), act: Some(ActivationFn::Silu), alpha, beta, limit: most });
        }
    }
    None
}

/// `act(g)`.
fn single(e: &Expr) -> Option<Gated<'_>> {
    if let Expr::Product(_) = e {
        return Some(Gated { gate: e, linear: None, act: None, alpha: None, beta: None, limit: None });
    }
    let (f, alpha, gate) = activation(e)?;
    matches!(gate, Expr::Product(_)).then_some(Gated {
        gate,
        linear: None,
        act: Some(f),
        alpha,
        beta: None,
        limit: None,
    })
}

/// A function of one value, with its parameter, and the value.
fn activation(e: &Expr) -> Option<(ActivationFn, Option<f32>, &Expr)> {
    match e {
        Expr::Unary("silu", x) => Some((ActivationFn::Silu, None, x)),
        Expr::Unary("gelu", x) => Some((ActivationFn::Gelu, None, x)),
        Expr::Unary("relu", x) => Some((ActivationFn::Relu, None, x)),
        Expr::Binary("mul", a, b) => [(a, b), (b, a)].into_iter().find_map(|(x, s)| {
            let Expr::Unary("sigmoid", s) = &**s else { return None };
            let (inner, alpha) = times(s);
            same(inner, x).then_some((ActivationFn::Silu, alpha, &**x))
        }),
        _ => None,
    }
}

/// `x * number`.
fn times(e: &Expr) -> (&Expr, Option<f32>) {
    match e {
        Expr::Binary("mul", a, b) => match (&**a, &**b) {
            (Expr::Scalar(n), x) | (x, Expr::Scalar(n)) => (x, Some(*n as f32)),
            _ => (e, None),
        },
        _ => (e, None),
    }
}

/// `x + number`.
fn plus(e: &Expr) -> (&Expr, Option<f32>) {
    match e {
        Expr::Binary("add", a, b) => match (&**a, &**b) {
            (Expr::Scalar(n), x) | (x, Expr::Scalar(n)) => (x, Some(*n as f32)),
            _ => (e, None),
        },
        _ => (e, None),
    }
}

fn bound<'e>(e: &'e Expr, f: &str) -> Option<(&'e Expr, f32)> {
    match e {
        Expr::Binary(found, a, b) if *found == f => match (&**a, &**b) {
            (Expr::Scalar(n), x) | (x, Expr::Scalar(n)) => Some((x, *n as f32)),
            _ => None,
        },
        _ => None,
    }
}

/// `min(x, limit)`.
fn at_most(e: &Expr) -> (&Expr, Option<f32>) {
    bound(e, "min").map_or((e, None), |(x, n)| (x, Some(n)))
}

/// `clamp(x, -limit, limit)`; `None` for bounds that are not opposite.
fn within(e: &Expr) -> Option<(&Expr, Option<f32>)> {
    let bounds = match (bound(e, "min"), bound(e, "max")) {
        (Some((x, high)), _) => bound(x, "max").map(|(x, low)| (x, low, high)),
        (_, Some((x, low))) => bound(x, "min").map(|(x, high)| (x, low, high)),
        _ => return Some((e, None)),
    };
    let (x, low, high) = bounds?;
    (low == -high).then_some((x, Some(high)))
}

/// A product or a part of its outputs.
fn is_part(e: &Expr) -> bool {
    match e {
        Expr::Product(_) => true,
        Expr::Slice { of, .. } => matches!(**of, Expr::Product(_)),
        _ => false,
    }
}

fn same(a: &Expr, b: &Expr) -> bool {
    match (a, b) {
        (Expr::Product(a), Expr::Product(b)) => a.node == b.node,
        (Expr::Slice { of: a, start, step, len }, Expr::Slice { of: b, start: s, step: t, len: l }) => {
            same(a, b) && (start, step, len) == (s, t, l)
        }
        (Expr::Unary(f, a), Expr::Unary(g, b)) => f == g && same(a, b),
        (Expr::Binary(f, a, b), Expr::Binary(g, c, d)) => f == g && same(a, c) && same(b, d),
        (Expr::Scalar(a), Expr::Scalar(b)) => a == b,
        _ => false,
    }
}

/// The product or products that gate and linear part are.
fn halves(gate: &Expr, linear: Option<&Expr>) -> Result<(Product, Option<Product>, Gating), Miss> {
    match (gate, linear) {
        (Expr::Product(g), None) => Ok((g.clone(), None, Gating::None)),
        (Expr::Product(g), Some(Expr::Product(u))) if g.node != u.node => {
            Ok((g.clone(), Some(u.clone()), Gating::None))
        }
        (
            Expr::Slice { of: g, start: gs, step: gt, len: gl },
            Some(Expr::Slice { of: u, start: us, step: ut, len: ul }),
        ) => {
            let (Expr::Product(g), Expr::Product(u)) = (&**g, &**u) else {
                return Err(Miss::Refused("gate and linear part are not parts of a product"));
            };
            if g.node != u.node || gl != ul || gt != ut {
                return Err(Miss::Refused("gate and linear part are not halves of one product"));
            }
            match (gs, us, gt) {
                (0, us, 1) if us == gl => Ok((g.clone(), None, Gating::Halves)),
                (0, 1, 2) => Ok((g.clone(), None, Gating::Interleaved)),
                _ => Err(Miss::Refused("the gate is not the first of the two halves of its product")),
            }
        }
        _ => Err(Miss::Refused("gate and linear part are not parts of a product")),
    }
}

/// How many outputs a product of this weight has, where that is a number.
pub(super) fn outputs(graph: &Graph, p: &Product) -> Option<usize> {
    let [a, b] = matrix(graph, p)?;
    size(if p.kn { &b } else { &a })
}

/// How many inputs a product of this weight has.
pub(super) fn inputs(graph: &Graph, p: &Product) -> Option<Dim> {
    let [a, b] = matrix(graph, p)?;
    Some(if p.kn { a } else { b })
}

/// The dimensions of an expert's weight, as it is stored.
fn matrix(graph: &Graph, p: &Product) -> Option<[Dim; 2]> {
    let (v, skip) = match &p.weight {
        Weight::Table(t) | Weight::Entry(t, _) => (*t, 1),
        Weight::Own(w) => (*w, 0),
        Weight::Each(all) => (*all.first()?, 0),
        Weight::Quantised(w) => return Some(w.matrix.map(|n| Dim::constant(n as i64))),
    };
    let [a, b] = dims(graph, v)?.get(skip..)? else { return None };
    Some([a.clone(), b.clone()])
}
