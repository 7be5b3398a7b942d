//! Every operator's samples print, parse and evaluate.

use ir::eval::{self, Symbols};
use ir::graph::Value;
use ir::ops::{CORE_TABLE, HOST_TABLE, OpInfo};
use ir::{DType, Datum, Graph, Tensor, text};

fn samples() -> impl Iterator<Item = (&'static OpInfo, &'static str)> {
    let all = CORE_TABLE.iter().chain(HOST_TABLE);
    all.flat_map(|op| op.samples.iter().map(move |s| (op, *s)))
}

fn parsed(op: &OpInfo, sample: &str) -> Graph {
    text::parse(sample).unwrap_or_else(|e| panic!("{}: {e}\n{sample}", op.name))
}

/// Inputs of small natural numbers, every symbol bound to 2, 3, ...
fn inputs(g: &Graph) -> Vec<Datum> {
    let mut symbols = Symbols::new();
    for s in g.input_symbols() {
        let n = symbols.len() as i64 + 2;
        symbols.insert(s, n);
    }
    let tensor = |v: Value| {
        let ty = g.tensor_ty(v).expect("samples take tensors");
        let dims = ty.dims().expect("samples are ranked").iter();
        let dims: Vec<usize> = dims.map(|d| d.eval(&|s| symbols.get(s).copied()).unwrap() as usize).collect();
        let n: usize = dims.iter().product();
        if ty.dtype == DType::Str {
            return Tensor::from_strings(&dims, (0..n).map(|i| format!("s{i}")).collect()).unwrap();
        }
        let values: Vec<f64> = (0..n).map(|i| (i % 2) as f64).collect();
        Tensor::from_f64(ty.dtype, &dims, &values).unwrap()
    };
    g.inputs.iter().map(|n| tensor((*n).into()).into()).collect()
}

#[test]
fn samples_round_trip_through_text() {
    for (op, sample) in samples() {
        let printed = parsed(op, sample).to_string();
        let again = text::parse(&printed).unwrap_or_else(|e| panic!("{}: {e}\n{printed}", op.name));
        assert_eq!(printed, again.to_string());
    }
}

#[test]
fn samples_verify_and_evaluate_to_their_types() {
    for (op, sample) in samples() {
        let g = parsed(op, sample);
        ir::verify(&g).unwrap_or_else(|e| panic!("{}: {e}\n{g}", op.name));
        // `run` checks every result against its declared type.
        eval::run(&g, &inputs(&g)).unwrap_or_else(|e| panic!("{}: {e}\n{g}", op.name));
    }
}

#[test]
fn known_elements_are_what_evaluation_gives() {
    for (op, sample) in samples() {
        let g = parsed(op, sample);
        let given = inputs(&g);
        let symbols = eval::bind_inputs(&g, &given).unwrap();
        eval::run_observed(&g, &given, &mut |id, results| {
            let Some(elements) = &g.fact(id.into()).elements else { return };
            let known = elements.iter().map(|d| d.eval(&|s| symbols.get(s).copied()).unwrap() as i128);
            assert_eq!(known.collect::<Vec<_>>(), results[0].as_tensor().unwrap().to_ints().unwrap(), "{}", op.name);
        })
        .unwrap();
    }
}
