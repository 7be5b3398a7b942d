//! Elements and slices read from, and written to, positions that are data.

use ir::graph::Value;
use ir::ops::{GatherElements, GatherNd, Reduction, ScatterElements, ScatterNd};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "GatherElements", gather_elements),
    ("", "GatherND", gather_nd),
    ("", "Scatter", scatter_elements),
    ("", "ScatterElements", scatter_elements),
    ("", "ScatterND", scatter_nd),
];

fn gather_elements(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = GatherElements { axis: cx.attr_i64("axis", 0)? };
    cx.one(op, &[cx.input(0)?, cx.input(1)?])
}

fn gather_nd(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = GatherNd { batch_dims: cx.attr_i64("batch_dims", 0)? };
    cx.one(op, &[cx.input(0)?, cx.input(1)?])
}

fn scatter_elements(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = ScatterElements { axis: cx.attr_i64("axis", 0)?, reduction: reduction(cx)? };
    cx.one(op, &[cx.input(0)?, cx.input(1)?, cx.input(2)?])
}

fn scatter_nd(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = ScatterNd { reduction: reduction(cx)? };
    cx.one(op, &[cx.input(0)?, cx.input(1)?, cx.input(2)?])
}

fn reduction(cx: &NodeCx<'_>) -> Result<Reduction, NodeError> {
    let name = cx.attr_str("reduction", "none")?;
    Reduction::from_name(&name).ok_or_else(|| NodeError::wrong(format!("attribute `reduction` is `{name}`")))
}
