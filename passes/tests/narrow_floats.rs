//! Random graphs computed in f16 and bf16 give what they give in f32, but for rounding; and nothing is cast twice.

use ir::graph::{Graph, Kind, Value};
use ir::ops::{CoreOp, Op};
use ir::{DType, Datum, Tensor, eval};
use passes::{Driver, Stage, narrow_floats, pipeline};
use proptest::prelude::*;
use std::fmt::Write;

const WIDTH: usize = 16;
const ROWS: usize = 5;

/// Operators that neither cancel nor amplify: what comes in with a norm near 1 per element goes out so, and so does an error.
const STEPS: &[&str] = &[
    "linear(%A, %W)",
    "linear(%A, %W, %V)",
    "rms_norm(%A, %V) {axis = -1, eps = 1e-5}",
    "layer_norm(%A) {axis = -1, eps = 1e-5}",
    "silu(%A)",
    "tanh(%A)",
    "add(%A, %B)",
    "add(%A, %V)",
    "max(%A, %huge)",
    "select(%mask, %A, %B)",
    "softmax(%A) {axis = -1}",
    // These stay f32.
    "exp(%A)",
    "div(%A, %S)",
    "add(%A, %tiny)",
    "gather(%A, %ids) {axis = 0}",
    "add(%A, %E)",
];

/// A graph of some steps, and how many there are; every second one reads any value before it, the others the last.
fn graph(choices: &[(usize, usize)], random: &mut impl FnMut() -> f32) -> (Graph, usize) {
    let mut t = format!("graph @g(%x0: f32[N, {WIDTH}], %mask: bool[N, {WIDTH}], %ids: i64[N]) {{\n");
    let mut line = |text: String| writeln!(t, "  {text}").expect("a string takes it");
    line("%tiny = const [1e-12] : f32[]".into());
    line("%huge = const [-3.4e38] : f32[]".into());
    line(format!("%table = weight : f32[{ROWS}, {WIDTH}]"));
    line("%E = gather(%table, %ids) {axis = 0}".into());
    line("%one = const [1.0] : f32[]".into());
    let mut last = "x0".to_string();
    for (i, (step, back)) in choices.iter().enumerate() {
        let mut step = STEPS[step % STEPS.len()].to_string();
        if step.contains("%W") {
            line(format!("%w{i} = weight : f32[{WIDTH}, {WIDTH}]"));
        }
        if step.contains("%V") {
            line(format!("%v{i} = weight : f32[{WIDTH}]"));
        }
        if step.contains("%S") {
            line(format!("%t{i} = tanh(%{last})"));
            line(format!("%q{i} = mul(%t{i}, %t{i})"));
            line(format!("%s{i} = add(%q{i}, %one)"));
        }
        for (from, to) in [("%W", format!("%w{i}")), ("%V", format!("%v{i}")), ("%S", format!("%s{i}"))] {
            step = step.replace(from, &to);
        }
        let step = step.replace("%A", &format!("%{last}")).replace("%B", &format!("%x{}", back % (i + 1)));
        // A norm after each, so that the values stay near 1.
        line(format!("%y{i} = {step}"));
        last = format!("x{}", i + 1);
        line(format!("%{last} = rms_norm(%y{i}) {{axis = -1, eps = 1e-5}}"));
    }
    line(format!("return %{last}"));
    t.push_str("}\n");
    let mut g = ir::text::parse(&t).unwrap_or_else(|e| panic!("{e}\n{t}"));
    for id in g.order() {
        let Kind::Weight(None) = g.node(id).kind else { continue };
        let dims = g.tensor_ty(id.into()).and_then(|t| t.shape.as_const()).expect("weights have sizes");
        let n = dims.iter().product();
        // Vectors away from 0: a scale of 0 would take what is left of a row.
        let scale = if dims.len() == 2 && dims[0] == WIDTH { (WIDTH as f32).sqrt().recip() } else { 1.0 };
        let values: Vec<f32> =
            (0..n).map(|_| if dims.len() == 1 { 1.0 + random().abs() } else { random() * scale }).collect();
        g.attach(id, Tensor::from_slice(&dims, &values).expect("as many as it takes")).expect("of its type");
    }
    (g, choices.len())
}

