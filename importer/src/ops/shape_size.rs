//! Operators that ask for dimensions: Shape and Size.

use ir::graph::Value;
use ir::ops::{Reduce, ReduceFn, ShapeOf, Slice};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "Shape", shape), ("", "Size", size)];

/// From version 15 on, `start` and `end` cut a part out.
fn shape(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let (start, end) = (cx.attr_i64("start", 0)?, cx.opt_i64("end")?);
    let all = cx.push(ShapeOf {}, &[x])?;
    if start == 0 && end.is_none() {
        return Ok(vec![all]);
    }
    let (starts, ends) = (vec![start.into()], vec![end.unwrap_or(i64::MAX).into()]);
    cx.one(Slice { axes: vec![0], starts, ends, steps: vec![1] }, &[all])
}

fn size(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    if cx.rank(x) == Some(0) {
        return Ok(vec![cx.const_i64(1)]);
    }
    let dims = cx.push(ShapeOf {}, &[x])?;
    cx.one(Reduce { f: ReduceFn::Prod, axes: vec![0], keep: false }, &[dims])
}
