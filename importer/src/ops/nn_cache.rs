//! Key-value caches of fixed size.

use ir::graph::Value;
use ir::ops::TensorScatter;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "TensorScatter", tensor_scatter)];

fn tensor_scatter(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let mut operands = vec![cx.input(0)?, cx.input(1)?];
    operands.extend(cx.opt(2));
    let circular = match &*cx.attr_str("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(NodeError::wrong(format!("attribute `mode` is `{other}`, not linear or circular"))),
    };
    let axis = cx.attr_i64("axis", -2)?;
    cx.one(TensorScatter { axis, circular }, &operands)
}
