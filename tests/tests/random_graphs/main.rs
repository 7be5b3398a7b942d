//! Random ONNX graphs: the reference evaluator, a compiled plan on the CPU, and tract's evaluator must agree.
//!
//! `PROPTEST_CASES=10000 cargo test --release -p fastinference-tests --test random_graphs` searches longer.

mod builder;
mod operators;

use builder::{Builder, Kind, Numbers, Value};
use fastinference::importer;
use fastinference::{CompileOptions, DType, Datum, Model, Tensor};
use ir::eval::GraphError;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, IntoTValue, TractResult, tvec};

/// A model with its inputs and outputs.
struct Made {
    model: Vec<u8>,
    /// The same without symbols.
    fixed: Vec<u8>,
    inputs: Vec<(Value, Tensor)>,
    outputs: Vec<Value>,
    numbers: Numbers,
    apart: bool,
    listing: String,
}

fn make(numbers: Numbers, choices: Vec<u32>, data: u64) -> Option<Made> {
    let mut b = Builder::new(numbers, choices);
    operators::grow(&mut b);
    let line = |n: &tract_onnx::pb::NodeProto| {
        let attribute = |a: &tract_onnx::pb::AttributeProto| format!("{} {} {} {:?}", a.name, a.i, a.f, a.ints);
        let attributes: Vec<String> = n.attribute.iter().map(attribute).collect();
        format!("{} = {}({}) {{{}}}", n.output.join(", "), n.op_type, n.input.join(", "), attributes.join("; "))
    };
    let mut lines: Vec<String> = b.inputs.iter().map(|v| format!("{}: {:?}", v.name, v.dims)).collect();
    lines.extend(b.nodes.iter().map(line));
    let apart = b.apart;
    let (model, fixed, inputs, outputs) = b.model();
    let mut state = data | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut number = || {
        let whole = (next() % 7) as f32 - 3.0;
        match numbers {
            Numbers::Smooth => whole + (next() % 1000) as f32 / 1000.0,
            Numbers::Nasty if next() % 6 == 0 => {
                [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0][next() as usize % 4]
            }
            _ => whole,
        }
    };
    let tensor = |v: Value| {
        let data: Vec<f32> = (0..v.len()).map(|_| number()).collect();
        let tensor = Tensor::from_slice(&v.dims, &data).expect("as many as dimensions say");
        (v, tensor)
    };
    let inputs = inputs.into_iter().map(tensor).collect();
    (!outputs.is_empty()).then(|| Made { model, fixed, inputs, outputs, numbers, apart, listing: lines.join("\n") })
}

/// Whether results agree: equal, or with fractions near for their size. NaN agrees with NaN.
fn compare(made: &Made, who: &str, found: &[Tensor], expected: &[Tensor]) -> Result<(), TestCaseError> {
    let fail = |what: String| {
        let inputs: Vec<String> = made.inputs.iter().map(|(v, t)| format!("{} = {:?}", v.name, t.to_f64())).collect();
        Err(TestCaseError::fail(format!("{who}: {what}\n{}\n{}", made.listing, inputs.join("\n"))))
    };
    for ((value, found), expected) in made.outputs.iter().zip(found).zip(expected) {
        if (found.dtype(), found.dims()) != (expected.dtype(), expected.dims()) {
            let show = |t: &Tensor| format!("{}{:?}", t.dtype(), t.dims());
            return fail(format!("{} is {}, expected {}", value.name, show(found), show(expected)));
        }
        let (f, e) = (found.to_f64().expect("numbers"), expected.to_f64().expect("numbers"));
        let largest = e.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
        let allowed = if made.numbers == Numbers::Smooth { 1e-4 * largest } else { 0.0 };
        for (i, (f, e)) in f.iter().zip(&e).enumerate() {
            let agree = f == e || f.is_nan() && e.is_nan() || (f - e).abs() <= allowed;
            if !agree {
                return fail(format!("{}[{i}] is {f}, expected {e}", value.name));
            }
        }
    }
    Ok(())
}

fn tensors(all: &[Datum]) -> Vec<Tensor> {
    all.iter().map(|d| d.as_tensor().expect("the graph has tensors only").clone()).collect()
}

/// tract's results; an error where it does not support the graph.
fn tract(made: &Made) -> TractResult<Vec<Tensor>> {
    let mut model = tract_onnx::onnx().model_for_read(&mut &*made.model)?;
    for (i, (v, _)) in made.inputs.iter().enumerate() {
        use tract_onnx::prelude::{Datum as _, InferenceFact};
        model.set_input_fact(i, InferenceFact::dt_shape(f32::datum_type(), &v.dims))?;
    }
    let runnable = model.into_typed()?.into_runnable()?;
    let mut inputs = tvec!();
    for (v, t) in &made.inputs {
        let data: &[f32] = t.as_slice().expect("inputs are f32");
        inputs.push(tract_onnx::prelude::Tensor::from_shape(&v.dims, data)?.into_tvalue());
    }
    let mut results = vec![];
    for (value, found) in made.outputs.iter().zip(runnable.run(inputs)?) {
        let view = found.try_as_plain_ram()?;
        let dims = found.shape();
        let made = match value.kind {
            Kind::Float => Tensor::from_slice(dims, view.as_slice::<f32>()?),
            Kind::Int => Tensor::from_slice(dims, view.as_slice::<i64>()?),
            Kind::Bool => Tensor::from_bools(dims, view.as_slice::<bool>()?),
        };
        results.push(made.expect("the view is as large as its shape says"));
    }
    Ok(results)
}

