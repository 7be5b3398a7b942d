//! The passes of a compilation, in order.

use crate::driver::Stage;
use crate::{
    batch_kv_writes, canonicalize, fold_constants, fold_shapes, fuse_attention, fuse_elementwise, fuse_epilogues,
    fuse_moe_gemm, fuse_norm, fuse_rope, group_linears, inline_branches, join_experts, join_ropes, join_routers,
    keep_heads_inside, lower_group_query_attention, lower_tensor_scatter, make_kv_stateful, merge_duplicates,
    narrow_floats, sink_transposes,
};
use ir::DType;

/// What every compilation runs, whatever the device.
pub fn standard() -> Vec<Stage> {
    [recognise(), main(), finish()].concat()
}

/// Says in named operators what a model computes; the entry `step` is made of the result.
pub fn recognise() -> Vec<Stage> {
    vec![
        Stage::Repeat {
            passes: vec![
                fold_shapes::PASS,
                inline_branches::PASS,
                canonicalize::PASS,
                fold_constants::PASS,
                merge_duplicates::PASS,
            ],
            rounds: 4,
        },
        Stage::Once(fuse_norm::PASS),
        Stage::Once(fuse_rope::PASS),
        Stage::Once(fuse_attention::PASS),
        Stage::Once(fuse_moe_gemm::PASS),
    ]
}

/// Makes the graph of `main` that of `step`, where it is a decoder over caches.
pub fn step() -> Vec<Stage> {
    vec![
        Stage::Once(make_kv_stateful::PASS),
        Stage::Once(batch_kv_writes::PASS),
        Stage::Once(keep_heads_inside::PASS),
        // Two reshapes meet where a transpose was.
        Stage::Once(canonicalize::PASS),
    ]
}

/// Says caches that stay operands in the operators that everything else is said in; after the entry `step` was made.
pub fn main() -> Vec<Stage> {
    vec![
        Stage::Once(lower_group_query_attention::PASS),
        Stage::Once(lower_tensor_scatter::PASS),
        // Writes of one layer go to the same places.
        Stage::Once(merge_duplicates::PASS),
        Stage::Once(batch_kv_writes::PASS),
    ]
}

/// Fuses what is left, entry by entry.
pub fn finish() -> Vec<Stage> {
    [tidy(), vec![Stage::Once(fuse_elementwise::PASS)]].concat()
}

/// [`finish`] for a device, where a launch costs time.
pub fn finish_for_device() -> Vec<Stage> {
    let fewer = [join_ropes::PASS, join_routers::PASS, join_experts::PASS, group_linears::PASS];
    [tidy(), fewer.map(Stage::Once).to_vec(), vec![Stage::Once(fuse_elementwise::PASS)]].concat()
}

/// The beginning of [`finish`] and [`finish_for_device`].
fn tidy() -> Vec<Stage> {
    vec![Stage::Once(sink_transposes::PASS), Stage::Once(fuse_epilogues::PASS)]
}

/// [`finish`] or [`finish_for_device`] with f32 narrowed to `to`, which is f16 or bf16: factors have become part of weights by
/// then, and what joins operators sees the types that they will have.
pub fn narrowed(finish: Vec<Stage>, to: DType) -> Vec<Stage> {
    let pass = if to == DType::F16 { narrow_floats::TO_F16 } else { narrow_floats::TO_BF16 };
    let at = tidy().len();
    [&finish[..at], &[Stage::Once(pass)], &finish[at..]].concat()
}

#[cfg(test)]
pub(crate) const EMPTY: crate::Pass = crate::Pass { name: "empty", body: crate::Body::Rules(&[]) };
