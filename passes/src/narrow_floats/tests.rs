use super::{TO_BF16, TO_F16};
use crate::pass::{Context, Miss};
use crate::testing::{check_unaudited_doc_example, run_unaudited};
use ir::Graph;

fn parse(text: &str) -> Graph {
    ir::text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The statements of the graph in f16, with the types of their results, and why operators stayed f32.
fn narrowed(text: &str) -> (String, Vec<String>) {
    let mut g = parse(text);
    let log = run_unaudited(&TO_F16, &mut g);
    let kept = log.into_iter().filter_map(|e| match e.outcome {
        Err(Miss::Refused(why)) => Some(format!("{}: {why}", e.rule)),
        _ => None,
    });
    (g.to_string(), kept.collect())
}

/// The pass leaves this text as it is, for this reason.
fn check_kept(text: &str, why: &str) {
    let (after, kept) = narrowed(text);
    assert_eq!(after.trim(), parse(text).to_string().trim());
    assert!(kept.iter().any(|k| k == why), "{kept:?}");
}

fn check_holds(after: &str, lines: &[&str]) {
    for line in lines {
        assert!(after.contains(line), "no `{line}` in\n{after}");
    }
}

#[test]
fn doc_example() {
    check_unaudited_doc_example(&TO_F16, include_str!("../narrow_floats.rs"));
}

#[test]
fn caches_of_a_step_become_narrow() {
    let (after, kept) = narrowed(
        "graph @step(%x: f32[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], state %kc: f32[N, 1, C, 8], state %vc: f32[N, 1, C, 8]) {
           %w = weight : f32[8, 8]
           %cos = weight : f32[64, 4]
           %p = const [0] : i64[1]
           %q = linear(%x, %w)
           %r = rope(%q, %cos, %cos, %p) {heads = 1}
           %kn, %vn = kv_write(%s, %l, %n, %kc, %q, %vc, %q)
           %y = cached_attention(%r, %kn, %vn, %s, %l, %n) {heads = 1}
           return %y, %kn as \"kc\", %vn as \"vc\"
         }",
    );
    check_holds(
        &after,
        &[
            "state %kc: f16[N, 1, C, 8], state %vc: f16[N, 1, C, 8]",
            "%cos = weight : f32[64, 4]",
            "%r = rope(%q, %cos, %cos, %p) {heads = 1} : f16[B, S, 8]",
            "%kn, %vn = kv_write(%s, %l, %n, %kc, %q, %vc, %q) : f16[N, 1, C, 8], f16[N, 1, C, 8]",
            "cast(%y) {to = f32} : f32[B, S, 8]",
            "return %y.2 as \"y\", %kn as \"kc\", %vn as \"vc\"",
        ],
    );
    assert_eq!(after.matches("cast(").count(), 3, "{after}");
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn keeps_a_cache_with_another_reader() {
    let text = "graph @step(%k: f32[B, S, 8], %s: i32[B], %l: i32[B], %n: i32[B], state %kc: f32[N, 1, C, 8]) {
        %kn = kv_write(%s, %l, %n, %kc, %k)
        %e = exp(%kc)
        return %e, %kn as \"kc\"
    }";
    check_kept(text, "kv_write: a cache that it writes has other readers");
}

#[test]
fn embeddings_become_narrow_where_a_narrow_operator_reads_them() {
    let text = "graph @g(%ids: i64[T], %x: f32[T, 2]) {
        %e = const [1.0, 2.0, 3.0, 4.0] : f32[2, 2]
        %p = const [0.5, 0.25] : f32[2]
        %h = gather(%e, %ids) {axis = 0}
        %a = add(%h, %p)
        %y = rms_norm(%a) {axis = -1, eps = 1e-5}
        return %y
    }";
    let (after, kept) = narrowed(text);
    check_holds(&after, &["%e = const [1.0, 2.0, 3.0, 4.0] : f16[2, 2]", "%a = add(%h, %p) : f16[T, 2]"]);
    assert!(kept.is_empty(), "{kept:?}");
    check_kept(
        &text.replace("rms_norm(%a) {axis = -1, eps = 1e-5}", "exp(%a)"),
        "gather: only operators in f32 read it",
    );
}

