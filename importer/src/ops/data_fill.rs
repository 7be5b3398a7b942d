//! Tensors made from a few numbers, and tensors made larger.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::host::{ExpandTo, EyeLike, FillBy, PadBy, RangeOf, TileBy, TriluBy};
use ir::ops::{Concat, Pad, PadMode, Reshape, Tile, Trilu};
use ir::tensor::Tensor;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "ConstantOfShape", constant_of_shape),
    ("", "Expand", expand),
    ("", "EyeLike", eye_like),
    ("", "Pad", pad),
    ("", "Range", range),
    ("", "Tile", tile),
    ("", "Trilu", trilu),
];

fn constant_of_shape(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let shape = cx.input(0)?;
    let value = match cx.opt_tensor("value")? {
        Some(value) => value.reshaped(&[1]).map_err(|e| NodeError::wrong(e.to_string()))?,
        None => Tensor::zeros(DType::F32, &[1]).map_err(|e| NodeError::wrong(e.to_string()))?,
    };
    let value = cx.add_constant(value);
    cx.fold(FillBy {}, &[value, shape], 1)
}

fn expand(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    cx.fold(ExpandTo {}, &[cx.input(0)?, cx.input(1)?], 1)
}

fn eye_like(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let dtype = cx.opt_dtype("dtype")?.map_or_else(|| cx.dtype(x), Ok)?;
    cx.one(EyeLike { diagonal: cx.attr_i64("k", 0)?, dtype }, &[x])
}

/// Up to version 10 the counts and the value are attributes.
fn pad(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let mode = cx.attr_str("mode", "constant")?;
    let mode = PadMode::from_name(&mode).ok_or_else(|| NodeError::wrong(format!("attribute `mode` is `{mode}`")))?;
    if cx.opset() < 11 {
        let name = if cx.opset() < 2 { "paddings" } else { "pads" };
        let pads = cx.attr_ints(name, &[])?;
        let axes = (0..pads.len() as i64 / 2).collect();
        let value = cx.const_like(x, f64::from(cx.attr_f32("value", 0.0)?))?;
        return cx.one(Pad { mode, pads: pads.into_iter().map(Into::into).collect(), axes }, &[x, value]);
    }
    let (pads, value, axes) = (cx.input(1)?, cx.or_absent(2), cx.or_absent(3));
    cx.fold(PadBy { mode }, &[x, pads, value, axes], 1)
}

fn range(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    cx.fold(RangeOf {}, &[cx.input(0)?, cx.input(1)?, cx.input(2)?], 1)
}

/// In version 1 the operands are how often, and along which axis.
fn tile(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, mut repeats) = (cx.input(0)?, cx.input(1)?);
    if cx.opset() < 6 {
        let rank = cx.known_dims(x, "tiling along one axis needs it")?.len();
        let axis = cx.numbers(cx.input(2)?).filter(|axis| axis.len() == 1);
        let Some(axis) = axis else { return cx.unsupported("the axis of Tile is not a constant") };
        let axis = ir::ops::axis(axis[0], rank).map_err(|e| NodeError::wrong(e.to_string()))?;
        let one = cx.const_i64s(&[1]);
        repeats = cx.push(Reshape { shape: vec![1.into()] }, &[repeats])?;
        let parts: Vec<Value> = (0..rank).map(|i| if i == axis { repeats } else { one }).collect();
        if let Some(known) = parts.iter().map(|v| Some(cx.elements(*v)?[0].clone())).collect() {
            return cx.one(Tile { repeats: known }, &[x]);
        }
        repeats = cx.push(Concat { axis: 0 }, &parts)?;
    }
    cx.fold(TileBy {}, &[x, repeats], 1)
}

fn trilu(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, upper) = (cx.input(0)?, cx.attr_bool("upper", true)?);
    match cx.opt(1) {
        Some(diagonal) => cx.fold(TriluBy { upper }, &[x, diagonal], 1),
        None => cx.one(Trilu { upper, diagonal: 0.into() }, &[x]),
    }
}
