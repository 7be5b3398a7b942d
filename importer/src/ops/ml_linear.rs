//! Linear models of `ai.onnx.ml`.

use ir::graph::Value;
use ir::ops::host::{ChooseLabel, Scores, Transform};
use ir::ops::{Linear, Reshape};
use ir::tensor::Tensor;

use super::ml_scale::as_f32;
use super::{Table, ml_trees};
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table =
    &[("ai.onnx.ml", "LinearClassifier", classifier), ("ai.onnx.ml", "LinearRegressor", regressor)];

/// The operand as rows of f32; a vector is one row.
pub(super) fn rows(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, NodeError> {
    let x = as_f32(cx, x)?;
    match cx.dims(x).as_deref() {
        Some([n]) => cx.push(Reshape { shape: vec![1.into(), n.clone()] }, &[x]),
        _ => Ok(x),
    }
}

/// `rows x weights + bias` for weights `[n, k]`.
pub(super) fn product(
    cx: &mut NodeCx<'_>,
    x: Value,
    n: usize,
    weights: &[f32],
    bias: &[f32],
) -> Result<Value, NodeError> {
    if n == 0 || !weights.len().is_multiple_of(n) || !bias.is_empty() && bias.len() != n {
        let found = format!("{} coefficients and {} intercepts", weights.len(), bias.len());
        return Err(NodeError::wrong(format!("{found} for {n} scores")));
    }
    let constant = |cx: &mut NodeCx<'_>, dims: &[usize], values: &[f32]| {
        let tensor = Tensor::from_slice(dims, values).map_err(|e| NodeError::wrong(e.to_string()))?;
        Ok::<Value, NodeError>(cx.add_constant(tensor))
    };
    let mut operands = vec![x, constant(cx, &[n, weights.len() / n], weights)?];
    if !bias.is_empty() {
        operands.push(constant(cx, &[n], bias)?);
    }
    cx.push(Linear { kn: false }, &operands)
}

fn regressor(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let x = rows(cx, x)?;
    let targets = usize::try_from(cx.attr_i64("targets", 1)?).unwrap_or(0);
    let (weights, bias) = (cx.attr_floats("coefficients", &[])?, cx.attr_floats("intercepts", &[])?);
    let y = product(cx, x, targets, &weights, &bias)?;
    let transform = ml_trees::transform(cx)?;
    Ok(vec![ml_trees::transformed(cx, y, transform)?])
}

/// One score per label, or one score in all, which is evidence for the second of two labels.
fn classifier(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let x = rows(cx, x)?;
    let (weights, bias) = (cx.attr_floats("coefficients", &[])?, cx.attr_floats("intercepts", &[])?);
    let labels = ml_trees::labels(cx)?;
    let count = cx.tensor(labels)?.shape.elements().and_then(|n| n.as_const()).unwrap_or(0);
    let n = if bias.is_empty() { usize::try_from(count).unwrap_or(0) } else { bias.len() };
    let y = product(cx, x, n, &weights, &bias)?;
    let transform = ml_trees::transform(cx)?;
    let f = match (n, count, transform) {
        (1, 2, Some(Transform::Logistic)) => Scores::Evidence,
        (1, 2, _) => Scores::Shares,
        _ if n as i64 == count => Scores::PerLabel,
        _ => return Err(NodeError::wrong(format!("{n} scores for {count} labels"))),
    };
    let chosen = cx.push_n(ChooseLabel { f }, &[y, labels], 2)?;
    // The shares of two labels are left as they are.
    let transform = transform.filter(|_| f != Scores::Shares);
    Ok(vec![chosen[0], ml_trees::transformed(cx, chosen[1], transform)?])
}
