//! Merges nodes that compute the same thing: one operator with equal attributes on equal operands, or equal small constants.
//!
//! ```ir before
//! graph @g(%x: f32[N]) {
//!   %two = const [2.0] : f32[]
//!   %deux = const [2.0] : f32[]
//!   %a = mul(%x, %two) : f32[N]
//!   %b = mul(%x, %deux) : f32[N]
//!   %y = add(%a, %b) : f32[N]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @g(%x: f32[N]) {
//!   %two = const [2.0] : f32[]
//!   %a = mul(%x, %two) : f32[N]
//!   %y = add(%a, %a) : f32[N]
//!   return %y
//! }
//! ```

use crate::pass::{Body, Context, Pass};
use ir::Tensor;
use ir::graph::{Graph, Kind, NodeId, Value};
use ir::ops::Op;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// See the module.
pub const PASS: Pass = Pass { name: "merge-duplicates", body: Body::Whole(merge) };

/// Constants above this many bytes are compared by where their data lies, not by content.
const MAX_COMPARED_BYTES: usize = 512;

fn merge(graph: &mut Graph, cx: &mut Context) {
    let mut first: HashMap<String, NodeId> = HashMap::new();
    for id in graph.order() {
        let Some(key) = key(graph, id) else { continue };
        let original = match first.entry(key) {
            Entry::Vacant(free) => {
                free.insert(id);
                continue;
            }
            Entry::Occupied(o) => *o.get(),
        };
        // Two results of data-dependent size are equal, but each binds its own symbols.
        if graph.results(id).zip(graph.results(original)).any(|(a, b)| graph.ty(a) != graph.ty(b)) {
            continue;
        }
        let origin = graph.node(id).origin.clone();
        graph.extend_origin(original, &origin);
        for (old, new) in graph.results(id).zip(graph.results(original)) {
            graph.replace(old, new);
        }
        cx.note("same", graph, Value::from(original), Ok(()));
    }
}

/// Equal keys mean equal values; `None` for what is never merged.
fn key(graph: &Graph, id: NodeId) -> Option<String> {
    match &graph.node(id).kind {
        Kind::Input | Kind::Absent | Kind::Weight(None) => None,
        Kind::Weight(Some(t)) => Some(constant_key(t)),
        Kind::Op(op) if is_random(op) || op.has_body() => None,
        Kind::Op(op) => {
            let operands: Vec<(usize, u16)> = graph.operands(id).iter().map(|v| (v.node.index(), v.result)).collect();
            Some(format!("{}{:?}{operands:?}", op.name(), op.attrs()))
        }
    }
}

fn constant_key(t: &Tensor) -> String {
    let (bytes, texts) = (t.bytes(), t.strings().unwrap_or_default());
    if bytes.len() <= MAX_COMPARED_BYTES {
        return format!("{}{:?}{bytes:x?}{texts:?}", t.dtype(), t.dims());
    }
    format!("{}{:?}@{:p}", t.dtype(), t.dims(), bytes.as_ptr())
}

/// Random operators without a seed give other numbers each time.
pub(crate) fn is_random(op: &Op) -> bool {
    op.name().starts_with("random") || matches!(op.name(), "bernoulli" | "multinomial" | "dropout")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_unchanged};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("merge_duplicates.rs"));
    }

    #[test]
    fn keeps_other_attributes_and_operands_apart() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: f32[N, N]) {
  %a = softmax(%x) {axis = 0} : f32[N, N]
  %b = softmax(%x) {axis = 1} : f32[N, N]
  %c = sub(%a, %b) : f32[N, N]
  %d = sub(%b, %a) : f32[N, N]
  return %c, %d
}",
        );
    }
}