fn is_cast(g: &Graph, v: Value) -> bool {
    matches!(g.op(v.node), Some(Op::CoreOp(CoreOp::Cast(_))))
}

/// The distance of two tensors as a share of the norm of the first.
fn distance(a: &Datum, b: &Datum) -> f64 {
    let of = |d: &Datum| d.as_tensor().expect("a tensor").to_f64().expect("floats");
    let (a, b) = (of(a), of(b));
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(&b).map(|(x, y)| x - y)) / norm(&mut a.iter().copied())
}

proptest! {
    #[test]
    fn a_narrow_graph_computes_the_same_but_for_rounding(
        choices in proptest::collection::vec((any::<usize>(), any::<usize>()), 1..8),
        seed in any::<u64>(),
        device in any::<bool>(),
    ) {
        let mut state = seed | 1;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Twelve bits at a time, to a number of variance 1.
            let bits = (state >> 28) as u32;
            let uniform = |b: u32| f64::from(b & 4095) / 4096.0 - 0.5;
            ((uniform(bits) + uniform(bits >> 12) + uniform(bits >> 20)) * 2.0) as f32
        };
        let (before, steps) = graph(&choices, &mut random);
        let rows = ROWS;
        let x: Vec<f32> = (0..rows * WIDTH).map(|_| random()).collect();
        let mask: Vec<bool> = (0..rows * WIDTH).map(|_| random() > 0.0).collect();
        let ids: Vec<i64> = (0..rows as i64).map(|i| (i * 3 + 1) % rows as i64).collect();
        let inputs = [
            Tensor::from_slice(&[rows, WIDTH], &x).expect("as many").into(),
            Tensor::from_bools(&[rows, WIDTH], &mask).expect("as many").into(),
            Datum::from(Tensor::vector_i64(&ids)),
        ];
        let want = eval::run(&before, &inputs).expect("the graph runs");
        for (to, unit) in [(DType::F16, 1.0 / 2048.0), (DType::BF16, 1.0 / 256.0)] {
            let mut g = before.clone();
            let finish = if device { pipeline::finish_for_device() } else { pipeline::finish() };
            Driver::new(pipeline::narrowed(finish, to)).run(&mut g).expect("every pass leaves a graph that verifies");
            let types = |g: &Graph| -> Vec<String> {
                let outputs = g.outputs.iter().map(|o| format!("{} {}", o.name, g.ty(o.value)));
                g.inputs.iter().map(|id| format!("{} {}", g.name((*id).into()), g.ty((*id).into()))).chain(outputs).collect()
            };
            prop_assert_eq!(types(&g), types(&before));
            for id in g.order() {
                prop_assert!(!(is_cast(&g, id.into()) && is_cast(&g, g.operands(id)[0])), "a pair of casts in\n{}", g);
            }
            // Every step and its norm round once, and so do two operands: independent errors of half a unit add like their
            // squares. The factor is for steps that make an error larger (at most twice, each).
            let found = distance(&want[0], &eval::run(&g, &inputs).expect("the narrow graph runs")[0]);
            let allowed = 4.0 * unit * (4.0 * steps as f64).sqrt();
            prop_assert!(found <= allowed, "{found:.2e} of {allowed:.2e} in {to}:\n{before}\n{g}");
            let again = Driver::new(vec![Stage::Once(if to == DType::F16 { narrow_floats::TO_F16 } else { narrow_floats::TO_BF16 })]);
            let mut twice = g.clone();
            let mut again = again;
            again.run(&mut twice).expect("it verifies");
            prop_assert_eq!(twice.to_string(), g.to_string());
        }
    }
}
