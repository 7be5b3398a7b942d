//! Every operator's samples give on the CPU what the reference evaluation gives, for random and nasty inputs, several sizes
//! from one plan.

use backend_cpu::Cpu;
use ir::graph::Value;
use ir::ops::{CORE_TABLE, CoreOp, HOST_TABLE, Tolerance};
use ir::{DType, Datum, Graph, Op, Tensor, eval, text};
use plan::{GraphWeights, Weights};
use runtime::Backend;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A small generator, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn float(&mut self, nasty: bool) -> f64 {
        if nasty && self.next().is_multiple_of(12) {
            let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e-30, -65504.0];
            return odd[self.next() as usize % odd.len()];
        }
        (self.next() % 4001) as f64 / 1000.0 - 2.0
    }
}

fn tensor(g: &Graph, v: Value, symbols: &BTreeMap<Arc<str>, i64>, random: &mut Random, nasty: bool) -> Tensor {
    let ty = g.tensor_ty(v).expect("samples take tensors");
    // Padding multiplies weights by 0, which weights that are finite do not show.
    let nasty = nasty && !g.name(v).starts_with('w');
    let dims = ty.dims().expect("samples are ranked").iter();
    let dims: Vec<usize> = dims.map(|d| d.eval(&|s| symbols.get(s).copied()).expect("bound") as usize).collect();
    let n: usize = dims.iter().product();
    let made = match ty.dtype {
        DType::Str => Tensor::from_strings(&dims, (0..n).map(|_| format!("s{}", random.next() % 5)).collect()),
        DType::Bool => Tensor::from_bools(&dims, &(0..n).map(|_| random.next().is_multiple_of(2)).collect::<Vec<_>>()),
        d if d.is_float() => Tensor::from_f64(d, &dims, &(0..n).map(|_| random.float(nasty)).collect::<Vec<_>>()),
        d => Tensor::from_ints(d, &dims, &(0..n).map(|_| (random.next() % 3) as i128).collect::<Vec<_>>()),
    };
    made.expect("sizes agree")
}

fn close(a: f64, b: f64, scale: f64, t: Tolerance) -> bool {
    let near = b.is_finite() && (a - b).abs() <= t.relative * b.abs() + t.absolute * scale;
    a == b || a.is_nan() && b.is_nan() || near
}

fn compare(name: &str, got: &Datum, want: &Datum, rounding: &[f64], tolerance: &dyn Fn(DType) -> Tolerance) {
    let (Datum::Tensor(got), Datum::Tensor(want)) = (got, want) else {
        assert_eq!(got, want, "{name}");
        return;
    };
    assert_eq!((got.dtype(), got.dims()), (want.dtype(), want.dims()), "{name}");
    if !want.dtype().is_float() {
        assert_eq!(got, want, "{name}");
        return;
    }
    let (g, w) = (got.to_f64().unwrap(), want.to_f64().unwrap());
    let scale = w.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in g.iter().zip(&w).enumerate() {
        let rounded = rounding.get(i).is_some_and(|r| (a - b).abs() <= r + tolerance(want.dtype()).absolute * scale);
        assert!(
            rounded || close(*a, *b, scale, tolerance(want.dtype())),
            "{name}: element {i} is {a}, the reference gives {b}"
        );
    }
}

/// The sample with inputs named `w*` turned into constants, so that packed weights are tried too.
fn with_weights(sample: &str, random: &mut Random) -> Option<Graph> {
    let g = text::parse(sample).expect("samples parse");
    let named = |v: Value| g.name(v).starts_with('w');
    let chosen: Vec<Value> = g.inputs.iter().map(|n| (*n).into()).filter(|v| named(*v)).collect();
    if chosen.is_empty() {
        return None;
    }
    let mut text = sample.to_string();
    let mut data = vec![];
    for v in chosen {
        let t = tensor(&g, v, &BTreeMap::new(), random, false);
        let declared = format!("%{}: {}", g.name(v), g.ty(v));
        text = text.replace(&format!(", {declared}"), "");
        let body = text.find('{')? + 1;
        text.insert_str(body, &format!(" %{} = weight : {} ", g.name(v), g.ty(v)));
        data.push((g.name(v).clone(), t));
    }
    let mut g = text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for (name, t) in data {
        let node = g.order().into_iter().find(|n| *g.node(*n).names[0] == *name).expect("declared above");
        g.attach(node, t).expect("the type is the declared one");
    }
    Some(g)
}

