//! Kernels that pad, scatter, resize and accumulate, at shapes and values that samples do not have.

mod common;

use common::{Random, compare, load, on_host, run_both, simulator, tensor};
use ir::{Datum, Tensor, eval, text};
use std::collections::BTreeMap;

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

#[test]
fn hip_pads_agree_in_every_mode() {
    let mut graphs = vec![];
    for (mode, dtype) in [("constant", "f32"), ("reflect", "f16"), ("edge", "i64"), ("wrap", "bool")] {
        // Pads that go around several times, pads that cut, and both at once.
        for (x, pads, axes) in [
            ("[2, 3, N]", "7, -1, 11, 2", "[1, 0]"),
            ("[1, 1, N]", "0, 9, -1, N, 5, 1", "[0, 1, 2]"),
            ("[N, 2]", "0, 0", "[-1]"),
        ] {
            graphs.push(format!(
                "graph @g(%x: {dtype}{x}) {{ %y = pad(%x) {{mode = {mode}, pads = [{pads}], axes = {axes}}} return %y }}"
            ));
        }
    }
    graphs.push("graph @g(%x: u8[N, 0, 2], %v: u8[1]) { %y = pad(%x, %v) {mode = constant, pads = [2, 3], axes = [1]} return %y }".into());
    on_device("hip_pads_agree_in_every_mode", &graphs);
}

#[test]
fn hip_resizes_agree_for_every_coordinate() {
    let mut graphs = vec![];
    for c in
        ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_floor"]
    {
        for (mode, more) in [
            ("nearest", "rounding = half_up"),
            ("nearest", "rounding = ceil"),
            ("linear", "exclude_outside = false"),
            ("cubic", "cubic_a = -0.5, exclude_outside = true"),
        ] {
            let attrs = format!("roi = [], mode = {mode}, coordinates = {c}, {more}");
            graphs.push(format!("graph @g(%x: f32[2, H, 3, 5, 1]) {{ %y = resize(%x) {{sizes = [2, 2*H + 1, 3, 3, 1], scales = [], {attrs}}} return %y }}"));
            graphs.push(format!("graph @g(%x: f16[3, 7]) {{ %y = resize(%x) {{sizes = [3, 1], scales = [1.0, 0.15], {attrs}}} return %y }}"));
        }
    }
    graphs.push("graph @g(%x: i64[N, 4]) { %y = resize(%x) {sizes = [N, 11], scales = [1.0, 2.75], roi = [], mode = nearest, coordinates = asymmetric, rounding = floor} return %y }".into());
    graphs.push("graph @g(%x: f32[N, 4]) { %y = resize(%x) {sizes = [N, 4], scales = [], roi = [], mode = linear, coordinates = half_pixel} return %y }".into());
    on_device("hip_resizes_agree_for_every_coordinate", &graphs);
}

#[test]
fn hip_scatters_agree_where_updates_meet() {
    let mut graphs = vec![];
    for f in ["none", "add", "mul", "max", "min"] {
        for dtype in ["f32", "bf16", "f16", "i64", "i32"] {
            graphs.push(format!("graph @g(%x: {dtype}[3, N, 2], %i: i64[3, 40, 1], %u: {dtype}[3, 40, 1]) {{ %y = scatter_elements(%x, %i, %u) {{axis = 1, reduction = {f}}} return %y }}"));
            graphs.push(format!("graph @g(%x: {dtype}[3, 4, N], %i: i32[2, 9, 2], %u: {dtype}[2, 9, N]) {{ %y = scatter_nd(%x, %i, %u) {{reduction = {f}}} return %y }}"));
        }
    }
    graphs.push("graph @g(%x: bool[3, N], %i: i64[3, 2], %u: bool[3, 2]) { %y = scatter_elements(%x, %i, %u) {axis = 1, reduction = none} return %y }".into());
    graphs.push(
        "graph @g(%x: f64[3], %i: i64[4, 1], %u: f64[4]) { %y = scatter_nd(%x, %i, %u) {reduction = none} return %y }"
            .into(),
    );
    on_device("hip_scatters_agree_where_updates_meet", &graphs);
}

/// Sums that are taken in the order of the updates are the same in every run, to the bit.
#[test]
fn hip_scatters_give_the_same_bits_again() {
    let Some(hip) = simulator("hip_scatters_give_the_same_bits_again") else { return };
    let t = "graph @g(%x: f32[7, 33], %i: i64[500, 33], %u: f32[500, 33]) { %y = scatter_elements(%x, %i, %u) {axis = 0, reduction = add} return %y }";
    let g = text::parse(t).unwrap();
    let mut random = Random(9);
    let inputs: Vec<Datum> =
        g.inputs.iter().map(|n| tensor(&g, (*n).into(), &BTreeMap::new(), &mut random, false).into()).collect();
    let loaded = load(hip, &g);
    let run = || loaded.session(1).run(&inputs).unwrap()[0].clone();
    let first = run();
    assert!((0..5).all(|_| run() == first));
    compare("scatter", &g, &first, &eval::run(&g, &inputs).unwrap()[0]);
}

