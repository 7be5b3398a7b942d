//! The passes of a compilation, in order.

use crate::driver::Stage;
use crate::{
    canonicalize, fold_constants, fold_shapes, fuse_attention, fuse_elementwise, fuse_epilogues, fuse_moe_gemm,
    fuse_norm, fuse_rope, inline_branches, merge_duplicates,
};

/// What every compilation runs, whatever the device.
pub fn standard() -> Vec<Stage> {
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
        Stage::Once(fuse_epilogues::PASS),
        Stage::Once(fuse_elementwise::PASS),
    ]
}

#[cfg(test)]
pub(crate) const EMPTY: crate::Pass = crate::Pass { name: "empty", body: crate::Body::Rules(&[]) };
