//! Sizes that no memory holds, as attributes or as data, end in an error that names the node: never in a failed allocation, which
//! would end the process.

use backend_cpu::Cpu;
use ir::{Datum, Tensor, eval, text};
use plan::{GraphWeights, Weights};
use runtime::Backend;
use std::sync::Arc;

/// 2^40.
const HUGE: i64 = 1 << 40;

/// A graph of `%x: f32[2, 3]` and the integers `%p` that makes something huge called `%y`.
fn graphs() -> Vec<(String, Vec<i64>)> {
    let with = |parameters: &str, body: String, numbers: &[i64]| {
        (format!("graph @g(%x: f32[2, 3], %p: i64[{parameters}]) {{ {body} return %y }}"), numbers.to_vec())
    };
    let mut all = vec![];
    for mode in ["constant", "edge", "reflect", "wrap"] {
        all.push(with("4", format!("%y = pad_by(%x, %p) {{mode = {mode}}}"), &[0, 0, 0, HUGE]));
        all.push(with("4", format!("%y = pad_by(%x, %p) {{mode = {mode}}}"), &[1 << 20, 1 << 20, 0, 0]));
        all.push(with("1", format!("%y = pad(%x) {{mode = {mode}, pads = [0, {HUGE}], axes = [1]}}"), &[0]));
    }
    let mut add = |parameters: &str, body: &str, numbers: &[i64]| all.push(with(parameters, body.into(), numbers));
    add("3", "%y = expand_to(%x, %p)", &[HUGE, 2, 3]);
    add("2", "%y = tile_by(%x, %p)", &[1, HUGE]);
    add("2", "%v = const [7] : i64[1] %y = fill_by(%v, %p)", &[1 << 20, 1 << 20]);
    add("", "%a = const [0] : i64[] %s = const [1] : i64[] %y = range_of(%a, %p, %s)", &[HUGE]);
    add(
        "",
        "%i = const [0, 1] : i64[2] %v = const [0.0, 1.0] : f32[2] %y = one_hot_by(%i, %p, %v) {axis = -1}",
        &[HUGE],
    );
    add(
        "2",
        "%y = resize_by(%x, _, _, %p) {axes = [], aspect = stretch, mode = nearest, coordinates = asymmetric}",
        &[2, HUGE],
    );
    add("2", "%y = center_crop_pad(%x, %p) {axes = [0, 1]}", &[2, HUGE]);
    add("1", "%y = expand(%x) {shape = [1099511627776, 2, 3]}", &[0]);
    add("1", "%y = tile(%x) {repeats = [1, 1099511627776]}", &[0]);
    // Of an intermediate value: the result is small.
    add("4", "%wide = pad_by(%x, %p) {mode = edge} %y = reduce(%wide) {f = sum, axes = [0, 1]}", &[0, 0, 0, HUGE]);
    all
}

fn inputs(numbers: &[i64], scalar: bool) -> Vec<Datum> {
    let x = Tensor::from_f64(ir::DType::F32, &[2, 3], &[0.5; 6]).unwrap();
    let p = Tensor::vector_i64(numbers);
    vec![x.into(), if scalar { p.reshaped(&[]).unwrap() } else { p }.into()]
}

fn check(what: &str, text: &str, error: Option<String>) {
    let error = error.unwrap_or_else(|| panic!("{what} gave a result for {text}"));
    let named = error.contains("`y` (") || error.contains("`wide` (");
    assert!(named && error.contains("too large for memory"), "{what}, {text}: {error}");
}

#[test]
fn the_reference_names_the_node_whose_result_is_too_large() {
    for (text, numbers) in graphs() {
        let graph = text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let found = eval::run(&graph, &inputs(&numbers, text.contains("%p: i64[]")));
        check("the reference", &text, found.err().map(|e| e.to_string()));
    }
}

#[test]
fn the_cpu_names_the_node_whose_result_is_too_large() {
    for (text, numbers) in graphs() {
        let graph = text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let plan = plan::build(ir::verify(&graph).unwrap(), &Cpu, "").unwrap();
        let plan = Arc::new(plan::check(plan).unwrap());
        let weights = Weights::from_source(&plan, &GraphWeights::new(&plan)).unwrap();
        let mut session = Cpu.load(plan, weights).unwrap().session(2);
        let found = session.run(&inputs(&numbers, text.contains("%p: i64[]"))).map(|_| ());
        check("the CPU", &text, found.err().map(|e| e.to_string()));
    }
}

#[test]
fn symbols_that_make_a_result_too_large_name_it() {
    let text = "graph @g(%x: f32[N, 1], %z: f32[1, M]) { %y = mul(%x, %z) return %y }";
    let graph = text::parse(text).unwrap();
    let plan = Arc::new(plan::check(plan::build(ir::verify(&graph).unwrap(), &Cpu, "").unwrap()).unwrap());
    let weights = Weights::from_source(&plan, &GraphWeights::new(&plan)).unwrap();
    let mut session = Cpu.load(plan, weights).unwrap().session(2);
    let side = |dims: &[usize]| Datum::from(Tensor::zeros(ir::DType::F32, dims).unwrap());
    let large = [side(&[1 << 20, 1]), side(&[1, 1 << 20])];
    check("the CPU", text, session.run(&large).map(|_| ()).err().map(|e| e.to_string()));
    check("the reference", text, eval::run(&graph, &large).err().map(|e| e.to_string()));
    // The session still works.
    let y = session.run(&[side(&[2, 1]), side(&[1, 3])]).unwrap();
    assert_eq!(y[0].as_tensor().unwrap().dims(), [2, 3]);
}
