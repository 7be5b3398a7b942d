//! Kernels of 8-bit integers on the device, at sizes and with values that samples do not have.

mod common;

use common::{Random, compare, load, on_host, run_both, simulator};
use ir::{Datum, Tensor, eval, text};

/// Runs graphs that nothing of is left to the host.
fn on_device(test: &str, graphs: &[String]) {
    let Some(hip) = simulator(test) else { return };
    let mut random = Random(5);
    for t in graphs {
        let g = text::parse(t).unwrap_or_else(|e| panic!("{e}\n{t}"));
        assert_eq!(on_host(load(hip, &g).plan()), [""; 0], "{t}");
        run_both(hip, t, &g, &mut random);
    }
}

/// Every code there is, which random operands of the other tests are too small for.
fn codes(dims: &[usize], signed: bool, step: i64) -> Tensor {
    let n: usize = dims.iter().product();
    let all = (0..n as i64).map(|i| (i * step) % 256).map(|v| if signed { v - 128 } else { v });
    if signed {
        let v: Vec<i8> = all.map(|v| v as i8).collect();
        return Tensor::from_slice(dims, &v).unwrap();
    }
    let v: Vec<u8> = all.map(|v| v as u8).collect();
    Tensor::from_slice(dims, &v).unwrap()
}

#[test]
fn hip_integer_products_are_exact_for_every_code() {
    let Some(hip) = simulator("hip_integer_products_are_exact_for_every_code") else { return };
    for (a, b) in [("u8", "i8"), ("i8", "u8"), ("i8", "i8"), ("u8", "u8")] {
        for (m, n, k) in [(70, 66, 37), (1, 200, 64), (65, 1, 300)] {
            let t = format!(
                "graph @g(%a: {a}[3, {m}, {k}], %b: {b}[{k}, {n}], %z: {a}[{m}], %v: {b}[{n}]) {{ %y = matmul_integer(%a, %b, %z, %v) %x = matmul_integer(%a, %b) return %y, %x }}"
            );
            let g = text::parse(&t).unwrap();
            let loaded = load(hip, &g);
            assert_eq!(on_host(loaded.plan()), [""; 0], "{t}");
            let of = |ty: &str, dims: &[usize], step| Datum::from(codes(dims, ty == "i8", step));
            let inputs = [of(a, &[3, m, k], 37), of(b, &[k, n], 91), of(a, &[m], 5), of(b, &[n], 3)];
            let got = loaded.session(1).run(&inputs).unwrap().to_vec();
            for (got, want) in got.iter().zip(&eval::run(&g, &inputs).unwrap()) {
                compare(&t, &g, got, want);
            }
        }
    }
}

#[test]
fn hip_integer_products_agree_in_batches() {
    on_device(
        "hip_integer_products_agree_in_batches",
        &[
            "graph @g(%a: u8[B, 1, M, 9], %b: i8[B, 3, 9, 4], %z: u8[1]) { %y = matmul_integer(%a, %b, %z) return %y }"
                .into(),
            "graph @g(%a: i8[9], %b: i8[N, 9, 4]) { %y = matmul_integer(%a, %b) return %y }".into(),
        ],
    );
}

#[test]
fn hip_quantised_values_are_exact() {
    let mut graphs = vec![];
    for dtype in ["f32", "f16", "bf16"] {
        graphs.push(format!(
            "graph @g(%x: {dtype}[N, 700]) {{ %y, %s, %z = dynamic_quantize_linear(%x) return %y, %s, %z }}"
        ));
        for to in ["u8", "i8"] {
            graphs.push(format!("graph @g(%x: {dtype}[N, 3, 4], %z: {to}[3]) {{ %s = const [0.1, 0.02, 3.0] : {dtype}[3] %y = quantize_linear(%x, %s, %z) {{axis = 1, block = 0, to = {to}}} %b = dequantize_linear(%y, %s, %z) {{axis = 1, block = 0, to = {dtype}}} return %y, %b }}"));
        }
    }
    graphs.push("graph @g(%x: i32[N, 5]) { %s = const [0.25] : f32[] %y = dequantize_linear(%x, %s) {axis = 1, block = 0, to = f32} return %y }".into());
    on_device("hip_quantised_values_are_exact", &graphs);
}

/// More elements than one pass over them takes, the ends of the range among them.
#[test]
fn hip_ranges_are_found_over_many_blocks() {
    let Some(hip) = simulator("hip_ranges_are_found_over_many_blocks") else { return };
    let g = text::parse("graph @g(%x: f32[N]) { %y, %s, %z = dynamic_quantize_linear(%x) return %y, %s, %z }").unwrap();
    let loaded = load(hip, &g);
    let mut session = loaded.session(1);
    for (low, high) in
        [(-3.5f32, 9.25f32), (1.0, 2.0), (-2.0, -1.0), (0.0, 0.0), (f32::NEG_INFINITY, 1.0), (f32::NAN, 5.0)]
    {
        let mut v: Vec<f32> = (0..70_001).map(|i| if high == low { 0.0 } else { (i % 97) as f32 / 97.0 }).collect();
        (v[69_998], v[3]) = (low, high);
        let x = [Datum::from(Tensor::from_slice(&[v.len()], &v).unwrap())];
        let got = session.run(&x).unwrap().to_vec();
        for (got, want) in got.iter().zip(&eval::run(&g, &x).unwrap()) {
            compare(&format!("{low} to {high}"), &g, got, want);
        }
    }
}

#[test]
fn hip_quantised_lstms_agree_for_every_operand() {
    let long = |w: &str, z: &str, values: &str, s: &str, scales: &str, lengths: &str| {
        format!(
            "graph @g(%x: f32[S, B, 7], %w: {w}[2, 7, 160], %wr: {w}[2, 40, 160], %wb: f32[2, 320], %h0: f32[2, B, 40], %c0: f32[2, B, 40], %wp: f32[2, 120]{lengths}) {{ %s = const [{scales}] : f32[{s}] %z = const [{values}] : {w}[{z}] %y, %h, %c = dynamic_quantize_lstm(%x, %w, %wr, %wb, {}, %h0, %c0, %wp, %s, %z, %s, %z) {{direction = bidirectional, activations = [sigmoid, tanh, tanh, hard_sigmoid, softsign, tanh], alphas = [], betas = [], clip = 2.5}} return %y, %h, %c }}",
            if lengths.is_empty() { "_" } else { "%n" }
        )
    };
    on_device(
        "hip_quantised_lstms_agree_for_every_operand",
        &[
            long("u8", "2", "1, 3", "2", "0.01, 0.02", ""),
            long("i8", "2", "-1, 2", "2", "0.015, 0.005", ", %n: i32[B]"),
        ],
    );
}
