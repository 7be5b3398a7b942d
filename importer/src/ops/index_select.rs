//! Operators that look for elements: the largest, the different, the ones that are not zero.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::host::{Compress, NonMaxSuppression, Nonzero, OneHotBy, TopKBy, Unique};
use ir::ops::{ArgFn, ArgReduce, Cast, OneHot, Reshape, TopK};
use ir::tensor::Tensor;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "ArgMax", |cx| arg_reduce(cx, ArgFn::Max)),
    ("", "ArgMin", |cx| arg_reduce(cx, ArgFn::Min)),
    ("", "Compress", compress),
    ("", "Hardmax", hardmax),
    ("", "NonMaxSuppression", non_max_suppression),
    ("", "NonZero", nonzero),
    ("", "OneHot", one_hot),
    ("", "TopK", top_k),
    ("", "Unique", unique),
];

fn arg_reduce(cx: &mut NodeCx<'_>, f: ArgFn) -> Result<Vec<Value>, NodeError> {
    let keep = cx.attr_bool("keepdims", true)?;
    let op =
        ArgReduce { f, axis: cx.attr_i64("axis", 0)?, keep, select_last: cx.attr_bool("select_last_index", false)? };
    cx.one(op, &[cx.input(0)?])
}

fn compress(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = Compress { axis: cx.opt_i64("axis")? };
    cx.one(op, &[cx.input(0)?, cx.input(1)?])
}

/// 1 at the first largest element, 0 elsewhere. Before version 13 the dimensions from `axis` on count as one.
fn hardmax(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let dims = cx.known_dims(x, "hardmax needs it")?;
    let at = cx.attr_i64("axis", if cx.opset() < 13 { 1 } else { -1 })?;
    let at = ir::ops::axis(at, dims.len()).map_err(|e| NodeError::wrong(e.to_string()))?;
    let (mut along, mut axis, mut depth) = (x, at as i64, dims[at].clone());
    if cx.opset() < 13 {
        depth = dims[at..].iter().cloned().product();
        let shape = vec![dims[..at].iter().cloned().product(), depth.clone()];
        (along, axis) = (cx.push(Reshape { shape }, &[x])?, 1);
    }
    let first = cx.push(ArgReduce { f: ArgFn::Max, axis, keep: false, select_last: false }, &[along])?;
    let values = Tensor::from_f64(cx.dtype(x)?, &[2], &[0.0, 1.0]).map_err(|e| NodeError::wrong(e.to_string()))?;
    let values = cx.add_constant(values);
    let y = cx.push(OneHot { depth, axis }, &[first, values])?;
    if cx.opset() < 13 { cx.one(Reshape { shape: dims }, &[y]) } else { Ok(vec![y]) }
}

fn non_max_suppression(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = NonMaxSuppression { center_point_box: cx.attr_bool("center_point_box", false)? };
    let mut operands = vec![cx.input(0)?, cx.input(1)?];
    for i in 2..5 {
        operands.push(cx.or_absent(i));
    }
    cx.one(op, &operands)
}

fn nonzero(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    cx.one(Nonzero {}, &[cx.input(0)?])
}

fn one_hot(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = OneHotBy { axis: cx.attr_i64("axis", -1)? };
    let mut depth = cx.input(1)?;
    if let (Some(number), true) = (cx.constant_number(depth), cx.dtype(depth)? != DType::I64) {
        depth = cx.const_i64(number as i64);
    } else if cx.dtype(depth)? != DType::I64 {
        depth = cx.push(Cast { to: DType::I64, wrap: false }, &[depth])?;
    }
    cx.fold(op, &[cx.input(0)?, depth, cx.input(2)?], 1)
}

fn top_k(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let (axis, largest) = (cx.attr_i64("axis", -1)?, cx.attr_bool("largest", true)?);
    let sorted = cx.attr_bool("sorted", true)?;
    match cx.opt_i64("k")? {
        Some(k) => cx.push_n(TopK { k: k.into(), axis, largest, sorted }, &[x], 2),
        None => cx.fold(TopKBy { axis, largest, sorted }, &[x, cx.input(1)?], 2),
    }
}

fn unique(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = Unique { axis: cx.opt_i64("axis")?, sorted: cx.attr_bool("sorted", true)? };
    cx.push_n(op, &[cx.input(0)?], 4)
}