/// What one graph showed.
#[derive(Clone, Copy, PartialEq)]
struct Seen {
    /// tract took part.
    tract: bool,
    /// With symbols it was refused for these inputs, and then compared with numbers.
    fixed: bool,
}

/// Compares on one graph.
///
/// Unlike dimensions that meet in an operator that broadcasts are taken for equal, so with symbols a graph may refuse inputs of which
/// one is 1: `floordiv(s4*s5, 20)` beside `s5`. With numbers it must not.
fn agree(made: &Made) -> Result<Seen, TestCaseError> {
    let fail = |what: String| TestCaseError::fail(format!("{what}\n{}", made.listing));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.onnx");
    let inputs: Vec<Datum> = made.inputs.iter().map(|(_, t)| t.clone().into()).collect();
    let evaluated = |model: &[u8]| -> Result<_, TestCaseError> {
        std::fs::write(&path, model).expect("a file in it");
        let graph = importer::import(&path, &Default::default()).map_err(|e| fail(format!("import: {e}")))?.graph;
        Ok(ir::eval::run(&graph, &inputs))
    };
    let mut expected = evaluated(&made.model)?;
    let fixed = matches!(expected, Err(GraphError::Constraint { .. }));
    if fixed {
        expected = evaluated(&made.fixed)?;
    }
    let expected = expected.map_err(|e| fail(format!("reference: {e}")))?;
    let expected = tensors(&expected);
    for (value, t) in made.outputs.iter().zip(&expected) {
        let kind = [(Kind::Float, DType::F32), (Kind::Int, DType::I64), (Kind::Bool, DType::Bool)];
        if t.dims() != value.dims || !kind.contains(&(value.kind, t.dtype())) {
            return Err(fail(format!("reference: {} is {}{:?}", value.name, t.dtype(), t.dims())));
        }
    }
    let model = Model::open(&path, &CompileOptions::default()).map_err(|e| fail(format!("compile: {e}")))?;
    let mut session = model.session(1);
    let first = tensors(session.run(&inputs).map_err(|e| fail(format!("CPU: {e}")))?);
    compare(made, "CPU", &first, &expected)?;
    let again = tensors(session.run(&inputs).map_err(|e| fail(format!("CPU: {e}")))?);
    compare(made, "CPU, second run", &again, &expected)?;
    // What operators make of NaN and infinity is each evaluator's own.
    if made.numbers == Numbers::Nasty || made.apart {
        return Ok(Seen { tract: false, fixed });
    }
    // It panics on some of what it does not support.
    let tract = match catch_unwind(AssertUnwindSafe(|| tract(made))) {
        Ok(Ok(found)) => compare(made, "tract", &found, &expected).map(|()| true)?,
        _ => false,
    };
    Ok(Seen { tract, fixed })
}

/// Runs random graphs; returns how many of a hundred choices made one, and how many of a hundred graphs tract ran. Fails when more
/// than one graph of a hundred was refused with symbols.
fn search(numbers: Numbers, cases: u32) -> (u32, u32) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let (made, shared, fixed) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let choices = prop::collection::vec(any::<u32>(), 0..80);
    let done = runner.run(&(choices, any::<u64>()), |(choices, data)| {
        if let Some(graph) = make(numbers, choices, data) {
            made.set(made.get() + 1);
            let seen = agree(&graph)?;
            shared.set(shared.get() + u32::from(seen.tract));
            fixed.set(fixed.get() + u32::from(seen.fixed));
        }
        Ok(())
    });
    if let Err(error) = done {
        panic!("{error}");
    }
    println!("{} graphs, {} with tract, {} refused with symbols", made.get(), shared.get(), fixed.get());
    assert!(100 * fixed.get() <= made.get().max(100), "{} of {} were refused", fixed.get(), made.get());
    (100 * made.get() / cases.max(1), 100 * shared.get() / made.get().max(1))
}

#[test]
fn small_integers_give_equal_results() {
    let (made, shared) = search(Numbers::Exact, 250);
    assert!(made > 60 && shared > 33, "{made}% made a graph, {shared}% of which tract ran");
}

#[test]
fn nan_and_infinity_come_out_where_the_reference_has_them() {
    let (made, _) = search(Numbers::Nasty, 200);
    assert!(made > 60, "{made}% made a graph");
}

#[test]
fn fractions_give_near_results() {
    let (made, shared) = search(Numbers::Smooth, 200);
    assert!(made > 60 && shared > 33, "{made}% made a graph, {shared}% of which tract ran");
}
