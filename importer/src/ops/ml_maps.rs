//! The operators of `ai.onnx.ml` that take or make maps.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::host::{CastMap, DictVectorizer, ZipMap};
use ir::tensor::Tensor;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("ai.onnx.ml", "CastMap", cast_map),
    ("ai.onnx.ml", "DictVectorizer", dict_vectorizer),
    ("ai.onnx.ml", "ZipMap", zip_map),
];

fn cast_map(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let to = match &*cx.attr_str("cast_to", "TO_FLOAT")? {
        "TO_FLOAT" => DType::F32,
        "TO_INT64" => DType::I64,
        "TO_STRING" => DType::Str,
        other => return Err(NodeError::wrong(format!("attribute `cast_to` is `{other}`"))),
    };
    let columns = match &*cx.attr_str("map_form", "DENSE")? {
        "DENSE" => None,
        "SPARSE" => Some(cx.attr_i64("max_map", 1)?),
        other => return Err(NodeError::wrong(format!("attribute `map_form` is `{other}`"))),
    };
    cx.one(CastMap { to, columns }, &[cx.input(0)?])
}

/// A constant of one of two lists; exactly one of them is there.
pub(super) fn keys(cx: &mut NodeCx<'_>, texts: &str, numbers: &str) -> Result<Value, NodeError> {
    let found = (cx.opt_strs(texts)?.filter(|t| !t.is_empty()), cx.opt_ints(numbers)?.filter(|n| !n.is_empty()));
    match found {
        (Some(list), None) => {
            let list = Tensor::from_strings(&[list.len()], list).map_err(|e| NodeError::wrong(e.to_string()))?;
            Ok(cx.add_constant(list))
        }
        (None, Some(list)) => Ok(cx.const_i64s(&list)),
        _ => Err(NodeError::wrong(format!("one of the attributes `{texts}` and `{numbers}` is needed"))),
    }
}

fn dict_vectorizer(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let map = cx.input(0)?;
    let keys = keys(cx, "string_vocabulary", "int64_vocabulary")?;
    cx.one(DictVectorizer {}, &[map, keys])
}

fn zip_map(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let keys = keys(cx, "classlabels_strings", "classlabels_int64s")?;
    cx.one(ZipMap {}, &[x, keys])
}
