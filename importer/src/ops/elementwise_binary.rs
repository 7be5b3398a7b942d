//! Arithmetic and logic of two tensors, and their variadic forms.

use ir::graph::Value;
use ir::ops::{Binary, Compare, Op, Reshape};
use ir::scalar::{BinaryFn, CompareFn};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "Add", |cx| binary(cx, BinaryFn::Add)),
    ("", "Sub", |cx| binary(cx, BinaryFn::Sub)),
    ("", "Mul", |cx| binary(cx, BinaryFn::Mul)),
    ("", "Div", |cx| binary(cx, BinaryFn::Div)),
    ("", "Pow", |cx| binary(cx, BinaryFn::Pow)),
    ("", "And", |cx| binary(cx, BinaryFn::And)),
    ("", "Or", |cx| binary(cx, BinaryFn::Or)),
    ("", "Xor", |cx| binary(cx, BinaryFn::Xor)),
    ("", "BitwiseAnd", |cx| binary(cx, BinaryFn::BitAnd)),
    ("", "BitwiseOr", |cx| binary(cx, BinaryFn::BitOr)),
    ("", "BitwiseXor", |cx| binary(cx, BinaryFn::BitXor)),
    ("", "Equal", |cx| compare(cx, CompareFn::Eq)),
    ("", "Less", |cx| compare(cx, CompareFn::Lt)),
    ("", "LessOrEqual", |cx| compare(cx, CompareFn::Le)),
    ("", "Greater", |cx| compare(cx, CompareFn::Gt)),
    ("", "GreaterOrEqual", |cx| compare(cx, CompareFn::Ge)),
    ("", "Mod", modulo),
    ("", "BitShift", bit_shift),
    ("", "PRelu", prelu),
    ("", "Sum", |cx| variadic(cx, BinaryFn::Add)),
    ("", "Max", |cx| variadic(cx, BinaryFn::Max)),
    ("", "Min", |cx| variadic(cx, BinaryFn::Min)),
    ("", "Mean", mean),
];

fn binary(cx: &mut NodeCx<'_>, f: BinaryFn) -> Result<Vec<Value>, NodeError> {
    let (a, b) = operands(cx)?;
    cx.one(Binary { f }, &[a, b])
}

fn compare(cx: &mut NodeCx<'_>, f: CompareFn) -> Result<Vec<Value>, NodeError> {
    let (a, b) = operands(cx)?;
    cx.one(Compare { f }, &[a, b])
}

/// Both operands. Before version 7, `axis` says where the dimensions of the second belong in the first.
fn operands(cx: &mut NodeCx<'_>) -> Result<(Value, Value), NodeError> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let axis = cx.opt_i64("axis")?;
    let (Some(axis), true) = (axis, cx.opset() < 7 && cx.attr_bool("broadcast", false)?) else {
        return Ok((a, b));
    };
    let rank = cx.known_dims(a, "broadcasting along `axis` needs it")?.len();
    let mut dims = cx.known_dims(b, "broadcasting along `axis` needs it")?;
    let at = ir::ops::axis(axis, rank).map_err(|e| NodeError::wrong(e.to_string()))?;
    if at + dims.len() > rank {
        return Err(NodeError::wrong(format!("{} dimensions at axis {at} exceed rank {rank}", dims.len())));
    }
    dims.resize(rank - at, 1.into());
    let b = cx.push(Reshape { shape: dims }, &[b])?;
    Ok((a, b))
}

fn modulo(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let f = if cx.attr_bool("fmod", false)? { BinaryFn::Fmod } else { BinaryFn::Mod };
    binary(cx, f)
}

fn bit_shift(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    match &*cx.attr_str("direction", "")? {
        "LEFT" => binary(cx, BinaryFn::ShiftLeft),
        "RIGHT" => binary(cx, BinaryFn::ShiftRight),
        other => Err(NodeError::wrong(format!("attribute `direction` is `{other}`, not LEFT or RIGHT"))),
    }
}

/// `max(x, 0) + slope * min(x, 0)`, which is also right for NaN.
fn prelu(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, mut slope) = (cx.input(0)?, cx.input(1)?);
    let (rank, dims) = (cx.rank(x), cx.dims(slope));
    if let (true, Some(rank), Some([channels])) = (cx.opset() < 7, rank, dims.as_deref()) {
        // One slope per channel; the channels are dimension 1.
        let mut shape = vec![channels.clone()];
        shape.resize(rank.max(2) - 1, 1.into());
        slope = cx.push(Reshape { shape }, &[slope])?;
    }
    let zero = cx.const_like(x, 0.0)?;
    let positive = cx.push(Binary { f: BinaryFn::Max }, &[x, zero])?;
    let negative = cx.push(Binary { f: BinaryFn::Min }, &[x, zero])?;
    let scaled = cx.push(Binary { f: BinaryFn::Mul }, &[negative, slope])?;
    cx.one(Binary { f: BinaryFn::Add }, &[positive, scaled])
}

fn variadic(cx: &mut NodeCx<'_>, f: BinaryFn) -> Result<Vec<Value>, NodeError> {
    let all = cx.inputs()?;
    Ok(vec![fold(cx, &all, Binary { f })?])
}

fn mean(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let all = cx.inputs()?;
    let sum = fold(cx, &all, Binary { f: BinaryFn::Add })?;
    let n = cx.const_like(sum, all.len() as f64)?;
    cx.one(Binary { f: BinaryFn::Div }, &[sum, n])
}

/// The operator applied from left to right; a single operand is the result.
fn fold(cx: &mut NodeCx<'_>, all: &[Value], op: impl Into<Op>) -> Result<Value, NodeError> {
    let (first, rest) = all.split_first().ok_or_else(|| NodeError::wrong("it has no operands"))?;
    let op = op.into();
    rest.iter().try_fold(*first, |a, b| cx.push(op.clone(), &[a, *b]))
}
