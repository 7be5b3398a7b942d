//! `doctor`: what this machine offers, what would be used, and what is known to go wrong with it.

mod amd;
mod hazards;
mod version;

use self::amd::Machine;
use self::hazards::{Hazard, Level};
use self::version::Version;
use crate::failure::Failure;
use crate::models;
use crate::units;
use clap::Args;
use serde::Serialize;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Shows what this machine offers, what would be used, and what is known to go wrong with its GPU.
#[derive(Args)]
pub struct Flags {
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    system: String,
    device: &'static str,
    hip: Vec<String>,
    cores: usize,
    cpu_features: Vec<&'static str>,
    kernels: &'static str,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    plans: Option<String>,
    plans_kept: usize,
    plans_bytes: u64,
    amd: Machine,
    hip_runtime: Option<String>,
    hazards: Vec<Hazard>,
}

/// The architecture of a GPU that Linux's compute driver serves; nothing is loaded to find it.
pub fn gpu() -> Option<String> {
    amd::architectures(Path::new("/")).into_iter().next().map(|compute| compute.arch)
}

/// Runs the command.
pub fn main(flags: Flags) -> Result<(), Failure> {
    let findings = examine();
    let mut out = io::stdout().lock();
    if flags.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings).expect("plain data has a JSON form"))?;
        return Ok(());
    }
    let f = findings;
    let memory = |n: Option<u64>| n.map_or_else(|| "unknown".into(), units::bytes);
    writeln!(out, "fastinference {} on {}", f.version, f.system)?;
    writeln!(out, "  device    {} (what --device auto takes)", f.device)?;
    f.hip.iter().try_for_each(|line| writeln!(out, "  hip       {line}"))?;
    writeln!(out, "  cores     {}", f.cores)?;
    writeln!(out, "  features  {}", if f.cpu_features.is_empty() { "none".into() } else { f.cpu_features.join(" ") })?;
    writeln!(out, "  kernels   {}", f.kernels)?;
    writeln!(out, "  memory    {}, {} available", memory(f.memory_bytes), memory(f.memory_available_bytes))?;
    let kept = format!("{} kept, {}", units::plural(f.plans_kept, "plan"), units::bytes(f.plans_bytes));
    match f.plans {
        Some(folder) => writeln!(out, "  plans     {folder} ({kept}); set FASTINFERENCE_CACHE to move it")?,
        None => writeln!(out, "  plans     not kept: neither HOME nor FASTINFERENCE_CACHE is set")?,
    }
    describe_gpus(&mut out, &f.amd, f.hip_runtime.as_deref())?;
    for hazard in &f.hazards {
        let level = match hazard.level {
            Level::Problem => "problem",
            Level::Advice => "advice",
        };
        writeln!(out, "  {level:<9} {}\n            fix: {}", hazard.seen, hazard.fix)?;
    }
    Ok(())
}

/// Lines for a machine with AMD GPUs.
fn describe_gpus(out: &mut impl Write, m: &Machine, runtime: Option<&str>) -> io::Result<()> {
    for gpu in &m.gpus {
        let memory = |n: Option<u64>| n.map_or_else(|| "unknown".into(), units::bytes);
        let (own, shared) = (memory(gpu.vram_bytes), memory(gpu.gtt_bytes));
        writeln!(
            out,
            "  amd       {}: {own} of its own (VRAM, the carve-out of an APU), {shared} shared (GTT)",
            gpu.card
        )?;
    }
    for compute in &m.compute {
        writeln!(out, "  amd       {}, {} compute units", compute.arch, compute.units)?;
    }
    if !m.gpus.is_empty() {
        let text = |t: Option<&str>| t.unwrap_or("unknown").to_string();
        let firmware = m.mes_firmware.map_or_else(|| "unknown (root may read it)".into(), |v| format!("{v:#x}"));
        let (kernel, rocm, runtime) = (text(m.kernel.as_deref()), text(m.rocm.as_deref()), text(runtime));
        writeln!(out, "  amd       Linux {kernel}, ROCm {rocm}, HIP runtime {runtime}, MES firmware {firmware}")?;
    }
    Ok(())
}

fn examine() -> Findings {
    let plans = models::plans();
    let (plans_kept, plans_bytes) = plans.as_deref().map_or((0, 0), count_plans);
    let cpu_features = cpu_features();
    let has = |name: &str| cpu_features.contains(&name);
    let amd = Machine::read(Path::new("/"), |name| std::env::var(name).ok());
    let runtime = fastinference::hip_version().map(|[major, minor, patch]| Version(major, minor, patch));
    let kernels = match () {
        _ if has("avx512f") => "AVX-512",
        _ if has("avx2") && has("fma") => "AVX2",
        _ => "portable",
    };
    Findings {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        device: "cpu",
        hip: fastinference::examine_devices(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        cpu_features,
        kernels,
        memory_bytes: memory("MemTotal:"),
        memory_available_bytes: memory("MemAvailable:"),
        plans: plans.map(|p| p.display().to_string()),
        plans_kept,
        plans_bytes,
        hazards: hazards::hazards(&amd, runtime),
        hip_runtime: runtime.map(|v| v.to_string()),
        amd,
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let mut found = vec![];
    macro_rules! ask {
        ($($name:tt)+) => { $(if std::arch::is_x86_feature_detected!($name) { found.push($name); })+ };
    }
    ask! { "sse4.2" "avx" "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx512bf16" "avx512fp16" "avxvnni" }
    found
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    let mut found = vec![];
    macro_rules! ask {
        ($($name:tt)+) => { $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name); })+ };
    }
    ask! { "neon" "fp16" "dotprod" "i8mm" "bf16" "sve" }
    found
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    vec![]
}

/// Bytes of memory; systems other than Linux say nothing.
fn memory(name: &str) -> Option<u64> {
    amd::memory(Path::new("/proc/meminfo"), name)
}

fn count_plans(folder: &Path) -> (usize, u64) {
    let plans: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    let files = plans.iter().filter_map(|p| fs::read_dir(p).ok()).flatten().flatten();
    let bytes = files.filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    (plans.len(), bytes)
}
