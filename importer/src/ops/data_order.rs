//! Running sums, reversed sequences, reinterpreted bits and determinants.

use ir::graph::Value;
use ir::ops::CumulateFn;
use ir::ops::host::{BitCast, CumulateBy, Det, ReverseSequence};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "BitCast", bit_cast),
    ("", "CumProd", |cx| cumulate(cx, CumulateFn::Prod)),
    ("", "CumSum", |cx| cumulate(cx, CumulateFn::Sum)),
    ("", "Det", |cx| cx.one(Det {}, &[cx.input(0)?])),
    ("", "ReverseSequence", reverse_sequence),
];

fn bit_cast(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let to = cx.opt_dtype("to")?.ok_or_else(|| NodeError::wrong("attribute `to` is missing"))?;
    cx.one(BitCast { to }, &[cx.input(0)?])
}

fn cumulate(cx: &mut NodeCx<'_>, f: CumulateFn) -> Result<Vec<Value>, NodeError> {
    let (exclusive, reverse) = (cx.attr_bool("exclusive", false)?, cx.attr_bool("reverse", false)?);
    cx.fold(CumulateBy { f, exclusive, reverse }, &[cx.input(0)?, cx.input(1)?], 1)
}

fn reverse_sequence(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = ReverseSequence { batch_axis: cx.attr_i64("batch_axis", 1)?, time_axis: cx.attr_i64("time_axis", 0)? };
    cx.one(op, &[cx.input(0)?, cx.input(1)?])
}
