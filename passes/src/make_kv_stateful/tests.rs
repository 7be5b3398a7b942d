//! Every form of cache gives a step that agrees with `main`: sequences of different lengths, chunks at random.

use super::*;
use crate::pass::Entry;
use ir::eval;
use ir::graph::Kind;
use ir::{Datum, Tensor};

/// The step of a graph with the refusals on the way.
fn step(text: &str) -> (Graph, Vec<Entry>) {
    let mut g = parsed(text);
    let mut cx = Context::default();
    PASS.run(&mut g, &mut cx);
    ir::verify(&g).unwrap_or_else(|e| panic!("{e}\n{g}"));
    (g, cx.log)
}

fn parsed(text: &str) -> Graph {
    let mut g = ir::text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for (i, id) in g.order().into_iter().enumerate() {
        if matches!(g.node(id).kind, Kind::Weight(None)) {
            let dims = g.tensor_ty(id.into()).unwrap().shape.as_const().unwrap();
            let data: Vec<f32> =
                (0..dims.iter().product()).map(|n| ((n * 37 + i * 11) % 19) as f32 / 9.0 - 1.0).collect();
            g.attach(id, Tensor::from_slice(&dims, &data).unwrap()).unwrap();
        }
    }
    g
}

/// Rows of caches of a fixed size.
const MOST: usize = 24;

/// One sequence over `main`.
struct Single<'g> {
    graph: &'g Graph,
    caches: Vec<Tensor>,
    len: usize,
}

