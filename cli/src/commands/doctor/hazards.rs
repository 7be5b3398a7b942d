//! What is known to go wrong with AMD GPUs, and what to do: one function from what was found to what should be said.
//!
//! The list comes from reports about gfx1151 (Strix Halo); each entry says what it depends on.

use super::amd::{Access, Machine};
use super::version::Version;
use serde::Serialize;

/// Something to know about this machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hazard {
    /// How bad it is.
    pub level: Level,
    /// What was seen, and what comes of it.
    pub seen: String,
    /// What to do.
    pub fix: String,
}

/// How bad a hazard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A GPU does not work, or fails while it works.
    Problem,
    /// It could be faster or larger.
    Advice,
}

/// The oldest runtimes and kernel: tolerated, wished for, and the first without the undersized area for saved waves.
const LEAST_RUNTIME: Version = Version(6, 4, 0);
const GOOD_RUNTIME: Version = Version(7, 2, 0);
const SAVED_WAVES: (Version, Version) = (Version(6, 18, 0), Version(7, 2, 1));
/// A firmware of the scheduler that is broken.
const BROKEN_MES: u32 = 0x83;
/// What the system keeps when all other memory may be the GPU's.
const KEPT_FOR_SYSTEM: u64 = 8 << 30;

/// The hazards of a machine; `runtime` is the HIP runtime's version, where it is installed.
pub fn hazards(m: &Machine, runtime: Option<Version>) -> Vec<Hazard> {
    if !m.on_pci && m.gpus.is_empty() && m.compute.is_empty() {
        return vec![];
    }
    let mut found = vec![];
    let mut say = |level, seen: String, fix: String| found.push(Hazard { level, seen, fix });
    access(m, &mut say);
    software(m, runtime, &mut say);
    variables(m, &mut say);
    memory(m, &mut say);
    if is_apu(m) && !m.boot_words.iter().any(|w| w == "amd_iommu=off" || w == "iommu=off") {
        say(
            Level::Advice,
            "the IOMMU is on: without it a GPU that shares the system's memory was 5 to 16% faster".into(),
            "if no virtual machine needs it, start the kernel with amd_iommu=off".into(),
        );
    }
    found
}

fn access(m: &Machine, say: &mut impl FnMut(Level, String, String)) {
    if m.gpus.is_empty() {
        say(
            Level::Problem,
            "there is an AMD GPU, but no driver serves it".into(),
            "load the driver: sudo modprobe amdgpu; an old kernel may not know a new GPU".into(),
        );
    } else if m.kfd == Access::Missing {
        say(
            Level::Problem,
            "there is no /dev/kfd, through which programs compute".into(),
            "use a kernel with CONFIG_HSA_AMD; in a container add --device /dev/kfd --device /dev/dri".into(),
        );
    } else if m.kfd == Access::Denied {
        say(
            Level::Problem,
            "/dev/kfd may not be opened by this user".into(),
            "sudo usermod -aG render,video $USER, then log in again; in a container add --group-add".into(),
        );
    }
}

fn software(m: &Machine, runtime: Option<Version>, say: &mut impl FnMut(Level, String, String)) {
    match runtime {
        None => say(
            Level::Problem,
            "the HIP runtime is not installed".into(),
            "install ROCm 7.2 or newer (its library libamdhip64 is enough)".into(),
        ),
        Some(v) if v < LEAST_RUNTIME => say(
            Level::Problem,
            format!("the HIP runtime {v} is older than {LEAST_RUNTIME} and does not know this use of it"),
            "install ROCm 7.2 or newer".into(),
        ),
        Some(v) if v < GOOD_RUNTIME => say(
            Level::Advice,
            format!("the HIP runtime {v} works, but is tested less than {GOOD_RUNTIME}"),
            "install ROCm 7.2 or newer".into(),
        ),
        Some(_) => {}
    }
    let rocm = m.rocm.as_deref().and_then(Version::parse);
    let is_old = |found: Option<Version>, least: Version| found.is_some_and(|v| v < least);
    let undersized = is_old(m.kernel_version(), SAVED_WAVES.0) || is_old(rocm, SAVED_WAVES.1);
    if is_apu(m) && undersized && m.cwsr_enable != Some(0) {
        say(
            Level::Problem,
            "the area for saved waves is too small before Linux 6.18 and ROCm 7.2.1: the GPU may hang under load"
                .into(),
            "use both, or start the kernel with amdgpu.cwsr_enable=0".into(),
        );
    }
    if m.mes_firmware == Some(BROKEN_MES) {
        say(
            Level::Problem,
            format!("the scheduler's firmware is {BROKEN_MES:#x}, which is broken"),
            "install another version of linux-firmware and restart".into(),
        );
    }
}

fn variables(m: &Machine, say: &mut impl FnMut(Level, String, String)) {
    let arch = m.compute.first().map_or("this GPU", |c| c.arch.as_str());
    if let Some(value) = m.variable("HSA_OVERRIDE_GFX_VERSION") {
        say(
            Level::Problem,
            format!("HSA_OVERRIDE_GFX_VERSION={value} passes {arch} off as another: kernels for that one page-fault"),
            "unset HSA_OVERRIDE_GFX_VERSION".into(),
        );
    }
    if m.variable("HSA_XNACK").is_some_and(|v| v != "0") {
        say(
            Level::Problem,
            format!("HSA_XNACK is set, and {arch} cannot retry after a page fault"),
            "unset HSA_XNACK".into(),
        );
    }
    for name in ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"] {
        if let Some(value) = m.variable(name) {
            say(
                Level::Advice,
                format!("{name}={value} hides devices, and hip:0 is the first of those left"),
                format!("unset {name} if a device is missing"),
            );
        }
    }
}

