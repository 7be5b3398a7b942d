//! Operators that put elements elsewhere: Concat, Gather and Transpose.

use ir::graph::Value;
use ir::ops::{Concat, Gather, Transpose};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "Concat", concat), ("", "Gather", gather), ("", "Transpose", transpose)];

/// Version 1 has a default axis.
fn concat(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let parts = cx.inputs()?;
    match cx.opt_i64("axis")? {
        Some(axis) => cx.one(Concat { axis }, &parts),
        None if cx.opset() < 4 => cx.one(Concat { axis: 1 }, &parts),
        None => Err(NodeError::wrong("attribute `axis` is missing")),
    }
}

fn gather(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (operands, axis) = ([cx.input(0)?, cx.input(1)?], cx.attr_i64("axis", 0)?);
    cx.one(Gather { axis }, &operands)
}

/// Without a permutation the dimensions are reversed.
fn transpose(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let perm = match cx.opt_ints("perm")? {
        Some(perm) => perm,
        None => (0..cx.known_dims(x, "its dimensions are reversed")?.len() as i64).rev().collect(),
    };
    cx.one(Transpose { perm }, &[x])
}