#[test]
fn hip_scatters_report_an_index_that_is_out_of_range() {
    let Some(hip) = simulator("hip_scatters_report_an_index_that_is_out_of_range") else { return };
    for t in [
        "graph @g(%x: f32[4], %i: i64[3], %u: f32[3]) { %y = scatter_elements(%x, %i, %u) {axis = 0, reduction = add} return %y }",
        "graph @g(%x: f32[4], %i: i64[3, 1], %u: f32[3]) { %y = scatter_nd(%x, %i, %u) {reduction = none} return %y }",
    ] {
        let g = text::parse(t).unwrap();
        let loaded = load(hip, &g);
        let mut session = loaded.session(1);
        let x = Datum::from(Tensor::from_slice(&[4], &[1f32; 4]).unwrap());
        let u = Datum::from(Tensor::from_slice(&[3], &[1f32; 3]).unwrap());
        let dims = g.tensor_ty(g.inputs[1].into()).unwrap().dims().unwrap().len();
        let dims = [3, 1][..dims].to_vec();
        let mut run = |ids: [i64; 3]| {
            let ids = Tensor::from_slice(&dims, &ids).unwrap().into();
            session.run(&[x.clone(), ids, u.clone()]).map(|_| ())
        };
        for index in [4, -5, i64::MIN] {
            let error = run([0, index, 1]).unwrap_err().to_string();
            assert!(error.contains(&format!("index {index} is out of range")), "{error}");
        }
        run([0, -4, 3]).expect("the next run succeeds");
    }
}

#[test]
fn hip_sums_and_triangles_agree() {
    let mut graphs = vec![];
    for (dtype, attrs) in [
        ("f32", "axis = 1"),
        ("f16", "axis = 0, reverse = true"),
        ("bf16", "axis = 2, exclusive = true"),
        ("i64", "axis = -2, exclusive = true, reverse = true"),
        ("i32", "axis = 2"),
    ] {
        graphs.push(format!("graph @g(%x: {dtype}[3, N, 5]) {{ %y = cum_sum(%x) {{{attrs}}} %z = cum_prod(%x) {{{attrs}}} return %y, %z }}"));
    }
    for dtype in ["f32", "f16", "bool", "i64"] {
        graphs.push(format!("graph @g(%x: {dtype}[N, 5, 3]) {{ %y = trilu(%x) {{upper = true, diagonal = 7 - N}} %z = trilu(%x) {{diagonal = -9}} return %y, %z }}"));
    }
    graphs.push("graph @g(%x: f32[300, N]) { %y = cum_sum(%x) {axis = 0} return %y }".into());
    on_device("hip_sums_and_triangles_agree", &graphs);
}

#[test]
fn hip_gradients_of_convolutions_agree() {
    let test = "hip_gradients_of_convolutions_agree";
    let attrs = |s: &str, p: &str, d: &str, o: &str, g: u32| {
        format!("strides = [{s}], pads = [{p}], dilations = [{d}], output_padding = [{o}], group = {g}")
    };
    on_device(
        test,
        &[
            format!(
                "graph @g(%x: f32[N, 6, H, 4], %w: f32[6, 5, 3, 2], %b: f32[10]) {{ %y = conv_transpose(%x, %w, %b) {{{}}} return %y }}",
                attrs("3, 2", "1, 0, 2, 1", "2, 3", "2, 1", 2)
            ),
            format!(
                "graph @g(%x: f16[2, 4, T], %w: f16[4, 1, 5]) {{ %y = conv_transpose(%x, %w) {{{}}} return %y }}",
                attrs("2", "-1, 2", "1", "0", 4)
            ),
            format!(
                "graph @g(%x: bf16[N, 2, 2, 3, 2], %w: f32[2, 3, 2, 1, 2]) {{ %y = conv_transpose(%x, %w) {{{}}} return %y }}",
                attrs("1, 2, 2", "0, 0, 0, 0, 0, 0", "1, 1, 1", "0, 1, 0", 1)
            ),
        ],
    );
}

#[test]
fn hip_group_norms_agree() {
    on_device(
        "hip_group_norms_agree",
        &[
            "graph @g(%x: f16[N, 6, 5], %s: f16[6], %b: f16[6]) { %y = group_norm(%x, %s, %b) {groups = 2, eps = 1e-5} return %y }".into(),
            "graph @g(%x: bf16[2, C, 3, 3, 40], %s: bf16[C], %b: bf16[C]) { %y = group_norm(%x, %s, %b) {groups = 1, eps = 1e-3} return %y }".into(),
            "graph @g(%x: f32[N, 3], %s: f32[3], %b: f32[3]) { %y = group_norm(%x, %s, %b) {groups = 3, eps = 1e-5} return %y }".into(),
        ],
    );
}
