//! Operators that only change the dimensions: all become `reshape`, or its host twin while the shape is not known.

use ir::graph::Value;
use ir::ops::Reshape;
use ir::ops::host::ReshapeTo;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "Reshape", reshape)];

fn reshape(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let op = ReshapeTo { allow_zero: cx.attr_bool("allowzero", false)? };
    if let Some(shape) = cx.opt_ints("shape")? {
        let shape: Vec<_> = shape.into_iter().map(Into::into).collect();
        let dims = cx.known_dims(x, "the new shape may copy its dimensions")?;
        let shape = op.target(&dims, &shape).map_err(|e| NodeError::wrong(e.to_string()))?;
        return cx.one(Reshape { shape }, &[x]);
    }
    let shape = cx.input(1)?;
    match (cx.dims(x), cx.elements(shape)) {
        (Some(dims), Some(shape)) => {
            let shape = op.target(&dims, &shape).map_err(|e| NodeError::wrong(e.to_string()))?;
            cx.one(Reshape { shape }, &[x])
        }
        _ => cx.one(op, &[x, shape]),
    }
}
