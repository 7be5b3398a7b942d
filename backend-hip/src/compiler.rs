//! Compilers of kernels: clang for a GPU or this processor, and those that come with a driver.

use crate::device::{Device, DeviceError, Platform, RuntimeCompiler};
use kernels::Source;
use std::path::Path;
use std::process::Command;

/// Compilers that know HIP, newest known first. Version 17 is the first that knows gfx1151's relatives.
const CLANG: &[&str] = &["clang++-22", "clang++-21", "clang++-20", "clang++-19", "clang++-18", "clang++-17", "clang++"];
/// Compilers that make the simulator; clang first.
const HOST: &[&str] =
    &["clang++-22", "clang++-21", "clang++-20", "clang++-19", "clang++-18", "clang++-17", "clang++", "g++", "c++"];
/// More options of a compiler that lets every access be watched. Vectors stay narrow enough to be told of (watch.h).
const WATCHED: &[&str] =
    &["-fsanitize=thread", "-fno-vectorize", "-fno-slp-vectorize", "-mllvm", "-tsan-instrument-func-entry-exit=0"];
/// The oldest clang that is taken for a GPU.
const LEAST_CLANG: u32 = 17;

/// Makes code objects.
pub struct Compiler(Kind);

enum Kind {
    /// Runs clang for an AMD GPU.
    Clang(Tool),
    /// Runs a compiler for this processor.
    Host(Tool),
    /// Runs clang for this processor, with a call at every access.
    Watched(Tool),
    /// hipRTC.
    Hip(RuntimeCompiler),
    /// NVRTC.
    Nvidia(RuntimeCompiler),
}

struct Tool {
    program: &'static str,
    version: String,
}

impl Compiler {
    /// The best compiler here for a platform; an error names what to install.
    pub fn find(platform: Platform) -> Result<Compiler, DeviceError> {
        match platform {
            Platform::Simulator if !cfg!(target_arch = "x86_64") => {
                Err(DeviceError::Compile("the simulator runs on x86-64 only".into()))
            }
            Platform::Simulator => {
                let tool = HOST.iter().find_map(|p| Tool::find(p));
                let missing = || DeviceError::Compile("the simulator needs clang++ or g++: install clang-19".into());
                tool.map(|t| Compiler(Kind::Host(t))).ok_or_else(missing)
            }
            Platform::Nvidia => RuntimeCompiler::nvidia().map(|c| Compiler(Kind::Nvidia(c))),
            Platform::Amd => match Compiler::clang() {
                Some(clang) => Ok(clang),
                None => RuntimeCompiler::hip().map(|c| Compiler(Kind::Hip(c))).map_err(|e| {
                    DeviceError::Compile(format!("there is no clang++ of version {LEAST_CLANG} or newer, and {e}"))
                }),
            },
        }
    }

    /// The best compiler here for a device.
    pub(crate) fn of(device: &Device) -> Result<Compiler, DeviceError> {
        match device.watch() {
            Some(_) => Compiler::watched(),
            None => Compiler::find(device.platform()),
        }
    }

    /// The compiler for a watched simulator: [`Device::watched`].
    pub fn watched() -> Result<Compiler, DeviceError> {
        let clang = HOST.iter().filter_map(|p| Tool::find(p)).find(|t| t.version.contains("clang"));
        let missing = || DeviceError::Compile("the watched simulator needs clang++: install clang-19".into());
        clang.filter(|_| cfg!(target_arch = "x86_64")).map(|t| Compiler(Kind::Watched(t))).ok_or_else(missing)
    }

    /// The best compiler here for an architecture such as `gfx1151` or `sm_90`, whose device need not be here.
    pub fn for_arch(arch: &str) -> Result<Compiler, DeviceError> {
        match arch {
            a if a.starts_with("gfx") => Compiler::find(Platform::Amd),
            a if a.starts_with("sm_") => Compiler::find(Platform::Nvidia),
            _ => Err(DeviceError::Compile(format!("`{arch}` is no architecture of a GPU"))),
        }
    }

    /// A clang that compiles for AMD GPUs without ROCm.
    pub fn clang() -> Option<Compiler> {
        let recent = |t: &Tool| t.major().is_some_and(|v| v >= LEAST_CLANG) && t.version.contains("clang");
        let tool = CLANG.iter().filter_map(|p| Tool::find(p)).find(recent)?;
        Some(Compiler(Kind::Clang(tool)))
    }

