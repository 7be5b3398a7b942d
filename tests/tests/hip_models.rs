//! Small models of IR text on the simulator of the HIP backend: nothing but their ids is left to the host.

mod common;

use common::{Random, compare, load, on_host, simulator, tensor};
use ir::graph::Kind;
use ir::{Datum, Graph, eval, text};
use runtime::Session;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A decoder of some layers: gather, RMS norm, attention with a past, SwiGLU, logits.
fn transformer(layers: usize) -> String {
    let mut t = String::from("graph @net(%ids: i64[B, S], %past: f32[B, 2, P, 16], %mask: f32[S, P + S]) {\n");
    let mut line = |text: String| writeln!(t, "  {text}").unwrap();
    line("%scale = const [0.25] : f32[]".into());
    line("%table = weight : f32[100, 32]".into());
    line("%x0 = gather(%table, %ids) {axis = 0}".into());
    for l in 0..layers {
        for w in ["q", "k", "v", "o", "gate", "up", "down"] {
            line(format!("%w{w}{l} = weight : f32[32, 32]"));
        }
        line(format!("%n{l} = weight : f32[32]"));
        line(format!("%b{l} = weight : f32[32]"));
        line(format!("%h{l} = rms_norm(%x{l}, %n{l}) {{axis = -1, eps = 1e-5}}"));
        for w in ["q", "k", "v"] {
            line(format!("%{w}{l} = linear(%h{l}, %w{w}{l}, %b{l})"));
            line(format!("%{w}r{l} = reshape(%{w}{l}) {{shape = [B, S, 2, 16]}}"));
            line(format!("%{w}t{l} = transpose(%{w}r{l}) {{perm = [0, 2, 1, 3]}}"));
        }
        line(format!("%kc{l} = concat(%past, %kt{l}) {{axis = 2}}"));
        line(format!("%vc{l} = concat(%past, %vt{l}) {{axis = 2}}"));
        line(format!("%kx{l} = transpose(%kc{l}) {{perm = [0, 1, 3, 2]}}"));
        line(format!("%s{l} = matmul(%qt{l}, %kx{l})"));
        line(format!("%sc{l} = map(%s{l}, %scale, %mask) {{expr = \"add(mul(x0, x1), x2)\"}}"));
        line(format!("%p{l} = softmax(%sc{l}) {{axis = -1}}"));
        line(format!("%a{l} = matmul(%p{l}, %vc{l})"));
        line(format!("%at{l} = transpose(%a{l}) {{perm = [0, 2, 1, 3]}}"));
        line(format!("%ar{l} = reshape(%at{l}) {{shape = [B, S, 32]}}"));
        line(format!("%o{l} = linear(%ar{l}, %wo{l})"));
        line(format!("%y{l} = add(%o{l}, %x{l})"));
        line(format!("%g{l} = linear(%y{l}, %wgate{l})"));
        line(format!("%u{l} = linear(%y{l}, %wup{l})"));
        line(format!("%m{l} = map(%g{l}, %u{l}) {{expr = \"mul(silu(x0), x1)\"}}"));
        line(format!("%d{l} = linear(%m{l}, %wdown{l})"));
        line(format!("%x{} = add(%d{l}, %y{l})", l + 1));
    }
    line(format!("%logits = linear(%x{layers}, %table)"));
    line("return %logits, %kc0, %vc0".into());
    t + "}\n"
}

fn with_data(text: &str, random: &mut Random) -> Graph {
    let mut g = text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for id in g.order() {
        if matches!(g.node(id).kind, Kind::Weight(None)) {
            let t = tensor(&g, id.into(), &BTreeMap::new(), random, false);
            g.attach(id, t).expect("the type is the declared one");
        }
    }
    g
}

fn run(session: &mut dyn Session, g: &Graph, sizes: &[(&str, i64)], random: &mut Random) {
    let symbols = sizes.iter().map(|(s, n)| ((*s).into(), *n)).collect();
    let inputs = g.inputs.iter().map(|n| tensor(g, (*n).into(), &symbols, random, false).into());
    let inputs: Vec<Datum> = inputs.collect();
    let want = eval::run(g, &inputs).unwrap();
    let got = session.run(&inputs).unwrap_or_else(|e| panic!("{e}"));
    for (o, (got, want)) in g.outputs.iter().zip(got.iter().zip(&want)) {
        compare(&format!("{sizes:?}, output {}", o.name), g, got, want);
    }
}

#[test]
fn hip_runs_a_transformer_on_the_device_alone() {
    let Some(hip) = simulator("hip_runs_a_transformer_on_the_device_alone") else { return };
    let mut random = Random(11);
    let g = with_data(&transformer(2), &mut random);
    let loaded = load(hip, &g);
    assert_eq!(on_host(loaded.plan()), [""; 0]);
    let mut session = loaded.session(1);
    for sizes in [[("B", 1), ("S", 5), ("P", 0)], [("B", 2), ("S", 1), ("P", 7)], [("B", 3), ("S", 16), ("P", 1)]] {
        run(&mut *session, &g, &sizes, &mut random);
    }
}

#[test]
fn hip_gives_work_to_the_host_and_takes_it_back() {
    let Some(hip) = simulator("hip_gives_work_to_the_host_and_takes_it_back") else { return };
    let text = "graph @g(%x: f32[N, 8], %i: i64[M]) { %w1 = weight : f32[16, 8] %w2 = weight : f32[4, 16] \
         %a = linear(%x, %w1) %b = atan(%a) %c = relu(%b) %d = linear(%c, %w2) \
         %e = acos(%d) %f = add(%e, %d) %u = gather(%a, %i) {axis = 1} return %f, %b, %u, %x }";
    let mut random = Random(3);
    let g = with_data(text, &mut random);
    let loaded = load(hip, &g);
    assert_eq!(on_host(loaded.plan()), ["b", "e"]);
    let mut session = loaded.session(1);
    for n in [1, 4, 0, 9] {
        run(&mut *session, &g, &[("N", n), ("M", n + 1)], &mut random);
    }
}

#[test]
fn hip_names_the_node_and_the_index_that_is_out_of_range() {
    let Some(hip) = simulator("hip_names_the_node_and_the_index_that_is_out_of_range") else { return };
    let g = text::parse("graph @g(%x: f32[4, 2], %i: i64[N]) { %y = gather(%x, %i) {axis = 0} return %y }").unwrap();
    let loaded = load(hip, &g);
    let mut session = loaded.session(1);
    let x = Datum::from(ir::Tensor::from_slice(&[4, 2], &[0f32; 8]).unwrap());
    let ids = |ids: &[i64]| Datum::from(ir::Tensor::vector_i64(ids));
    let error = session.run(&[x.clone(), ids(&[0, 4, 1])]).unwrap_err().to_string();
    assert!(error.contains("`y` (gather)") && error.contains("index 4 is out of range"), "{error}");
    session.run(&[x, ids(&[0, 3, -4])]).expect("the next run succeeds");
}
