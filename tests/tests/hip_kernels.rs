//! Device kernels at sizes that samples do not have: several tiles, heads of every width, element types that are narrow.

mod common;

use common::{Random, on_host, run_both, simulator};
use ir::text;

/// Runs graphs that nothing of is left to the host.
fn on_device(test: &str, graphs: &[&str]) {
    let Some(hip) = simulator(test) else { return };
    let mut random = Random(5);
    for t in graphs {
        let g = text::parse(t).unwrap_or_else(|e| panic!("{e}\n{t}"));
        assert_eq!(on_host(common::load(hip, &g).plan()), [""; 0], "{t}");
        run_both(hip, t, &g, &mut random);
    }
}

#[test]
fn hip_attention_agrees_for_every_width_of_heads() {
    on_device(
        "hip_attention_agrees_for_every_width_of_heads",
        &[
            "graph @g(%q: f16[B, 6, 9, 80], %k: f16[B, 2, T, 80], %v: f16[B, 2, T, 72], %m: f16[B, 6, 9, T]) { %y = attention(%q, %k, %v, %m) {unseen = mean} return %y }",
            "graph @g(%q: bf16[2, S, 400], %k: bf16[2, 70, 200], %v: bf16[2, 70, 200]) { %y = attention(%q, %k, %v) {causal = true, q_heads = 2, kv_heads = 1, left = 40, right = 3, offset = 33} return %y }",
            "graph @g(%q: f32[1, 8, S, 64], %k: f32[1, 2, 100, 64], %v: f32[1, 2, 100, 64], %m: f32[100], %n: i32[1]) { %y = attention(%q, %k, %v, %m, _, _, %n) {guard = true, unseen = nan} return %y }",
            "graph @g(%q: f32[B, S, 48], %k: f32[B, S, 16], %v: f32[B, S, 16], %pk: f32[B, 2, P, 8], %pv: f32[B, 2, P, 8], %m: bool[S, 1]) { %y, %nk, %nv = attention(%q, %k, %v, %m, %pk, %pv) {causal = true, present = true, q_heads = 6, kv_heads = 2} return %y, %nk, %nv }",
            "graph @g(%q: f32[B, 4, S, 8], %k: f32[B, 4, S, 8], %v: f32[B, 4, S, 8], %pk: f32[B, 4, P, 8], %pv: f32[B, 4, P, 8]) { %y = attention(%q, %k, %v, _, %pk, %pv) {causal = true, left = 9} return %y }",
        ],
    );
}

#[test]
fn hip_rope_agrees_for_tables_of_every_form() {
    on_device(
        "hip_rope_agrees_for_tables_of_every_form",
        &[
            "graph @g(%x: f16[B, 3, S, 80], %c: f32[90, 20], %s: f32[90, 20], %p: i32[1]) { %y = rope(%x, %c, %s, %p) {rotary = 40} return %y }",
            "graph @g(%x: bf16[B, S, 64], %c: bf16[B, S, 8], %s: bf16[B, S, 8]) { %y = rope(%x, %c, %s) {heads = 4} return %y }",
        ],
    );
}

#[test]
fn hip_picks_agree_over_long_lines_and_ties() {
    on_device(
        "hip_picks_agree_over_long_lines_and_ties",
        &[
            "graph @g(%x: f16[N, 700, 2]) { %v, %i = top_k(%x) {k = 9, axis = 1, largest = true, sorted = true} %y = arg_reduce(%x) {f = min, axis = 1, select_last = true} return %v, %i, %y }",
            "graph @g(%x: i32[3, 600], %z: u8[N, 300]) { %v, %i = top_k(%x) {k = 20, axis = 1, sorted = true} %y = arg_reduce(%z) {f = max, axis = -1, keep = true} return %v, %i, %y }",
        ],
    );
}
