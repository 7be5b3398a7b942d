//! HIP's functions as hip-sys declares and links them: the feature `link-hip`, for programs that are built where ROCm is and would
//! rather not start than start without it. Everybody else loads the library when it is asked for ([`super::amd`]).
//!
//! Where the feature is off this file is only compiled for tests: every signature of the driver table is held against hip-sys.
#![cfg_attr(not(feature = "link-hip"), allow(dead_code, reason = "only its types are tested"))]
#![allow(unsafe_code, reason = "changes types of a driver's functions")]

use super::DeviceError;
use super::table::{DeviceFunctions, ErrorText, Functions, Table};
use hip_sys::hiprt as hip;
use hip_sys::hiprt::hipError_t;
use std::ffi::{c_char, c_int, c_uchar, c_uint, c_void};
use std::mem::transmute_copy;

type Memory = hip::hipDeviceptr_t;
type Stream = hip::hipStream_t;

/// A function with the signature that hip-sys gives it, as one that returns a plain integer: a status that its enumeration does not
/// know would be undefined behaviour.
macro_rules! plain {
    ($name:ident($($parameter:ty),* $(,)?) -> $result:ty) => {{
        let declared: unsafe extern "C" fn($($parameter),*) -> $result = hip::$name;
        same(declared)
    }};
    ($name:ident($($parameter:ty),* $(,)?)) => {
        plain!($name($($parameter),*) -> hipError_t)
    };
}

/// How large a function's parameters and its result are.
trait Signature: Copy {
    const SIZES: &'static [usize];
}

macro_rules! signatures {
    ($($($t:ident)*;)*) => {
        $(impl<$($t,)* R> Signature for unsafe extern "C" fn($($t),*) -> R {
            const SIZES: &'static [usize] = &[$(size_of::<$t>(),)* size_of::<R>()];
        })*
    };
}

signatures! {
    A; A B; A B C; A B C D; A B C D E F G H I J K;
}

/// A function with names of other types; that they are of the same number and sizes is checked when this is compiled.
fn same<From: Signature, To: Signature>(declared: From) -> To {
    const {
        assert!(From::SIZES.len() == To::SIZES.len());
        let mut at = 0;
        while at < From::SIZES.len() {
            assert!(From::SIZES[at] == To::SIZES[at]);
            at += 1;
        }
    }
    // SAFETY: both are functions whose parameters are integers and pointers of the same sizes: the table has addresses for pointers
    // and integers for enumerations.
    unsafe { transmute_copy(&declared) }
}

/// The linked driver.
pub(super) fn table() -> Result<Table, DeviceError> {
    let functions = Functions {
        init: plain!(hipInit(c_uint)),
        device_count: plain!(hipGetDeviceCount(*mut c_int)),
        device_name: plain!(hipDeviceGetName(*mut c_char, c_int, hip::hipDevice_t)),
        device_attribute: plain!(hipDeviceGetAttribute(*mut c_int, hip::hipDeviceAttribute_t, c_int)),
        memory_info: plain!(hipMemGetInfo(*mut usize, *mut usize)),
        alloc: plain!(hipMalloc(*mut *mut c_void, usize)),
        free: plain!(hipFree(*mut c_void)),
        host_alloc: plain!(hipHostMalloc(*mut *mut c_void, usize, c_uint)),
        host_free: plain!(hipHostFree(*mut c_void)),
        to_device: plain!(hipMemcpyHtoDAsync(Memory, *mut c_void, usize, Stream)),
        to_host: plain!(hipMemcpyDtoHAsync(*mut c_void, Memory, usize, Stream)),
        fill: plain!(hipMemsetD8Async(Memory, c_uchar, usize, Stream)),
        stream_create: plain!(hipStreamCreateWithFlags(*mut Stream, c_uint)),
        stream_destroy: plain!(hipStreamDestroy(Stream)),
        stream_synchronize: plain!(hipStreamSynchronize(Stream)),
        module_load: plain!(hipModuleLoadData(*mut hip::hipModule_t, *const c_void)),
        module_unload: plain!(hipModuleUnload(hip::hipModule_t)),
        module_function: plain!(hipModuleGetFunction(*mut hip::hipFunction_t, hip::hipModule_t, *const c_char)),
        launch: plain!(
            hipModuleLaunchKernel(
                hip::hipFunction_t,
                c_uint,
                c_uint,
                c_uint,
                c_uint,
                c_uint,
                c_uint,
                c_uint,
                Stream,
                *mut *mut c_void,
                *mut *mut c_void,
            )
        ),
        device: DeviceFunctions::Current(plain!(hipSetDevice(c_int))),
        error_text: ErrorText::Returned(plain!(hipGetErrorString(hipError_t) -> *const c_char)),
    };
    // What hip-sys does not know yet is looked up among what this program was linked with.
    #[cfg(unix)]
    let library = Some(libloading::os::unix::Library::this().into());
    #[cfg(not(unix))]
    let library = Some(super::amd::library()?);
    Ok(Table { functions, library, faults: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_hips_headers() {
        assert_eq!(hipError_t::hipSuccess as i32, 0);
        assert_eq!(hipError_t::hipErrorOutOfMemory as i32, 2);
        let none = [hipError_t::hipErrorNoDevice as i32, hipError_t::hipErrorInvalidDevice as i32];
        assert_eq!(none, super::super::NO_DEVICE);
        assert_eq!(hip::hipStreamNonBlocking, super::super::queue::NON_BLOCKING);
    }
}
