//! Convolutions: padding rules become numbers where the sizes are known.

use ir::dim::Dim;
use ir::graph::Value;
use ir::ops::window::{SamePadding, Window};
use ir::ops::{Conv, ConvInteger, ConvTranspose};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table =
    &[("", "Conv", conv), ("", "ConvInteger", conv_integer), ("", "ConvTranspose", conv_transpose)];

/// The attributes that sliding windows share.
pub(super) struct Geometry {
    pub kernel: Vec<Dim>,
    pub strides: Vec<i64>,
    pub pads: Vec<i64>,
    pub dilations: Vec<i64>,
    pub same: Option<SamePadding>,
}

impl Geometry {
    /// Reads the attributes; `w` is the weight, where there is one. The number of spatial dimensions must be known.
    pub fn read(cx: &mut NodeCx<'_>, x: Value, w: Option<Value>) -> Result<Geometry, NodeError> {
        let weight = w.and_then(|w| cx.dims(w)).and_then(|d| d.get(2..).map(<[Dim]>::to_vec));
        let given = cx.opt_ints("kernel_shape")?.map(|k| k.into_iter().map(Dim::from).collect::<Vec<_>>());
        let input = cx.dims(x);
        let n = match (&weight, &given, &input) {
            (Some(k), _, _) | (None, Some(k), _) => k.len(),
            (_, _, Some(dims)) => dims.len().saturating_sub(2),
            _ => return cx.unsupported("neither the rank of its operands nor `kernel_shape` is known"),
        };
        if let (Some(a), Some(b)) = (&weight, &given)
            && (a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.same(b) == ir::Truth::No))
        {
            return Err(NodeError::wrong(format!("attribute `kernel_shape` is {b:?}, the weight has {a:?}")));
        }
        let kernel = weight.or(given).ok_or_else(|| NodeError::wrong("attribute `kernel_shape` is missing"))?;
        let strides = cx.attr_ints("strides", &vec![1; n])?;
        let dilations = cx.attr_ints("dilations", &vec![1; n])?;
        let mut pads = cx.attr_ints("pads", &vec![0; 2 * n])?;
        let mut same = match &*cx.attr_str("auto_pad", "NOTSET")? {
            "NOTSET" | "" => None,
            "VALID" => {
                pads = vec![0; 2 * n];
                None
            }
            "SAME_UPPER" => Some(SamePadding::Upper),
            "SAME_LOWER" => Some(SamePadding::Lower),
            other => return Err(NodeError::wrong(format!("attribute `auto_pad` is `{other}`"))),
        };
        let spatial = input.as_deref().and_then(|d| d.get(2..));
        if let (Some(_), Some(spatial)) = (same, spatial) {
            let window = Window {
                kernel: kernel.clone(),
                strides: &strides,
                dilations: &dilations,
                pads: &[],
                same,
                ceil: false,
            };
            window.check(spatial.len()).map_err(|e| NodeError::wrong(e.to_string()))?;
            let all: Vec<(Dim, Dim)> = window.padding(spatial);
            let ends = all.iter().map(|p| &p.0).chain(all.iter().map(|p| &p.1));
            if let Some(numbers) = ends.map(Dim::as_const).collect() {
                (pads, same) = (numbers, None);
            }
        }
        Ok(Geometry { kernel, strides, pads, dilations, same })
    }
}

fn conv(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let mut operands = vec![cx.input(0)?, cx.input(1)?];
    operands.extend(cx.opt(2));
    Ok(vec![convolve(cx, &operands)?])
}

/// `conv` of x, w and perhaps a bias with the node's attributes.
pub(super) fn convolve(cx: &mut NodeCx<'_>, operands: &[Value]) -> Result<Value, NodeError> {
    let g = Geometry::read(cx, operands[0], Some(operands[1]))?;
    let group = cx.attr_i64("group", 1)?;
    let (strides, pads, dilations, same) = (g.strides, g.pads, g.dilations, g.same);
    cx.push(Conv { strides, pads, dilations, group, same, act: None, alpha: None, beta: None }, operands)
}

fn conv_integer(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let operands = [cx.input(0)?, cx.input(1)?, cx.or_absent(2), cx.or_absent(3)];
    Ok(vec![convolve_integers(cx, &operands)?])
}

/// `conv_integer` of x, w and their zero points with the node's attributes.
pub(super) fn convolve_integers(cx: &mut NodeCx<'_>, operands: &[Value; 4]) -> Result<Value, NodeError> {
    let g = Geometry::read(cx, operands[0], Some(operands[1]))?;
    let group = cx.attr_i64("group", 1)?;
    let (strides, pads, dilations, same) = (g.strides, g.pads, g.dilations, g.same);
    cx.push(ConvInteger { strides, pads, dilations, group, same }, operands)
}

fn conv_transpose(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let Some(w_dims) = cx.dims(w).filter(|d| d.len() > 2) else {
        return cx.unsupported("the rank of its weight is unknown or below 3");
    };
    let n = w_dims.len() - 2;
    let auto = cx.attr_str("auto_pad", "NOTSET")?;
    let strides = cx.attr_ints("strides", &vec![1; n])?;
    let dilations = cx.attr_ints("dilations", &vec![1; n])?;
    let output_padding = cx.attr_ints("output_padding", &vec![0; n])?;
    let given = cx.attr_ints("pads", &vec![0; 2 * n])?;
    let output_shape = cx.opt_ints("output_shape")?;
    let lists = [strides.len(), dilations.len(), output_padding.len(), given.len() / 2];
    if lists.iter().any(|l| *l != n) || !matches!(&*auto, "NOTSET" | "" | "VALID" | "SAME_UPPER" | "SAME_LOWER") {
        return Err(NodeError::wrong(format!("its attributes do not fit {n} spatial dimensions")));
    }
    let extent = |i: usize| (&w_dims[2 + i] - 1) * dilations[i] + 1;
    // Padding in all, where the model does not give it; it goes to both ends, the odd element to the end or the beginning.
    let totals: Option<Vec<Dim>> = match (&output_shape, &*auto) {
        (Some(sizes), _) => {
            let input = cx.known_dims(x, "`output_shape` is relative to it")?;
            // The batch and the channels may be listed too.
            let sizes = sizes.get(sizes.len().saturating_sub(n)..).filter(|s| s.len() == n && input.len() == n + 2);
            let sizes = sizes.ok_or_else(|| NodeError::wrong("attribute `output_shape` does not fit its operands"))?;
            let total = |i: usize| (&input[2 + i] - 1) * strides[i] + output_padding[i] + extent(i) - sizes[i];
            Some((0..n).map(total).collect())
        }
        (None, "SAME_UPPER" | "SAME_LOWER") => {
            Some((0..n).map(|i| extent(i) + output_padding[i] - strides[i]).collect())
        }
        _ => None,
    };
    let pads: Vec<Dim> = match totals {
        None if auto == "VALID" => vec![0.into(); 2 * n],
        None => given.into_iter().map(Dim::from).collect(),
        Some(totals) => {
            let less: Vec<Dim> = totals.iter().map(|t| t.floor_div(&Dim::constant(2))).collect();
            let more: Vec<Dim> = totals.iter().zip(&less).map(|(t, l)| t - l).collect();
            if auto == "SAME_UPPER" { [less, more].concat() } else { [more, less].concat() }
        }
    };
    let group = cx.attr_i64("group", 1)?;
    let mut operands = vec![x, w];
    operands.extend(cx.opt(2));
    cx.one(ConvTranspose { strides, pads, dilations, output_padding, group }, &operands)
}
