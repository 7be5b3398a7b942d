//! The bounds of kernels are as the manifest declares them. The simulator holds every access against its launch's extents (so
//! every test on it fails where one is too small); here, each extent is also no larger than what some launch touches: had it
//! been one byte shorter, an access would have been found outside of it.

mod common;

use common::{run_samples, simulator};
use ir::ops::{CORE_TABLE, HOST_TABLE};
use kernels::{ParamKind, table};
use std::collections::BTreeMap;

/// Of these, no sample reaches the last byte: caches are longer than what they hold.
const LONGER: &[&str] = &["cached64.keys", "cached64.values", "present.old"];

#[test]
fn hip_kernels_touch_all_that_they_declare_and_nothing_else() {
    let Some(hip) = simulator("hip_kernels_touch_all_that_they_declare_and_nothing_else") else { return };
    CORE_TABLE.iter().chain(HOST_TABLE).for_each(|op| run_samples(hip, op));
    let touched = hip.device().touched();
    if touched.is_empty() {
        println!("accesses are not watched here: that needs clang, and the simulator");
        return;
    }
    // By manifest entry: what holds for one element type holds for all.
    let mut whole: BTreeMap<String, bool> = BTreeMap::new();
    for kernel in table::ALL {
        let memory = kernel.params.iter().filter(|p| matches!(p.kind, ParamKind::Memory { .. } | ParamKind::Report));
        for (i, param) in memory.enumerate().filter(|(_, p)| p.kind != ParamKind::Report) {
            if let Some(seen) = touched.get(&(kernel.name.to_string(), i)) {
                *whole.entry(format!("{}.{}", kernel.entry, param.name)).or_default() |= seen.whole > 0;
            }
        }
    }
    let larger: Vec<&String> = whole.iter().filter(|(_, whole)| !**whole).map(|(name, _)| name).collect();
    assert_eq!(larger, LONGER, "of {}, the extents that are larger than what is touched", whole.len());
    println!("{} extents, each touched to its last byte by some launch but {} caches", whole.len(), LONGER.len());
}
