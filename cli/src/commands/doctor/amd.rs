//! What Linux says about AMD GPUs: its files are read, nothing is run and nothing needs to be installed.
//!
//! The root is a parameter, so that tests describe machines as folders.

use super::version::Version;
use serde::Serialize;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// PCI's number of AMD.
const VENDOR: &str = "0x1002";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Machine {
    /// The kernel, as `uname -r` names it.
    pub kernel: Option<String>,
    /// Words that the kernel was started with.
    pub boot_words: Vec<String>,
    /// PCI has an AMD display device, whether or not a driver serves it.
    pub on_pci: bool,
    /// GPUs that the driver serves.
    pub gpus: Vec<Gpu>,
    /// Architectures that the compute driver names, with compute units.
    pub compute: Vec<Compute>,
    /// The compute driver's file, `/dev/kfd`.
    pub kfd: Access,
    /// `amdgpu.cwsr_enable`: whether waves are saved when they are preempted.
    pub cwsr_enable: Option<i64>,
    /// `ttm.pages_limit`: pages of 4 KiB that the GPU may have of the system's memory.
    pub pages_limit: Option<u64>,
    /// Version of the scheduler's firmware; only root may read it.
    pub mes_firmware: Option<u32>,
    /// ROCm, as its own file names it.
    pub rocm: Option<String>,
    /// Memory of the system in bytes, without what firmware gave to the GPU.
    pub memory_bytes: Option<u64>,
    /// Variables that change what a GPU program sees.
    pub variables: Vec<(String, String)>,
}

/// A GPU that a driver serves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// `card0`.
    pub card: String,
    /// Memory that only it uses; on an APU what firmware carved out of the system's.
    pub vram_bytes: Option<u64>,
    /// Memory of the system that it may use besides.
    pub gtt_bytes: Option<u64>,
}

/// A GPU as the compute driver describes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compute {
    /// `gfx1151`.
    pub arch: String,
    /// Compute units.
    pub units: u64,
}

/// Whether a file can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// It is not there.
    #[default]
    Missing,
    /// It is there, for others.
    Denied,
    /// It can be read and written.
    Open,
}