#[test]
fn constants_that_both_types_read_are_kept_in_both() {
    let (after, _) = narrowed(
        "graph @g(%x: f32[T, 2]) { %w = const [1.0, 2.0, 3.0, 4.0] : f32[2, 2] %h = linear(%x, %w) %e = exp(%x) \
         %m = pow(%e, %w) return %h, %m }"
            .replace("f32[T, 2]", "f32[2, 2]")
            .as_str(),
    );
    check_holds(
        &after,
        &["%w = const [1.0, 2.0, 3.0, 4.0] : f32[2, 2]", "%w.1 = const [1.0, 2.0, 3.0, 4.0] : f16[2, 2]"],
    );
}

#[test]
fn keeps_an_elementwise_operator_that_meets_f32() {
    let (after, kept) = narrowed(
        "graph @g(%x: f32[T, 2], %m: f32[T, 2]) { %h = rms_norm(%x) {axis = 1, eps = 1e-5} %y = add(%h, %m) return %y }",
    );
    check_holds(&after, &["%h.2 = cast(%h) {to = f32}", "%y = add(%h.2, %m) : f32[T, 2]"]);
    assert_eq!(kept, ["add: it meets values that are f32"]);
}

#[test]
fn keeps_what_a_constant_would_change() {
    for (op, constant) in [("add", "-1e38"), ("add", "1e-12"), ("mul", "1e-6"), ("div", "1e9"), ("sub", "70000.0")] {
        let text = format!(
            "graph @g(%x: f32[T, 2]) {{ %c = const [{constant}] : f32[] %h = rms_norm(%x) {{axis = 1, eps = 1e-5}} %y = {op}(%h, %c) return %y }}"
        );
        let (after, kept) = narrowed(&text);
        assert_eq!(kept, [format!("{op}: a constant of it does not fit the type")], "{after}");
        check_holds(&after, &["f32[]"]);
    }
}

