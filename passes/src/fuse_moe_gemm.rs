//! Reduces mixtures of experts to `moe_route`, `expert_index` and `moe_gemm`, however the model spells them.
//!
//! The most expensive movement of such a layer is the gathering of rows, or of whole weights, for each pair of token and expert.
//! `moe_gemm` reads rows and weights in place through an index map, so neither exists. The router is recognised on its own:
//! experts fuse behind any producer of ids and weights. Quantised experts become `moe_gemm_nbits`. Forms are in the files below this one.
//!
//! ```ir before
//! graph @moe(%x: f32[T, 64], %logits: f32[T, 8]) {
//!   %gate_up = weight : f32[8, 96, 64]
//!   %down = weight : f32[8, 64, 48]
//!   %scores = softmax(%logits) {axis = -1} : f32[T, 8]
//!   %v, %ids = top_k(%scores) {axis = -1, k = 2, largest = true, sorted = true} : f32[T, 2], i64[T, 2]
//!   %w1 = gather(%gate_up, %ids) {axis = 0} : f32[T, 2, 96, 64]
//!   %w2 = gather(%down, %ids) {axis = 0} : f32[T, 2, 64, 48]
//!   %column = reshape(%x) {shape = [T, 1, 64, 1]} : f32[T, 1, 64, 1]
//!   %both = matmul(%w1, %column) : f32[T, 2, 96, 1]
//!   %gate = slice(%both) {axes = [2], ends = [48], starts = [0], steps = [1]} : f32[T, 2, 48, 1]
//!   %up = slice(%both) {axes = [2], ends = [96], starts = [48], steps = [1]} : f32[T, 2, 48, 1]
//!   %act = silu(%gate) : f32[T, 2, 48, 1]
//!   %h = mul(%act, %up) : f32[T, 2, 48, 1]
//!   %out = matmul(%w2, %h) : f32[T, 2, 64, 1]
//!   %rows = reshape(%out) {shape = [T, 2, 64]} : f32[T, 2, 64]
//!   %weights = reshape(%v) {shape = [T, 2, 1]} : f32[T, 2, 1]
//!   %weighted = mul(%rows, %weights) : f32[T, 2, 64]
//!   %y = reduce(%weighted) {axes = [1], f = sum} : f32[T, 64]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @moe(%x: f32[T, 64], %logits: f32[T, 8]) {
//!   %gate_up = weight : f32[8, 96, 64]
//!   %down = weight : f32[8, 64, 48]
//!   %y.1, %y.1.1 = moe_route(%logits) {eps = 0.0, k = 2, scale = 1.0, score = softmax} : i32[T, 2], f32[T, 2]
//!   %y.2, %y.1.2 = expert_index(%y.1) {experts = 8} : i32[2*T], i32[9]
//!   %y.3 = moe_gemm(%x, %y.2, %y.1.2, %gate_up) {act = silu, gating = halves, repeat = 2} : f32[2*T, 48]
//!   %y = moe_gemm(%y.3, %y.2, %y.1.2, %down, _, _, _, %y.1.1) {gating = none, repeat = 1} : f32[T, 64]
//!   return %y
//! }
//! ```

mod contrib;
mod contrib_packed;
mod dense;
mod emit;
mod expert;
mod gathered;
mod grouped;
mod look;
mod looped;
mod packed;
mod quantised;
mod router;
mod selection;

use crate::pass::{Body, Context, Miss, Pass};
use ir::graph::{Graph, Value};

/// See the module.
pub const PASS: Pass = Pass { name: "fuse-moe-gemm", body: Body::Whole(fuse) };

/// What an export is told apart by when it kept only the experts that its example input chose.
const FROZEN: Miss = Miss::Refused(
    "the routing is frozen: only experts that the example input chose are in the graph, so that other inputs would pass through \
     the wrong ones; export the model again with its experts in a batch or with a loop over all of them",
);

