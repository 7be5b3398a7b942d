//! Compilers that come with a driver: hipRTC and NVRTC, whose interfaces are the same but for the names.
#![allow(unsafe_code, reason = "calls of a compiler's library")]

use super::DeviceError;
use super::library::{function, open};
use super::table::Handle;
use libloading::Library;
use std::ffi::{CString, c_char};
use std::ptr;

/// The oldest hipRTC that compiles for gfx11 without aborting the process.
const LEAST_HIPRTC: (i32, i32) = (6, 4);

type Create = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    i32,
    *const *const c_char,
    *const *const c_char,
) -> i32;

/// A compiler of kernels in this process.
pub(crate) struct RuntimeCompiler {
    create: Create,
    compile: unsafe extern "C" fn(Handle, i32, *const *const c_char) -> i32,
    log_size: unsafe extern "C" fn(Handle, *mut usize) -> i32,
    log: unsafe extern "C" fn(Handle, *mut c_char) -> i32,
    code_size: unsafe extern "C" fn(Handle, *mut usize) -> i32,
    code: unsafe extern "C" fn(Handle, *mut c_char) -> i32,
    destroy: unsafe extern "C" fn(*mut Handle) -> i32,
    version: (i32, i32),
    name: &'static str,
    _library: Library,
}

impl RuntimeCompiler {
    /// hipRTC.
    pub(crate) fn hip() -> Result<RuntimeCompiler, DeviceError> {
        let names = ["libhiprtc.so.7", "libhiprtc.so.6", "libhiprtc.so", "hiprtc0700.dll", "hiprtc0604.dll"];
        let library = open(&names, "hipRTC (libhiprtc)")?;
        let found = RuntimeCompiler::of(library, "hiprtc", "Code")?;
        if found.version < LEAST_HIPRTC {
            let (major, minor) = found.version;
            return Err(DeviceError::Missing(format!("hipRTC {major}.{minor} is too old; 6.4 or newer is needed")));
        }
        Ok(found)
    }

    /// NVRTC.
    pub(crate) fn nvidia() -> Result<RuntimeCompiler, DeviceError> {
        let names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so", "nvrtc64_120_0.dll"];
        RuntimeCompiler::of(open(&names, "NVRTC (libnvrtc)")?, "nvrtc", "CUBIN")
    }

    fn of(library: Library, name: &'static str, code: &str) -> Result<RuntimeCompiler, DeviceError> {
        macro_rules! get {
            // SAFETY: the field's type is the signature in nvrtc.h and hiprtc.h, with integers for enumerations.
            ($suffix:expr) => {
                unsafe { function(&library, &format!("{name}{}", $suffix)) }?
            };
        }
        let version_of: unsafe extern "C" fn(*mut i32, *mut i32) -> i32 = get!("Version");
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two integers.
        unsafe { version_of(&mut major, &mut minor) };
        Ok(RuntimeCompiler {
            create: get!("CreateProgram"),
            compile: get!("CompileProgram"),
            log_size: get!("GetProgramLogSize"),
            log: get!("GetProgramLog"),
            code_size: get!(format!("Get{code}Size")),
            code: get!(format!("Get{code}")),
            destroy: get!("DestroyProgram"),
            version: (major, minor),
            name,
            _library: library,
        })
    }

    /// `nvrtc 13.0`.
    pub(crate) fn version(&self) -> String {
        format!("{} {}.{}", self.name, self.version.0, self.version.1)
    }

    /// Compiles a source to a code object.
    pub(crate) fn compile(&self, source: &str, options: &[String]) -> Result<Vec<u8>, DeviceError> {
        let text = |s: &str| CString::new(s).map_err(|_| DeviceError::Compile("a zero within the source".into()));
        let (source, file) = (text(source)?, text("kernels.hip")?);
        let options = options.iter().map(|o| text(o)).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = ptr::null_mut();
        // SAFETY: the texts end in zeros and outlive the call; there are no headers.
        let made = unsafe { (self.create)(&mut program, source.as_ptr(), file.as_ptr(), 0, ptr::null(), ptr::null()) };
        if made != 0 {
            return Err(DeviceError::Compile(format!("{} gives status {made}", self.name)));
        }
        // SAFETY: the program was just made; there are as many options as said.
        let status = unsafe { (self.compile)(program, pointers.len() as i32, pointers.as_ptr()) };
        let result = match status {
            0 => self.fetch(program, self.code_size, self.code),
            _ => {
                let log = self.fetch(program, self.log_size, self.log).unwrap_or_default();
                let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_string();
                Err(DeviceError::Compile(format!("{} gives status {status}\n{log}", self.name)))
            }
        };
        // SAFETY: given back once.
        unsafe { (self.destroy)(&mut program) };
        result
    }

    fn fetch(
        &self,
        program: Handle,
        size: unsafe extern "C" fn(Handle, *mut usize) -> i32,
        get: unsafe extern "C" fn(Handle, *mut c_char) -> i32,
    ) -> Result<Vec<u8>, DeviceError> {
        let mut len = 0;
        // SAFETY: writes one number.
        let sized = unsafe { size(program, &mut len) };
        let mut bytes = vec![0u8; len];
        // SAFETY: the buffer has the size that was asked for.
        let got = unsafe { get(program, bytes.as_mut_ptr().cast()) };
        match (sized, got) {
            (0, 0) => Ok(bytes),
            _ => Err(DeviceError::Compile(format!("{} has no result", self.name))),
        }
    }
}
