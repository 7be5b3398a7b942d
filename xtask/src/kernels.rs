//! `cargo xtask kernels`: compiles every device kernel for AMD's architectures, checks what came out, and writes
//! docs/kernels.md. With `--check` the page is compared instead.
//!
//! A kernel must not spill registers, must keep to the shared memory that the manifest allows, and must hold matrix
//! instructions where the manifest says so. Needs clang, llvm-readelf and llvm-objdump of one version, 17 or newer.

use ::kernels::{Source, source, table};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The first is the one that the page shows.
const ARCHES: [&str; 3] = ["gfx1151", "gfx1100", "gfx1150"];
/// Versions of the tools, in order of preference; nothing is the one without a number.
const VERSIONS: [&str; 7] = ["-19", "-20", "-21", "-22", "-18", "-17", ""];
const PAGE: &str = "docs/kernels.md";
/// Registers that a kernel may take: with more, fewer than 6 waves fit a SIMD of 1536.
const MOST_VGPRS: u64 = 256;

/// What the compiler says of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    vgprs: u64,
    sgprs: u64,
    spills: u64,
    lds: u64,
    private: u64,
    code: u64,
    matrix: u64,
}

/// Compiles, checks, and writes or compares the page.
pub fn run(root: &Path, only_check: bool) -> Result<(), String> {
    let works = |v: &&&str| {
        let tool = |name: &str| Command::new(format!("{name}{v}")).arg("--version").output().is_ok();
        tool("clang++") && tool("llvm-readelf") && tool("llvm-objdump")
    };
    let version = VERSIONS.iter().find(works).ok_or("clang++, llvm-readelf and llvm-objdump are needed: clang-19")?;
    let folder = root.join("target/kernels");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut page = None;
    let mut findings = vec![];
    for arch in ARCHES {
        let mut all = BTreeMap::new();
        for (file, _) in table::FILES {
            let object = compile(&folder, file, arch, version)?;
            all.extend(facts(&object, arch, version)?);
        }
        findings.extend(check(arch, &all));
        page.get_or_insert_with(|| text(arch, &all));
        println!("{arch}: {} kernels of {} files", all.len(), table::FILES.len());
    }
    let page = page.expect("there is an architecture");
    let at = root.join(PAGE);
    if only_check {
        let known = fs::read_to_string(&at).unwrap_or_default();
        if names(&known) != names(&page) {
            findings.push(format!("{PAGE} does not list the kernels that there are: run cargo xtask kernels"));
        }
    } else {
        fs::write(&at, page).map_err(|e| format!("{PAGE}: {e}"))?;
    }
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() { Ok(()) } else { Err(format!("kernels: {} findings", findings.len())) }
}

fn compile(folder: &Path, file: &str, arch: &str, version: &str) -> Result<std::path::PathBuf, String> {
    let text = source(file, Source::Amd).ok_or_else(|| format!("there is no kernel file {file}"))?;
    let (from, to) = (folder.join(format!("{file}.hip")), folder.join(format!("{file}.{arch}.hsaco")));
    fs::write(&from, text).map_err(|e| e.to_string())?;
    let mut clang = Command::new(format!("clang++{version}"));
    clang.args(["-x", "hip", "--cuda-device-only", "-nogpuinc", "-nogpulib", "-std=c++17", "-O3", "-Wall", "-Werror"]);
    clang.args(["-Wno-unused-function", "-mcode-object-version=5", "-fno-gpu-rdc", "--no-gpu-bundle-output"]);
    clang.arg(format!("--offload-arch={arch}")).arg("-c").arg(&from).arg("-o").arg(&to);
    output(&mut clang).map(|_| to)
}

fn output(command: &mut Command) -> Result<String, String> {
    let done = command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(format!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&done.stderr))),
    }
}

