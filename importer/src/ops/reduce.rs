//! Reductions along axes.

use ir::graph::Value;
use ir::ops::ReduceFn;
use ir::ops::host::ReduceBy;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "ReduceL1", |cx| reduce(cx, ReduceFn::L1)),
    ("", "ReduceL2", |cx| reduce(cx, ReduceFn::L2)),
    ("", "ReduceLogSum", |cx| reduce(cx, ReduceFn::LogSum)),
    ("", "ReduceLogSumExp", |cx| reduce(cx, ReduceFn::LogSumExp)),
    ("", "ReduceMax", |cx| reduce(cx, ReduceFn::Max)),
    ("", "ReduceMean", |cx| reduce(cx, ReduceFn::Mean)),
    ("", "ReduceMin", |cx| reduce(cx, ReduceFn::Min)),
    ("", "ReduceProd", |cx| reduce(cx, ReduceFn::Prod)),
    ("", "ReduceSum", |cx| reduce(cx, ReduceFn::Sum)),
    ("", "ReduceSumSquare", |cx| reduce(cx, ReduceFn::SumSquare)),
];

/// Axes are an attribute, from version 18 (13 for ReduceSum) an operand.
fn reduce(cx: &mut NodeCx<'_>, f: ReduceFn) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let op = ReduceBy { f, keep: cx.attr_bool("keepdims", true)?, none: cx.attr_bool("noop_with_empty_axes", false)? };
    let axes = match cx.opt_ints("axes")? {
        Some(axes) => cx.const_i64s(&axes),
        None => cx.or_absent(1),
    };
    cx.fold(op, &[x, axes], 1)
}
