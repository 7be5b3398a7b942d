//! Reference evaluations of neural-network operators against values worked out by hand.

use ir::{Datum, Tensor, eval, text};

fn run(graph: &str, inputs: &[Datum]) -> Vec<Tensor> {
    let g = text::parse(graph).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    let results = eval::run(&g, inputs).unwrap_or_else(|e| panic!("{e}"));
    results.into_iter().map(|d| d.as_tensor().expect("a tensor").clone()).collect()
}

fn floats(dims: &[usize], values: &[f32]) -> Datum {
    Tensor::from_slice(dims, values).unwrap().into()
}

fn near(found: &Tensor, expected: &[f64]) {
    let found = found.to_f64().unwrap();
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() < 1e-5, "found {found:?}, expected {expected:?}");
    }
}

#[test]
fn a_convolution_sums_its_window_and_then_adds_bias_and_residual() {
    let y = run(
        "graph @g(%x: f32[1, 1, 2, 3], %w: f32[1, 1, 2, 2], %b: f32[1], %r: f32[1, 1, 1, 2]) { %y = conv(%x, %w, %b, %r) {strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1], group = 1, act = relu} return %y }",
        &[
            floats(&[1, 1, 2, 3], &[1., 2., 3., 4., 5., 6.]),
            floats(&[1, 1, 2, 2], &[1., 0., 0., -2.]),
            floats(&[1], &[10.]),
            floats(&[1, 1, 1, 2], &[0.5, -20.]),
        ],
    );
    near(&y[0], &[1.0 - 10.0 + 10.5, 0.0]);
}

#[test]
fn a_transposed_convolution_spreads_each_element_over_its_window() {
    let y = run(
        "graph @g(%x: f32[1, 1, 2], %w: f32[1, 1, 3]) { %y = conv_transpose(%x, %w) {strides = [2], pads = [1, 0], dilations = [1], output_padding = [0], group = 1} return %y }",
        &[floats(&[1, 1, 2], &[1., 10.]), floats(&[1, 1, 3], &[1., 2., 3.])],
    );
    near(&y[0], &[2., 13., 20., 30.]);
}

#[test]
fn padding_counts_in_an_average_only_when_asked() {
    let graph = |count: &str| {
        format!(
            "graph @g(%x: f32[1, 1, 3]) {{ %y = pool(%x) {{f = average, kernel = [2], strides = [2], pads = [1, 0], dilations = [1]{count}}} return %y }}"
        )
    };
    let x = [floats(&[1, 1, 3], &[4., 6., 8.])];
    near(&run(&graph(""), &x)[0], &[4., 7.]);
    near(&run(&graph(", count_pads = true"), &x)[0], &[2., 7.]);
}

#[test]
fn attention_with_equal_scores_is_the_mean_of_the_keys_it_sees() {
    let y = run(
        "graph @g(%q: f32[1, 1, 2, 1], %k: f32[1, 1, 2, 1], %v: f32[1, 1, 2, 1], %pk: f32[1, 1, 1, 1], %pv: f32[1, 1, 1, 1]) { %y, %nk, %nv = attention(%q, %k, %v, _, %pk, %pv) {causal = true, present = true} return %y, %nk, %nv }",
        &[
            floats(&[1, 1, 2, 1], &[0., 0.]),
            floats(&[1, 1, 2, 1], &[5., 6.]),
            floats(&[1, 1, 2, 1], &[3., 8.]),
            floats(&[1, 1, 1, 1], &[7.]),
            floats(&[1, 1, 1, 1], &[1.]),
        ],
    );
    near(&y[0], &[2., 4.]);
    near(&y[1], &[7., 5., 6.]);
    near(&y[2], &[1., 3., 8.]);
}

#[test]
fn a_row_that_sees_no_key_is_zero() {
    let y = run(
        "graph @g(%q: f32[1, 1, 1, 1], %k: f32[1, 1, 2, 1], %m: bool[1, 2]) { %y = attention(%q, %k, %k, %m) {} return %y }",
        &[
            floats(&[1, 1, 1, 1], &[1.]),
            floats(&[1, 1, 2, 1], &[1., 2.]),
            Tensor::from_bools(&[1, 2], &[false, false]).unwrap().into(),
        ],
    );
    near(&y[0], &[0.]);
}

#[test]
fn a_sequence_ends_at_its_length_in_both_directions() {
    let y = run(
        "graph @g(%x: f32[3, 1, 1], %w: f32[2, 1, 1], %r: f32[2, 1, 1], %n: i32[1]) { %y, %h = rnn(%x, %w, %r, _, %n) {direction = bidirectional, activations = [affine, affine], alphas = [], betas = []} return %y, %h }",
        &[
            floats(&[3, 1, 1], &[1., 2., 4.]),
            floats(&[2, 1, 1], &[1., 1.]),
            floats(&[2, 1, 1], &[10., 10.]),
            Tensor::from_slice(&[1], &[2i32]).unwrap().into(),
        ],
    );
    near(&y[0], &[1., 21., 12., 2., 0., 0.]);
    near(&y[1], &[12., 21.]);
}

#[test]
fn quantising_rounds_ties_to_even_and_saturates() {
    let y = run(
        "graph @g(%x: f32[5]) { %s = const [2.0] : f32[1] %z = const [100] : u8[1] %y = quantize_linear(%x, %s, %z) {axis = 0, block = 0, to = u8} %d = dequantize_linear(%y, %s, %z) {axis = 0, block = 0, to = f32} return %y, %d }",
        &[floats(&[5], &[1., 3., -5., 1000., -1000.])],
    );
    near(&y[0], &[100., 102., 98., 255., 0.]);
    near(&y[1], &[0., 4., -4., 310., -200.]);
}

#[test]
fn packed_codes_are_read_low_bits_first() {
    let y = run(
        "graph @g(%x: f32[1, 4], %w: u8[1, 1, 2], %s: f32[1]) { %y = matmul_nbits(%x, %w, %s) {bits = 4, block = 4, n = 1, k = 4} return %y }",
        &[
            floats(&[1, 4], &[1., 10., 100., 1000.]),
            Tensor::from_slice(&[1, 1, 2], &[0x98u8, 0x7au8]).unwrap().into(),
            floats(&[1], &[0.5]),
        ],
    );
    near(&y[0], &[0.5 * (0. + 10. + 200. - 1000.)]);
}

#[test]
fn nearest_samples_repeat_and_linear_ones_blend() {
    let graph = |mode: &str| {
        format!("graph @g(%x: f32[2]) {{ %y = resize(%x) {{sizes = [4], scales = [], roi = [], {mode}}} return %y }}")
    };
    let x = [floats(&[2], &[0., 4.])];
    near(&run(&graph("mode = nearest, coordinates = asymmetric, rounding = floor"), &x)[0], &[0., 0., 4., 4.]);
    near(&run(&graph("mode = linear, coordinates = half_pixel"), &x)[0], &[0., 1., 3., 4.]);
}

#[test]
fn sizes_beyond_memory_are_errors() {
    let graph = text::parse("graph @g(%v: f32[]) { %y = fill(%v) {shape = [1099511627776, 64]} return %y }").unwrap();
    let error = eval::run(&graph, &[Tensor::scalar(1.0f32).into()]).unwrap_err();
    assert!(error.to_string().contains("too large for memory"), "{error}");
}
