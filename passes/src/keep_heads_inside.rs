//! Leaves heads where products write them, inside the rows: around caches nothing is transposed.
//!
//! Exporters move heads out, `[B, S, H D]` to `[B, H, S, D]`, for queries and keys, and back behind the attention. `rope`, `kv_write`
//! and `cached_attention` take rows with their heads inside, so three transposes of a layer go away.
//!
//! ```ir before
//! graph @step(%q: f32[B, S, 16], %k: f32[B, S, 8], %v: f32[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], %cos: f32[B, S, 4], %sin: f32[B, S, 4], state %kc: f32[N, 1, C, 8], state %vc: f32[N, 1, C, 8]) {
//!   %q4 = reshape(%q) {shape = [B, S, 2, 8]} : f32[B, S, 2, 8]
//!   %qt = transpose(%q4) {perm = [0, 2, 1, 3]} : f32[B, 2, S, 8]
//!   %q1 = rope(%qt, %cos, %sin) : f32[B, 2, S, 8]
//!   %k4 = reshape(%k) {shape = [B, S, 1, 8]} : f32[B, S, 1, 8]
//!   %kt = transpose(%k4) {perm = [0, 2, 1, 3]} : f32[B, 1, S, 8]
//!   %k1 = rope(%kt, %cos, %sin) : f32[B, 1, S, 8]
//!   %kn, %vn = kv_write(%s, %l, %n, %kc, %k1, %vc, %v) : f32[N, 1, C, 8], f32[N, 1, C, 8]
//!   %a = cached_attention(%q1, %kn, %vn, %s, %l, %n) : f32[B, 2, S, 8]
//!   %at = transpose(%a) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 8]
//!   %y = reshape(%at) {shape = [B, S, 16]} : f32[B, S, 16]
//!   return %y, %kn as "kc", %vn as "vc"
//! }
//! ```
//! ```ir after
//! graph @step(%q: f32[B, S, 16], %k: f32[B, S, 8], %v: f32[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], %cos: f32[B, S, 4], %sin: f32[B, S, 4], state %kc: f32[N, 1, C, 8], state %vc: f32[N, 1, C, 8]) {
//!   %kn.1 = rope(%k, %cos, %sin) {heads = 1} : f32[B, S, 8]
//!   %kn, %vn = kv_write(%s, %l, %n, %kc, %kn.1, %vc, %v) : f32[N, 1, C, 8], f32[N, 1, C, 8]
//!   %at.1 = rope(%q, %cos, %sin) {heads = 2} : f32[B, S, 16]
//!   %at.2 = cached_attention(%at.1, %kn, %vn, %s, %l, %n) {heads = 2} : f32[B, S, 16]
//!   %at = reshape(%at.2) {shape = [B, S, 2, 8]} : f32[B, S, 2, 8]
//!   %y = reshape(%at) {shape = [B, S, 16]} : f32[B, S, 16]
//!   return %y, %kn as "kc", %vn as "vc"
//! }
//! ```

use crate::edit::Edit;
use crate::pass::{Body, Context, Miss, Pass};
use ir::Dim;
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{CachedAttention, CoreOp, Op, Reshape, Rope, Transpose};

/// See the module.
pub const PASS: Pass = Pass { name: "keep-heads-inside", body: Body::Whole(keep) };

/// `[B, S, H, D]` to `[B, H, S, D]`, and back.
const OUT: [i64; 4] = [0, 2, 1, 3];

fn keep(graph: &mut Graph, cx: &mut Context) {
    for id in graph.order() {
        if !graph.contains(id) {
            continue;
        }
        match graph.op(id) {
            Some(Op::CoreOp(CoreOp::CachedAttention(op))) => {
                let op = op.clone();
                attention(graph, cx, id, &op);
            }
            Some(Op::CoreOp(CoreOp::KvWrite(_))) => write(graph, cx, id),
            _ => {}
        }
    }
}

/// Rows whose heads were only moved out of them: the rows, and how many heads.
fn inside(graph: &Graph, v: Value) -> Option<(Value, i64)> {
    let split = moved(graph, v)?;
    let Some(Op::CoreOp(CoreOp::Reshape(Reshape { shape }))) = graph.op(split.node) else { return None };
    let flat = graph.operands(split.node)[0];
    let ([b, s, w], [split_b, split_s, h, d]) = (graph.tensor_ty(flat)?.dims()?, &shape[..]) else { return None };
    (b == split_b && s == split_s && *w == h * d).then(|| h.as_const().map(|h| (flat, h)))?
}