/// Memory that an APU could have of the system's and has not.
fn memory(m: &Machine, say: &mut impl FnMut(Level, String, String)) {
    let (Some(all), Some(gpu)) = (m.memory_bytes, m.gpus.first()) else { return };
    let (Some(gtt), Some(vram)) = (gpu.gtt_bytes, gpu.vram_bytes) else { return };
    let could = all.saturating_sub(KEPT_FOR_SYSTEM);
    if is_apu(m) && (gtt + vram) < could / 4 * 3 {
        let gib = |n: u64| n as f64 / f64::from(1 << 30);
        say(
            Level::Advice,
            format!("the GPU may use {:.1} GiB, of {:.1} that it could share", gib(gtt + vram), gib(could)),
            format!(
                "start the kernel with ttm.pages_limit={} (old kernels also want amdgpu.gttsize={})",
                could >> 12,
                could >> 20
            ),
        );
    }
}

/// GPUs that share the system's memory: Strix Point and Strix Halo.
fn is_apu(m: &Machine) -> bool {
    m.compute.iter().any(|c| c.arch.starts_with("gfx115"))
}

#[cfg(test)]
mod tests {
    use super::super::amd::{Access, Machine, tests::strix_halo};
    use super::{Level, Version, hazards};

    const RUNTIME: Option<Version> = Some(Version(7, 2, 26015));

    fn seen(change: impl FnOnce(&mut Machine), runtime: Option<Version>) -> Vec<(Level, String, String)> {
        let mut m = strix_halo();
        change(&mut m);
        hazards(&m, runtime).into_iter().map(|h| (h.level, h.seen, h.fix)).collect()
    }

    /// The one hazard of a changed machine.
    #[track_caller]
    fn only(change: impl FnOnce(&mut Machine), runtime: Option<Version>, level: Level, says: &str, fix: &str) {
        let found = seen(change, runtime);
        let [(l, seen, how)] = &found[..] else { panic!("{found:?}") };
        assert!(*l == level && seen.contains(says) && how.contains(fix), "{found:?}");
    }

    #[test]
    fn a_healthy_machine_and_one_without_a_gpu_have_none() {
        assert_eq!(seen(|_| {}, RUNTIME), []);
        assert_eq!(hazards(&Machine::default(), None), []);
    }

    #[test]
    fn a_gpu_that_cannot_be_used() {
        use Level::Problem;
        only(|m| m.gpus.clear(), RUNTIME, Problem, "no driver serves it", "modprobe amdgpu");
        only(|m| m.kfd = Access::Missing, RUNTIME, Problem, "no /dev/kfd", "--device /dev/kfd");
        only(|m| m.kfd = Access::Denied, RUNTIME, Problem, "may not be opened", "usermod -aG render,video");
        only(|_| {}, None, Problem, "not installed", "ROCm 7.2");
        only(|_| {}, Some(Version(5, 2, 21153)), Problem, "5.2.21153 is older", "ROCm 7.2");
        only(|_| {}, Some(Version(6, 4, 0)), Level::Advice, "tested less", "ROCm 7.2");
    }

    #[test]
    fn kernels_and_firmware_that_hang() {
        use Level::Problem;
        let old_kernel = |m: &mut Machine| m.kernel = Some("6.17.9".into());
        only(old_kernel, RUNTIME, Problem, "saved waves", "amdgpu.cwsr_enable=0");
        only(|m| m.rocm = Some("7.2.0-17".into()), RUNTIME, Problem, "saved waves", "amdgpu.cwsr_enable=0");
        assert_eq!(seen(|m| (m.kernel, m.cwsr_enable) = (Some("6.17.9".into()), Some(0)), RUNTIME), []);
        only(|m| m.mes_firmware = Some(0x83), RUNTIME, Problem, "0x83", "linux-firmware");
    }

    #[test]
    fn variables_that_mislead() {
        let set = |name: &str, value: &str| {
            let pair = (name.to_string(), value.to_string());
            move |m: &mut Machine| m.variables = vec![pair]
        };
        only(set("HSA_OVERRIDE_GFX_VERSION", "11.0.0"), RUNTIME, Level::Problem, "gfx1151 off as another", "unset");
        only(set("HSA_XNACK", "1"), RUNTIME, Level::Problem, "HSA_XNACK", "unset");
        assert_eq!(seen(set("HSA_XNACK", "0"), RUNTIME), []);
        only(set("HIP_VISIBLE_DEVICES", "1"), RUNTIME, Level::Advice, "hides devices", "unset");
    }

    #[test]
    fn memory_and_speed_that_are_left() {
        let half = |m: &mut Machine| m.gpus[0].gtt_bytes = Some(62 << 30);
        // 125 GiB less 8 are 117 GiB, 30,670,848 pages.
        only(half, RUNTIME, Level::Advice, "62.5 GiB, of 117.0", "ttm.pages_limit=30670848");
        only(|m| m.boot_words.clear(), RUNTIME, Level::Advice, "IOMMU", "amd_iommu=off");
    }

    #[test]
    fn another_gpu_has_no_hazards_of_an_apu() {
        let change = |m: &mut Machine| {
            m.compute[0].arch = "gfx1100".into();
            m.kernel = Some("6.12.0".into());
            m.boot_words.clear();
            m.gpus[0].gtt_bytes = Some(1 << 30);
        };
        assert_eq!(seen(change, RUNTIME), []);
    }
}
