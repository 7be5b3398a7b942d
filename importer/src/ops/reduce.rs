//! Reductions along axes.

use ir::graph::Value;
use ir::ops::{Reduce, ReduceFn};

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

/// Axes are an attribute, from version 18 (13 for ReduceSum) an operand. No axes are all, or with `noop_with_empty_axes`
/// none: then every element is reduced alone, which for sums and extrema is the operand itself.
fn reduce(cx: &mut NodeCx<'_>, f: ReduceFn) -> Result<Vec<Value>, NodeError> {
    let (x, keep) = (cx.input(0)?, cx.attr_bool("keepdims", true)?);
    let mut axes = cx.attr_ints("axes", &[])?;
    if let Some(operand) = cx.opt(1) {
        match cx.numbers(operand) {
            Some(known) => axes = known,
            None => return cx.unsupported("its axes are computed while the model runs"),
        }
    }
    if !axes.is_empty() {
        return cx.one(Reduce { f, axes, keep }, &[x]);
    }
    if !cx.attr_bool("noop_with_empty_axes", false)? {
        let rank = cx.known_dims(x, "it is reduced along all axes")?.len();
        return cx.one(Reduce { f, axes: (0..rank as i64).collect(), keep }, &[x]);
    }
    match f {
        ReduceFn::Sum | ReduceFn::Mean | ReduceFn::Max | ReduceFn::Min | ReduceFn::Prod => Ok(vec![x]),
        _ => cx.one(Reduce { f, axes, keep }, &[x]),
    }
}
