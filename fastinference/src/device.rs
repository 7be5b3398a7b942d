//! Where models run: the processor, a GPU, or the simulator of one.

use crate::Error;
use crate::supervise::Supervise;
use backend_cpu::Cpu;
use backend_hip::{CodeStore, CodeWatch, Compiler, DeviceError, Faults, Hip, Planner, Platform, StepWatch};
use plan::{CheckedPlan, CodeObject, Pacing, StoreError, Target};
use runtime::Backend;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// A device by name: `auto`, `cpu`, `hip:0`, `hip:sim`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor, for now: GPUs are used when they are named.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU of AMD; where there is no such driver, of NVIDIA.
    Gpu(usize),
    /// The kernels of the HIP backend, compiled for this processor: slow, for tests.
    Simulator,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        let number = |t: &str| t.strip_prefix("hip:").and_then(|n| n.parse().ok());
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "hip" => Ok(Device::Gpu(0)),
            "hip:sim" => Ok(Device::Simulator),
            t => number(t).map(Device::Gpu).ok_or_else(|| "devices are `auto`, `cpu`, `hip:0` and `hip:sim`".into()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Gpu(n) => write!(f, "hip:{n}"),
            Device::Simulator => f.write_str("hip:sim"),
        }
    }
}

/// Which device, and what it needs.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// The device.
    pub device: Device,
    /// Folder where code objects are kept once they are compiled; only its owner should be able to write to it. A device
    /// other than the processor needs one.
    pub code_objects: Option<PathBuf>,
    /// How often the host waits for the device, so that its queue holds no more than so many steps; when nobody says, as a plan on
    /// disk has it, and as its cost suggests where a model is compiled. A plan for the processor keeps it for devices that load it.
    pub sync_every: Option<Pacing>,
    /// Hears of kernels that are compiled while a plan is loaded, and of code in the plan that does not fit the device.
    pub watch: CodeWatch,
    /// Hears each node's name before it is given to the device.
    pub steps: StepWatch,
    /// Runs the device in a process of its own, which a plan on disk needs; otherwise a fault of the device may end this process,
    /// and one that hangs is never noticed.
    pub supervise: Option<Supervise>,
    /// What goes wrong with the simulator on purpose, for tests.
    pub faults: Option<Faults>,
}

impl DeviceOptions {
    /// Whether anything but the processor may do the work: a device that is named, or one that a worker finds.
    pub fn may_use_device(&self) -> bool {
        match self.device {
            Device::Cpu => false,
            Device::Auto => self.supervise.is_some(),
            Device::Gpu(_) | Device::Simulator => true,
        }
    }
}

/// Whether plans for this target run on the processor alone; all others have a device beside it.
pub fn is_processor(target: &str) -> bool {
    target == Cpu.name()
}

/// A backend that is ready to plan and to load.
pub(crate) enum Engine {
    Cpu(Cpu),
    Hip(Box<Hip>),
    /// An architecture whose device need not be here.
    Planner(Planner),
}

impl Engine {
    /// Opens the device.
    pub(crate) fn open(options: &DeviceOptions) -> Result<Engine, Error> {
        let failed = |e: DeviceError| Error::Device { device: options.device, reason: e.to_string() };
        let device = match options.device {
            Device::Auto | Device::Cpu => return Ok(Engine::Cpu(Cpu)),
            Device::Simulator => match &options.faults {
                Some(faults) => backend_hip::Device::faulty(faults.clone()).map_err(failed)?,
                None => backend_hip::Device::open(Platform::Simulator, 0).map_err(failed)?,
            },
            Device::Gpu(n) => open_gpu(n).map_err(failed)?,
        };
        let folder = options.code_objects.clone();
        let missing = || failed(DeviceError::Compile("there is no folder to keep code objects in".into()));
        let store = CodeStore::new(folder.ok_or_else(missing)?);
        let mut hip = Hip::watched(device, store, Arc::new(Cpu), options.watch.clone());
        hip.watch_steps(options.steps.clone());
        hip.set_pacing(options.sync_every.unwrap_or_default());
        Ok(Engine::Hip(Box::new(hip)))
    }

    /// Whether operators are launched on a device.
    pub(crate) fn is_device(&self) -> bool {
        !is_processor(self.target().name())
    }

