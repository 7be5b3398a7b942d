//! Operators that only change the dimensions: all become `reshape`, or its host twin while the shape is not known.

use ir::dim::Dim;
use ir::graph::Value;
use ir::ops::Reshape;
use ir::ops::host::{ReshapeTo, SqueezeBy, UnsqueezeBy};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table =
    &[("", "Flatten", flatten), ("", "Reshape", reshape), ("", "Squeeze", squeeze), ("", "Unsqueeze", unsqueeze)];

/// Before version 5 the shape is an attribute.
fn reshape(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let op = ReshapeTo { allow_zero: cx.attr_bool("allowzero", false)? };
    let shape = match cx.opt_ints("shape")? {
        Some(shape) => cx.const_i64s(&shape),
        None => cx.input(1)?,
    };
    cx.fold(op, &[x, shape], 1)
}

/// Two dimensions: those before `axis` and those from it on.
fn flatten(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, axis) = (cx.input(0)?, cx.attr_i64("axis", 1)?);
    let dims = cx.known_dims(x, "it is flattened along an axis")?;
    let at = match axis == dims.len() as i64 {
        true => dims.len(),
        false => ir::ops::axis(axis, dims.len()).map_err(|e| NodeError::wrong(e.to_string()))?,
    };
    let product = |dims: &[Dim]| dims.iter().cloned().product::<Dim>();
    cx.one(Reshape { shape: vec![product(&dims[..at]), product(&dims[at..])] }, &[x])
}

/// Axes are an attribute, from version 13 on an operand; without any, every dimension of 1 goes.
fn squeeze(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    match axes(cx)? {
        Some(axes) => cx.fold(SqueezeBy {}, &[x, axes], 1),
        None => cx.fold(SqueezeBy {}, &[x], 1),
    }
}

fn unsqueeze(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let axes = axes(cx)?.ok_or_else(|| NodeError::wrong("it has no axes"))?;
    cx.fold(UnsqueezeBy {}, &[x, axes], 1)
}

fn axes(cx: &mut NodeCx<'_>) -> Result<Option<Value>, NodeError> {
    Ok(match cx.opt_ints("axes")? {
        Some(axes) => Some(cx.const_i64s(&axes)),
        None => cx.opt(1),
    })
}
