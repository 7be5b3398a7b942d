//! Recognises attention that exporters spell out, and what its mask means.
//!
//! `softmax(q k^T scale + mask) v` becomes one `attention`, whatever reshapes, transpositions and copies of shared key heads
//! lie between: those are followed by the dimensions they move (`axes.rs`), so query heads read their key
//! head in place. Then the mask is looked at element by element (`mask.rs`): a condition on positions becomes `causal`,
//! `offset` and `left`, what depends on the data of a key alone a small bool operand; anything else stays as it is.
//!
//! ```ir before
//! graph @decoder(%q: f32[B, 4, S, 8], %past: f32[B, 2, P, 8], %new: f32[B, 2, S, 8], %v: f32[B, 2, P + S, 8], %padding: i64[B, P + S]) {
//!   %zero = const [0] : i64[]
//!   %lowest = const [-3.4028234663852886e38] : f32[]
//!   %none = const [0.0] : f32[]
//!   %scale = const [0.25] : f32[]
//!   %k = concat(%past, %new) {axis = 2} : f32[B, 2, P + S, 8]
//!   %k5 = reshape(%k) {shape = [B, 2, 1, P + S, 8]} : f32[B, 2, 1, P + S, 8]
//!   %kx = expand(%k5) {shape = [B, 2, 2, P + S, 8]} : f32[B, 2, 2, P + S, 8]
//!   %k4 = reshape(%kx) {shape = [B, 4, P + S, 8]} : f32[B, 4, P + S, 8]
//!   %kt = transpose(%k4) {perm = [0, 1, 3, 2]} : f32[B, 4, 8, P + S]
//!   %qk = matmul(%q, %kt) : f32[B, 4, S, P + S]
//!   %scores = mul(%qk, %scale) : f32[B, 4, S, P + S]
//!   %keys = range() {length = P + S, start = 0, step = 1} : i64[P + S]
//!   %rows = range() {length = S, start = P, step = 1} : i64[S]
//!   %column = reshape(%rows) {shape = [S, 1]} : i64[S, 1]
//!   %later = gt(%keys, %column) : bool[S, P + S]
//!   %gap = eq(%padding, %zero) : bool[B, P + S]
//!   %gap4 = reshape(%gap) {shape = [B, 1, 1, P + S]} : bool[B, 1, 1, P + S]
//!   %hidden = or(%later, %gap4) : bool[B, 1, S, P + S]
//!   %mask = select(%hidden, %lowest, %none) : f32[B, 1, S, P + S]
//!   %masked = add(%scores, %mask) : f32[B, 4, S, P + S]
//!   %weights = softmax(%masked) {axis = -1} : f32[B, 4, S, P + S]
//!   %v5 = reshape(%v) {shape = [B, 2, 1, P + S, 8]} : f32[B, 2, 1, P + S, 8]
//!   %vx = expand(%v5) {shape = [B, 2, 2, P + S, 8]} : f32[B, 2, 2, P + S, 8]
//!   %v4 = reshape(%vx) {shape = [B, 4, P + S, 8]} : f32[B, 4, P + S, 8]
//!   %y = matmul(%weights, %v4) : f32[B, 4, S, 8]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @decoder(%q: f32[B, 4, S, 8], %past: f32[B, 2, P, 8], %new: f32[B, 2, S, 8], %v: f32[B, 2, P + S, 8], %padding: i64[B, P + S]) {
//!   %k = concat(%past, %new) {axis = 2} : f32[B, 2, P + S, 8]
//!   %y.1 = reshape(%padding) {shape = [B, 1, 1, P + S]} : i64[B, 1, 1, P + S]
//!   %y.2 = cast(%y.1) {to = bool} : bool[B, 1, 1, P + S]
//!   %y = attention(%q, %k, %v, %y.2) {causal = true, offset = P, scale = 0.25, unseen = mean} : f32[B, 4, S, 8]
//!   return %y
//! }
//! ```

mod heads;
mod mask;
mod scores;
mod term;

use crate::axes::equal;
use crate::edit::Edit;
use crate::pass::{Body, Context, Miss, Pass};
use ir::graph::{NodeId, Value};
use ir::ops::{Attention, Binary, CoreOp, Op, Reshape, Unary, Unseen};
use ir::scalar::{BinaryFn, UnaryFn};
use ir::{Dim, Graph};

/// See the module.
pub const PASS: Pass = Pass { name: "fuse-attention", body: Body::Whole(fuse) };