    /// What is part of a code object's identity beside its source.
    pub fn version(&self) -> String {
        match &self.0 {
            Kind::Clang(tool) | Kind::Host(tool) | Kind::Watched(tool) => tool.version.clone(),
            Kind::Hip(rtc) | Kind::Nvidia(rtc) => rtc.version(),
        }
    }

    /// Which form of the source it takes.
    pub fn source(&self) -> Source {
        match &self.0 {
            Kind::Clang(_) | Kind::Hip(_) => Source::Amd,
            Kind::Host(_) => Source::Simulator,
            Kind::Watched(_) => Source::Watched,
            Kind::Nvidia(_) => Source::Nvidia,
        }
    }

    /// Ending of its code objects' file names.
    pub(crate) fn ending(&self) -> &'static str {
        match &self.0 {
            Kind::Clang(_) | Kind::Hip(_) => "hsaco",
            Kind::Host(_) | Kind::Watched(_) => "so",
            Kind::Nvidia(_) => "cubin",
        }
    }

    /// Options for an architecture, source and output aside.
    pub(crate) fn options(&self, arch: &str) -> Vec<String> {
        let list: &[&str] = match &self.0 {
            Kind::Clang(_) => &[
                "-x",
                "hip",
                "--cuda-device-only",
                "-nogpuinc",
                "-nogpulib",
                "-std=c++17",
                "-O3",
                "-mcode-object-version=5",
                "-fno-gpu-rdc",
                "--no-gpu-bundle-output",
            ],
            Kind::Host(_) | Kind::Watched(_) => &[
                "-x",
                "c++",
                "-std=c++17",
                "-O2",
                "-march=x86-64-v3",
                "-shared",
                "-fPIC",
                "-nostdinc++",
                "-ffp-contract=off",
            ],
            Kind::Hip(_) => &["-std=c++17", "-O3"],
            Kind::Nvidia(_) => &["--std=c++17", "--extra-device-vectorization"],
        };
        let mut options: Vec<String> = list.iter().map(|o| o.to_string()).collect();
        match &self.0 {
            Kind::Clang(_) | Kind::Hip(_) => options.push(format!("--offload-arch={arch}")),
            Kind::Nvidia(_) => options.push(format!("--gpu-architecture={arch}")),
            Kind::Host(_) => {}
            Kind::Watched(_) => options.extend(WATCHED.iter().map(|o| o.to_string())),
        }
        options
    }

    /// Compiles `source`, which lies at `from` too, to the file `to`.
    pub(crate) fn compile(&self, source: &str, arch: &str, from: &Path, to: &Path) -> Result<(), DeviceError> {
        let failed = |e: std::io::Error| DeviceError::Compile(format!("{}: {e}", to.display()));
        match &self.0 {
            Kind::Clang(tool) => tool.run(self.options(arch).iter().chain([&"-c".to_string()]), from, to),
            Kind::Host(tool) | Kind::Watched(tool) => tool.run(self.options(arch).iter(), from, to),
            Kind::Hip(rtc) | Kind::Nvidia(rtc) => {
                std::fs::write(to, rtc.compile(source, &self.options(arch))?).map_err(failed)
            }
        }
    }
}

impl Tool {
    fn find(program: &'static str) -> Option<Tool> {
        let output = Command::new(program).arg("--version").output().ok().filter(|o| o.status.success())?;
        let version = String::from_utf8_lossy(&output.stdout).lines().next()?.to_string();
        Some(Tool { program, version })
    }

    /// The first number of the version: `Debian clang version 19.1.7` gives 19.
    fn major(&self) -> Option<u32> {
        let (_, after) = self.version.split_once("version ")?;
        after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    fn run<'a>(&self, options: impl Iterator<Item = &'a String>, from: &Path, to: &Path) -> Result<(), DeviceError> {
        let output = Command::new(self.program).args(options).arg(from).arg("-o").arg(to).output();
        let output = output.map_err(|e| DeviceError::Compile(format!("{}: {e}", self.program)))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = said.lines().take(20).collect();
        Err(DeviceError::Compile(format!("{} gives {}\n{}", self.program, output.status, said.join("\n"))))
    }
}