/// By how much the elements of a result may be off beside roundings of floats: see `MatMulNBits::rounding`.
fn rounding(g: &Graph, result: Value, inputs: &[Datum]) -> Vec<f64> {
    let Some(Op::CoreOp(CoreOp::MatMulNBits(op))) = g.op(result.node) else { return vec![] };
    let value = |v: &Value| match g.inputs.iter().position(|n| *n == v.node) {
        Some(i) => inputs[i].clone(),
        None => g.constant_of(*v).map_or(Datum::Absent, |t| t.clone().into()),
    };
    let operands: Vec<Datum> = g.operands(result.node).iter().map(value).collect();
    op.rounding(&operands.iter().collect::<Vec<_>>()).expect("the reference has read the same")
}

fn run_both(name: &str, g: &Graph, random: &mut Random) {
    let verified = ir::verify(g).unwrap_or_else(|e| panic!("{name}: {e}\n{g}"));
    let plan = plan::build(verified, &Cpu, "").unwrap_or_else(|e| panic!("{name}: {e}\n{g}"));
    let plan = Arc::new(plan::check(plan).unwrap_or_else(|e| panic!("{name}: {e:?}\n{g}")));
    let weights = Weights::from_source(&plan, &GraphWeights::new(&plan)).expect("the graph has its weights");
    let loaded = Cpu.load(plan, weights).unwrap_or_else(|e| panic!("{name}: {e}\n{g}"));
    let mut session = loaded.session(2);
    let tolerance = |d: DType| {
        let ops = g.order().into_iter().filter_map(|n| g.op(n).map(|op| op.tolerance(d)));
        let mut all = Tolerance { relative: 0.0, absolute: 0.0 };
        ops.for_each(|t| {
            all.relative += t.relative;
            all.absolute += t.absolute;
        });
        all
    };
    for (round, size) in [3usize, 1, 7, 17, 0].into_iter().enumerate() {
        let mut symbols = BTreeMap::new();
        for (i, s) in g.input_symbols().into_iter().enumerate() {
            symbols.insert(s, if size == 0 { 0 } else { size as i64 + 2 * i as i64 });
        }
        let inputs = g.inputs.iter().map(|n| tensor(g, (*n).into(), &symbols, random, round > 1).into());
        let inputs: Vec<Datum> = inputs.collect();
        let want = match eval::run(g, &inputs) {
            Ok(want) => want,
            Err(e) => {
                assert!(session.run(&inputs).is_err(), "{name}: the reference fails ({e}), the backend does not");
                continue;
            }
        };
        let got = session.run(&inputs).unwrap_or_else(|e| panic!("{name}: {e}\n{g}\n{inputs:?}"));
        for (o, (got, want)) in g.outputs.iter().zip(got.iter().zip(&want)) {
            let label = format!("{name}, size {size}, output {}\n{g}\n{inputs:?}\n", o.name);
            compare(&label, got, want, &rounding(g, o.value, &inputs), &tolerance);
        }
    }
}

#[test]
fn samples_agree_with_the_reference() {
    let mut failed = vec![];
    for op in CORE_TABLE.iter().chain(HOST_TABLE) {
        let one = || {
            let mut random = Random(7);
            for sample in op.samples {
                let g = text::parse(sample).unwrap_or_else(|e| panic!("{}: {e}", op.name));
                run_both(op.name, &g, &mut random);
                if let Some(g) = with_weights(sample, &mut random) {
                    run_both(op.name, &g, &mut random);
                }
            }
        };
        if std::panic::catch_unwind(one).is_err() {
            failed.push(op.name);
        }
    }
    assert!(failed.is_empty(), "these do not agree: {failed:?}");
}