fn fuse(graph: &mut Graph, cx: &mut Context) {
    let mut seen = looped::Seen::default();
    // Readers before operands, so that a sum is found whole.
    for id in graph.order().into_iter().rev() {
        if !graph.contains(id) {
            continue;
        }
        let root = Value::from(id);
        match look::name(graph, root) {
            "moe" => {
                note(graph, cx, "contrib-moe", root, contrib::lower);
                continue;
            }
            "moe_nbits" => {
                note(graph, cx, "contrib-packed-moe", root, contrib_packed::lower);
                continue;
            }
            _ => {}
        }
        for (rule, find) in forms(look::name(graph, root)) {
            let done = note(graph, cx, rule, root, |graph, cx, root| {
                let layer = find(graph, root, &mut seen)?;
                emit::emit(graph, cx, rule, &layer)
            });
            if done {
                break;
            }
        }
    }
    // What is left of gathered weights: one product at a time.
    for id in graph.order() {
        let root = Value::from(id);
        if look::name(graph, root) == "matmul" {
            note(graph, cx, "gathered-product", root, |graph, cx, root| {
                let found = gathered::find_alone(graph, root)?;
                emit::emit_alone(graph, cx, root, &found)
            });
        }
    }
}

/// Runs a rewrite and notes why it was refused; whether it is settled what the place is.
fn note(
    graph: &mut Graph,
    cx: &mut Context,
    rule: &'static str,
    root: Value,
    rewrite: impl FnOnce(&mut Graph, &mut Context, Value) -> Result<Value, Miss>,
) -> bool {
    match rewrite(graph, cx, root) {
        Ok(_) => true,
        Err(Miss::NoEffect) => false,
        Err(miss) => {
            cx.note(rule, graph, root, Err(miss));
            true
        }
    }
}

type Find = fn(&Graph, Value, &mut looped::Seen) -> Result<emit::Layer, Miss>;

