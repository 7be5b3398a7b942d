//! The operators of `ai.onnx.ml` that number categories.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::host::LabelEncoder;
use ir::ops::{Cast, Gather, OneHot};
use ir::tensor::Tensor;

use super::{Table, ml_maps};
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table =
    &[("ai.onnx.ml", "CategoryMapper", category_mapper), ("ai.onnx.ml", "OneHotEncoder", one_hot_encoder)];

fn texts(cx: &mut NodeCx<'_>, dims: &[usize], texts: Vec<String>) -> Result<Value, NodeError> {
    let tensor = Tensor::from_strings(dims, texts).map_err(|e| NodeError::wrong(e.to_string()))?;
    Ok(cx.add_constant(tensor))
}

/// Text to number or number to text, by two lists of one length.
fn category_mapper(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let (words, numbers) = (cx.attr_strs("cats_strings", &[])?, cx.attr_ints("cats_int64s", &[])?);
    if words.len() != numbers.len() {
        return Err(NodeError::wrong(format!("{} words for {} numbers", words.len(), numbers.len())));
    }
    let to_number = cx.dtype(x)? == DType::Str;
    let (word, number) = (cx.attr_str("default_string", "_Unused")?, cx.attr_i64("default_int64", -1)?);
    let words = texts(cx, &[words.len()], words)?;
    let numbers = cx.const_i64s(&numbers);
    let operands = match to_number {
        true => [x, words, numbers, cx.const_i64(number)],
        false => [x, numbers, words, texts(cx, &[], vec![word])?],
    };
    cx.one(LabelEncoder {}, &operands)
}

/// One more dimension, with 1 at the position of the category. Numbers lose their fraction first. Unknown categories give
/// zeros, or fail the run with `zeros` = 0.
fn one_hot_encoder(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let mut x = cx.input(0)?;
    let keys = ml_maps::keys(cx, "cats_strings", "cats_int64s")?;
    let count = cx.known_dims(keys, "it lists categories")?.first().and_then(|n| n.as_const()).unwrap_or(0);
    if cx.dtype(x)? != cx.dtype(keys)? && cx.dtype(keys)? == DType::I64 {
        x = cx.push(Cast { to: DType::I64, wrap: false }, &[x])?;
    }
    let positions: Vec<i64> = (0..count).collect();
    let (positions, unknown) = (cx.const_i64s(&positions), cx.const_i64(count));
    let at = cx.push(LabelEncoder {}, &[x, keys, positions, unknown])?;
    if cx.attr_bool("zeros", true)? {
        let values = Tensor::from_slice(&[2], &[0.0f32, 1.0]).map_err(|e| NodeError::wrong(e.to_string()))?;
        let values = cx.add_constant(values);
        return cx.one(OneHot { depth: count.into(), axis: -1 }, &[at, values]);
    }
    // The row of an unknown category is out of range.
    let n = count as usize;
    let rows: Vec<f32> = (0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect();
    let rows = Tensor::from_slice(&[n, n], &rows).map_err(|e| NodeError::wrong(e.to_string()))?;
    let rows = cx.add_constant(rows);
    cx.one(Gather { axis: 0 }, &[rows, at])
}
