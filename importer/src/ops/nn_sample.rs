//! Elements taken from between and put back to where they were: sampling grids, regions, deformed windows, unpooling.

use ir::graph::Value;
use ir::ops::host::{AffineGrid, Col2Im, DeformConv, GridSample, MaxUnpool, RoiAlign, SampleMode, SamplePadding};

use super::Table;
use super::nn_conv::Geometry;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "AffineGrid", affine_grid),
    ("", "Col2Im", col2im),
    ("", "DeformConv", deform_conv),
    ("", "GridSample", grid_sample),
    ("", "MaxUnpool", max_unpool),
    ("", "RoiAlign", roi_align),
];

fn affine_grid(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    cx.one(AffineGrid { align_corners: cx.attr_bool("align_corners", false)? }, &[cx.input(0)?, cx.input(1)?])
}

fn col2im(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let list = |name: &str| cx.attr_ints(name, &[]);
    let op = Col2Im { dilations: list("dilations")?, pads: list("pads")?, strides: list("strides")? };
    cx.one(op, &[cx.input(0)?, cx.input(1)?, cx.input(2)?])
}

fn deform_conv(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let g = Geometry::read(cx, x, Some(w))?;
    let (group, offset_group) = (cx.attr_i64("group", 1)?, cx.attr_i64("offset_group", 1)?);
    let op = DeformConv { strides: g.strides, pads: g.pads, dilations: g.dilations, group, offset_group };
    let operands = [x, w, cx.input(2)?, cx.or_absent(3), cx.or_absent(4)];
    cx.one(op, &operands)
}

/// Up to version 19 the modes have other names.
fn grid_sample(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let mode = match &*cx.attr_str("mode", "linear")? {
        "nearest" => SampleMode::Nearest,
        "linear" | "bilinear" => SampleMode::Linear,
        "cubic" | "bicubic" => SampleMode::Cubic,
        other => return Err(NodeError::wrong(format!("attribute `mode` is `{other}`"))),
    };
    let padding = cx.attr_str("padding_mode", "zeros")?;
    let padding = SamplePadding::from_name(&padding)
        .ok_or_else(|| NodeError::wrong(format!("attribute `padding_mode` is `{padding}`")))?;
    let op = GridSample { mode, padding, align_corners: cx.attr_bool("align_corners", false)? };
    cx.one(op, &[cx.input(0)?, cx.input(1)?])
}

fn max_unpool(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let missing = || NodeError::wrong("attribute `kernel_shape` is missing");
    let kernel = cx.opt_ints("kernel_shape")?.ok_or_else(missing)?;
    let strides = cx.attr_ints("strides", &vec![1; kernel.len()])?;
    let pads = cx.attr_ints("pads", &vec![0; 2 * kernel.len()])?;
    let operands = [cx.input(0)?, cx.input(1)?, cx.or_absent(2)];
    cx.one(MaxUnpool { kernel, strides, pads }, &operands)
}

/// Version 10 does not move regions by half an element.
fn roi_align(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let max = match &*cx.attr_str("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(NodeError::wrong(format!("attribute `mode` is `{other}`"))),
    };
    let default = if cx.opset() < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = match &*cx.attr_str("coordinate_transformation_mode", default)? {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => {
            return Err(NodeError::wrong(format!("attribute `coordinate_transformation_mode` is `{other}`")));
        }
    };
    let op = RoiAlign {
        max,
        height: cx.attr_i64("output_height", 1)?,
        width: cx.attr_i64("output_width", 1)?,
        samples: cx.attr_i64("sampling_ratio", 0)?,
        scale: cx.attr_f32("spatial_scale", 1.0)?,
        half_pixel,
    };
    cx.one(op, &[cx.input(0)?, cx.input(1)?, cx.input(2)?])
}
