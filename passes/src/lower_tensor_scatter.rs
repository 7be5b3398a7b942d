//! Makes a cache of a fixed size that stays an operand (ONNX TensorScatter) one `kv_write`, of which `batch-kv-writes` makes one
//! per layer: the sequences of the batch are its slots, and all of their rows are new.
//!
//! ```ir before
//! graph @g(%cache: f32[B, 2, C, 8], %rows: f32[B, 2, S, 8], %at: i64[B]) {
//!   %y = tensor_scatter(%cache, %rows, %at) {axis = 2} : f32[B, 2, C, 8]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @g(%cache: f32[B, 2, C, 8], %rows: f32[B, 2, S, 8], %at: i64[B]) {
//!   %y.1 = range() {length = B, start = 0, step = 1} : i64[B]
//!   %y.2 = dims() {elements = [S], scalar = true} : i64[]
//!   %y.3 = fill(%y.2) {shape = [B]} : i64[B]
//!   %y = kv_write(%y.1, %at, %y.3, %cache, %rows) : f32[B, 2, C, 8]
//!   return %y
//! }
//! ```

use crate::edit::Edit;
use crate::pass::{Body, Miss, Pass, Rule};
use crate::pattern::Match;
use ir::dim::Dim;
use ir::graph::Value;
use ir::ops::{CoreOp, Dims, Fill, KvWrite, Op, Range};

/// See the module.
pub const PASS: Pass = Pass { name: "lower-tensor-scatter", body: Body::Rules(&[RULES]) };

const RULES: &[Rule] =
    &[Rule { name: "cache-rows", pattern: "%y = tensor_scatter(%cache, %rows, %at)", rewrite: write_rows }];

fn write_rows(edit: &mut Edit<'_>, found: &Match<'_>) -> Result<Value, Miss> {
    let [y, cache, rows, at] = ["y", "cache", "rows", "at"].map(|name| found[name]);
    let Some(Op::CoreOp(CoreOp::TensorScatter(op))) = edit.graph.op(y.node).cloned() else {
        return Err(Miss::NoEffect);
    };
    edit.require(!op.circular, "rows beyond the end of the cache go to its beginning: it stays a scatter")?;
    let dims = |v: Value| edit.graph.tensor_ty(v).and_then(|t| t.dims()).map(<[Dim]>::to_vec);
    let (to, from) = (dims(cache), dims(rows));
    let (Some([batch, ..]), Some([_, _, steps, _])) = (to.as_deref(), from.as_deref()) else {
        return Err(Miss::Refused("it is no cache of four dimensions: it stays a scatter"));
    };
    let fits = matches!(op.axis, 2 | -2) && edit.dtype(cache).is_some_and(|d| d.is_float());
    edit.require(fits, "rows are not floats that go in along the third dimension: it stays a scatter")?;
    let slots = edit.apply(Range { start: Dim::constant(0), step: Dim::constant(1), length: batch.clone() }, &[])?;
    let count = edit.apply(Dims { elements: vec![steps.clone()], scalar: true }, &[])?;
    let counts = edit.apply(Fill { shape: vec![batch.clone()] }, &[count])?;
    edit.apply(KvWrite {}, &[slots, at, counts, cache, rows])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_refused};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("lower_tensor_scatter.rs"));
    }

    #[test]
    fn keeps_circular_caches() {
        check_refused(
            &PASS,
            "
graph @g(%cache: f32[B, 2, C, 8], %rows: f32[B, 2, S, 8], %at: i64[B]) {
  %y = tensor_scatter(%cache, %rows, %at) {axis = 2, circular = true} : f32[B, 2, C, 8]
  return %y
}",
            "rows beyond the end of the cache go to its beginning: it stays a scatter",
        );
    }

    #[test]
    fn keeps_other_dimensions() {
        check_refused(
            &PASS,
            "
graph @g(%cache: f32[B, C, 2, 8], %rows: f32[B, S, 2, 8], %at: i64[B]) {
  %y = tensor_scatter(%cache, %rows, %at) {axis = 1} : f32[B, C, 2, 8]
  return %y
}",
            "rows are not floats that go in along the third dimension: it stays a scatter",
        );
    }

    #[test]
    fn keeps_what_has_three_dimensions() {
        check_refused(
            &PASS,
            "
graph @g(%cache: f32[B, C, 8], %rows: f32[B, S, 8], %at: i64[B]) {
  %y = tensor_scatter(%cache, %rows, %at) {axis = 1} : f32[B, C, 8]
  return %y
}",
            "it is no cache of four dimensions: it stays a scatter",
        );
    }
}
