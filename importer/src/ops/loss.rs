//! Losses, which some exported models still carry: decomposed into gathers and reductions.

use ir::dim::Dim;
use ir::graph::Value;
use ir::ops::{Binary, Cast, Compare, Gather, GatherElements, Reduce, ReduceFn, Reshape, Select, Softmax, Unary};
use ir::scalar::{BinaryFn, CompareFn, UnaryFn};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "NegativeLogLikelihoodLoss", negative_log_likelihood),
    ("", "SoftmaxCrossEntropyLoss", softmax_cross_entropy),
];

fn negative_log_likelihood(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    Ok(vec![loss(cx, x)?])
}

fn softmax_cross_entropy(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let log = cx.push(Softmax { axis: 1, log: true }, &[x])?;
    Ok(vec![loss(cx, log)?, log])
}

/// `-weight[class] * x[class]` of every place, reduced; `x` is `[N, classes, ..]`, operand 1 the classes `[N, ..]`.
/// Places of the class `ignore_index` weigh nothing; the mean is weighted.
fn loss(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, NodeError> {
    let (mut classes, weight) = (cx.input(1)?, cx.opt(2));
    let (dims, rank) = (cx.known_dims(classes, "one element per place is gathered")?, cx.rank(classes).unwrap_or(0));
    let mut ignored = None;
    if let Some(ignore) = cx.opt_i64("ignore_index")? {
        let (ignore, first) = (cx.const_like(classes, ignore as f64)?, cx.const_like(classes, 0.0)?);
        let mask = cx.push(Compare { f: CompareFn::Eq }, &[classes, ignore])?;
        classes = cx.push(Select {}, &[mask, first, classes])?;
        ignored = Some(mask);
    }
    let mut places: Vec<Dim> = dims.clone();
    places.insert(1.min(rank), 1.into());
    let at = cx.push(Reshape { shape: places }, &[classes])?;
    let picked = cx.push(GatherElements { axis: 1 }, &[x, at])?;
    let picked = cx.push(Reshape { shape: dims }, &[picked])?;
    let mut lost = cx.push(Unary { f: UnaryFn::Neg }, &[picked])?;
    let weights = weights(cx, x, classes, weight, ignored)?;
    if let Some(weights) = weights {
        lost = cx.push(Binary { f: BinaryFn::Mul }, &[lost, weights])?;
    }
    let all = |f| Reduce { f, axes: (0..rank as i64).collect(), keep: false };
    match (&*cx.attr_str("reduction", "mean")?, weights) {
        ("none", _) => Ok(lost),
        ("sum", _) => cx.push(all(ReduceFn::Sum), &[lost]),
        ("mean", None) => cx.push(all(ReduceFn::Mean), &[lost]),
        ("mean", Some(weights)) => {
            let (sum, total) = (cx.push(all(ReduceFn::Sum), &[lost])?, cx.push(all(ReduceFn::Sum), &[weights])?);
            cx.push(Binary { f: BinaryFn::Div }, &[sum, total])
        }
        (other, _) => Err(NodeError::wrong(format!("attribute `reduction` is `{other}`"))),
    }
}

/// The weight of every place; `None` where all weigh the same.
fn weights(
    cx: &mut NodeCx<'_>,
    x: Value,
    classes: Value,
    weight: Option<Value>,
    ignored: Option<Value>,
) -> Result<Option<Value>, NodeError> {
    let weights = match weight {
        Some(weight) => Some(cx.push(Gather { axis: 0 }, &[weight, classes])?),
        None => None,
    };
    let Some(ignored) = ignored else { return Ok(weights) };
    let kept = cx.push(Unary { f: UnaryFn::Not }, &[ignored])?;
    let to = cx.dtype(x)?;
    let kept = cx.push(Cast { to, wrap: false }, &[kept])?;
    match weights {
        Some(weights) => cx.push(Binary { f: BinaryFn::Mul }, &[weights, kept]).map(Some),
        None => Ok(Some(kept)),
    }
}
