//! The passes of a compilation, in order.

use crate::driver::Stage;
use crate::{fold_constants, fold_shapes, merge_duplicates};

/// What every compilation runs, whatever the device.
pub fn standard() -> Vec<Stage> {
    vec![Stage::Repeat { passes: vec![fold_shapes::PASS, fold_constants::PASS, merge_duplicates::PASS], rounds: 4 }]
}

#[cfg(test)]
pub(crate) const EMPTY: crate::Pass = crate::Pass { name: "empty", body: crate::Body::Rules(&[]) };