/// The forms whose last operator has this name.
fn forms(name: &str) -> &'static [(&'static str, Find)] {
    match name {
        "reduce" => &[
            ("gathered-weights", |g, v, _| gathered::find(g, v)),
            ("sorted-pairs", |g, v, _| grouped::find(g, v)),
            ("all-experts", |g, v, _| dense::find(g, v)),
        ],
        "add" => &[("loop-over-experts", looped::find)],
        "scatter_nd" | "scatter_elements" => {
            &[("gathered-weights", |g, v, _| gathered::find_added(g, v)), ("loop-over-experts", looped::find)]
        }
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_refused, rewritten};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("fuse_moe_gemm.rs"));
    }

    fn check_kept(text: &str, why: &'static str) {
        let canonical = ir::text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}")).to_string();
        check_refused(&PASS, &canonical, why);
    }

    /// A loop over the experts `present` of 2, with these activations.
    fn unrolled(present: &[usize], acts: [&str; 2]) -> String {
        let mut text = "graph @g(%x: f32[T, 8], %w: f32[T, 1], %ids: i64[T, 1]) {
            %zero = const [0.0] : f32[] %none = expand(%zero) {shape = [T, 8]} %offon = const [0, 1] : i64[2]
            %r0 = const [0] : i64[] %r1 = const [1] : i64[]
            %hot = one_hot(%ids, %offon) {axis = -1, depth = 2} %mask = transpose(%hot) {perm = [2, 1, 0]} "
            .to_string();
        let mut total = "none".to_string();
        for e in present {
            text += &format!(
                "%sel{e} = gather(%mask, %r{e}) {{axis = 0}} %nz{e} = nonzero(%sel{e}) : i64[2, ?{e}]
                 %t{e} = gather(%nz{e}, %r1) {{axis = 0}} %s{e} = gather(%nz{e}, %r0) {{axis = 0}}
                 %tc{e} = reshape(%t{e}) {{shape = [?{e}, 1]}} %sc{e} = reshape(%s{e}) {{shape = [?{e}, 1]}}
                 %ts{e} = concat(%tc{e}, %sc{e}) {{axis = 1}} %v{e} = gather_nd(%w, %ts{e}) {{batch_dims = 0}}
                 %vc{e} = reshape(%v{e}) {{shape = [?{e}, 1]}} %rows{e} = gather(%x, %t{e}) {{axis = 0}}
                 %up{e} = weight : f32[6, 8] %dn{e} = weight : f32[8, 6] %h{e} = linear(%rows{e}, %up{e})
                 %a{e} = {}(%h{e}) %o{e} = linear(%a{e}, %dn{e}) %m{e} = mul(%o{e}, %vc{e})
                 %acc{e} = scatter_nd(%{total}, %tc{e}, %m{e}) {{reduction = add}} ",
                acts[*e]
            );
            total = format!("acc{e}");
        }
        format!("{text} return %{total} }}")
    }

    #[test]
    fn keeps_frozen_routing() {
        let Miss::Refused(why) = FROZEN else { unreachable!("it is a refusal") };
        check_kept(&unrolled(&[0], ["relu", "relu"]), why);
    }

    #[test]
    fn keeps_experts_that_differ() {
        let why = "the experts do not compute the same function of their weights";
        check_kept(&unrolled(&[0, 1], ["relu", "gelu"]), why);
    }

    #[test]
    fn keeps_activations_that_are_not_known() {
        let why = "what lies between the two layers of an expert is not a known activation";
        check_kept(&unrolled(&[0, 1], ["tanh", "tanh"]), why);
    }

    /// All experts on all tokens, with scores `s[T, 3]`.
    fn batched(scores: &str, parts: [&str; 2]) -> String {
        format!(
            "graph @g(%x: f32[T, 8], %given: f32[T, 3]) {{
               {scores}
               %st = transpose(%s) {{perm = [1, 0]}} %sc = reshape(%st) {{shape = [3, T, 1]}}
               %copies = tile(%x) {{repeats = [3, 1]}} %xs = reshape(%copies) {{shape = [3, T, 8]}}
               %gu = weight : f32[3, 8, 12] %dn = weight : f32[3, 6, 8] %both = matmul(%xs, %gu)
               %low = slice(%both) {{axes = [2], starts = [0], ends = [6], steps = [1]}}
               %high = slice(%both) {{axes = [2], starts = [6], ends = [12], steps = [1]}}
               %a = silu(%{}) %h = mul(%a, %{}) %o = matmul(%h, %dn) %m = mul(%o, %sc)
               %y = reduce(%m) {{f = sum, axes = [0]}} return %y }}",
            parts[0], parts[1]
        )
    }

    const SCATTERED: &str = "%v, %ids = top_k(%given) {axis = -1, k = 2, largest = true, sorted = true}
        %zero = const [0.0] : f32[] %none = expand(%zero) {shape = [T, 3]}
        %s = scatter_elements(%none, %ids, %v) {axis = 1, reduction = none}";

    #[test]
    fn keeps_dense_experts_whose_scores_may_all_count() {
        let why = "the scores are not those of chosen experts scattered into zeros";
        check_kept(&batched("%s = neg(%given)", ["low", "high"]), why);
    }

    #[test]
    fn keeps_a_gate_in_the_second_half() {
        let why = "the gate is not the first of the two halves of its product";
        check_kept(&batched(SCATTERED, ["high", "low"]), why);
    }

    #[test]
    fn a_product_with_gathered_weights_fuses_alone() {
        let text = "graph @g(%x: f32[T, 1, 8], %ids: i64[T]) { %w = weight : f32[5, 8, 6] %g = gather(%w, %ids) {axis = 0} \
                    %y = matmul(%x, %g) return %y }";
        let made = rewritten(&PASS, text);
        assert!(made.contains("expert_index(%ids) {experts = 5}") && made.contains("kn = true, repeat = 1"), "{made}");
        assert!(!made.contains("= gather("), "{made}");
    }

    #[test]
    fn keeps_gathered_weights_that_meet_several_rows() {
        let text = "graph @g(%x: f32[T, 4, 8], %ids: i64[T]) { %w = weight : f32[5, 8, 6] %g = gather(%w, %ids) {axis = 0} \
                    %y = matmul(%x, %g) return %y }";
        check_kept(text, "gathered weights meet more than one row each");
    }
}
