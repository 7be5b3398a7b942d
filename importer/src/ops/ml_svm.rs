//! Support vector machines of `ai.onnx.ml`.

use ir::graph::Value;
use ir::ops::host::{ChooseLabel, PairProbabilities, PairVotes, Scores, SvmFn, SvmKernel, Transform};
use ir::ops::{Compare, Concat, Select};
use ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use ir::tensor::Tensor;

use super::ml_linear::{product, rows};
use super::{Table, ml_trees};
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table =
    &[("ai.onnx.ml", "SVMClassifier", classifier), ("ai.onnx.ml", "SVMRegressor", regressor)];

fn kernel(cx: &NodeCx<'_>) -> Result<SvmKernel, NodeError> {
    let f = match &*cx.attr_str("kernel_type", "LINEAR")? {
        "LINEAR" => SvmFn::Linear,
        "POLY" => SvmFn::Poly,
        "RBF" => SvmFn::Rbf,
        "SIGMOID" => SvmFn::Sigmoid,
        other => return Err(NodeError::wrong(format!("attribute `kernel_type` is `{other}`"))),
    };
    let numbers = cx.attr_floats("kernel_params", &[])?;
    let at = |i: usize| numbers.get(i).copied().unwrap_or(0.0);
    Ok(SvmKernel { f, gamma: at(0), offset: at(1), degree: at(2) })
}

/// The kernel of every row with each of `n` support vectors.
fn kernels(cx: &mut NodeCx<'_>, x: Value, n: usize) -> Result<Value, NodeError> {
    let vectors = cx.attr_floats("support_vectors", &[])?;
    if n == 0 || vectors.is_empty() || !vectors.len().is_multiple_of(n) {
        return Err(NodeError::wrong(format!("{} numbers for {n} support vectors", vectors.len())));
    }
    let vectors = Tensor::from_slice(&[n, vectors.len() / n], &vectors).map_err(|e| NodeError::wrong(e.to_string()))?;
    let vectors = cx.add_constant(vectors);
    cx.push(kernel(cx)?, &[x, vectors])
}

fn regressor(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let x = rows(cx, x)?;
    let weights = cx.attr_floats("coefficients", &[])?;
    let rho = cx.attr_floats("rho", &[])?;
    let bias = &rho[..rho.len().min(1)];
    let x = match usize::try_from(cx.attr_i64("n_supports", 0)?).unwrap_or(0) {
        // Without support vectors the coefficients belong to the columns.
        0 => x,
        n => kernels(cx, x, n)?,
    };
    let mut y = product(cx, x, 1, &weights, bias)?;
    if cx.attr_bool("one_class", false)? {
        let (one, other) = (cx.const_like(y, 1.0)?, cx.const_like(y, -1.0)?);
        let zero = cx.const_like(y, 0.0)?;
        let above = cx.push(Compare { f: CompareFn::Gt }, &[y, zero])?;
        y = cx.push(Select {}, &[above, one, other])?;
    }
    let transform = ml_trees::transform(cx)?;
    Ok(vec![ml_trees::transformed(cx, y, transform)?])
}

/// Scores of pairs of classes and the votes they are; without support vectors scores of classes.
fn classifier(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let x = rows(cx, x)?;
    let weights = cx.attr_floats("coefficients", &[])?;
    let rho = cx.attr_floats("rho", &[])?;
    let labels = ml_trees::labels(cx)?;
    let transform = ml_trees::transform(cx)?;
    let counts = cx.attr_ints("vectors_per_class", &[])?;
    let counts: Vec<usize> = counts.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect();
    let all: usize = counts.iter().sum();
    if all == 0 {
        let count = cx.tensor(labels)?.shape.elements().and_then(|n| usize::try_from(n.as_const()?).ok());
        let count = count.unwrap_or(0);
        let bias = if rho.len() == 1 { vec![rho[0]; count] } else { rho };
        let y = product(cx, x, count, &weights, &bias)?;
        let chosen = cx.push_n(ChooseLabel { f: Scores::PerLabel }, &[y, labels], 2)?;
        return Ok(vec![chosen[0], ml_trees::transformed(cx, chosen[1], transform)?]);
    }
    let pairs = pair_weights(&weights, &counts)?;
    let n = pairs.len() / all;
    let x = kernels(cx, x, all)?;
    if rho.len() != n {
        return Err(NodeError::wrong(format!("attribute `rho` has {} numbers for {n} pairs of classes", rho.len())));
    }
    let scores = product(cx, x, n, &pairs, &rho)?;
    let label = cx.push(PairVotes {}, &[scores, labels])?;
    let (a, b) = (cx.attr_floats("prob_a", &[])?, cx.attr_floats("prob_b", &[])?);
    if !a.is_empty() {
        let vector = |v: &[f32]| Tensor::from_slice(&[v.len()], v).map_err(|e| NodeError::wrong(e.to_string()));
        let (a, b) = (cx.add_constant(vector(&a)?), cx.add_constant(vector(&b)?));
        let y = cx.push(PairProbabilities { classes: counts.len() as i64 }, &[scores, a, b])?;
        return Ok(vec![label, ml_trees::transformed(cx, y, transform)?]);
    }
    if n > 1 {
        return Ok(vec![label, ml_trees::transformed(cx, scores, transform)?]);
    }
    // One score stands for both classes, as in other classifiers.
    let first = match transform {
        None | Some(Transform::Logistic) => cx.unary(UnaryFn::Neg, scores)?,
        Some(_) => {
            let one = cx.const_like(scores, 1.0)?;
            cx.binary(BinaryFn::Sub, one, scores)?
        }
    };
    let both = cx.push(Concat { axis: 1 }, &[first, scores])?;
    Ok(vec![label, ml_trees::transformed(cx, both, transform.filter(|t| *t == Transform::Logistic))?])
}

/// The coefficients of all support vectors for each pair of classes: vectors of the pair's first class have theirs in row
/// `j - 1` of the model's `[classes - 1, vectors]`, those of its second in row `i`, all others 0.
fn pair_weights(weights: &[f32], counts: &[usize]) -> Result<Vec<f32>, NodeError> {
    let (classes, all) = (counts.len(), counts.iter().sum::<usize>());
    if classes < 2 || weights.len() != (classes - 1) * all {
        let found = format!("{} coefficients for {all} support vectors", weights.len());
        return Err(NodeError::wrong(format!("{found} of {classes} classes")));
    }
    let starts: Vec<usize> = counts.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n))).collect();
    let mut pairs = vec![];
    for (i, j) in (0..classes).flat_map(|i| (i + 1..classes).map(move |j| (i, j))) {
        let mut row = vec![0.0; all];
        for (class, from) in [(i, j - 1), (j, i)] {
            let at = starts[class]..starts[class] + counts[class];
            row[at.clone()].copy_from_slice(&weights[from * all..][..all][at]);
        }
        pairs.extend(row);
    }
    Ok(pairs)
}
