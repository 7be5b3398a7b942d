//! AMD: libamdhip64, loaded at run time.
#![allow(unsafe_code, reason = "signatures of a driver's functions")]

use super::library::{function, open};
use super::table::{DeviceFunctions, ErrorText, Functions, Table};
use super::{DeviceError, DriverCall};
use libloading::Library;
use std::ffi::c_void;

const NAMES: &[&str] =
    &["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so", "amdhip64_7.dll", "amdhip64_6.dll"];

/// The library.
pub(super) fn library() -> Result<Library, DeviceError> {
    open(NAMES, "the HIP runtime (libamdhip64)")
}

#[cfg_attr(feature = "link-hip", allow(dead_code, reason = "the linked functions are used"))]
pub(super) fn table() -> Result<Table, DeviceError> {
    let library = library()?;
    macro_rules! get {
        // SAFETY: the field's type is the signature in hip_runtime_api.h, with integers for enumerations.
        ($name:literal) => {
            unsafe { function(&library, $name) }?
        };
    }
    let functions = Functions {
        init: get!("hipInit"),
        device_count: get!("hipGetDeviceCount"),
        device_name: get!("hipDeviceGetName"),
        device_attribute: get!("hipDeviceGetAttribute"),
        memory_info: get!("hipMemGetInfo"),
        alloc: get!("hipMalloc"),
        free: get!("hipFree"),
        host_alloc: get!("hipHostMalloc"),
        host_free: get!("hipHostFree"),
        to_device: get!("hipMemcpyHtoDAsync"),
        to_host: get!("hipMemcpyDtoHAsync"),
        fill: get!("hipMemsetD8Async"),
        stream_create: get!("hipStreamCreateWithFlags"),
        stream_destroy: get!("hipStreamDestroy"),
        stream_synchronize: get!("hipStreamSynchronize"),
        module_load: get!("hipModuleLoadData"),
        module_unload: get!("hipModuleUnload"),
        module_function: get!("hipModuleGetFunction"),
        launch: get!("hipModuleLaunchKernel"),
        device: DeviceFunctions::Current(get!("hipSetDevice")),
        error_text: ErrorText::Returned(get!("hipGetErrorString")),
    };
    Ok(Table { functions, library: Some(library), faults: None })
}

/// Major, minor and patch number of the runtime; no device is needed.
pub(super) fn version() -> Result<[u32; 3], DeviceError> {
    let library = library()?;
    // SAFETY: the signature in hip_runtime_api.h.
    let get: unsafe extern "C" fn(*mut i32) -> i32 = unsafe { function(&library, "hipRuntimeGetVersion") }?;
    let mut version = 0;
    // SAFETY: the pointer is valid for writes while the call lasts.
    let status = unsafe { get(&raw mut version) };
    match u32::try_from(version) {
        // 70226015 is 7.2.26015.
        Ok(v) if status == 0 => Ok([v / 10_000_000, v / 100_000 % 100, v % 100_000]),
        _ => Err(DeviceError::Missing(format!("the HIP runtime does not tell its version (status {status})"))),
    }
}

/// Where hipDeviceProp_tR0600 holds gcnArchName; the structure is shorter than the buffer.
const ARCH_NAME: usize = 1160;
const PROPERTIES: usize = 4096;

/// The architecture without its features: `gfx1151`.
pub(super) fn arch(table: &Table, ordinal: i32) -> Result<String, DeviceError> {
    let library = table.library.as_ref().expect("the table was loaded from it");
    // SAFETY: the signature of ROCm 6 and 7; the older function of this purpose has another layout and is not used.
    let get: unsafe extern "C" fn(*mut c_void, i32) -> i32 =
        unsafe { function(library, "hipGetDevicePropertiesR0600") }?;
    let mut properties = [0u64; PROPERTIES / 8];
    // SAFETY: the buffer is zeroed, aligned and larger than the structure.
    table.call(DriverCall::DeviceProperties, |_| unsafe { get(properties.as_mut_ptr().cast(), ordinal) })?;
    let bytes: Vec<u8> = properties.iter().flat_map(|w| w.to_le_bytes()).collect();
    let name = bytes[ARCH_NAME..].split(|b| *b == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    let arch = name.split(':').next().unwrap_or_default().to_string();
    match arch.starts_with("gfx") {
        true => Ok(arch),
        false => Err(DeviceError::Missing(format!("the driver names the architecture `{name}`"))),
    }
}