    /// For planning only.
    pub(crate) fn of_target(target: &str, pacing: Pacing) -> Result<Engine, Error> {
        match target {
            t if is_processor(t) => Ok(Engine::Cpu(Cpu)),
            t if t.starts_with("gfx") || t.starts_with("sm_") || t == "sim" => {
                Ok(Engine::Planner(Planner::new(t).paced(pacing)))
            }
            t => Err(Error::Target(t.to_string())),
        }
    }

    /// A plan that was made for this device, with the waits that the options ask for, where they say so.
    pub(crate) fn repaced(&self, plan: CheckedPlan, options: &DeviceOptions) -> Result<CheckedPlan, Error> {
        let Some(pacing) = options.sync_every.filter(|_| self.is_device()) else { return Ok(plan) };
        Ok(plan::repace(plan, pacing, |entry| self.target().pace(entry)).map_err(StoreError::Unsafe)?)
    }

    /// What loads plans; an architecture alone loads none.
    pub(crate) fn backend(&self) -> Result<&dyn Backend, Error> {
        match self {
            Engine::Cpu(cpu) => Ok(cpu),
            Engine::Hip(hip) => Ok(&**hip),
            Engine::Planner(planner) => Err(Error::Planned(planner.name().to_string())),
        }
    }

    /// Offers code objects of a plan to the device.
    pub(crate) fn carry(&self, code: &[CodeObject]) {
        match self {
            Engine::Hip(hip) => hip.carry(code.to_vec()),
            Engine::Cpu(_) | Engine::Planner(_) => {}
        }
    }

    pub(crate) fn target(&self) -> &dyn Target {
        match self {
            Engine::Cpu(cpu) => cpu,
            Engine::Hip(hip) => &**hip,
            Engine::Planner(planner) => planner,
        }
    }
}

fn open_gpu(ordinal: usize) -> Result<backend_hip::Device, DeviceError> {
    let amd = match backend_hip::Device::open(Platform::Amd, ordinal) {
        Ok(device) => return Ok(device),
        Err(e) => e,
    };
    backend_hip::Device::open(Platform::Nvidia, ordinal)
        .map_err(|nvidia| DeviceError::Missing(format!("AMD: {amd}; NVIDIA: {nvidia}")))
}

/// What the HIP backend finds on this machine, a line per platform; where something is missing, what it is.
pub fn examine_devices() -> Vec<String> {
    let mut lines = vec![];
    for (platform, name) in [(Platform::Amd, "AMD"), (Platform::Nvidia, "NVIDIA")] {
        let count = match backend_hip::Device::count(platform) {
            Ok(count) => count,
            Err(e) => {
                lines.push(format!("{name}: {e}"));
                continue;
            }
        };
        let found = (0..count).map(|n| match backend_hip::Device::open(platform, n) {
            Ok(device) => {
                let memory = device.memory().map_or(String::new(), |(_, all)| format!(", {} MiB", all >> 20));
                format!("{name}: hip:{n} is {} ({}{memory})", device.name(), device.arch())
            }
            Err(e) => format!("{name}: device {n}: {e}"),
        });
        lines.extend(found);
        if count == 0 {
            lines.push(format!("{name}: the driver is there, but sees no device"));
        } else {
            lines.push(compiler(platform, name));
        }
    }
    lines.push(compiler(Platform::Simulator, "simulator"));
    lines
}

/// Major, minor and patch number of AMD's HIP runtime, where one is installed.
pub fn hip_version() -> Option<[u32; 3]> {
    backend_hip::Device::hip_version().ok()
}

fn compiler(platform: Platform, name: &str) -> String {
    match Compiler::find(platform) {
        Ok(compiler) => format!("{name}: kernels are compiled by {}", compiler.version()),
        Err(e) => format!("{name}: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::Device;

    #[test]
    fn names_of_devices_read_and_print() {
        for name in ["auto", "cpu", "hip:0", "hip:12", "hip:sim"] {
            assert_eq!(name.parse::<Device>().unwrap().to_string(), name);
        }
        assert!("hip:x".parse::<Device>().is_err());
        assert!("gpu".parse::<Device>().is_err());
    }
}
