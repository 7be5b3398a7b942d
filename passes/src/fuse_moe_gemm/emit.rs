//! Writes what was found as `moe_route`, `expert_index` and two `moe_gemm`, or `moe_gemm_nbits` where weights are quantised.

use super::expert::{self, Expert, Product, Weight};
use super::gathered::Alone;
use super::look::{dims, elements, interior, is_weight, product};
use super::packed::pack;
use super::router::{self, Router};
use crate::edit::Edit;
use crate::pass::{Context, Miss};
use ir::dim::Truth;
use ir::graph::{Graph, Value};
use ir::ops::{Binary, Cast, ExpertIndex, Gating, MoeGemm, MoeGemmNBits, Reshape};
use ir::scalar::BinaryFn;
use ir::{Dim, Tensor};

/// A mixture of experts in a graph.
pub(super) struct Layer {
    /// The value that the layer takes the place of: `[.., H]`, a row per token.
    pub root: Value,
    /// Rows that experts read; pair `p` reads row `p / repeat`.
    pub x: Value,
    pub repeat: i64,
    /// Experts of each token: `[.., k]`.
    pub ids: Value,
    /// Their weights, in the same order.
    pub weights: Value,
    pub experts: i64,
    pub expert: Expert,
    /// Added to the result.
    pub plus: Vec<Value>,
}

/// Puts the layer in its root's place.
pub(super) fn emit(graph: &mut Graph, cx: &mut Context, rule: &'static str, layer: &Layer) -> Result<Value, Miss> {
    let router = router::find(graph, layer.ids, layer.weights);
    let mut stops = vec![layer.x];
    match &router {
        Some(r) => stops.push(r.logits),
        None => stops.extend([layer.ids, layer.weights]),
    }
    stops.extend(&layer.plus);
    let nodes = interior(graph, layer.root, &stops);
    let root = layer.root;
    let mut edit = Edit::new(graph, root, nodes);
    match build(&mut edit, layer, router).and_then(|new| edit.settle(new)) {
        Ok(new) => {
            edit.finish();
            cx.note(rule, graph, new, Ok(()));
            graph.prune(root.node);
            Ok(new)
        }
        Err(miss) => {
            edit.abandon();
            Err(miss)
        }
    }
}

/// Puts one product in its root's place.
pub(super) fn emit_alone(graph: &mut Graph, cx: &mut Context, root: Value, found: &Alone) -> Result<Value, Miss> {
    let nodes = interior(graph, root, &[found.x, found.ids]);
    let mut edit = Edit::new(graph, root, nodes);
    match build_alone(&mut edit, root, found).and_then(|new| edit.settle(new)) {
        Ok(new) => {
            edit.finish();
            cx.note("gathered-product", graph, new, Ok(()));
            graph.prune(root.node);
            Ok(new)
        }
        Err(miss) => {
            edit.abandon();
            Err(miss)
        }
    }
}

fn build_alone(edit: &mut Edit<'_>, root: Value, found: &Alone) -> Result<Value, Miss> {
    let x = as_rows(edit, found.x, &found.product)?;
    let rows = edit.apply(ExpertIndex { experts: found.experts }, &[found.ids])?;
    let offsets = Value { node: rows.node, result: 1 };
    let absent = edit.graph.absent();
    let y =
        apply_layer(edit, &MoeGemm { repeat: found.repeat, ..PLAIN }, [x, rows, offsets], &[&found.product], absent)?;
    let shape = dims(edit.graph, root).ok_or(Miss::Refused("the rank of the result is not known"))?.to_vec();
    as_shape(edit, y, shape)
}

