//! Every operator's samples give on the simulator of the HIP backend what the reference evaluation gives: on the device where
//! there is a kernel, else on the host within the same plan.

mod common;

use common::{on_host, run_samples, simulator};
use ir::ops::{CORE_TABLE, HOST_TABLE};
use ir::text;

#[test]
fn hip_samples_agree_with_the_reference() {
    let Some(hip) = simulator("hip_samples_agree_with_the_reference") else { return };
    let mut failed = vec![];
    for op in CORE_TABLE.iter().chain(HOST_TABLE) {
        let one = || run_samples(hip, op);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(one)).is_err() {
            failed.push(op.name);
        }
    }
    assert!(failed.is_empty(), "these do not agree: {failed:?}");
}

/// Operators whose samples run on the device whole.
#[test]
fn hip_kernels_are_used_where_they_are_meant_to_be() {
    let Some(hip) = simulator("hip_kernels_are_used_where_they_are_meant_to_be") else { return };
    let device = [
        "arg_reduce",
        "binary",
        "compare",
        "concat",
        "conv",
        "conv_transpose",
        "cumulate",
        "dynamic_quantize_linear",
        "dynamic_quantize_lstm",
        "expand",
        "expert_index",
        "fill",
        "gather",
        "gather_nd",
        "group_norm",
        "gru",
        "linear",
        "linears",
        "linears_nbits",
        "lstm",
        "map",
        "matmul_integer",
        "matmul_nbits",
        "moe_join",
        "moe_route",
        "moe_route_index",
        "pad",
        "pool",
        "range",
        "rope",
        "scatter_elements",
        "scatter_nd",
        "select",
        "softmax",
        "top_k",
        "transpose",
        "trilu",
        "unary",
    ];
    for op in CORE_TABLE.iter().filter(|op| device.contains(&op.name)) {
        for sample in op.samples {
            let loaded = common::load(hip, &text::parse(sample).unwrap());
            assert_eq!(on_host(loaded.plan()), [""; 0], "{sample}");
        }
    }
}