#[test]
fn a_bound_beyond_the_type_is_its_largest_number() {
    let (after, kept) = narrowed(
        "graph @g(%x: f32[T, 2]) { %c = const [3e38] : f32[] %h = rms_norm(%x) {axis = 1, eps = 1e-5} %y = min(%h, %c) return %y }",
    );
    check_holds(&after, &["%c = const [65504.0] : f16[]", "%y = min(%h, %c) : f16[T, 2]"]);
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn keeps_guards_against_0_and_1() {
    for (op, bound) in [("max", "1e-9"), ("min", "0.9999"), ("max", "-0.9999")] {
        let text = format!(
            "graph @g(%x: f32[T, 2]) {{ %c = const [{bound}] : f32[] %h = rms_norm(%x) {{axis = 1, eps = 1e-5}} %y = {op}(%h, %c) return %y }}"
        );
        assert_eq!(narrowed(&text).1, [format!("{op}: a constant of it does not fit the type")]);
    }
    let pad = "graph @g(%x: f32[T, 2]) { %c = const [1e-9] : f32[] \
        %h = rms_norm(%x) {axis = 1, eps = 1e-5} %y = pad(%h, %c) {mode = constant, pads = [0, 1], axes = [1]} return %y }";
    assert_eq!(narrowed(pad).1, ["pad: a constant of it does not fit the type"]);
}

#[test]
fn keeps_squares_written_as_products() {
    let text = "graph @g(%x: f32[T, 2]) { %h = rms_norm(%x) {axis = 1, eps = 1e-5} %y = mul(%h, %h) return %y }";
    assert_eq!(narrowed(text).1, ["mul: its results leave the range or the precision of the type"]);
}

#[test]
fn keeps_a_vector_of_tiny_terms_alone() {
    let text = "graph @g(%x: f32[T, 2]) { %c = const [1e-9, 1e-9] : f32[2] %h = rms_norm(%x) {axis = 1, eps = 1e-5} \
        %y = add(%h, %c) return %y }";
    assert_eq!(narrowed(text).1, ["add: a constant of it does not fit the type"]);
    assert!(narrowed(&text.replace("[1e-9, 1e-9]", "[1e-9, 0.5]")).1.is_empty());
}

#[test]
fn keeps_what_is_made_of_constants_and_read_in_f32_too() {
    let text = "graph @g(%ids: i64[T]) { %e = const [1.0, 2.0, 3.0, 4.0] : f32[2, 2] \
        %h = gather(%e, %ids) {axis = 0} %n = rms_norm(%h) {axis = -1, eps = 1e-5} %l = log(%h) return %n, %l }";
    for text in [text, &text.replace("%l = log(%h) return %n, %l", "return %n, %h")] {
        let (after, kept) = narrowed(text);
        assert!(kept.iter().any(|k| k == "gather: it is read in f32 too"), "{kept:?}");
        check_holds(&after, &["%h = gather(%e, %ids) {axis = 0} : f32[T, 2]", "f16[T, 2]"]);
    }
}

#[test]
fn keeps_divisions_by_what_is_computed() {
    let (_, kept) =
        narrowed("graph @g(%x: f32[T, 2]) { %h = rms_norm(%x) {axis = 1, eps = 1e-5} %y = div(%h, %h) return %y }");
    assert_eq!(kept, ["div: its divisor is computed"]);
}

#[test]
fn keeps_float_masks_of_attention_in_f32() {
    let (after, _) = narrowed(
        "graph @g(%x: f32[1, 1, T, 8], %m: f32[1, 1, T, T]) { %y = attention(%x, %x, %x, %m) {causal = false} return %y }",
    );
    check_holds(&after, &["%y = attention(%x.1, %x.1, %x.1, %m)", ": f16[1, 1, T, 8]"]);
}

#[test]
fn keeps_casts_of_the_model() {
    let (after, _) = narrowed(
        "graph @g(%x: f32[T, 2]) { %a = cast(%x) {to = f16} %b = cast(%a) {to = f32} %y = exp(%b) return %y }",
    );
    assert_eq!(after.matches("cast(").count(), 2, "{after}");
}

#[test]
fn casts_of_the_model_from_and_to_the_type_are_what_joins_it() {
    let (after, _) = narrowed(
        "graph @g(%x: f16[T, 2]) { %a = cast(%x) {to = f32} %n = rms_norm(%a) {axis = 1, eps = 1e-5} %y = cast(%n) {to = f16} return %y }",
    );
    check_holds(&after, &["%n = rms_norm(%x) {axis = 1, eps = 1e-5} : f16[T, 2]", "return %n as \"y\""]);
}

#[test]
fn keeps_bodies_as_they_are() {
    let mut g = parse("graph @g(%x: f32[T, 2]) { %y = rms_norm(%x) {axis = 1, eps = 1e-5} return %y }");
    let before = g.to_string();
    TO_F16.run(&mut g, &mut Context { in_body: true, ..Context::default() });
    assert_eq!(g.to_string(), before);
}

#[test]
fn sizes_are_read_of_either_type() {
    let (after, _) = narrowed(
        "graph @g(%x: f32[T, 2]) { %h = rms_norm(%x) {axis = 1, eps = 1e-5} %s = shape_of(%h) return %s, %h }",
    );
    check_holds(&after, &["shape_of(%h)"]);
}

#[test]
fn a_graph_in_bf16_takes_the_range_of_f32() {
    let mut g = parse(
        "graph @g(%x: f32[T, 2]) { %c = const [1e-12] : f32[] %h = rms_norm(%x) {axis = 1, eps = 1e-5} %y = add(%h, %c) return %y }",
    );
    run_unaudited(&TO_BF16, &mut g);
    check_holds(&g.to_string(), &["%y = add(%h, %c) : bf16[T, 2]"]);
}