fn build(edit: &mut Edit<'_>, layer: &Layer, router: Option<Router>) -> Result<Value, Miss> {
    let k = last(edit, layer.ids)?;
    let (ids, weights) = match router {
        Some(Router { op, logits, bias }) => {
            let logits = as_matrix(edit, logits)?;
            let bias = match bias {
                Some(b) => vec![as_shape(edit, b, vec![Dim::constant(layer.experts)])?],
                None => vec![],
            };
            let same = bias.iter().all(|b| edit.dtype(*b) == edit.dtype(logits));
            edit.require(same, "logits and selection bias have different types")?;
            let ids = edit.apply(op, &[&[logits], &bias[..]].concat())?;
            (ids, Value { node: ids.node, result: 1 })
        }
        None => {
            let tokens = elements(edit.graph, layer.ids).and_then(|n| n.exact_div(&k));
            let tokens = tokens.ok_or(Miss::Refused("the number of tokens is not known"))?;
            (layer.ids, as_shape(edit, layer.weights, vec![tokens, k])?)
        }
    };
    let rows = edit.apply(ExpertIndex { experts: layer.experts }, &[ids])?;
    let offsets = Value { node: rows.node, result: 1 };
    let Expert { up, linear, gating, act, alpha, beta, limit, down } = &layer.expert;
    edit.require(down.repeat == 1, "an expert's second layer reads rows that are not its own")?;
    let x = as_rows(edit, layer.x, up)?;
    let absent = edit.graph.absent();
    let products: Vec<&Product> = [Some(up), linear.as_ref()].into_iter().flatten().collect();
    let (gating, act) = (*gating, *act);
    let first = MoeGemm { repeat: layer.repeat, kn: false, gating, act, alpha: *alpha, beta: *beta, limit: *limit };
    let hidden = apply_layer(edit, &first, [x, rows, offsets], &products, absent)?;
    let y = apply_layer(edit, &PLAIN, [hidden, rows, offsets], &[down], weights)?;
    let shape = dims(edit.graph, layer.root).ok_or(Miss::Refused("the rank of the result is not known"))?.to_vec();
    let y = as_shape(edit, y, shape)?;
    let y = match (edit.dtype(y), edit.dtype(layer.root)) {
        (Some(from), Some(to)) if from != to => edit.apply(Cast { to, wrap: false }, &[y])?,
        _ => y,
    };
    layer.plus.iter().try_fold(y, |y, other| edit.apply(Binary { f: BinaryFn::Add }, &[*other, y]))
}

/// A product of one weight.
const PLAIN: MoeGemm =
    MoeGemm { repeat: 1, kn: false, gating: Gating::None, act: None, alpha: None, beta: None, limit: None };

/// One layer of the experts over rows of pairs: a product, or gate and linear part, and the weights of the pairs if they are summed.
fn apply_layer(
    edit: &mut Edit<'_>,
    op: &MoeGemm,
    rows: [Value; 3],
    products: &[&Product],
    weights: Value,
) -> Result<Value, Miss> {
    let quantised = |p: &&Product| matches!(p.weight, Weight::Quantised(_));
    if products.iter().any(quantised) {
        return apply_quantised(edit, op, rows, products, weights);
    }
    let absent = edit.graph.absent();
    let kn = products[0].kn;
    let mut operands = rows.to_vec();
    for p in products {
        edit.require(p.kn == kn, "gate and linear part are stored in different orders")?;
        operands.extend([weight(edit, &p.weight)?, bias(edit, p)?]);
    }
    operands.resize(7, absent);
    operands.push(weights);
    trim(&mut operands, absent);
    edit.apply(MoeGemm { kn, ..op.clone() }, &operands)
}

/// [`apply_layer`] over weights that stay packed.
fn apply_quantised(
    edit: &mut Edit<'_>,
    op: &MoeGemm,
    rows: [Value; 3],
    products: &[&Product],
    weights: Value,
) -> Result<Value, Miss> {
    let absent = edit.graph.absent();
    let x = edit.dtype(rows[0]).ok_or(Miss::NoEffect)?;
    let (mut operands, mut bits) = (rows.to_vec(), vec![]);
    for p in products {
        let Weight::Quantised(weight) = &p.weight else {
            return Err(Miss::Refused("only one of gate and linear part is quantised"));
        };
        let packed = pack(edit, weight, p.kn, x)?;
        bits.push(packed.bits);
        operands.extend([packed.codes, packed.scales, packed.zeros, bias(edit, p)?]);
    }
    operands.resize(11, absent);
    operands.push(weights);
    trim(&mut operands, absent);
    let MoeGemm { repeat, gating, act, alpha, beta, limit, .. } = op.clone();
    edit.apply(MoeGemmNBits { bits, repeat, gating, act, alpha, beta, limit }, &operands)
}

