//! Constants, and operators that give their operand.

use ir::graph::Value;
use ir::ops::host::Dropout;
use ir::ops::{Binary, Cast, Compare};
use ir::scalar::{BinaryFn, CompareFn};
use ir::tensor::Tensor;

use super::Table;
use super::data_random::seed_of_name;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table =
    &[("", "Constant", constant), ("", "Dropout", dropout), ("", "Identity", |cx| Ok(vec![cx.input(0)?]))];

fn constant(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let tensor = tensor(cx)?.ok_or_else(|| NodeError::wrong("it has no value"))?;
    Ok(vec![cx.add_constant(tensor)])
}

/// The value, in whichever attribute it is.
fn tensor(cx: &NodeCx<'_>) -> Result<Option<Tensor>, NodeError> {
    let vector = |made: Result<Tensor, ir::tensor::TensorError>| made.map_err(|e| NodeError::wrong(e.to_string()));
    if let Some(t) = cx.opt_tensor("value")? {
        return Ok(Some(t));
    }
    if let Some(t) = cx.opt_sparse("sparse_value")? {
        return Ok(Some(t));
    }
    if let Some(v) = cx.opt_i64("value_int")? {
        return Ok(Some(Tensor::scalar(v)));
    }
    if let Some(v) = cx.opt_f32("value_float")? {
        return Ok(Some(Tensor::scalar(v)));
    }
    if let Some(v) = cx.opt_str("value_string")? {
        return vector(Tensor::from_strings(&[], vec![v])).map(Some);
    }
    if let Some(v) = cx.opt_ints("value_ints")? {
        return Ok(Some(Tensor::vector_i64(&v)));
    }
    if let Some(v) = cx.opt_floats("value_floats")? {
        return vector(Tensor::from_slice(&[v.len()], &v)).map(Some);
    }
    match cx.opt_strs("value_strings")? {
        Some(v) => vector(Tensor::from_strings(&[v.len()], v)).map(Some),
        None => Ok(None),
    }
}

/// Inference keeps every element.
fn dropout(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    if let (Some(training), true) = (cx.opt(2), cx.opset() >= 12) {
        let ratio = cx.opt(1).and_then(|ratio| cx.constant_number(ratio));
        if cx.constant_number(training) != Some(0.0) && ratio != Some(0.0) {
            let seed = cx.opt_i64("seed")?.unwrap_or_else(|| seed_of_name(cx));
            let ratio = cx.or_absent(1);
            return cx.push_n(Dropout { seed }, &[x, ratio, training], 2);
        }
    }
    if !cx.wants(1) {
        return Ok(vec![x]);
    }
    // True everywhere, whatever the elements are.
    let (equal, unequal) =
        (cx.push(Compare { f: CompareFn::Eq }, &[x, x])?, cx.push(Compare { f: CompareFn::Ne }, &[x, x])?);
    let mut mask = cx.push(Binary { f: BinaryFn::Or }, &[equal, unequal])?;
    if cx.opset() < 10 {
        let to = cx.dtype(x)?;
        mask = cx.push(Cast { to, wrap: false }, &[mask])?;
    }
    Ok(vec![x, mask])
}
