//! Graphs on the simulator of the HIP backend, against the reference evaluation.
#![allow(dead_code, reason = "each test uses a part")]

use backend_cpu::Cpu;
use backend_hip::{CodeStore, Compiler, Device, Hip, Platform};
use ir::graph::Value;
use ir::ops::{OpInfo, Tolerance};
use ir::{DType, Datum, Graph, Tensor, eval, text};
use plan::{CheckedPlan, GraphWeights, Step, Stream, Weights};
use runtime::{Backend, Loaded};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The simulator, or `None`, with a note, where nothing can compile it. `HIP_TEST_DEVICE=hip:0` names a GPU instead: the same
/// tests then run there, and a GPU that cannot be opened fails them.
pub fn simulator(test: &str) -> Option<&'static Hip> {
    static ONE: OnceLock<Option<Hip>> = OnceLock::new();
    let found = ONE.get_or_init(|| match std::env::var("HIP_TEST_DEVICE") {
        Ok(name) => Some(gpu(&name)),
        Err(_) if Compiler::watched().is_ok() => Some(on(Device::watched().expect("the simulator is always there"))),
        Err(_) => {
            Compiler::find(Platform::Simulator).ok()?;
            Some(on(Device::open(Platform::Simulator, 0).expect("the simulator is always there")))
        }
    });
    if found.is_none() {
        println!("{test} is skipped: no C++ compiler is here to make the simulator");
    }
    found.as_ref()
}

fn gpu(name: &str) -> Hip {
    let number = name.strip_prefix("hip:").and_then(|n| n.parse().ok()).expect("HIP_TEST_DEVICE is hip:NUMBER");
    let nvidia = |amd| Device::open(Platform::Nvidia, number).map_err(|e| format!("AMD: {amd}; NVIDIA: {e}"));
    on(Device::open(Platform::Amd, number).or_else(nvidia).unwrap_or_else(|e| panic!("{e}")))
}

fn on(device: Device) -> Hip {
    // A binary that is run on another machine does not find the folder that it was built in.
    let built = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = if built.is_dir() { built.join("kernels") } else { "kernels".into() };
    Hip::new(device, CodeStore::new(folder), Arc::new(Cpu))
}

/// A small generator, so that a failure repeats.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
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

/// A random tensor for a value of a graph.
pub fn tensor(g: &Graph, v: Value, symbols: &BTreeMap<Arc<str>, i64>, random: &mut Random, nasty: bool) -> Tensor {
    let ty = g.tensor_ty(v).expect("samples take tensors");
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

/// A graph planned and loaded on the simulator.
pub fn load(hip: &Hip, g: &Graph) -> Box<dyn Loaded> {
    let verified = ir::verify(g).unwrap_or_else(|e| panic!("{e}\n{g}"));
    let plan = plan::build(verified, hip, "").unwrap_or_else(|e| panic!("{e}\n{g}"));
    let plan = plan::check(plan).unwrap_or_else(|found| panic!("{}\n{g}", found[0]));
    let weights = Weights::from_source(&plan, &GraphWeights::new(&plan)).expect("the graph has its weights");
    hip.load(Arc::new(plan), weights).unwrap_or_else(|e| panic!("{e}\n{g}"))
}

/// Names of the nodes of a plan that run on the host.
pub fn on_host(plan: &CheckedPlan) -> Vec<String> {
    let host = |s: &Step| match s {
        Step::Launch(l) if l.stream == Stream::HOST && l.kernel != plan::COPY => Some(l.node.to_string()),
        _ => None,
    };
    plan.entries[0].steps.iter().filter_map(host).collect()
}

fn close(a: f64, b: f64, scale: f64, t: Tolerance) -> bool {
    let near = b.is_finite() && (a - b).abs() <= t.relative * b.abs() + t.absolute * scale;
    a == b || a.is_nan() && b.is_nan() || near
}

/// Fails unless two results agree within the tolerance of all operators of the graph together.
pub fn compare(name: &str, g: &Graph, got: &Datum, want: &Datum) {
    compare_in(want.as_tensor().map_or(DType::F32, Tensor::dtype), name, g, got, want);
}

/// [`compare`] of a graph that computes in another type than its results are of.
pub fn compare_in(dtype: DType, name: &str, g: &Graph, got: &Datum, want: &Datum) {
    let (Datum::Tensor(got), Datum::Tensor(want)) = (got, want) else {
        assert_eq!(got, want, "{name}");
        return;
    };
    assert_eq!((got.dtype(), got.dims()), (want.dtype(), want.dims()), "{name}");
    if !want.dtype().is_float() {
        assert_eq!(got, want, "{name}");
        return;
    }
    let mut tolerance = Tolerance { relative: 0.0, absolute: 0.0 };
    for op in g.order().into_iter().filter_map(|n| g.op(n)) {
        let one = op.tolerance(dtype);
        tolerance.relative += one.relative;
        tolerance.absolute += one.absolute;
    }
    let (g, w) = (got.to_f64().unwrap(), want.to_f64().unwrap());
    let scale = w.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in g.iter().zip(&w).enumerate() {
        assert!(close(*a, *b, scale, tolerance), "{name}: element {i} is {a}, the reference gives {b}");
    }
}

/// The sample with inputs named `w*` turned into constants.
pub fn with_weights(sample: &str, random: &mut Random) -> Option<Graph> {
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

/// Runs a graph on the simulator and on the reference for several sizes of its symbols, and compares.
pub fn run_both(hip: &Hip, name: &str, g: &Graph, random: &mut Random) {
    let loaded = load(hip, g);
    let mut session = loaded.session(1);
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
            compare(&format!("{name}, size {size}, output {}\n{g}\n{inputs:?}\n", o.name), g, got, want);
        }
    }
}

/// Runs an operator's samples, as they are and with weights that are constants.
pub fn run_samples(hip: &Hip, op: &OpInfo) {
    let mut random = Random(7);
    for sample in op.samples {
        let g = text::parse(sample).unwrap_or_else(|e| panic!("{}: {e}", op.name));
        run_both(hip, op.name, &g, &mut random);
        if let Some(g) = with_weights(sample, &mut random) {
            run_both(hip, op.name, &g, &mut random);
        }
    }
}