impl<'g> Single<'g> {
    fn new(graph: &'g Graph) -> Single<'g> {
        let pasts = graph.inputs.iter().filter_map(|n| graph.tensor_ty((*n).into()).filter(|t| t.dtype.is_float()));
        let pasts = pasts.filter(|t| t.dims().unwrap().len() == 4 && t.dims().unwrap()[1].as_const() == Some(2));
        let caches = pasts.map(|t| {
            let rows = t.dims().unwrap()[2].as_const().unwrap_or(0) as usize;
            Tensor::zeros(t.dtype, &[1, 2, rows, 8]).unwrap()
        });
        Single { graph, caches: caches.collect(), len: 0 }
    }

    /// Appends tokens; returns the logits after the last.
    fn feed(&mut self, ids: &[u32]) -> Vec<f32> {
        let (s, len) = (ids.len(), self.len);
        let mut caches = self.caches.iter().cloned();
        let row = |values: Vec<i64>, dims: &[usize]| Datum::from(Tensor::from_slice(dims, &values).unwrap());
        let inputs: Vec<Datum> = self
            .graph
            .inputs
            .iter()
            .map(|n| {
                let (name, ty) = (self.graph.name((*n).into()), self.graph.tensor_ty((*n).into()).unwrap());
                match &**name {
                    "input_ids" => row(ids.iter().map(|i| *i as i64).collect(), &[1, s]),
                    "attention_mask" => row(vec![1; len + s], &[1, len + s]),
                    "position_ids" => row((len..len + s).map(|p| p as i64).collect(), &[1, s]),
                    "cache_position" => row((len..len + s).map(|p| p as i64).collect(), &[s]),
                    "write_indices" => row(vec![len as i64], &[1]),
                    "valid" => row(vec![(len + s) as i64], &[1]),
                    "bias" => {
                        let seen = |at: usize| if at % MOST <= len + at / MOST { 0.0 } else { f32::NEG_INFINITY };
                        let data: Vec<f32> = (0..s * MOST).map(seen).collect();
                        Tensor::from_slice(&[1, 1, s, MOST], &data).unwrap().into()
                    }
                    other => {
                        assert!(ty.dtype.is_float(), "{other}");
                        caches.next().unwrap().into()
                    }
                }
            })
            .collect();
        let results = eval::run(self.graph, &inputs).unwrap_or_else(|e| panic!("{e}\n{}", self.graph));
        self.caches = results[1..].iter().map(|d| d.as_tensor().unwrap().clone()).collect();
        self.len += s;
        let logits = results[0].as_tensor().unwrap();
        let width = logits.dims()[2];
        logits.as_slice::<f32>().unwrap()[(s - 1) * width..].to_vec()
    }
}

/// A sequence with the tokens that it takes part with.
type Part = (usize, Vec<u32>);

/// Runs three sequences over the step in ragged chunks, and each alone over `main`.
fn agrees(text: &str) {
    let main = parsed(text);
    let (step, log) = step(text);
    assert!(!step.states().is_empty(), "{log:?}");
    let most = step.tensor_ty(step.inputs[0].into()).unwrap().dims().unwrap()[1].as_const().unwrap_or(4) as usize;
    let mut states: Vec<Datum> = step
        .states()
        .iter()
        .map(|n| Tensor::zeros(step.tensor_ty((*n).into()).unwrap().dtype, &[5, 2, MOST, 8]).unwrap().into())
        .collect();
    let slots = [3i32, 0, 4];
    let mut singles: Vec<Single<'_>> = slots.iter().map(|_| Single::new(&main)).collect();
    let mut random = 5usize;
    for round in 0..5 {
        let mut parts: Vec<Part> = vec![];
        for i in 0..slots.len() {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Not everybody takes part in every step.
            if round > 0 && (random >> 40).is_multiple_of(4) {
                continue;
            }
            let count = 1 + (random >> 33) % most;
            parts.push((i, (0..count).map(|n| ((random >> 20) + n * 7) as u32 % 20).collect()));
        }
        let s = parts.iter().map(|(_, ids)| ids.len()).max().unwrap();
        let mut ids = vec![0i32; parts.len() * s];
        parts
            .iter()
            .enumerate()
            .for_each(|(b, (_, own))| own.iter().enumerate().for_each(|(j, id)| ids[b * s + j] = *id as i32));
        let vector = |f: &dyn Fn(&Part) -> i32| {
            Datum::from(Tensor::from_slice(&[parts.len()], &parts.iter().map(f).collect::<Vec<_>>()).unwrap())
        };
        let mut inputs = vec![
            Tensor::from_slice(&[parts.len(), s], &ids).unwrap().into(),
            vector(&|(i, _)| slots[*i]),
            vector(&|(i, _)| singles[*i].len as i32),
            vector(&|(_, own)| own.len() as i32),
        ];
        inputs.append(&mut states);
        let mut results = eval::run(&step, &inputs).unwrap_or_else(|e| panic!("{e}\n{step}"));
        states = results.split_off(1);
        let logits = results[0].as_tensor().unwrap();
        let width = logits.dims()[1];
        for (b, (i, own)) in parts.iter().enumerate() {
            let alone = singles[*i].feed(own);
            let found = &logits.as_slice::<f32>().unwrap()[b * width..][..width];
            for (f, a) in found.iter().zip(&alone) {
                assert!((f - a).abs() <= 1e-4 * (1.0 + a.abs()), "round {round}, sequence {i}: {f} is not {a}\n{step}");
            }
        }
    }
}

/// A decoder of one layer; `cache` makes `%keys` and `%values` of `%k4` and `%v4`, and `%y` of `%q4`.
fn decoder(inputs: &str, cache: &str, outputs: &str) -> String {
    format!(
        "graph @main(%input_ids: i64[B, S], {inputs}) {{
  %table = weight : f32[20, 32]
  %wq = weight : f32[32, 32]
  %wk = weight : f32[16, 32]
  %wv = weight : f32[16, 32]
  %x = gather(%table, %input_ids) {{axis = 0}}
  %q = linear(%x, %wq)
  %k = linear(%x, %wk)
  %v = linear(%x, %wv)
  %q5 = reshape(%q) {{shape = [B, S, 4, 8]}}
  %q4 = transpose(%q5) {{perm = [0, 2, 1, 3]}}
  %k5 = reshape(%k) {{shape = [B, S, 2, 8]}}
  %k4 = transpose(%k5) {{perm = [0, 2, 1, 3]}}
  %v5 = reshape(%v) {{shape = [B, S, 2, 8]}}
  %v4 = transpose(%v5) {{perm = [0, 2, 1, 3]}}
  {cache}
  %y5 = transpose(%y) {{perm = [0, 2, 1, 3]}}
  %y3 = reshape(%y5) {{shape = [B, S, 32]}}
  %h = add(%y3, %x)
  %logits = linear(%h, %table)
  return %logits, {outputs}
}}"
    )
}

const GROWING: &str = "%attention_mask: i64[B, T], %past.k: f32[B, 2, P, 8], %past.v: f32[B, 2, P, 8]";

/// A mask that an exporter computed from sizes and the attention mask.
const MASK: &str = "%b = cast(%attention_mask) {to = bool} %b4 = reshape(%b) {shape = [B, 1, 1, T]} \
    %ks = range() {start = 0, step = 1, length = T} %qs = range() {start = T - S, step = 1, length = S} \
    %k1 = reshape(%ks) {shape = [1, 1, 1, T]} %q1 = reshape(%qs) {shape = [1, 1, S, 1]} %c = le(%k1, %q1) %mask = and(%b4, %c)";

fn growing() -> String {
    let cache = format!(
        "%keys = concat(%past.k, %k4) {{axis = 2}} %values = concat(%past.v, %v4) {{axis = -2}} {MASK} \
        %y = attention(%q4, %keys, %values, %mask)"
    );
    decoder(GROWING, &cache, "%keys, %values").replacen("{\n", "{\n  assume T = P + S\n", 1)
}

