//! Kernels that slide windows, at sizes that samples do not have: several tiles, groups, strides, dilations and pads that are
//! larger than the window, empty inputs, and numbers that are none.

mod common;

use common::{Random, load, on_host, run_both, simulator};
use ir::text;

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

fn conv(operands: &str, attrs: &str) -> String {
    let names: Vec<&str> = operands.split("%").skip(1).filter_map(|o| o.split(':').next()).collect();
    let names: Vec<String> = names.iter().map(|n| format!("%{n}")).collect();
    format!("graph @g({operands}) {{ %y = conv({}) {{{attrs}}} return %y }}", names.join(", "))
}

#[test]
fn hip_convolutions_agree_for_every_shape_of_tiles() {
    let test = "hip_convolutions_agree_for_every_shape_of_tiles";
    on_device(
        test,
        &[
            // Several tiles both ways; rows, columns and k that fill none.
            conv(
                "%x: f32[N, 5, H, 11], %w: f32[70, 5, 3, 3], %b: f32[70]",
                "strides = [1, 1], pads = [1, 1, 1, 1], dilations = [1, 1], group = 1, act = gelu",
            ),
            // Tiles of few channels, in groups, with strides and dilations.
            conv(
                "%x: f32[2, 9, H, 14], %w: f32[57, 3, 2, 3], %b: f32[57]",
                "strides = [2, 3], pads = [2, 0, 1, 4], dilations = [1, 2], group = 3, act = hard_swish",
            ),
            // Pads that are larger than the window: whole windows of padding.
            conv(
                "%x: f32[N, 4, 3, 3], %w: f32[9, 4, 2, 2], %b: f32[9], %r: f32[N, 9, 12, 10]",
                "strides = [1, 1], pads = [5, 4, 5, 4], dilations = [1, 1], group = 1, act = leaky_relu, alpha = 0.3",
            ),
            conv(
                "%x: f32[N, 40, 1, 1], %w: f32[65, 40, 1, 1]",
                "strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1], group = 1, act = sigmoid",
            ),
            conv(
                "%x: f32[1, 16, T], %w: f32[33, 16, 5], %b: f32[33]",
                "strides = [2], pads = [8, -1], dilations = [3], group = 1, act = elu, alpha = 0.7",
            ),
            conv(
                "%x: f32[N, 3, 4, H, 5], %w: f32[12, 3, 2, 3, 2]",
                "strides = [1, 2, 1], pads = [1, 1, 0, 1, 1, 1], dilations = [2, 1, 1], group = 1, act = mish",
            ),
            // Few tiles and long sums: computed in parts, the last of which is shorter.
            conv(
                "%x: f32[N, 61, 5, 6], %w: f32[66, 61, 3, 3], %b: f32[66], %r: f32[N, 66, 5, 6]",
                "strides = [1, 1], pads = [1, 1, 1, 1], dilations = [1, 1], group = 1, act = silu",
            ),
            conv(
                "%x: bf16[N, 72, H, 2], %w: bf16[80, 36, 3, 3]",
                "strides = [1, 1], pads = [1, 1, 1, 1], dilations = [1, 1], group = 2",
            ),
            // No channels at all: the bias alone.
            conv(
                "%x: f32[N, 0, 4, 4], %w: f32[9, 0, 2, 2], %b: f32[9]",
                "strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1], group = 1",
            ),
        ],
    );
}

#[test]
fn hip_convolutions_agree_in_narrow_element_types() {
    let test = "hip_convolutions_agree_in_narrow_element_types";
    let attrs = "strides = [1, 1], pads = [1, 0, 1, 2], dilations = [1, 1], group = 1, act = softplus";
    let mut graphs = vec![];
    for (x, w) in [("f16", "f16"), ("bf16", "bf16"), ("f16", "f32"), ("f32", "bf16")] {
        for m in [70, 20, 3] {
            let operands = format!("%x: {x}[N, 6, 7, 5], %w: {w}[{m}, 6, 3, 3], %b: {x}[{m}], %r: {x}[N, {m}, 7, 5]");
            graphs.push(conv(&operands, attrs));
        }
    }
    on_device(test, &graphs);
}

#[test]
fn hip_depthwise_convolutions_agree() {
    let test = "hip_depthwise_convolutions_agree";
    on_device(
        test,
        &[
            conv(
                "%x: f32[N, 7, H, 9], %w: f32[7, 1, 5, 5], %b: f32[7]",
                "strides = [2, 1], pads = [2, 2, 2, 2], dilations = [1, 1], group = 7, act = hard_sigmoid",
            ),
            // Three results of each channel.
            conv(
                "%x: f16[N, 4, H, 6], %w: f16[12, 1, 3, 1], %b: f16[12]",
                "strides = [1, 1], pads = [3, 0, 3, 0], dilations = [2, 1], group = 4, act = clip, alpha = -0.5, beta = 0.5",
            ),
            conv(
                "%x: bf16[N, 6, T], %w: bf16[6, 1, 4]",
                "strides = [1], pads = [], dilations = [1], group = 6, same = lower, act = tanh",
            ),
        ],
    );
}

#[test]
fn hip_pools_agree_for_every_window() {
    let test = "hip_pools_agree_for_every_window";
    let mut graphs = vec![];
    for f in ["max", "average", "lp"] {
        for (x, attrs) in [
            // Windows that lie in the padding whole, where nothing is counted.
            ("f32[N, 3, 5, 4]", "kernel = [2, 2], strides = [1, 2], pads = [3, 1, 4, 2], dilations = [1, 1]"),
            (
                "f16[N, 2, H, 9]",
                "kernel = [3, 2], strides = [2, 3], pads = [1, 1, 0, 1], dilations = [2, 3], ceil = true",
            ),
            (
                "bf16[2, 3, T]",
                "kernel = [5], strides = [3], pads = [], dilations = [1], same = upper, count_pads = true",
            ),
            (
                "f32[N, 1, 3, H, 4]",
                "kernel = [2, 1, 2], strides = [1, 1, 2], pads = [1, 0, 0, 0, 0, 1], dilations = [1, 1, 1], count_pads = true, ceil = true, p = 3",
            ),
            // One window that is the whole image.
            (
                "f32[N, 2, 17, 19]",
                "kernel = [17, 19], strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1], p = 1",
            ),
            ("f32[N, 2, 1, 1]", "kernel = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1]"),
        ] {
            graphs.push(format!("graph @g(%x: {x}) {{ %y = pool(%x) {{f = {f}, {attrs}}} return %y }}"));
        }
    }
    on_device(test, &graphs);
}
