//! NVIDIA: libcuda, loaded at run time. HIP's module API is modelled on its driver API, so the table is the same.
#![allow(unsafe_code, reason = "signatures of a driver's functions")]

use super::DeviceError;
use super::library::{function, open};
use super::table::{DeviceFunctions, ErrorText, Functions, Table};

const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
const COMPUTE_CAPABILITY_MINOR: i32 = 76;

pub(super) fn table() -> Result<Table, DeviceError> {
    let library = open(&["libcuda.so.1", "libcuda.so", "nvcuda.dll"], "NVIDIA's driver (libcuda)")?;
    macro_rules! get {
        // SAFETY: the field's type is the signature in cuda.h, with integers for enumerations and device pointers.
        ($name:literal) => {
            unsafe { function(&library, $name) }?
        };
    }
    let functions = Functions {
        init: get!("cuInit"),
        device_count: get!("cuDeviceGetCount"),
        device_name: get!("cuDeviceGetName"),
        device_attribute: get!("cuDeviceGetAttribute"),
        memory_info: get!("cuMemGetInfo_v2"),
        alloc: get!("cuMemAlloc_v2"),
        free: get!("cuMemFree_v2"),
        host_alloc: get!("cuMemHostAlloc"),
        host_free: get!("cuMemFreeHost"),
        to_device: get!("cuMemcpyHtoDAsync_v2"),
        to_host: get!("cuMemcpyDtoHAsync_v2"),
        fill: get!("cuMemsetD8Async"),
        stream_create: get!("cuStreamCreate"),
        stream_destroy: get!("cuStreamDestroy_v2"),
        stream_synchronize: get!("cuStreamSynchronize"),
        module_load: get!("cuModuleLoadData"),
        module_unload: get!("cuModuleUnload"),
        module_function: get!("cuModuleGetFunction"),
        launch: get!("cuLaunchKernel"),
        device: DeviceFunctions::Primary { retain: get!("cuDevicePrimaryCtxRetain"), set: get!("cuCtxSetCurrent") },
        error_text: ErrorText::Stored(get!("cuGetErrorString")),
    };
    Ok(Table { functions, library: Some(library), faults: None })
}

/// `sm_90`.
pub(super) fn arch(table: &Table, ordinal: i32) -> Result<String, DeviceError> {
    let major = table.attribute(COMPUTE_CAPABILITY_MAJOR, ordinal)?;
    let minor = table.attribute(COMPUTE_CAPABILITY_MINOR, ordinal)?;
    Ok(format!("sm_{major}{minor}"))
}