fn fixed(write: &str, inputs: &str, mask: &str) -> String {
    let inputs = format!("{inputs}, %past.k: f32[B, 2, {MOST}, 8], %past.v: f32[B, 2, {MOST}, 8]");
    decoder(&inputs, &format!("{write} {mask}"), "%keys, %values")
}

#[test]
fn doc_example() {
    let source = include_str!("../make_kv_stateful.rs");
    let block = |fence: &str| -> String {
        let fence = format!("//! ```ir {fence}");
        let lines = source.lines().skip_while(|l| *l != fence).skip(1).take_while(|l| *l != "//! ```");
        lines.map(|l| format!("{}\n", l.strip_prefix("//! ").unwrap())).collect()
    };
    let mut g = ir::text::parse(&block("before")).unwrap();
    let mut cx = Context::default();
    PASS.run(&mut g, &mut cx);
    assert_eq!(g.to_string(), block("after"), "{:?}", cx.log);
}

#[test]
fn caches_that_grow_by_concat() {
    agrees(&growing());
}

#[test]
fn caches_that_attention_appends_to() {
    let cache = format!(
        "{MASK} %y, %nk, %nv = attention(%q4, %k4, %v4, %mask, %past.k, %past.v) {{present = true, softcap = 4.0}}"
    );
    let text = decoder(GROWING, &cache, "%nk, %nv").replacen("{\n", "{\n  assume T = P + S\n", 1);
    agrees(&text);
}

#[test]
fn repeated_heads_are_seen_through() {
    let text = growing().replace(
        "%y = attention(%q4, %keys, %values, %mask)",
        "%r1 = reshape(%keys) {shape = [B, 2, 1, T, 8]} %r2 = expand(%r1) {shape = [B, 2, 2, T, 8]} %kr = reshape(%r2) {shape = [B, 4, T, 8]} \
         %s1 = reshape(%values) {shape = [B, 2, 1, T, 8]} %s2 = expand(%s1) {shape = [B, 2, 2, T, 8]} %vr = reshape(%s2) {shape = [B, 4, T, 8]} \
         %y = attention(%q4, %kr, %vr, %mask)",
    );
    let text = text.replace("shape = [B, 2, 1, T, 8]", "shape = [B, 2, 1, P + S, 8]");
    let text = text.replace("shape = [B, 2, 2, T, 8]", "shape = [B, 2, 2, P + S, 8]");
    agrees(&text.replace("shape = [B, 4, T, 8]", "shape = [B, 4, P + S, 8]"));
}

/// Positions may be an input, a range behind the past or sums of the mask.
#[test]
fn positions_come_from_lengths_however_they_are_written() {
    let ways = [
        ("%position_ids: i64[B, S], ", "%p = reshape(%position_ids) {shape = [B, S]}"),
        ("", "%p0 = range() {start = P, step = 1, length = S} %p = reshape(%p0) {shape = [1, S]}"),
        (
            "",
            "%one = const [1] : i64[] %s0 = cum_sum(%attention_mask) {axis = 1} %s1 = sub(%s0, %one) %p = slice(%s1) {axes = [1], starts = [P], ends = [P + S], steps = [1]}",
        ),
    ];
    for (inputs, positions) in ways {
        let text = growing().replace(
            "%h = add(%y3, %x)",
            &format!("{positions} %places = weight : f32[40, 32] %e = gather(%places, %p) {{axis = 0}} %h0 = add(%y3, %x) %h = add(%h0, %e)"),
        );
        agrees(&text.replacen("%attention_mask", &format!("{inputs}%attention_mask"), 1));
    }
}

#[test]
fn group_query_attention_with_its_own_rotation() {
    let cache = "%one = const [1] : i64[] %sum = reduce(%attention_mask) {f = sum, axes = [1]} %l0 = sub(%sum, %one) %l = cast(%l0) {to = i32} \
        %t0 = dims() {elements = [T], scalar = true} %t = cast(%t0) {to = i32} %cos = weight : f32[40, 4] %sin = weight : f32[40, 4] \
        %y0, %nk, %nv = group_query_attention(%q, %k, %v, %past.k, %past.v, %l, %t, %cos, %sin) {heads = 4, kv_heads = 2, rotary = true, window = 6} \
        %y1 = reshape(%y0) {shape = [B, S, 4, 8]} %y = transpose(%y1) {perm = [0, 2, 1, 3]}";
    // A cache without padding is P + S rows long.
    agrees(&decoder(GROWING, cache, "%nk, %nv").replacen("{\n", "{\n  assume T = P + S\n", 1));
}