pub(super) fn trim(operands: &mut Vec<Value>, absent: Value) {
    while operands.last() == Some(&absent) {
        operands.pop();
    }
}

fn last(edit: &Edit<'_>, v: Value) -> Result<Dim, Miss> {
    let last = dims(edit.graph, v).and_then(|d| d.last().cloned());
    last.ok_or(Miss::Refused("the number of experts of a token is not known"))
}

/// `[.., n]` as `[rows, n]`.
fn as_matrix(edit: &mut Edit<'_>, v: Value) -> Result<Value, Miss> {
    let shape = dims(edit.graph, v).ok_or(Miss::Refused("the rank of the logits is not known"))?;
    let (n, lead) = shape.split_last().ok_or(Miss::Refused("logits have experts"))?;
    let shape = vec![product(lead), n.clone()];
    as_shape(edit, v, shape)
}

pub(super) fn as_shape(edit: &mut Edit<'_>, v: Value, shape: Vec<Dim>) -> Result<Value, Miss> {
    if dims(edit.graph, v) == Some(&shape[..]) {
        return Ok(v);
    }
    let whole = elements(edit.graph, v).is_some_and(|n| n.same(&product(&shape)) == Truth::Yes);
    edit.require(whole, "the sizes of the layer are not surely the same")?;
    edit.apply(Reshape { shape }, &[v])
}

/// Rows of as many elements as the first layer takes.
fn as_rows(edit: &mut Edit<'_>, x: Value, up: &Product) -> Result<Value, Miss> {
    let unknown = Miss::Refused("the number of inputs of an expert is not known");
    let k = expert::inputs(edit.graph, up).ok_or(unknown)?;
    if dims(edit.graph, x).is_some_and(|d| d.len() > 1 && d.last() == Some(&k)) {
        return Ok(x);
    }
    let rows = elements(edit.graph, x).and_then(|n| n.exact_div(&k)).ok_or(unknown)?;
    as_shape(edit, x, vec![rows, k])
}

fn bias(edit: &mut Edit<'_>, p: &Product) -> Result<Value, Miss> {
    let Some(bias) = &p.bias else { return Ok(edit.graph.absent()) };
    let b = weight(edit, bias)?;
    let shape = dims(edit.graph, b).ok_or(Miss::Refused("the rank of a bias is not known"))?;
    let flat = vec![shape[0].clone(), product(&shape[1..])];
    as_shape(edit, b, flat)
}

/// One constant that holds a weight of every expert.
fn weight(edit: &mut Edit<'_>, weight: &Weight) -> Result<Value, Miss> {
    match weight {
        Weight::Table(v) => {
            edit.require(is_weight(edit.graph, *v), "the weights of the experts are not constants")?;
            Ok(*v)
        }
        Weight::Each(all) => {
            let parts: Option<Vec<&Tensor>> = all.iter().map(|v| edit.graph.constant_of(*v)).collect();
            let parts = parts.ok_or(Miss::Refused("the weights of the experts are not constants"))?;
            let stacked = stack(&parts).ok_or(Miss::Refused("the weights of the experts have different types"))?;
            Ok(edit.constant(stacked))
        }
        Weight::Entry(..) | Weight::Own(_) | Weight::Quantised(_) => {
            Err(Miss::Refused("the weights of the experts are not in one place"))
        }
    }
}

/// `[..]` of every expert as `[experts, ..]`.
fn stack(parts: &[&Tensor]) -> Option<Tensor> {
    let first = parts.first()?;
    if parts.iter().any(|t| t.dims() != first.dims() || t.dtype() != first.dtype()) {
        return None;
    }
    let dims = [&[parts.len()], first.dims()].concat();
    let each = first.bytes().len();
    let fill = |to: &mut [u8]| {
        if each > 0 {
            to.chunks_exact_mut(each).zip(parts).for_each(|(to, t)| to.copy_from_slice(t.bytes()));
        }
    };
    Tensor::build(first.dtype(), &dims, fill).ok()
}
