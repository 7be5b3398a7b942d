//! Pooling over windows and over everything.

use ir::graph::Value;
use ir::ops::host::{MaxPoolIndices, MaxRoiPool};
use ir::ops::{Pool, PoolFn, Reduce, ReduceFn};
use ir::scalar::{BinaryFn, UnaryFn};

use super::Table;
use super::nn_conv::Geometry;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "MaxPool", max_pool),
    ("", "AveragePool", average_pool),
    ("", "LpPool", lp_pool),
    ("", "GlobalAveragePool", |cx| global(cx, ReduceFn::Mean)),
    ("", "GlobalMaxPool", |cx| global(cx, ReduceFn::Max)),
    ("", "GlobalLpPool", global_lp),
    ("", "MaxRoiPool", max_roi_pool),
];

/// Kernel, strides, pads, dilations and padding rule, as numbers.
fn windows(cx: &mut NodeCx<'_>, x: Value) -> Result<(Vec<i64>, Geometry, bool), NodeError> {
    let g = Geometry::read(cx, x, None)?;
    let kernel: Option<Vec<i64>> = g.kernel.iter().map(|k| k.as_const()).collect();
    let kernel = kernel.ok_or_else(|| NodeError::wrong("attribute `kernel_shape` is missing"))?;
    let ceil = cx.attr_bool("ceil_mode", false)?;
    Ok((kernel, g, ceil))
}

pub(super) fn pool(
    cx: &mut NodeCx<'_>,
    x: Value,
    f: PoolFn,
    count_pads: bool,
    p: Option<i64>,
) -> Result<Value, NodeError> {
    let (kernel, g, ceil) = windows(cx, x)?;
    let (strides, pads, dilations, same) = (g.strides, g.pads, g.dilations, g.same);
    cx.push(Pool { f, kernel, strides, pads, dilations, same, ceil, count_pads, p }, &[x])
}

fn max_pool(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    if !cx.wants(1) {
        return Ok(vec![pool(cx, x, PoolFn::Max, false, None)?]);
    }
    let (kernel, g, ceil) = windows(cx, x)?;
    let column_major = cx.attr_bool("storage_order", false)?;
    let (strides, pads, dilations, same) = (g.strides, g.pads, g.dilations, g.same);
    cx.push_n(MaxPoolIndices { kernel, strides, pads, dilations, same, ceil, column_major }, &[x], 2)
}

fn average_pool(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, count_pads) = (cx.input(0)?, cx.attr_bool("count_include_pad", false)?);
    Ok(vec![pool(cx, x, PoolFn::Average, count_pads, None)?])
}

fn lp_pool(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, p) = (cx.input(0)?, norm(cx)?);
    Ok(vec![pool(cx, x, PoolFn::Lp, false, Some(p))?])
}

/// The exponent; the first version has it as a float.
fn norm(cx: &NodeCx<'_>) -> Result<i64, NodeError> {
    if cx.opset() > 1 {
        return cx.attr_i64("p", 2);
    }
    Ok(cx.attr_f32("p", 2.0)? as i64)
}

pub(super) fn spatial(cx: &NodeCx<'_>, x: Value) -> Result<Vec<i64>, NodeError> {
    let rank = cx.known_dims(x, "it reduces all dimensions but two")?.len() as i64;
    Ok((2..rank).collect())
}

fn global(cx: &mut NodeCx<'_>, f: ReduceFn) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let axes = spatial(cx, x)?;
    cx.one(Reduce { f, axes, keep: true }, &[x])
}

fn global_lp(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let p = norm(cx)?;
    match p {
        1 => return global(cx, ReduceFn::L1),
        2 => return global(cx, ReduceFn::L2),
        _ => {}
    }
    let x = cx.input(0)?;
    let axes = spatial(cx, x)?;
    let x = cx.unary(UnaryFn::Abs, x)?;
    let powers = cx.with_number(BinaryFn::Pow, x, p as f64)?;
    let sum = cx.push(Reduce { f: ReduceFn::Sum, axes, keep: true }, &[powers])?;
    Ok(vec![cx.with_number(BinaryFn::Pow, sum, 1.0 / p as f64)?])
}

fn max_roi_pool(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let [height, width] = cx.attr_ints("pooled_shape", &[])?[..] else {
        return Err(NodeError::wrong("attribute `pooled_shape` names no height and width"));
    };
    let op = MaxRoiPool { height, width, scale: cx.attr_f32("spatial_scale", 1.0)? };
    cx.one(op, &[cx.input(0)?, cx.input(1)?])
}
