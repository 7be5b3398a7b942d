//! Blocks of space to channels and back: two reshapes around a transposition.

use ir::dim::Dim;
use ir::graph::Value;
use ir::ops::{Reshape, Transpose};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "DepthToSpace", depth_to_space), ("", "SpaceToDepth", space_to_depth)];

/// The operand's dimensions, the block size and whether the depth of a block varies fastest (`CRD`).
fn read(cx: &mut NodeCx<'_>) -> Result<(Value, [Dim; 4], i64, bool), NodeError> {
    let x = cx.input(0)?;
    let block = cx.opt_i64("blocksize")?.filter(|b| *b > 0);
    let block = block.ok_or_else(|| NodeError::wrong("attribute `blocksize` is missing or below 1"))?;
    let mode = cx.attr_str("mode", "DCR")?;
    if !matches!(&*mode, "DCR" | "CRD") {
        return Err(NodeError::wrong(format!("attribute `mode` is `{mode}`, not DCR or CRD")));
    }
    match &cx.known_dims(x, "blocks are cut from it")?[..] {
        [b, c, h, w] => Ok((x, [b, c, h, w].map(Dim::clone), block, mode == "CRD")),
        dims => Err(NodeError::wrong(format!("its operand has rank {}, not 4", dims.len()))),
    }
}

fn rearrange(
    cx: &mut NodeCx<'_>,
    x: Value,
    apart: [Dim; 6],
    perm: [i64; 6],
    shape: [Dim; 4],
) -> Result<Vec<Value>, NodeError> {
    let x = cx.push(Reshape { shape: apart.to_vec() }, &[x])?;
    let x = cx.push(Transpose { perm: perm.to_vec() }, &[x])?;
    cx.one(Reshape { shape: shape.to_vec() }, &[x])
}

fn depth_to_space(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, [b, c, h, w], block, crd) = read(cx)?;
    let depth = c.floor_div(&Dim::constant(block * block));
    let n = Dim::constant(block);
    let shape = [b.clone(), depth.clone(), &h * block, &w * block];
    match crd {
        true => rearrange(cx, x, [b, depth, n.clone(), n, h, w], [0, 1, 4, 2, 5, 3], shape),
        false => rearrange(cx, x, [b, n.clone(), n, depth, h, w], [0, 3, 4, 1, 5, 2], shape),
    }
}

fn space_to_depth(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, [b, c, h, w], block, crd) = read(cx)?;
    let n = Dim::constant(block);
    let (rows, columns) = (h.floor_div(&n), w.floor_div(&n));
    let shape = [b.clone(), &c * (block * block), rows.clone(), columns.clone()];
    let perm = if crd { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
    rearrange(cx, x, [b, c, rows, n.clone(), columns, n], perm, shape)
}