const VARIABLES: [&str; 5] =
    ["HSA_OVERRIDE_GFX_VERSION", "HSA_XNACK", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"];

impl Machine {
    /// Reads the files under `root`; `variable` gives the environment.
    pub fn read(root: &Path, variable: impl Fn(&str) -> Option<String>) -> Self {
        let text = |path: &str| line(&root.join(path));
        let words = text("proc/cmdline").unwrap_or_default();
        Self {
            kernel: text("proc/sys/kernel/osrelease"),
            boot_words: words.split_whitespace().map(str::to_string).collect(),
            on_pci: folders(&root.join("sys/bus/pci/devices")).iter().any(|at| is_display(at)),
            gpus: folders(&root.join("sys/class/drm")).iter().filter_map(|at| gpu(at)).collect(),
            compute: architectures(root),
            kfd: access(&root.join("dev/kfd")),
            cwsr_enable: text("sys/module/amdgpu/parameters/cwsr_enable").and_then(|t| t.parse().ok()),
            pages_limit: text("sys/module/ttm/parameters/pages_limit").and_then(|t| t.parse().ok()),
            mes_firmware: folders(&root.join("sys/kernel/debug/dri")).iter().find_map(|at| mes_firmware(at)),
            rocm: text("opt/rocm/.info/version"),
            memory_bytes: memory(&root.join("proc/meminfo"), "MemTotal:"),
            variables: VARIABLES.iter().filter_map(|name| Some((name.to_string(), variable(name)?))).collect(),
        }
    }

    /// The kernel's version.
    pub fn kernel_version(&self) -> Option<Version> {
        self.kernel.as_deref().and_then(Version::parse)
    }

    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// What the compute driver names.
pub fn architectures(root: &Path) -> Vec<Compute> {
    folders(&root.join("sys/class/kfd/kfd/topology/nodes")).iter().filter_map(|at| compute(at)).collect()
}

/// A line of Linux's `meminfo` in bytes.
pub fn memory(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The first line of a file.
fn line(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().next().map(|l| l.trim().to_string()).filter(|l| !l.is_empty())
}

/// What a folder holds, by name.
fn folders(at: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(at).into_iter().flatten().flatten().map(|e| e.path()).collect();
    found.sort();
    found
}

fn is_display(device: &Path) -> bool {
    line(&device.join("vendor")).as_deref() == Some(VENDOR)
        && line(&device.join("class")).is_some_and(|class| class.starts_with("0x03"))
}

fn gpu(card: &Path) -> Option<Gpu> {
    let name = card.file_name()?.to_str()?;
    // `card0-DP-1` is a plug of card0.
    name.strip_prefix("card")?.parse::<u32>().ok()?;
    let device = card.join("device");
    if line(&device.join("vendor")).as_deref() != Some(VENDOR) {
        return None;
    }
    let number = |file: &str| line(&device.join(file))?.parse().ok();
    Some(Gpu {
        card: name.to_string(),
        vram_bytes: number("mem_info_vram_total"),
        gtt_bytes: number("mem_info_gtt_total"),
    })
}

fn compute(node: &Path) -> Option<Compute> {
    let text = fs::read_to_string(node.join("properties")).ok()?;
    let number = |name: &str| {
        let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse::<u64>().ok()
    };
    // A node without vector units is a processor; 110501 is gfx1151.
    let (simds, version) = (number("simd_count")?, number("gfx_target_version")?);
    let units = simds / number("simd_per_cu").unwrap_or(2).max(1);
    let arch = format!("gfx{}{:x}{:x}", version / 10_000, version / 100 % 100, version % 100);
    (simds > 0 && version > 0).then_some(Compute { arch, units })
}

/// `MES feature version: 1, firmware version: 0x00000080`.
fn mes_firmware(card: &Path) -> Option<u32> {
    let text = fs::read_to_string(card.join("amdgpu_firmware_info")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MES feature version:"))?;
    u32::from_str_radix(line.split("0x").nth(1)?.trim(), 16).ok()
}

fn access(file: &Path) -> Access {
    match OpenOptions::new().read(true).write(true).open(file) {
        Ok(_) => Access::Open,
        Err(e) if e.kind() == ErrorKind::NotFound => Access::Missing,
        Err(_) => Access::Denied,
    }
}

#[cfg(test)]
pub mod tests {
    use super::{Access, Compute, Gpu, Machine};
    use std::fs;
    use std::path::Path;

    /// Writes the files of a machine.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const STRIX_HALO: &[(&str, &str)] = &[
        ("proc/sys/kernel/osrelease", "6.18.3-arch1\n"),
        ("proc/cmdline", "root=/dev/sda1 amd_iommu=off ttm.pages_limit=31457280\n"),
        ("proc/meminfo", "MemTotal:       131072000 kB\nMemFree: 1 kB\n"),
        ("sys/bus/pci/devices/0000:c5:00.0/vendor", "0x1002\n"),
        ("sys/bus/pci/devices/0000:c5:00.0/class", "0x038000\n"),
        ("sys/class/drm/card1/device/vendor", "0x1002\n"),
        ("sys/class/drm/card1/device/mem_info_vram_total", "536870912\n"),
        ("sys/class/drm/card1/device/mem_info_gtt_total", "128849018880\n"),
        ("sys/class/drm/card1-DP-1/status", "connected\n"),
        ("sys/class/kfd/kfd/topology/nodes/0/properties", "cpu_cores_count 32\nsimd_count 0\ngfx_target_version 0\n"),
        ("sys/class/kfd/kfd/topology/nodes/1/properties", "simd_count 80\nsimd_per_cu 2\ngfx_target_version 110501\n"),
        ("sys/module/amdgpu/parameters/cwsr_enable", "1\n"),
        ("sys/module/ttm/parameters/pages_limit", "31457280\n"),
        (
            "sys/kernel/debug/dri/1/amdgpu_firmware_info",
            "VCE feature version: 0, firmware version: 0x00000000\nMES feature version: 1, firmware version: 0x00000080\n",
        ),
        ("dev/kfd", ""),
        ("opt/rocm/.info/version", "7.2.1\n"),
    ];

    /// A machine with nothing to complain about.
    pub fn strix_halo() -> Machine {
        Machine::read(folder(STRIX_HALO).path(), |_| None)
    }

    #[test]
    fn reads_a_strix_halo() {
        let m = strix_halo();
        assert_eq!(m.kernel.as_deref(), Some("6.18.3-arch1"));
        let gpu = Gpu { card: "card1".into(), vram_bytes: Some(512 << 20), gtt_bytes: Some(120 << 30) };
        assert_eq!((m.gpus, m.on_pci), (vec![gpu], true));
        assert_eq!(m.compute, [Compute { arch: "gfx1151".into(), units: 40 }]);
        assert_eq!((m.kfd, m.cwsr_enable, m.mes_firmware), (Access::Open, Some(1), Some(0x80)));
        assert_eq!((m.rocm.as_deref(), m.pages_limit), (Some("7.2.1"), Some(31_457_280)));
        assert_eq!(m.memory_bytes, Some(131_072_000 * 1024));
    }

    #[test]
    fn reads_a_machine_without_a_gpu() {
        let root = folder(&[("proc/sys/kernel/osrelease", "6.1.0\n"), ("proc/cmdline", "quiet\n")]);
        let m = Machine::read(root.path(), |_| None);
        let boot_words = vec!["quiet".to_string()];
        assert_eq!(m, Machine { kernel: Some("6.1.0".into()), boot_words, ..Machine::default() });
        assert_eq!(Machine::read(Path::new("/there is no such folder"), |_| None), Machine::default());
    }

    #[test]
    fn reads_broken_files_as_unknown() {
        let root = folder(&[
            ("sys/class/drm/card0/device/vendor", "0x1002"),
            ("sys/class/drm/card0/device/mem_info_vram_total", "much"),
            ("sys/class/kfd/kfd/topology/nodes/0/properties", "simd_count x\n"),
            ("sys/kernel/debug/dri/0/amdgpu_firmware_info", "MES feature version: 1, firmware version: 0xzz\n"),
            ("proc/meminfo", "MemTotal: 99999999999999999999 kB\n"),
        ]);
        let m = Machine::read(root.path(), |name| (name == "HSA_XNACK").then(|| "1".to_string()));
        let gpus = vec![Gpu { card: "card0".into(), vram_bytes: None, gtt_bytes: None }];
        let variables = vec![("HSA_XNACK".to_string(), "1".to_string())];
        assert_eq!(m, Machine { gpus, variables, ..Machine::default() });
    }
}
