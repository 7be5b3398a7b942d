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
fn hip_attention_over_caches_agrees_for_long_and_short_sequences() {
    on_device(
        "hip_attention_over_caches_agrees_for_long_and_short_sequences",
        &[
            "graph @g(%q: f16[3, 8, 1, 64], %k: f16[4, 2, 700, 64], %v: f16[4, 2, 700, 48]) { %s = const [2, 0, 3] : i32[3] %l = const [699, 0, 40] : i32[3] %n = const [1, 1, 1] : i32[3] %y = cached_attention(%q, %k, %v, %s, %l, %n) return %y }",
            "graph @g(%q: bf16[2, 37, 480], %k: bf16[2, 2, 300, 80], %v: bf16[2, 2, 300, 80], %b: bf16[6]) { %s = const [1, 0] : i32[2] %l = const [200, 3] : i32[2] %n = const [37, 20] : i32[2] %y = cached_attention(%q, %k, %v, %s, %l, %n, %b) {heads = 6, left = 70, softcap = 5.0} return %y }",
            "graph @g(%q: f16[2, 8, 37, 64], %k: f16[3, 2, 300, 64], %v: f16[3, 2, 300, 48]) { %s = const [2, 0] : i32[2] %l = const [210, 0] : i32[2] %n = const [37, 30] : i32[2] %y = cached_attention(%q, %k, %v, %s, %l, %n) return %y }",
            "graph @g(%q: bf16[1, 70, 240], %k: bf16[2, 1, 100, 120], %v: bf16[2, 1, 100, 128]) { %s = const [1] : i32[1] %l = const [5] : i32[1] %n = const [70] : i32[1] %y = cached_attention(%q, %k, %v, %s, %l, %n) {heads = 2, left = 20, smooth = true} return %y }",
            "graph @g(%q: f16[1, 2, 65, 24], %k: f16[1, 2, 80, 24], %v: f16[1, 2, 80, 16], %b: f16[2]) { %s = const [0] : i32[1] %l = const [0] : i32[1] %n = const [65] : i32[1] %y = cached_attention(%q, %k, %v, %s, %l, %n, %b) {softcap = 3.0, scale = 0.7} return %y }",
            "graph @g(%q: f32[1, 5, 3, 200], %k: f32[2, 1, 40, 200], %v: f32[2, 1, 40, 200]) { %s = const [1] : i32[1] %l = const [30] : i32[1] %n = const [2] : i32[1] %y = cached_attention(%q, %k, %v, %s, %l, %n) {smooth = true, scale = 0.1} return %y }",
            "graph @g(%q: f32[1, 2, 1, 7], %k: f32[2, 2, 9, 7], %v: f32[2, 2, 9, 3]) { %s = const [0] : i32[1] %l = const [0] : i32[1] %n = const [1] : i32[1] %y = cached_attention(%q, %k, %v, %s, %l, %n) return %y }",
        ],
    );
}

