//! Turns the rotation of a layer's queries and keys and its cache write into one operator, for devices: three launches become one.
//!
//! ```ir before
//! graph @step(%q: f16[B, S, 16], %k: f16[B, S, 8], %v: f16[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], %p: i64[B, S], state %kc: f16[N, 1, C, 8], state %vc: f16[N, 1, C, 8]) {
//!   %cos = weight : f16[64, 4]
//!   %sin = weight : f16[64, 4]
//!   %q1 = rope(%q, %cos, %sin, %p) {heads = 2} : f16[B, S, 16]
//!   %k1 = rope(%k, %cos, %sin, %p) {heads = 1} : f16[B, S, 8]
//!   %kn, %vn = kv_write(%s, %l, %n, %kc, %k1, %vc, %v) : f16[N, 1, C, 8], f16[N, 1, C, 8]
//!   %y = cached_attention(%q1, %kn, %vn, %s, %l, %n) {heads = 2} : f16[B, S, 16]
//!   return %y, %kn as "kc", %vn as "vc"
//! }
//! ```
//! ```ir after
//! graph @step(%q: f16[B, S, 16], %k: f16[B, S, 8], %v: f16[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], %p: i64[B, S], state %kc: f16[N, 1, C, 8], state %vc: f16[N, 1, C, 8]) {
//!   %cos = weight : f16[64, 4]
//!   %sin = weight : f16[64, 4]
//!   %kn, %vn, %q1 = rope_kv_write(%s, %l, %n, %kc, %k, %vc, %v, %q, %cos, %sin, %p) {heads = 2, kv_heads = 1} : f16[N, 1, C, 8], f16[N, 1, C, 8], f16[B, S, 16]
//!   %y = cached_attention(%q1, %kn, %vn, %s, %l, %n) {heads = 2} : f16[B, S, 16]
//!   return %y, %kn as "kc", %vn as "vc"
//! }
//! ```

use crate::edit::Edit;
use crate::pass::{Body, Context, Pass};
use ir::DType;
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{CoreOp, Op, Rope, RopeKvWrite};

/// See the module.
pub const PASS: Pass = Pass { name: "join-ropes", body: Body::Whole(join) };

fn join(graph: &mut Graph, cx: &mut Context) {
    for id in graph.order() {
        if !graph.contains(id) {
            continue;
        }
        let Some(layer) = layer(graph, id) else { continue };
        let [keys, values] = [0, 1].map(|result| Value { node: id, result });
        let mut edit = Edit::new(graph, keys, [id, layer.q.node, layer.k.node]);
        let made = edit.apply(layer.op, &layer.operands);
        match made.and_then(|new| edit.settle_each(new, &[keys, values, layer.q])) {
            Ok(made) => {
                for old in [id, layer.q.node, layer.k.node] {
                    graph.prune(old);
                }
                cx.note("rope", graph, made, Ok(()));
            }
            Err(miss) => {
                edit.abandon();
                cx.note("rope", graph, keys, Err(miss));
            }
        }
    }
}

/// A write of turned keys, and the turned queries that meet them.
struct Layer {
    q: Value,
    k: Value,
    op: RopeKvWrite,
    operands: Vec<Value>,
}

fn layer(graph: &Graph, write: NodeId) -> Option<Layer> {
    let Some(Op::CoreOp(CoreOp::KvWrite(_))) = graph.op(write) else { return None };
    let written = graph.operands(write);
    let &[slots, lengths, counts, keys, k, values, v] = &written[..] else { return None };
    let states = graph.is_state(keys.node) && graph.is_state(values.node);
    let [next_keys, next_values] = [0, 1].map(|result| Value { node: write, result });
    let attends = |reader: NodeId| {
        let Some(Op::CoreOp(CoreOp::CachedAttention(_))) = graph.op(reader) else { return None };
        let operands = graph.operands(reader);
        (operands[1] == next_keys && operands[2] == next_values).then(|| operands[0])
    };
    let q = graph.readers(next_keys).into_iter().find_map(|(reader, _)| attends(reader))?;
    let ((of_q, turned_q), (of_k, turned_k)) = (rope(graph, q)?, rope(graph, k)?);
    let dtype = |v: Value| graph.tensor_ty(v).map(|t| t.dtype);
    let float = matches!(dtype(k), Some(DType::F32 | DType::F16 | DType::BF16)) && dtype(q) == dtype(k);
    // The same turn by the same tables, and queries that do not come from what was written.
    let alike = turned_q[1..] == turned_k[1..] && of_q.rotary == of_k.rotary && of_q.interleaved == of_k.interleaved;
    if !states || !float || !alike || q == k || graph.reaches(write, turned_q[0].node) {
        return None;
    }
    let Rope { heads, rotary, interleaved } = of_q;
    let op = RopeKvWrite { heads, kv_heads: of_k.heads, rotary, interleaved };
    let places = [slots, lengths, counts, keys, turned_k[0], values, v, turned_q[0]];
    let operands = places.into_iter().chain(turned_q[1..].iter().copied()).collect();
    Some(Layer { q, k, op, operands })
}

/// A rotation that only one node reads, and its operands.
fn rope(graph: &Graph, v: Value) -> Option<(Rope, Vec<Value>)> {
    match graph.op(v.node) {
        Some(Op::CoreOp(CoreOp::Rope(op))) if graph.use_count(v) == 1 => {
            Some((op.clone(), graph.operands(v.node).to_vec()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_unchanged};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("join_ropes.rs"));
    }

    /// Whatever turns the queries, and whatever is returned beside, keeps the layer apart.
    fn check_apart(turn: &str, also: &str) {
        let text = format!(
            "
graph @step(%q: f16[B, S, 16], %k: f16[B, S, 8], %v: f16[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], %p: i64[B, S], state %kc: f16[N, 1, C, 8], state %vc: f16[N, 1, C, 8]) {{
  %cos = weight : f16[64, 4]
  %sin = weight : f16[64, 4]
  %q1 = rope(%q, {turn}, %p) {{heads = 2}} : f16[B, S, 16]
  %k1 = rope(%k, %cos, %sin, %p) {{heads = 1}} : f16[B, S, 8]
  %kn, %vn = kv_write(%s, %l, %n, %kc, %k1, %vc, %v) : f16[N, 1, C, 8], f16[N, 1, C, 8]
  %y = cached_attention(%q1, %kn, %vn, %s, %l, %n) {{heads = 2}} : f16[B, S, 16]
  return %y, {also}%kn as \"kc\", %vn as \"vc\"
}}"
        );
        check_unchanged(&PASS, &text);
    }

    #[test]
    fn keeps_queries_that_turn_by_other_tables() {
        check_apart("%sin, %cos", "");
    }

    #[test]
    fn keeps_keys_that_are_read_elsewhere() {
        check_apart("%cos, %sin", "%k1, ");
    }
}