fn facts(object: &Path, arch: &str, version: &str) -> Result<BTreeMap<String, Facts>, String> {
    let notes = output(Command::new(format!("llvm-readelf{version}")).arg("--notes").arg(object))?;
    let mut found = of_notes(&notes);
    let symbols = output(Command::new(format!("llvm-readelf{version}")).args(["-sW"]).arg(object))?;
    for line in symbols.lines().filter(|l| l.contains(" FUNC ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let (Some(size), Some(name)) = (words.get(2), words.last())
            && let Some(facts) = found.get_mut(*name)
        {
            facts.code = size.parse().unwrap_or(0);
        }
    }
    let listing =
        output(Command::new(format!("llvm-objdump{version}")).args(["-d", &format!("--mcpu={arch}")]).arg(object))?;
    let mut now = None;
    for line in listing.lines() {
        if let Some(name) = line.split_once(" <").and_then(|(_, rest)| rest.strip_suffix(">:")) {
            now = Some(name.to_string());
        } else if line.contains("v_wmma_")
            && let Some(facts) = now.as_ref().and_then(|name| found.get_mut(name))
        {
            facts.matrix += 1;
        }
    }
    Ok(found)
}

/// The kernels that the metadata of a code object describes. Keys of one kernel come in alphabetical order, its name amid
/// them; `.agpr_count` or `.args` begins the next.
fn of_notes(notes: &str) -> BTreeMap<String, Facts> {
    let mut found = BTreeMap::new();
    let (mut facts, mut name) = (Facts::default(), None);
    let mut close = |name: &mut Option<String>, facts: &mut Facts| {
        if let Some(name) = name.take() {
            found.insert(name, std::mem::take(facts));
        }
    };
    for line in notes.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some((key, value)) = line.trim().trim_start_matches("- ").split_once(':') else { continue };
        let value = value.trim();
        let number = || value.parse().unwrap_or(0);
        match key {
            // Names of arguments are deeper.
            ".name" if indent <= 6 => name = Some(value.trim_matches('\'').to_string()),
            ".vgpr_count" => facts.vgprs = number(),
            ".sgpr_count" => facts.sgprs = number(),
            ".vgpr_spill_count" | ".sgpr_spill_count" => facts.spills += number(),
            ".group_segment_fixed_size" => facts.lds = number(),
            ".private_segment_fixed_size" => facts.private = number(),
            // The last key of a kernel.
            ".wavefront_size" => close(&mut name, &mut facts),
            _ => {}
        }
    }
    found
}

fn check(arch: &str, all: &BTreeMap<String, Facts>) -> Vec<String> {
    let mut findings = vec![];
    for kernel in table::ALL {
        let Some(facts) = all.get(kernel.name) else {
            findings.push(format!("{arch}: {} is in the manifest, but not in the code", kernel.name));
            continue;
        };
        let mut find = |problem: String| findings.push(format!("{arch}: {}: {problem}", kernel.name));
        if facts.spills > 0 {
            find(format!("spills {} registers", facts.spills));
        }
        if facts.vgprs > MOST_VGPRS {
            find(format!("takes {} vector registers, at most {MOST_VGPRS} are allowed", facts.vgprs));
        }
        if facts.lds > u64::from(kernel.lds) {
            find(format!("takes {} bytes of shared memory, the manifest allows {}", facts.lds, kernel.lds));
        }
        if kernel.matrix && facts.matrix == 0 {
            find("has no matrix instruction".to_string());
        }
    }
    findings
}

fn text(arch: &str, all: &BTreeMap<String, Facts>) -> String {
    let mut page = format!(
        "# Device kernels\n\nWritten by `cargo xtask kernels` from kernels/manifest.yaml and the code objects for {arch}. \
         Private bytes are memory of a thread: the registers of the interpreter of `map`.\n\n"
    );
    page += "| kernel | operators | block | vgprs | sgprs | lds | private | code | wmma |\n";
    page += "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for kernel in table::ALL {
        let f = all.get(kernel.name).cloned().unwrap_or_default();
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            kernel.name, kernel.op, kernel.block, f.vgprs, f.sgprs, f.lds, f.private, f.code, f.matrix
        );
    }
    page
}

/// The kernels of a page; their figures depend on the compiler's version.
fn names(page: &str) -> Vec<&str> {
    page.lines().filter_map(|l| l.strip_prefix("| ")?.split(" |").next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_two_kernels_are_kept_apart() {
        let notes = "amdhsa.kernels:\n  - .args:\n      - .name:           x\n        .size:           8\n    \
             .group_segment_fixed_size: 32\n    .name:           a_f32\n    .private_segment_fixed_size: 0\n    \
             .sgpr_count:     18\n    .sgpr_spill_count: 0\n    .vgpr_count:     12\n    .vgpr_spill_count: 3\n    \
             .wavefront_size: 32\n  - .args:           []\n    .group_segment_fixed_size: 0\n    .name:           b\n    \
             .vgpr_count:     5\n    .wavefront_size: 32\n";
        let found = of_notes(notes);
        assert_eq!((found["a_f32"].vgprs, found["a_f32"].spills, found["a_f32"].lds), (12, 3, 32));
        assert_eq!((found["b"].vgprs, found["b"].spills), (5, 0));
        assert_eq!(found.len(), 2);
    }
}