/// What heads were moved out of, or back into.
fn moved(graph: &Graph, v: Value) -> Option<Value> {
    match graph.op(v.node) {
        Some(Op::CoreOp(CoreOp::Transpose(Transpose { perm }))) if perm[..] == OUT => Some(graph.operands(v.node)[0]),
        _ => None,
    }
}

/// Rows with their heads inside that say the same as `v`, and how many heads: made by a rotation of its own where `v` is turned.
fn rows(edit: &mut Edit<'_>, v: Value) -> Option<(Value, i64)> {
    if let Some(found) = inside(edit.graph, v) {
        return Some(found);
    }
    let Some(Op::CoreOp(CoreOp::Rope(op))) = edit.graph.op(v.node) else { return None };
    let op = op.clone();
    let mut operands = edit.graph.operands(v.node).to_vec();
    let (flat, heads) = inside(edit.graph, operands[0]).filter(|_| edit.graph.use_count(v) == 1)?;
    operands[0] = flat;
    edit.covers([v.node]);
    let turned = edit.apply(Rope { heads: Some(heads), ..op }, &operands).ok()?;
    Some((turned, heads))
}

fn attention(graph: &mut Graph, cx: &mut Context, id: NodeId, op: &CachedAttention) {
    let mut operands = graph.operands(id).to_vec();
    // Heads that are moved back at once are left inside: then nothing of the old layout is read.
    let root = match &graph.readers(id.into())[..] {
        [(reader, _)] if graph.use_count(id.into()) == 1 && moved(graph, (*reader).into()).is_some() => *reader,
        _ => return,
    };
    let query = operands[0];
    let Some(split) = graph.tensor_ty(root.into()).and_then(|t| t.dims()).map(<[Dim]>::to_vec) else { return };
    let mut edit = Edit::new(graph, root.into(), [id, root]);
    let made = || {
        let (flat, heads) = rows(&mut edit, query).ok_or(Miss::NoEffect)?;
        operands[0] = flat;
        let y = edit.apply(CachedAttention { heads: Some(heads), ..op.clone() }, &operands)?;
        edit.apply(Reshape { shape: split }, &[y])
    };
    match made().and_then(|new| edit.settle(new)) {
        Ok(new) => {
            graph.prune(root);
            cx.note("attention", graph, new, Ok(()));
        }
        Err(_) => edit.abandon(),
    }
}

fn write(graph: &mut Graph, cx: &mut Context, id: NodeId) {
    let mut operands = graph.operands(id).to_vec();
    let olds: Vec<Value> = graph.results(id).collect();
    let op = graph.op(id).expect("it is a write").clone();
    let mut edit = Edit::new(graph, olds[0], [id]);
    let mut found = false;
    for i in (4..operands.len()).step_by(2) {
        if let Some((flat, _)) = rows(&mut edit, operands[i]) {
            (operands[i], found) = (flat, true);
        }
    }
    let made = if found { edit.apply(op, &operands) } else { Err(Miss::NoEffect) };
    match made.and_then(|new| edit.settle_each(new, &olds)) {
        Ok(new) => {
            graph.prune(id);
            cx.note("write", graph, new, Ok(()));
        }
        Err(_) => edit.abandon(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_unchanged};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("keep_heads_inside.rs"));
    }

    #[test]
    fn keeps_heads_that_others_read_outside() {
        check_unchanged(
            &PASS,
            "
graph @step(%q: f32[B, S, 16], %s: i32[B], %l: i32[B], %n: i32[B], %kc: f32[N, 1, C, 8], %vc: f32[N, 1, C, 8]) {
  %q4 = reshape(%q) {shape = [B, S, 2, 8]} : f32[B, S, 2, 8]
  %qt = transpose(%q4) {perm = [0, 2, 1, 3]} : f32[B, 2, S, 8]
  %a = cached_attention(%qt, %kc, %vc, %s, %l, %n) : f32[B, 2, S, 8]
  %at = transpose(%a) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 8]
  return %a, %at
}",
        );
    }
}
