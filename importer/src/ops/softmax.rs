//! Softmax and its logarithm.

use ir::dim::Dim;
use ir::graph::Value;
use ir::ops::{Reshape, Softmax};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "LogSoftmax", |cx| softmax(cx, true)), ("", "Softmax", |cx| softmax(cx, false))];

/// Before version 13 all dimensions from `axis` on are normalised together.
fn softmax(cx: &mut NodeCx<'_>, log: bool) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    if cx.opset() >= 13 {
        let axis = cx.attr_i64("axis", -1)?;
        return cx.one(Softmax { axis, log }, &[x]);
    }
    let dims = cx.known_dims(x, "it is flattened")?;
    let axis = cx.attr_i64("axis", 1)?;
    let at = match axis == dims.len() as i64 {
        true => dims.len(),
        false => ir::ops::axis(axis, dims.len()).map_err(|e| NodeError::wrong(e.to_string()))?,
    };
    if at + 1 == dims.len() {
        return cx.one(Softmax { axis: -1, log }, &[x]);
    }
    let product = |dims: &[Dim]| dims.iter().cloned().product::<Dim>();
    let flat = cx.push(Reshape { shape: vec![product(&dims[..at]), product(&dims[at..])] }, &[x])?;
    let y = cx.push(Softmax { axis: 1, log }, &[flat])?;
    cx.one(Reshape { shape: dims }, &[y])
}
