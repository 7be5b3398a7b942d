//! The device: everything that talks to a driver, and the only place here with `unsafe`.
//!
//! A driver is a [`table`] of functions; three fill it: AMD's and NVIDIA's libraries, loaded when asked for, and the
//! simulator, which runs the same kernels on this processor. What lies above (memory, streams, modules) is the same for all.

mod amd;
mod error;
mod faults;
mod library;
#[cfg(any(feature = "link-hip", all(test, target_os = "linux", target_arch = "x86_64")))]
mod linked;
mod memory;
mod module;
mod nvidia;
mod queue;
mod rtc;
mod simulator;
mod table;
mod watch;

pub use error::DeviceError;
pub use faults::{DriverCall, Fault, Faults, Mishap};
pub(crate) use memory::{DeviceMemory, HostMemory};
pub(crate) use module::{Function, Module, Parameters};
pub(crate) use queue::Queue;
pub(crate) use rtc::RuntimeCompiler;
pub use watch::Touched;
pub(crate) use watch::{Extent, Watch};

#[cfg(not(feature = "link-hip"))]
use amd::table as amd_table;
#[cfg(feature = "link-hip")]
use linked::table as amd_table;
use std::collections::BTreeMap;
use std::sync::Arc;
use table::Table;

/// Which driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// libamdhip64.
    Amd,
    /// libcuda.
    Nvidia,
    /// Kernels compiled for this processor.
    Simulator,
}

/// A device that has been opened. Cloning shares it.
#[derive(Clone)]
pub struct Device(Arc<Opened>);

struct Opened {
    table: Table,
    platform: Platform,
    ordinal: i32,
    context: table::Context,
    arch: String,
    name: String,
    watch: Option<Watch>,
}

impl Device {
    /// Opens device `ordinal` of a platform.
    pub fn open(platform: Platform, ordinal: usize) -> Result<Device, DeviceError> {
        let table = match platform {
            Platform::Amd => amd_table()?,
            Platform::Nvidia => nvidia::table()?,
            Platform::Simulator => simulator::table(None),
        };
        Device::of_table(table, platform, ordinal, None)
    }

    /// The simulator with faults on purpose, for tests.
    pub fn faulty(faults: Faults) -> Result<Device, DeviceError> {
        Device::of_table(simulator::table(Some(faults)), Platform::Simulator, 0, None)
    }

    /// The simulator, with every access of a kernel held against the extents that its launch declares: one outside of them is an
    /// error of that launch. Needs clang; kernels run several times slower.
    pub fn watched() -> Result<Device, DeviceError> {
        Device::of_table(simulator::table(None), Platform::Simulator, 0, Some(Watch::default()))
    }

    /// What a watched device has seen, by kernel and by the parameter's place among those that are memory; of others, nothing.
    pub fn touched(&self) -> BTreeMap<(String, usize), Touched> {
        self.watch().map(Watch::touched).unwrap_or_default()
    }

    pub(crate) fn watch(&self) -> Option<&Watch> {
        self.0.watch.as_ref()
    }

    fn of_table(table: Table, platform: Platform, ordinal: usize, watch: Option<Watch>) -> Result<Device, DeviceError> {
        let ordinal = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let count = devices(&table, platform)?;
        if ordinal >= count {
            return Err(DeviceError::Missing(format!("there is no device {ordinal}: the driver sees {count}")));
        }
        let context = table.context(ordinal)?;
        let (arch, name) = match platform {
            Platform::Amd => (amd::arch(&table, ordinal)?, table.name(ordinal)?),
            Platform::Nvidia => (nvidia::arch(&table, ordinal)?, table.name(ordinal)?),
            Platform::Simulator => ("sim".to_string(), "simulator".to_string()),
        };
        Ok(Device(Arc::new(Opened { table, platform, ordinal, context, arch, name, watch })))
    }

    /// How many devices a platform has; an error says why it cannot tell.
    pub fn count(platform: Platform) -> Result<usize, DeviceError> {
        let table = match platform {
            Platform::Amd => amd_table()?,
            Platform::Nvidia => nvidia::table()?,
            Platform::Simulator => return Ok(1),
        };
        Ok(devices(&table, platform)?.max(0) as usize)
    }

    /// Major, minor and patch number of AMD's runtime, whether or not there is a device.
    pub fn hip_version() -> Result<[u32; 3], DeviceError> {
        amd::version()
    }

    /// Its platform.
    pub fn platform(&self) -> Platform {
        self.0.platform
    }

    /// Its architecture: `gfx1151`, `sm_90`, `sim`.
    pub fn arch(&self) -> &str {
        &self.0.arch
    }

    /// What its maker calls it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Bytes of its memory: free, all. On an APU both are estimates of the driver.
    pub fn memory(&self) -> Result<(u64, u64), DeviceError> {
        self.make_current()?;
        self.0.table.memory()
    }

    /// Lets the calling thread use the device; every thread must before anything else.
    pub(crate) fn make_current(&self) -> Result<(), DeviceError> {
        self.0.table.make_current(&self.0.context, self.0.ordinal)
    }

    fn table(&self) -> &Table {
        &self.0.table
    }
}

/// Statuses by which HIP and CUDA say that there is no device (100), or none that they support (101).
const NO_DEVICE: [i32; 2] = [100, 101];

/// Starts a driver and asks how many devices it sees.
fn devices(table: &Table, platform: Platform) -> Result<i32, DeviceError> {
    table.initialise().and_then(|()| table.count()).map_err(|e| no_device(e, platform))
}

fn no_device(error: DeviceError, platform: Platform) -> DeviceError {
    match &error {
        DeviceError::Call { code, text, .. } if NO_DEVICE.contains(code) && platform != Platform::Simulator => {
            DeviceError::Missing(format!("the driver is there, but sees no device that it supports ({text}, {code})"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_without_a_device_is_told_from_one_that_fails() {
        let failed = |code| DeviceError::Call { call: "init", code, text: "hipErrorInvalidDevice".into() };
        for code in NO_DEVICE {
            let said = no_device(failed(code), Platform::Amd).to_string();
            assert!(said.contains("sees no device") && said.contains(&code.to_string()), "{said}");
        }
        assert_eq!(no_device(failed(3), Platform::Amd), failed(3));
        assert_eq!(no_device(failed(100), Platform::Simulator), failed(100));
    }
}
