//! Conversions of the element type.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::Cast;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "Cast", cast), ("", "CastLike", cast_like)];

/// Before version 6 the type is a word: `FLOAT`.
fn cast(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let to = match cx.opset() < 6 {
        true => named(&cx.attr_str("to", "")?),
        false => cx.opt_dtype("to")?,
    };
    let to = to.ok_or_else(|| NodeError::wrong("attribute `to` does not name an element type"))?;
    convert(cx, to)
}

fn cast_like(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let to = cx.dtype(cx.input(1)?)?;
    convert(cx, to)
}

fn convert(cx: &mut NodeCx<'_>, to: DType) -> Result<Vec<Value>, NodeError> {
    let (x, wrap) = (cx.input(0)?, !cx.attr_bool("saturate", true)?);
    let mode = cx.attr_str("round_mode", "up")?;
    if to == DType::F8E8M0 && mode != "up" {
        return cx.unsupported(format!("rounding `{mode}` to powers of two"));
    }
    cx.one(Cast { to, wrap }, &[x])
}

fn named(word: &str) -> Option<DType> {
    Some(match word {
        "FLOAT" => DType::F32,
        "UINT8" => DType::U8,
        "INT8" => DType::I8,
        "UINT16" => DType::U16,
        "INT16" => DType::I16,
        "INT32" => DType::I32,
        "INT64" => DType::I64,
        "STRING" => DType::Str,
        "BOOL" => DType::Bool,
        "FLOAT16" => DType::F16,
        "DOUBLE" => DType::F64,
        "UINT32" => DType::U32,
        "UINT64" => DType::U64,
        _ => return None,
    })
}
