//! Resize and Upsample: `resize` where the sizes can be written down, else its host twin.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::host::{AspectRatio, ResizeBy};
use ir::ops::{Coordinates, ResizeMode, Rounding};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "Resize", resize), ("", "Upsample", upsample)];

fn mode(word: &str) -> Result<ResizeMode, NodeError> {
    Ok(match word {
        "nearest" => ResizeMode::Nearest,
        "linear" | "bilinear" | "trilinear" => ResizeMode::Linear,
        "cubic" | "bicubic" => ResizeMode::Cubic,
        _ => return Err(NodeError::wrong(format!("attribute `mode` is `{word}`"))),
    })
}

/// Before version 11 coordinates are divided by the scale and the nearest sample is the one below.
fn old(mode: ResizeMode) -> ResizeBy {
    ResizeBy {
        axes: vec![],
        aspect: AspectRatio::Stretch,
        mode,
        coordinates: Coordinates::Asymmetric,
        rounding: Some(Rounding::Floor),
        cubic_a: None,
        extrapolation: None,
        exclude_outside: false,
        antialias: false,
    }
}

fn upsample(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, op) = (cx.input(0)?, old(mode(&cx.attr_str("mode", "nearest")?)?));
    let scales = match (cx.opt_floats("scales")?, cx.opt(1)) {
        (_, Some(scales)) => scales,
        (Some(scales), None) => {
            let wide: Vec<f64> = scales.iter().map(|s| f64::from(*s)).collect();
            let t =
                ir::Tensor::from_f64(DType::F32, &[wide.len()], &wide).map_err(|e| NodeError::wrong(e.to_string()))?;
            cx.add_constant(t)
        }
        (None, None) => return Err(NodeError::wrong("it has no scales")),
    };
    apply(cx, op, x, [None, Some(scales), None])
}

fn resize(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let mode = mode(&cx.attr_str("mode", "nearest")?)?;
    if cx.opset() < 11 {
        let scales = cx.input(1)?;
        return apply(cx, old(mode), x, [None, Some(scales), None]);
    }
    let coordinates = match &*cx.attr_str("coordinate_transformation_mode", "half_pixel")? {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::CropAndResize,
        "tf_half_pixel_for_nn" => Coordinates::HalfPixelFloor,
        other => return Err(NodeError::wrong(format!("attribute `coordinate_transformation_mode` is `{other}`"))),
    };
    let rounding = match &*cx.attr_str("nearest_mode", "round_prefer_floor")? {
        "round_prefer_floor" => Rounding::HalfDown,
        "round_prefer_ceil" => Rounding::HalfUp,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => return Err(NodeError::wrong(format!("attribute `nearest_mode` is `{other}`"))),
    };
    let aspect = cx.attr_str("keep_aspect_ratio_policy", "stretch")?;
    let op = ResizeBy {
        axes: cx.attr_ints("axes", &[])?,
        aspect: AspectRatio::from_name(&aspect)
            .ok_or_else(|| NodeError::wrong(format!("attribute `keep_aspect_ratio_policy` is `{aspect}`")))?,
        mode,
        coordinates,
        rounding: Some(rounding).filter(|_| mode == ResizeMode::Nearest),
        cubic_a: cx.opt_f32("cubic_coeff_a")?.filter(|_| mode == ResizeMode::Cubic),
        extrapolation: cx.opt_f32("extrapolation_value")?.filter(|_| coordinates == Coordinates::CropAndResize),
        exclude_outside: cx.attr_bool("exclude_outside", false)?,
        antialias: cx.attr_bool("antialias", false)?,
    };
    let operands = [cx.opt(1), cx.opt(2), cx.opt(3)];
    apply(cx, op, x, operands)
}

/// `resize` for operands roi, scales and sizes that are known; an empty constant is as good as none.
fn apply(cx: &mut NodeCx<'_>, op: ResizeBy, x: Value, operands: [Option<Value>; 3]) -> Result<Vec<Value>, NodeError> {
    let empty = |v: &Value| cx.constant(*v).is_some_and(|t| t.is_empty());
    let operands = operands.map(|v| v.filter(|v| !empty(v)));
    let numbers = |v: Option<Value>| v.and_then(|v| cx.constant(v)).and_then(|t| t.to_f64().ok());
    let (roi, scales) = (numbers(operands[0]), numbers(operands[1]));
    let sizes = operands[2].and_then(|v| cx.elements(v));
    let crops = op.coordinates == Coordinates::CropAndResize;
    let known = (operands[1].is_none() || scales.is_some()) && (!crops || operands[0].is_none() || roi.is_some());
    if let (true, Some(dims)) = (known, cx.dims(x)) {
        let core = op.target(&dims, roi.as_deref(), scales.as_deref(), sizes.as_deref());
        if let Some(core) = core.map_err(|e| NodeError::wrong(e.to_string()))? {
            return cx.one(core, &[x]);
        }
    }
    let operands = operands.map(|v| v.unwrap_or_else(|| cx.graph.absent()));
    cx.one(op, &[x, operands[0], operands[1], operands[2]])
}