#[test]
fn hip_norms_agree_for_rows_of_every_length() {
    on_device(
        "hip_norms_agree_for_rows_of_every_length",
        &[
            "graph @g(%x: f16[N, 2056], %s: f16[2056]) { %y = rms_norm(%x, %s) {axis = -1, eps = 1e-6} return %y }",
            "graph @g(%x: f32[N, 8192]) { %y = rms_norm(%x) {axis = -1, eps = 1e-6} return %y }",
            "graph @g(%x: bf16[N, 8200], %s: bf16[8200]) { %y = rms_norm(%x, %s) {axis = -1, eps = 1e-6} return %y }",
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

/// As they are, and with weights for `%w..` where there are some.
fn with_constants(test: &str, graphs: &[&str]) {
    on_device(test, graphs);
    let Some(hip) = simulator(test) else { return };
    let mut random = Random(6);
    for t in graphs {
        let g = common::with_weights(t, &mut random).expect("it has weights");
        assert_eq!(on_host(common::load(hip, &g).plan()), [""; 0], "{t}");
        run_both(hip, t, &g, &mut random);
    }
}

#[test]
fn hip_linears_agree_for_few_rows_and_many() {
    with_constants(
        "hip_linears_agree_for_few_rows_and_many",
        &[
            "graph @g(%x: f16[N, 96], %w: f16[96, 40]) { %y = linear(%x, %w) {kn = true} return %y }",
            "graph @g(%x: bf16[3, N, 288], %w: bf16[21, 288], %b: bf16[21]) { %y = linear(%x, %w, %b) return %y }",
            "graph @g(%x: f16[N, 1056], %w: f16[16, 1056]) { %y = linear(%x, %w) return %y }",
            "graph @g(%x: f16[9, N, 64], %w: f16[64, 130], %b: f16[130]) { %y = linear(%x, %w, %b) {kn = true} return %y }",
            "graph @g(%x: bf16[20, N, 32], %w: bf16[70, 32]) { %y = linear(%x, %w) return %y }",
            "graph @g(%x: f16[129, 64], %w: f16[8200, 64]) { %y = linear(%x, %w) return %y }",
            "graph @g(%x: f32[N, 200], %w: f32[200, 33], %b: f32[33]) { %y = linear(%x, %w, %b) {kn = true} return %y }",
            "graph @g(%x: f32[11, N, 300], %w: f32[70, 300], %b: f32[70]) { %y = linear(%x, %w, %b) return %y }",
            "graph @g(%x: f32[5, N, 33], %w: f32[17, 33]) { %y = linear(%x, %w) return %y }",
            "graph @g(%x: f32[33, N, 8], %w: f32[40, 8]) { %y = linear(%x, %w) return %y }",
            "graph @g(%x: f32[N, 75], %w: f16[33, 75]) { %y = linear(%x, %w) return %y }",
            "graph @g(%x: f32[N, 80], %w: bf16[33, 80]) { %y = linear(%x, %w) return %y }",
        ],
    );
}

#[test]
fn hip_linears_agree_where_rows_begin_anywhere() {
    on_device(
        "hip_linears_agree_where_rows_begin_anywhere",
        &[
            "graph @g(%a: f16[N, 5], %x: f16[33, 64], %w: f16[20, 64]) { %c = concat(%a, %a) {axis = 0} %y = linear(%x, %w) return %c, %y }",
            "graph @g(%x: f16[N, 64], %v: f16[128], %w: f16[20, 64]) { %r = relu(%v) %s = slice(%r) {axes = [0], starts = [1], ends = [65], steps = [1]} %z = reshape(%s) {shape = [1, 64]} %y = linear(%z, %w) return %y }",
        ],
    );
}

#[test]
fn hip_layers_of_the_same_rows_agree() {
    with_constants(
        "hip_layers_of_the_same_rows_agree",
        &[
            "graph @g(%x: f16[N, 96], %w: f16[96, 40], %b: f16[40], %wk: f16[96, 17], %wv: f16[96, 5], %c: f16[5]) { %q, %k, %v = linears(%x, _, %w, %b, %wk, _, %wv, %c) {kn = true} return %q, %k, %v }",
            "graph @g(%x: bf16[9, N, 64], %w: bf16[20, 64], %wk: bf16[33, 64]) { %q, %k = linears(%x, _, %w, _, %wk, _) {kn = false} return %q, %k }",
            "graph @g(%x: f16[9, N, 64], %r: f16[9, N, 24], %w: f16[64, 24], %b: f16[24], %wu: f16[64, 24], %bu: f16[24]) { %y = linears(%x, %r, %w, %b, %wu, %bu) {kn = true, gate = silu} return %y }",
            "graph @g(%x: f16[2, N, 64], %w: f16[24, 64], %b: f16[24], %wu: f16[24, 64]) { %y = linears(%x, _, %w, %b, %wu, _) {kn = false, gate = silu} return %y }",
            "graph @g(%x: f32[6, N, 40], %r: f32[6, N, 24], %w: f32[40, 24], %wu: f32[40, 24], %bu: f32[24]) { %y = linears(%x, %r, %w, _, %wu, %bu) {kn = true, gate = gelu_tanh} return %y }",
            "graph @g(%x: f16[N, 30], %r: f16[N, 24], %w: f16[24, 30]) { %y = linears(%x, %r, %w, _) {kn = false} return %y }",
            "graph @g(%x: bf16[9, N, 64], %r: bf16[9, N, 70], %w: bf16[70, 64]) { %y = linears(%x, %r, %w, _) {kn = false} return %y }",
            "graph @g(%x: f32[9, N, 264], %w: f32[96, 264], %b: f32[96], %wk: f32[17, 264], %wv: f32[5, 264], %c: f32[5]) { %q, %k, %v = linears(%x, _, %w, %b, %wk, _, %wv, %c) {kn = false} return %q, %k, %v }",
            "graph @g(%x: f32[20, N, 64], %r: f32[20, N, 24], %w: f32[24, 64]) { %y = linears(%x, %r, %w, _) {kn = false} return %y }",
        ],
    );
}

#[test]
fn hip_experts_agree_for_narrow_weights_and_long_lists() {
    with_constants(
        "hip_experts_agree_for_narrow_weights_and_long_lists",
        &[
            "graph @g(%x: f16[T, 64], %i: i32[T, 2], %w: f16[5, 64, 40], %wu: f16[5, 64, 40]) { %r, %o = expert_index(%i) {experts = 5} %y = moe_gemm(%x, %r, %o, %w, _, %wu) {repeat = 2, kn = true, gating = none, act = silu} return %y }",
            "graph @g(%x: bf16[T, 96], %i: i64[T, 3], %w: bf16[4, 66, 96], %wb: bf16[4, 66]) { %r, %o = expert_index(%i) {experts = 4} %y = moe_gemm(%x, %r, %o, %w, %wb) {repeat = 3, gating = interleaved, act = silu, alpha = 1.702, beta = 1.0, limit = 1.5} return %y }",
            "graph @g(%x: f16[9, T, 32], %i: i32[9*T, 3], %w: f16[2, 44, 32]) { %r, %o = expert_index(%i) {experts = 2} %y = moe_gemm(%x, %r, %o, %w) {repeat = 3, gating = halves, act = gelu} return %y }",
            "graph @g(%x: f16[2*T, 64], %i: i32[T, 2], %w: f16[3, 19, 64], %wb: f16[3, 19], %s: f16[T, 2]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm(%x, %r, %o, %w, %wb, _, _, %s) {repeat = 1, gating = none} return %y }",
            "graph @g(%x: f16[160, 64], %i: i32[80, 2], %w: f16[1, 19, 64], %s: f16[80, 2]) { %r, %o = expert_index(%i) {experts = 1} %y = moe_gemm(%x, %r, %o, %w, _, _, _, %s) {repeat = 1, gating = none} return %y }",
            "graph @g(%x: f32[2*T, 64], %i: i32[T, 2], %w: f32[6, 64, 19], %s: f32[T, 2]) { %r, %o = expert_index(%i) {experts = 6} %y = moe_gemm(%x, %r, %o, %w, _, _, _, %s) {repeat = 1, kn = true, gating = none} return %y }",
        ],
    );
}

#[test]
fn hip_experts_meet_what_follows_them() {
    with_constants(
        "hip_experts_meet_what_follows_them",
        &[
            "graph @g(%x: f16[2*T, 64], %i: i32[T, 2], %w: f16[3, 600, 64], %wb: f16[3, 600], %s: f16[T, 2], %e: f16[T, 600], %g: f16[T, 1], %h: f16[T, 600], %n: f16[600]) { %r, %o = expert_index(%i) {experts = 3} %y, %z = moe_join(%x, %r, %o, %w, %wb, %s, %e, %g, %h, %n) {eps = 1e-5} return %y, %z }",
            "graph @g(%x: bf16[120, 96], %i: i32[40, 3], %w: bf16[2, 96, 33], %s: bf16[40, 3], %h: bf16[5, 8, 33]) { %r, %o = expert_index(%i) {experts = 2} %y = moe_join(%x, %r, %o, %w, _, %s, _, _, %h) {kn = true, eps = 0.0} return %y }",
            "graph @g(%x: f32[3*N, 40], %i: i32[N, 3], %w: f32[4, 300, 40], %s: f32[N, 3], %e: f32[N, 300], %n: f32[300]) { %r, %o = expert_index(%i) {experts = 4} %y, %z = moe_join(%x, %r, %o, %w, _, %s, %e, _, _, %n) {eps = 1e-6} return %y, %z }",
        ],
    );
}

/// By one block where tokens and experts are few, by two launches else.
#[test]
fn hip_routers_give_their_index() {
    on_device(
        "hip_routers_give_their_index",
        &[
            "graph @g(%x: f16[N, 60]) { %i, %y, %r, %o = moe_route_index(%x) {k = 4, score = softmax, renormalise = false, eps = 0.0, scale = 1.0} return %i, %y, %r, %o }",
            "graph @g(%x: f32[128, 8], %b: f32[8]) { %i, %y, %r, %o = moe_route_index(%x, %b) {k = 8, score = sigmoid, renormalise = true, eps = 1e-9, scale = 2.5} return %i, %y, %r, %o }",
            "graph @g(%x: bf16[129, 8]) { %i, %y, %r, %o = moe_route_index(%x) {k = 8, score = chosen, renormalise = false, eps = 0.0, scale = 1.0} return %i, %y, %r, %o }",
            "graph @g(%x: f32[9, N, 256]) { %f = reshape(%x) {shape = [9*N, 256]} %i, %y, %r, %o = moe_route_index(%f) {k = 2, score = softmax, renormalise = true, eps = 0.0, scale = 1.0} return %i, %y, %r, %o }",
            "graph @g(%x: f16[N, 257]) { %i, %y, %r, %o = moe_route_index(%x) {k = 1, score = softmax, renormalise = false, eps = 0.0, scale = 1.0} return %i, %y, %r, %o }",
        ],
    );
}
