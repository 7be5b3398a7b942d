//! Turns the cache writes of a layer into one: keys and values of every sequence of a batch are written by one kernel.
//!
//! Two writes can be one when they go to the same places and neither needs the other. Those of two layers cannot: what the
//! second layer writes is computed from the first one's cache. So writes are merged when one attention reads both, and nothing
//! else reads either before that.
//!
//! ```ir before
//! graph @step(%q: f32[B, S, 16], %k: f32[B, S, 8], %v: f32[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], state %kc: f32[N, 1, C, 8], state %vc: f32[N, 1, C, 8]) {
//!   %k1 = kv_write(%s, %l, %n, %kc, %k) : f32[N, 1, C, 8]
//!   %v1 = kv_write(%s, %l, %n, %vc, %v) : f32[N, 1, C, 8]
//!   %y = cached_attention(%q, %k1, %v1, %s, %l, %n) {heads = 2} : f32[B, S, 16]
//!   return %y, %k1 as "kc", %v1 as "vc"
//! }
//! ```
//! ```ir after
//! graph @step(%q: f32[B, S, 16], %k: f32[B, S, 8], %v: f32[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], state %kc: f32[N, 1, C, 8], state %vc: f32[N, 1, C, 8]) {
//!   %k1, %v1 = kv_write(%s, %l, %n, %kc, %k, %vc, %v) : f32[N, 1, C, 8], f32[N, 1, C, 8]
//!   %y = cached_attention(%q, %k1, %v1, %s, %l, %n) {heads = 2} : f32[B, S, 16]
//!   return %y, %k1 as "kc", %v1 as "vc"
//! }
//! ```

use crate::pass::{Body, Context, Miss, Pass};
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{CoreOp, KvWrite, Op};

/// See the module.
pub const PASS: Pass = Pass { name: "batch-kv-writes", body: Body::Whole(batch) };

fn batch(graph: &mut Graph, cx: &mut Context) {
    for id in graph.order() {
        let attends = |op: &CoreOp| matches!(op, CoreOp::CachedAttention(_) | CoreOp::Attention(_));
        if !graph.contains(id) || !is(graph, id, attends) {
            continue;
        }
        let operands = graph.operands(id);
        let (keys, values) = (operands[1].node, operands[2].node);
        let writes = [keys, values].iter().all(|n| is(graph, *n, |op| matches!(op, CoreOp::KvWrite(_))));
        if !writes || keys == values {
            continue;
        }
        match merge(graph, id, keys, values) {
            Ok(merged) => cx.note("batch", graph, merged, Ok(())),
            Err(miss) => cx.note("batch", graph, id.into(), Err(miss)),
        }
    }
}

fn is(graph: &Graph, id: NodeId, kind: fn(&CoreOp) -> bool) -> bool {
    matches!(graph.op(id), Some(Op::CoreOp(op)) if kind(op))
}

/// Makes one write of two that `attention` reads.
fn merge(graph: &mut Graph, attention: NodeId, keys: NodeId, values: NodeId) -> Result<Value, Miss> {
    let (first, second) = (graph.operands(keys), graph.operands(values));
    if first[..3] != second[..3] {
        return Err(Miss::Refused("keys and values go to different places"));
    }
    // What only the attention reads cannot lead to what the attention reads.
    let only = |id: NodeId| graph.results(id).all(|v| graph.readers(v).iter().all(|(reader, _)| *reader == attention));
    if !only(keys) && graph.reaches(keys, values) || !only(values) && graph.reaches(values, keys) {
        return Err(Miss::Refused("one write needs the other's result"));
    }
    let operands: Vec<Value> = first.iter().chain(&second[3..]).copied().collect();
    let results: Vec<Value> = graph.results(keys).chain(graph.results(values)).collect();
    let names: Vec<String> = results.iter().map(|v| graph.name(*v).to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let origin = graph.node(keys).origin.clone();
    let more = graph.node(values).origin.clone();
    let node = graph.push(KvWrite {}, &operands, &names, origin);
    let node = node.map_err(|_| Miss::Refused("the writes do not fit each other"))?;
    graph.extend_origin(node, &more);
    for (old, new) in results.into_iter().zip(graph.results(node).collect::<Vec<_>>()) {
        graph.take_name(old, new);
        graph.replace(old, new);
    }
    graph.prune(keys);
    graph.prune(values);
    Ok(node.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_refused, check_unchanged};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("batch_kv_writes.rs"));
    }

    /// The second layer's rows are computed from what the first one's attention gives.
    #[test]
    fn keeps_layers_apart() {
        let mut g = ir::text::parse(
            "graph @g(%k: f32[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], state %a: f32[N, 1, C, 8], state %b: f32[N, 1, C, 8], state %c: f32[N, 1, C, 8], state %d: f32[N, 1, C, 8]) {
  %a1 = kv_write(%s, %l, %n, %a, %k)
  %b1 = kv_write(%s, %l, %n, %b, %k)
  %y = cached_attention(%k, %a1, %b1, %s, %l, %n) {heads = 1}
  %c1 = kv_write(%s, %l, %n, %c, %y)
  %d1 = kv_write(%s, %l, %n, %d, %y)
  %z = cached_attention(%y, %c1, %d1, %s, %l, %n) {heads = 1}
  return %z, %a1 as \"a\", %b1 as \"b\", %c1 as \"c\", %d1 as \"d\"
}",
        )
        .unwrap();
        PASS.run(&mut g, &mut Context::default());
        ir::verify(&g).unwrap();
        assert_eq!(g.to_string().matches("kv_write").count(), 2, "{g}");
    }

    #[test]
    fn keeps_a_write_that_needs_the_other() {
        check_refused(
            &PASS,
            "
graph @g(%k: f32[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], state %a: f32[N, 1, C, 8], state %b: f32[N, 1, C, 8]) {
  %a1 = kv_write(%s, %l, %n, %a, %k) : f32[N, 1, C, 8]
  %y = cached_attention(%k, %a1, %a1, %s, %l, %n) {heads = 1} : f32[B, S, 8]
  %b1 = kv_write(%s, %l, %n, %b, %y) : f32[N, 1, C, 8]
  %z = cached_attention(%k, %a1, %b1, %s, %l, %n) {heads = 1} : f32[B, S, 8]
  return %z, %a1 as \"a\", %b1 as \"b\"
}",
            "one write needs the other's result",
        );
    }

    #[test]
    fn keeps_writes_to_other_places() {
        check_refused(
            &PASS,
            "
graph @g(%k: f32[B, S, 8], %s: i32[B], %l: i32[B], %m: i32[B], %n: i32[B], state %a: f32[N, 1, C, 8], state %b: f32[N, 1, C, 8]) {
  %a1 = kv_write(%s, %l, %n, %a, %k) : f32[N, 1, C, 8]
  %b1 = kv_write(%s, %m, %n, %b, %k) : f32[N, 1, C, 8]
  %z = cached_attention(%k, %a1, %b1, %s, %l, %n) {heads = 1} : f32[B, S, 8]
  return %z, %a1 as \"a\", %b1 as \"b\"
}",
            "keys and values go to different places",
        );
    }

    #[test]
    fn keeps_caches_that_nothing_writes() {
        check_unchanged(
            &PASS,
            "
graph @g(%k: f32[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], %a: f32[N, 1, C, 8], %b: f32[N, 1, C, 8]) {
  %z = cached_attention(%k, %a, %b, %s, %l, %n) {heads = 1} : f32[B, S, 8]
  return %z
}",
        );
    }
}
