//! The source of the kernels, as one text per file that includes nothing.

use crate::table;

const PRELUDE: &str = include_str!("../hip/prelude.h");
const AMD: &str = include_str!("../hip/amd.h");
const NVIDIA: &str = include_str!("../hip/nvidia.h");
const SIMULATOR: &str = include_str!("../hip/simulator.h");
const WATCH: &str = include_str!("../hip/watch.h");
const COMMON: &str = include_str!("../hip/common.h");
const MATH: &str = include_str!("../hip/math.h");
const TILES: &str = include_str!("../hip/tiles.h");
const PACKED: &str = include_str!("../hip/packed.h");
const CODES: &str = include_str!("../hip/codes.h");
const SIGNATURES: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.h"));

/// Who compiles the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// clang or hipRTC, for an AMD GPU.
    Amd,
    /// NVRTC.
    Nvidia,
    /// clang or g++ for this processor.
    Simulator,
    /// clang for this processor, with every access held against the extents of its launch.
    Watched,
}

/// The whole text of a file's kernels; `None` when there is no such file.
pub fn source(file: &str, by: Source) -> Option<String> {
    let (_, text) = table::FILES.iter().find(|(name, _)| *name == file)?;
    Some(complete(text, by))
}

/// Text of kernels behind everything that they include.
pub(crate) fn complete(text: &str, by: Source) -> String {
    let platform = match by {
        Source::Amd => AMD,
        Source::Nvidia => NVIDIA,
        Source::Simulator | Source::Watched => SIMULATOR,
    };
    let watch = if by == Source::Watched { WATCH } else { "" };
    let own: String = text.lines().filter(|l| !l.starts_with("#include \"")).map(|l| format!("{l}\n")).collect();
    [PRELUDE, platform, watch, COMMON, MATH, TILES, PACKED, CODES, SIGNATURES, &own].map(without_guard).join("\n")
}

/// Each part is there once, and NVRTC warns of `#pragma once` in a main file.
fn without_guard(text: &str) -> String {
    text.lines().filter(|l| *l != "#pragma once").map(|l| format!("{l}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_includes_nothing_of_ours() {
        for (file, _) in table::FILES {
            for by in [Source::Amd, Source::Nvidia, Source::Simulator, Source::Watched] {
                let text = source(file, by).unwrap();
                assert!(!text.contains("#include \""), "{file}");
            }
        }
        assert_eq!(source("nothing", Source::Amd), None);
    }

    #[test]
    fn every_kernel_of_a_file_is_defined_in_it() {
        for kernel in table::ALL {
            let (_, text) = table::FILES.iter().find(|(name, _)| *name == kernel.file).unwrap();
            let defined = text.lines().any(|l| l.trim() == format!("KERNELS_{}", kernel.entry));
            assert!(defined, "hip/{}.hip does not say KERNELS_{}", kernel.file, kernel.entry);
        }
    }
}
