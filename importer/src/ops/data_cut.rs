//! Parts of tensors.

use ir::dim::Dim;
use ir::graph::Value;
use ir::ops::host::{CenterCropPad, SliceBy, SplitBy};
use ir::ops::{Constraint, Slice};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "CenterCropPad", center_crop_pad), ("", "Slice", slice), ("", "Split", split)];

fn center_crop_pad(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    cx.one(CenterCropPad { axes: cx.opt_ints("axes")? }, &[cx.input(0)?, cx.input(1)?])
}

/// Up to version 9 the bounds are attributes.
fn slice(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    if cx.opset() < 10 {
        let (starts, ends) = (cx.attr_ints("starts", &[])?, cx.attr_ints("ends", &[])?);
        let axes = cx.opt_ints("axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let dims = |v: Vec<i64>| v.into_iter().map(Dim::constant).collect::<Vec<_>>();
        let steps = vec![1; axes.len()];
        return cx.one(Slice { axes, starts: dims(starts), ends: dims(ends), steps }, &[x]);
    }
    let operands = [x, cx.input(1)?, cx.input(2)?, cx.or_absent(3), cx.or_absent(4)];
    cx.fold(SliceBy {}, &operands, 1)
}

/// Slices where the sizes are known: an attribute up to version 12, then an operand, or equal parts.
fn split(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, axis, count) = (cx.input(0)?, cx.attr_i64("axis", 0)?, cx.n_outputs());
    let given = cx.opt(1).filter(|_| cx.opset() >= 13 || cx.opset() == 1);
    let sizes = match (cx.opt_ints("split")?, given) {
        (Some(sizes), _) if cx.opset() < 13 => sizes.into_iter().map(Dim::constant).collect(),
        (_, Some(sizes)) => match cx.elements(sizes) {
            Some(known) => known,
            None => return cx.push_n(SplitBy { axis, count: count as i64 }, &[x, sizes], count),
        },
        _ => {
            let Some(dims) = cx.dims(x) else {
                return cx.push_n(SplitBy { axis, count: count as i64 }, &[x], count);
            };
            let at = ir::ops::axis(axis, dims.len()).map_err(|e| NodeError::wrong(e.to_string()))?;
            let parts = Dim::from(cx.attr_i64("num_outputs", count as i64)?.max(1));
            let even = dims[at].exact_div(&parts);
            if even.is_none() && dims[at].as_const().is_some() && cx.opset() < 18 {
                return Err(NodeError::wrong(format!("{} elements cannot be cut into {parts} equal parts", dims[at])));
            }
            // The last part is the smaller one.
            let size = even.unwrap_or_else(|| dims[at].ceil_div(&parts));
            let mut sizes = vec![size.clone(); count.saturating_sub(1)];
            sizes.push(&dims[at] - &size * (count as i64 - 1));
            sizes
        }
    };
    if sizes.len() != count {
        return Err(NodeError::wrong(format!("{} sizes for {count} results", sizes.len())));
    }
    if let Some(dims) = cx.dims(x) {
        let at = ir::ops::axis(axis, dims.len()).map_err(|e| NodeError::wrong(e.to_string()))?;
        let total: Dim = sizes.iter().sum();
        match total.same(&dims[at]) {
            ir::Truth::Yes => {}
            ir::Truth::No => {
                return Err(NodeError::wrong(format!("parts of {total} elements do not make up {}", dims[at])));
            }
            // Slices would clamp: what must hold is kept as an assumption.
            ir::Truth::Unknown => {
                cx.graph.constraints.insert(Constraint { left: dims[at].clone(), right: total });
            }
        }
    }
    let (mut parts, mut start) = (vec![], Dim::constant(0));
    for size in sizes {
        let end = &start + &size;
        let (starts, ends) = (vec![start], vec![end.clone()]);
        parts.push(cx.push(Slice { axes: vec![axis], starts, ends, steps: vec![1] }, &[x])?);
        start = end;
    }
    Ok(parts)
}