#[test]
fn caches_of_a_fixed_size_with_tensor_scatter() {
    let write = "%keys = tensor_scatter(%past.k, %k4, %write_indices) {axis = 2} %values = tensor_scatter(%past.v, %v4, %write_indices) {axis = 2}";
    let inputs = format!("%bias: f32[B, 1, S, {MOST}], %write_indices: i64[B], %valid: i64[B]");
    agrees(&fixed(write, &inputs, "%y = attention(%q4, %keys, %values, %bias, _, _, %valid)"));
}

const STATIC_MASK: &str = "%ks = range() {start = 0, step = 1, length = 24} %k1 = reshape(%ks) {shape = [1, 1, 1, 24]} \
    %q1 = reshape(%cache_position) {shape = [1, 1, S, 1]} %mask = le(%k1, %q1) %y = attention(%q4, %keys, %values, %mask)";

#[test]
fn caches_of_a_fixed_size_with_index_copy() {
    let turn = |x: &str, cache: &str, rows: &str| {
        format!(
            "%t{x} = transpose({cache}) {{perm = [2, 0, 1, 3]}} %u{x} = transpose({rows}) {{perm = [2, 0, 1, 3]}} \
            %w{x} = scatter_nd(%t{x}, %at, %u{x}) {{reduction = none}} %{x} = transpose(%w{x}) {{perm = [1, 2, 0, 3]}}"
        )
    };
    let at = "%at = reshape(%cache_position) {shape = [S, 1]}";
    let write = format!("{at} {} {}", turn("keys", "%past.k", "%k4"), turn("values", "%past.v", "%v4"));
    agrees(&fixed(&write, "%cache_position: i64[S]", STATIC_MASK));
}

#[test]
fn caches_of_a_fixed_size_with_scatter_elements() {
    let write = "%p4 = reshape(%cache_position) {shape = [1, 1, S, 1]} %at = expand(%p4) {shape = [B, 2, S, 8]} \
        %keys = scatter_elements(%past.k, %at, %k4) {axis = 2, reduction = none} %values = scatter_elements(%past.v, %at, %v4) {axis = 2, reduction = none}";
    agrees(&fixed(write, "%cache_position: i64[S]", STATIC_MASK));
}

/// A row is put where the position is equal: one token at a time.
#[test]
fn caches_of_a_fixed_size_with_select() {
    let write = "%r = range() {start = 0, step = 1, length = 24} %r4 = reshape(%r) {shape = [1, 1, 24, 1]} \
        %p4 = reshape(%cache_position) {shape = [1, 1, 1, 1]} %here = eq(%r4, %p4) \
        %keys = select(%here, %k4, %past.k) %values = select(%here, %v4, %past.v)";
    let text = fixed(write, "%cache_position: i64[S]", STATIC_MASK);
    let text = text
        .replace("[B, S]", "[B, 1]")
        .replace("[S]", "[1]")
        .replace("B, S, ", "B, 1, ")
        .replace("1, S, 1", "1, 1, 1");
    agrees(&text);
}

/// Refusals name the place and the reason.
fn refused(text: &str, why: &'static str) {
    let (g, log) = step(text);
    assert!(g.states().is_empty());
    assert_eq!(log.last().map(|e| e.outcome), Some(Err(Miss::Refused(why))), "{log:?}");
}

#[test]
fn keeps_masks_that_are_not_causal() {
    let text = growing().replace("%mask = and(%b4, %c)", "%e = ne(%k1, %q1) %mask = and(%b4, %e)");
    refused(&text, "the mask is not only causal over a mask of ones");
    let text = growing().replace("%mask = and(%b4, %c)", "%mask = cast(%b4) {to = bool}");
    refused(&text, "nothing hides later keys from a row: the mask is not causal");
}

#[test]
fn keeps_other_uses_of_the_past_length() {
    let text = growing().replace(
        "%h = add(%y3, %x)",
        "%n0 = dims() {elements = [P], scalar = true} %n = cast(%n0) {to = f32} %h0 = add(%y3, %x) %h = mul(%h0, %n)",
    );
    refused(&text, "it needs the past length, which differs by sequence");
}

#[test]
fn keeps_rows_that_go_elsewhere() {
    let write = "%p4 = reshape(%cache_position) {shape = [1, 1, S, 1]} %two = const [2] : i64[] %p2 = add(%p4, %two) %at = expand(%p2) {shape = [B, 2, S, 8]} \
        %keys = scatter_elements(%past.k, %at, %k4) {axis = 2, reduction = none} %values = scatter_elements(%past.v, %at, %v4) {axis = 2, reduction = none}";
    refused(&fixed(write, "%cache_position: i64[S]", STATIC_MASK), "new rows are not written where the sequence ends");
}

#[test]
fn keeps_a_batch_of_one() {
    refused(&growing().replace('B', "1"), "the batch is fixed: sequences cannot be batched");
}