fn fuse(graph: &mut Graph, cx: &mut Context) {
    for id in graph.order() {
        if !graph.contains(id) {
            continue;
        }
        let id = match graph.op(id) {
            Some(Op::CoreOp(CoreOp::MatMul(_))) => {
                attempt(graph, cx, "attention", id, attention).map(|new| attention_behind(graph, new))
            }
            Some(Op::CoreOp(CoreOp::Attention(_))) => Some(attempt(graph, cx, "shared-heads", id, share).unwrap_or(id)),
            _ => None,
        };
        if let Some(id) = id {
            attempt(graph, cx, "mask", id, mask::explain);
        }
    }
}

/// The attention itself where its result is reshaped.
fn attention_behind(graph: &Graph, id: NodeId) -> NodeId {
    match graph.op(id) {
        Some(Op::CoreOp(CoreOp::Reshape(_))) => graph.operands(id)[0].node,
        _ => id,
    }
}

/// Rewrites a node or notes why not; returns what it became.
fn attempt(
    graph: &mut Graph,
    cx: &mut Context,
    rule: &'static str,
    id: NodeId,
    rewrite: fn(&mut Edit<'_>, NodeId) -> Result<Value, Miss>,
) -> Option<NodeId> {
    let mut edit = Edit::new(graph, id.into(), [id]);
    match rewrite(&mut edit, id).and_then(|new| edit.settle_all(new)) {
        Ok(new) => {
            cx.note(rule, graph, new, Ok(()));
            graph.prune(id);
            Some(new.node)
        }
        Err(miss) => {
            edit.abandon();
            if miss != Miss::NoEffect {
                cx.note(rule, graph, id.into(), Err(miss));
            }
            None
        }
    }
}

/// A product of weights that a softmax made with values.
fn attention(edit: &mut Edit<'_>, id: NodeId) -> Result<Value, Miss> {
    let operands = edit.graph.operands(id);
    let found = scores::find(edit, operands[0])?;
    let sides = heads::find(edit, &found, operands[1])?;
    edit.covers(found.nodes.iter().copied());
    edit.covers(sides.iter().flat_map(|side| side.nodes.iter().copied()));
    let mut operands = vec![];
    for side in &sides {
        operands.push(side.build(edit)?);
    }
    let mut mask = None;
    for part in &found.masks {
        let part = mask_for(edit, part, operands[0])?;
        mask = Some(match mask {
            Some(other) => edit.reuse(Binary { f: BinaryFn::Add }, &[other, part])?,
            None => part,
        });
    }
    let heads = (edit.rank(operands[0]) == Some(3)).then_some(1);
    let op = Attention {
        causal: false,
        offset: None,
        scale: Some((found.scale * sides[0].scale * sides[1].scale) as f32),
        softcap: found.cap.map(|c| c as f32),
        q_heads: heads,
        kv_heads: heads,
        left: None,
        right: None,
        present: false,
        scores: None,
        unseen: mask.is_some().then_some(found.unseen.unwrap_or(Unseen::Nan)),
        guard: found.guard,
        total: None,
    };
    operands.extend(mask);
    let y = edit.apply(op, &operands)?;
    let dims = edit.graph.tensor_ty(id.into()).and_then(|t| t.dims()).map(<[Dim]>::to_vec).ok_or(Miss::NoEffect)?;
    if edit.rank(y) == Some(dims.len()) { Ok(y) } else { edit.apply(Reshape { shape: dims }, &[y]) }
}

/// A mask as it broadcasts to `[B, H, S, T]` of these queries.
fn mask_for(edit: &mut Edit<'_>, mask: &scores::Mask, queries: Value) -> Result<Value, Miss> {
    let dims = |v: Value| edit.graph.tensor_ty(v).and_then(|t| t.dims()).map(<[Dim]>::to_vec).ok_or(Miss::NoEffect);
    let (own, scores, queries) = (dims(mask.value)?, dims(mask.scores)?, dims(queries)?);
    let lead = match &queries[..] {
        [b, h, _, _] => [b.clone(), h.clone()],
        [b, ..] => [b.clone(), Dim::constant(1)],
        [] => return Err(Miss::NoEffect),
    };
    let one = Dim::constant(1);
    let fits = match &scores[..] {
        [b, h, _, _] => equal(edit.graph, b, &lead[0]) && equal(edit.graph, h, &lead[1]),
        [all, _, _] => equal(edit.graph, all, &(&lead[0] * &lead[1])),
        _ => false,
    };
    edit.require(fits, "the mask meets the scores where their first dimensions are not batch and heads")?;
    let value = match (&own[..], scores.len()) {
        ([all, s, t], 3) if *all != one => {
            let shape = vec![lead[0].clone(), lead[1].clone(), s.clone(), t.clone()];
            edit.reuse(Reshape { shape }, &[mask.value])?
        }
        _ => mask.value,
    };
    if mask.hides { edit.reuse(Unary { f: UnaryFn::Not }, &[value]) } else { Ok(value) }
}

/// An attention over copies of key heads reads the heads that were copied.
fn share(edit: &mut Edit<'_>, id: NodeId) -> Result<Value, Miss> {
    let Some(Op::CoreOp(CoreOp::Attention(op))) = edit.graph.op(id).cloned() else { return Err(Miss::NoEffect) };
    let mut operands = edit.graph.operands(id).to_vec();
    let is_there = |i: usize| operands.get(i).is_some_and(|v| edit.graph.tensor_ty(*v).is_some());
    if op.present || is_there(4) || edit.rank(operands[1]) != Some(4) || edit.rank(operands[2]) != Some(4) {
        return Err(Miss::NoEffect);
    }
    for at in [1, 2] {
        let (side, nodes) = heads::shared(edit.graph, operands[at]).ok_or(Miss::NoEffect)?;
        edit.covers(nodes);
        operands[at] = side;
    }
    edit.apply(op, &operands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_refused, check_unchanged, rewritten};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("fuse_attention.rs"));
    }

    /// `stmts` from `%s`, the scores `[B, 2, S, T]`, to `%y`; `%p` is a float mask, `%m` one of truth values.
    fn attention(stmts: &str) -> String {
        let inputs =
            "%q: f32[B, 2, S, 4], %k: f32[B, 2, 4, T], %v: f32[B, 2, T, 4], %p: f32[B, 1, S, T], %m: bool[B, 1, 1, T]";
        let constants = "%c = const [0.5] : f32[] %low = const [-3.4028234663852886e38] : f32[] %inf = const [-inf] : f32[] %zero = const [0.0] : f32[]";
        format!("graph @g({inputs}) {{ {constants} %s = matmul(%q, %k) {stmts} return %y }}")
    }

    fn check(stmts: &str, expected: &str) {
        let keys = "%y.1 = transpose(%k) {perm = [0, 1, 3, 2]}";
        assert_eq!(rewritten(&PASS, &attention(stmts)), format!("{keys}; {expected}"), "{stmts}");
    }

    fn refused(stmts: &str, why: &'static str) {
        let mut g = ir::text::parse(&attention(stmts)).unwrap();
        g.remove_dead();
        check_refused(&PASS, &g.to_string(), why);
    }

    const END: &str = "%w = softmax(%a) {axis = -1} %y = matmul(%w, %v)";

    #[test]
    fn scores_in_the_forms_of_exporters() {
        check("%w = softmax(%s) {axis = 3} %y = matmul(%w, %v)", "%y = attention(%q, %y.1, %v) {scale = 1.0}");
        check(
            &format!("%d = mul(%s, %c) %a = add(%p, %d) {END}"),
            "%y = attention(%q, %y.1, %v, %p) {scale = 0.5, unseen = nan}",
        );
        let sides = "%qs = mul(%q, %c) %ks = mul(%c, %k) %e = matmul(%qs, %ks) %a = add(%e, %p)";
        check(&format!("{sides} {END}"), "%y = attention(%q, %y.1, %v, %p) {scale = 0.25, unseen = nan}");
        check(
            &format!("%a = select(%m, %s, %low) {END}"),
            "%y = attention(%q, %y.1, %v, %m) {scale = 1.0, unseen = mean}",
        );
        check(
            &format!("%a = select(%m, %low, %s) {END}"),
            "%y.2 = not(%m); %y = attention(%q, %y.1, %v, %y.2) {scale = 1.0, unseen = mean}",
        );
        check(
            &format!("%b = select(%m, %zero, %inf) %a = add(%s, %b) {END}"),
            "%y = attention(%q, %y.1, %v, %m) {scale = 1.0, unseen = nan}",
        );
        check(
            "%w = softmax(%s) {axis = -1} %n = is_nan(%w) %g = select(%n, %zero, %w) %y = matmul(%g, %v)",
            "%y = attention(%q, %y.1, %v) {guard = true, scale = 1.0}",
        );
        check(
            &format!("%two = const [2.0] : f32[] %d = mul(%s, %c) %t = tanh(%d) %a = mul(%t, %two) {END}"),
            "%y = attention(%q, %y.1, %v) {scale = 1.0, softcap = 2.0}",
        );
    }

    #[test]
    fn copies_of_key_heads_are_not_made() {
        let copies = |v: &str| {
            format!(
                "%{v}5 = reshape(%{v}) {{shape = [B, 2, 1, T, 8]}} %{v}x = expand(%{v}5) {{shape = [B, 2, 3, T, 8]}} \
                 %{v}6 = reshape(%{v}x) {{shape = [B, 6, T, 8]}}"
            )
        };
        let text = format!(
            "graph @g(%q: f32[B, 6, S, 8], %k: f32[B, 2, T, 8], %v: f32[B, 2, T, 8]) {{ {} {} \
             %y = attention(%q, %k6, %v6) {{scale = 0.5}} return %y }}",
            copies("k"),
            copies("v")
        );
        assert_eq!(rewritten(&PASS, &text), "%y = attention(%q, %k, %v) {scale = 0.5}");
    }

    #[test]
    fn keeps_copies_that_are_not_neighbours() {
        let text = "
graph @g(%q: f32[B, 6, S, 8], %k: f32[B, 2, T, 8]) {
  %k5 = reshape(%k) {shape = [B, 1, 2, T, 8]} : f32[B, 1, 2, T, 8]
  %kx = expand(%k5) {shape = [B, 3, 2, T, 8]} : f32[B, 3, 2, T, 8]
  %k6 = reshape(%kx) {shape = [B, 6, T, 8]} : f32[B, 6, T, 8]
  %y = attention(%q, %k6, %k6) {scale = 0.5} : f32[B, 6, S, 8]
  return %y
}";
        check_unchanged(&PASS, text);
    }

    #[test]
    fn keeps_weights_that_others_read() {
        let text = attention("%w = softmax(%s) {axis = -1} %y = matmul(%w, %v)").replace("return %y", "return %w, %y");
        let mut g = ir::text::parse(&text).unwrap();
        g.remove_dead();
        check_refused(&PASS, &g.to_string(), "the weights or scores of the attention have another reader");
    }

    #[test]
    fn keeps_what_is_no_attention() {
        refused("%w = softmax(%s) {axis = 2} %y = matmul(%w, %v)", "the softmax is not over the keys");
        refused(
            &format!("%b = add(%s, %p) %a = mul(%b, %c) {END}"),
            "the scores are scaled after they are masked or capped",
        );
        refused(
            &format!("%few = const [-9.0] : f32[] %a = select(%m, %s, %few) {END}"),
            "the number that replaces a score is not low enough to hide its key",
        );
        refused(
            &format!("%b = add(%s, %p) %a = select(%m, %b, %low) {END}"),
            "one mask is added and another one selects",
        );
    }

    /// Queries, keys and values of three dimensions made by `stmts`, joined by `%s`.
    const FLAT: &str = "%kt = transpose(%k) {perm = [0, 2, 1]} %s = matmul(%q, %kt)";

    #[test]
    fn heads_behind_the_batch() {
        let merged = |v: &str| format!("%{v} = reshape(%{v}4) {{shape = [2*B, S, 4]}}");
        let text = format!(
            "graph @g(%q4: f32[B, 2, S, 4], %k4: f32[B, 2, S, 4], %v4: f32[B, 2, S, 4], %p: f32[B, 1, S, S]) {{ {} {} {} {FLAT} \
             %s4 = reshape(%s) {{shape = [B, 2, S, S]}} %a4 = add(%s4, %p) %a = reshape(%a4) {{shape = [2*B, S, S]}} \
             %w = softmax(%a) {{axis = -1}} %y = matmul(%w, %v) return %y }}",
            merged("q"),
            merged("k"),
            merged("v")
        );
        let expected =
            "%y.1 = attention(%q4, %k4, %v4, %p) {scale = 1.0, unseen = nan}; %y = reshape(%y.1) {shape = [2*B, S, 4]}";
        assert_eq!(rewritten(&PASS, &text), expected);
    }

    #[test]
    fn one_head_in_three_dimensions() {
        let text = format!(
            "graph @g(%q: f32[N, S, 4], %k: f32[N, T, 4], %v: f32[N, T, 4], %p: f32[N, S, T]) {{ {FLAT} %a = add(%s, %p) {END} return %y }}"
        );
        let expected = "%y.1 = reshape(%p) {shape = [N, 1, S, T]}; \
            %y = attention(%q, %k, %v, %y.1) {kv_heads = 1, q_heads = 1, scale = 1.0, unseen = nan}";
        assert_eq!(rewritten(&PASS, &text), expected);
    }

    #[test]
    fn keeps_products_of_other_ranks() {
        let text = "
graph @g(%q: f32[S, 4], %k: f32[4, T], %v: f32[T, 4]) {
  %s = matmul(%q, %k) : f32[S, T]
  %w = softmax(%s) {axis = -1} : f32[S, T]
  %y = matmul(%w, %v) : f32[S, 4]
  return %y
}";
        check_refused(&PASS, text, "the products of the attention are not over [batch, heads, rows, width]");
    }
}
