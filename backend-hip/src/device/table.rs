//! The driver table: the functions that a backend needs of a driver, with the signatures that HIP's module API and CUDA's
//! driver API share. Every status becomes an error with the call's name.
#![allow(unsafe_code, reason = "calls of a driver")]

use super::{DeviceError, DriverCall, Faults};
use libloading::Library;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

pub(super) type Handle = *mut c_void;

/// Functions of a driver. A status is a plain integer: a value that the headers here do not know is no undefined behaviour.
pub(super) struct Functions {
    pub init: unsafe extern "C" fn(u32) -> i32,
    pub device_count: unsafe extern "C" fn(*mut i32) -> i32,
    pub device_name: unsafe extern "C" fn(*mut c_char, i32, i32) -> i32,
    pub device_attribute: unsafe extern "C" fn(*mut i32, i32, i32) -> i32,
    pub memory_info: unsafe extern "C" fn(*mut usize, *mut usize) -> i32,
    pub alloc: unsafe extern "C" fn(*mut u64, usize) -> i32,
    pub free: unsafe extern "C" fn(u64) -> i32,
    pub host_alloc: unsafe extern "C" fn(*mut *mut c_void, usize, u32) -> i32,
    pub host_free: unsafe extern "C" fn(*mut c_void) -> i32,
    pub to_device: unsafe extern "C" fn(u64, *const c_void, usize, Handle) -> i32,
    pub to_host: unsafe extern "C" fn(*mut c_void, u64, usize, Handle) -> i32,
    pub fill: unsafe extern "C" fn(u64, u8, usize, Handle) -> i32,
    pub stream_create: unsafe extern "C" fn(*mut Handle, u32) -> i32,
    pub stream_destroy: unsafe extern "C" fn(Handle) -> i32,
    pub stream_synchronize: unsafe extern "C" fn(Handle) -> i32,
    pub module_load: unsafe extern "C" fn(*mut Handle, *const c_void) -> i32,
    pub module_unload: unsafe extern "C" fn(Handle) -> i32,
    pub module_function: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> i32,
    #[allow(clippy::type_complexity, reason = "it is the driver's signature")]
    pub launch: unsafe extern "C" fn(
        Handle,
        u32,
        u32,
        u32,
        u32,
        u32,
        u32,
        u32,
        Handle,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> i32,
    pub device: DeviceFunctions,
    pub error_text: ErrorText,
}

/// How a thread is made to use a device.
pub(super) enum DeviceFunctions {
    /// HIP has a current device.
    Current(unsafe extern "C" fn(i32) -> i32),
    /// CUDA has a current context, of which each device has a primary one.
    Primary { retain: unsafe extern "C" fn(*mut Handle, i32) -> i32, set: unsafe extern "C" fn(Handle) -> i32 },
}

/// How a driver names its errors.
pub(super) enum ErrorText {
    Returned(unsafe extern "C" fn(i32) -> *const c_char),
    Stored(unsafe extern "C" fn(i32, *mut *const c_char) -> i32),
}

/// What [`DeviceFunctions::Primary`] gave.
pub(super) struct Context(Handle);

// SAFETY: a context may be made current on any thread.
unsafe impl Send for Context {}
// SAFETY: as above; it is never changed.
unsafe impl Sync for Context {}

/// A driver.
pub(super) struct Table {
    pub functions: Functions,
    /// Kept so that the functions stay where they are.
    pub library: Option<Library>,
    /// What goes wrong on purpose.
    pub faults: Option<Faults>,
}

impl Table {
    /// Makes a call; a status that is not success is an error.
    pub fn call(&self, call: DriverCall, make: impl FnOnce(&Functions) -> i32) -> Result<(), DeviceError> {
        let make = || make(&self.functions);
        let code = match &self.faults {
            Some(faults) => faults.make(call, make),
            None => make(),
        };
        self.check(call.name(), code)
    }

    /// The error of a status that is not success.
    fn check(&self, call: &'static str, code: i32) -> Result<(), DeviceError> {
        if code == 0 {
            return Ok(());
        }
        let text = match self.functions.error_text {
            // SAFETY: drivers give a constant text or null for any status.
            ErrorText::Returned(f) => unsafe { f(code) },
            ErrorText::Stored(f) => {
                let mut text = ptr::null();
                // SAFETY: as above, through a pointer to a local.
                unsafe { f(code, &mut text) };
                text
            }
        };
        let text = match text.is_null() {
            true => "an unknown status".to_string(),
            // SAFETY: it is the driver's constant, which ends in a zero.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        };
        Err(DeviceError::Call { call, code, text })
    }

    pub fn initialise(&self) -> Result<(), DeviceError> {
        // SAFETY: 0 is the only value of the flags.
        self.call(DriverCall::Init, |f| unsafe { (f.init)(0) })
    }

    pub fn count(&self) -> Result<i32, DeviceError> {
        let mut count = 0;
        // SAFETY: writes one integer.
        self.call(DriverCall::DeviceCount, |f| unsafe { (f.device_count)(&mut count) })?;
        Ok(count)
    }

    pub fn name(&self, ordinal: i32) -> Result<String, DeviceError> {
        let mut name = [0u8; 256];
        // SAFETY: the length is that of the array, whose last byte stays zero.
        self.call(DriverCall::DeviceName, |f| unsafe { (f.device_name)(name.as_mut_ptr().cast(), 255, ordinal) })?;
        Ok(CStr::from_bytes_until_nul(&name).map_or_else(|_| String::new(), |n| n.to_string_lossy().into_owned()))
    }

    pub fn attribute(&self, attribute: i32, ordinal: i32) -> Result<i32, DeviceError> {
        let mut value = 0;
        // SAFETY: writes one integer.
        self.call(DriverCall::DeviceAttribute, |f| unsafe { (f.device_attribute)(&mut value, attribute, ordinal) })?;
        Ok(value)
    }

    pub fn memory(&self) -> Result<(u64, u64), DeviceError> {
        let (mut free, mut all) = (0, 0);
        // SAFETY: writes two numbers.
        self.call(DriverCall::MemoryInfo, |f| unsafe { (f.memory_info)(&mut free, &mut all) })?;
        Ok((free as u64, all as u64))
    }

    pub fn context(&self, ordinal: i32) -> Result<Context, DeviceError> {
        let mut context = ptr::null_mut();
        if let DeviceFunctions::Primary { retain, .. } = self.functions.device {
            // SAFETY: writes one handle; the context is kept for the life of the process.
            self.call(DriverCall::Context, |_| unsafe { retain(&mut context, ordinal) })?;
        }
        Ok(Context(context))
    }

    pub fn make_current(&self, context: &Context, ordinal: i32) -> Result<(), DeviceError> {
        self.call(DriverCall::MakeCurrent, |f| match f.device {
            // SAFETY: changes only what this thread uses.
            DeviceFunctions::Current(set) => unsafe { set(ordinal) },
            // SAFETY: the context is this device's, retained above.
            DeviceFunctions::Primary { set, .. } => unsafe { set(context.0) },
        })
    }
}
