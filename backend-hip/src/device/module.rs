//! Code objects that were loaded, the kernels in them, and the parameters of a launch.
#![allow(unsafe_code, reason = "calls of a driver")]

use super::table::{Functions, Handle};
use super::{Device, DeviceError, DriverCall, Extent};
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

/// A loaded code object.
pub(crate) struct Module {
    device: Device,
    handle: Handle,
}

// SAFETY: a module is not changed after it was loaded; drivers allow its use from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Loads a code object; of the simulator, a path. `image` must end in a zero.
    pub(crate) fn load(device: &Device, image: &[u8]) -> Result<Arc<Module>, DeviceError> {
        assert_eq!(image.last(), Some(&0), "an image ends in a zero");
        let mut handle = ptr::null_mut();
        // SAFETY: the image came from this device's compiler, or its hash did; the driver checks the rest.
        let load = |f: &Functions| unsafe { (f.module_load)(&mut handle, image.as_ptr().cast()) };
        device.table().call(DriverCall::ModuleLoad, load)?;
        Ok(Arc::new(Module { device: device.clone(), handle }))
    }

    /// A kernel by its symbol.
    pub(crate) fn function(self: &Arc<Module>, name: &str) -> Result<Function, DeviceError> {
        let symbol = CString::new(name).map_err(|_| DeviceError::Missing(format!("no kernel is called {name:?}")))?;
        let mut handle = ptr::null_mut();
        let table = self.device.table();
        // SAFETY: writes one handle; the name ends in a zero.
        let find = |f: &Functions| unsafe { (f.module_function)(&mut handle, self.handle, symbol.as_ptr()) };
        table.call(DriverCall::KernelFind, find)?;
        Ok(Function { handle, name: name.into(), _module: self.clone() })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.device.make_current().is_ok() {
            // SAFETY: given back once; every function holds the module.
            let _ = self.device.table().call(DriverCall::ModuleUnload, |f| unsafe { (f.module_unload)(self.handle) });
        }
    }
}

/// A kernel of a module.
#[derive(Clone)]
pub(crate) struct Function {
    handle: Handle,
    name: Arc<str>,
    _module: Arc<Module>,
}

// SAFETY: as for the module.
unsafe impl Send for Function {}
// SAFETY: as for the module.
unsafe impl Sync for Function {}

impl Function {
    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// What a launch passes: every parameter at an address aligned for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters {
    words: Vec<u64>,
    /// First word of each.
    starts: Vec<usize>,
    /// What the kernel may touch, in the order of its parameters.
    extents: Vec<Extent>,
}

impl Parameters {
    /// Adds a parameter of up to eight bytes.
    pub(crate) fn push(&mut self, bits: u64) {
        self.starts.push(self.words.len());
        self.words.push(bits);
    }

    /// Adds the address of memory, of which the kernel may touch so many bytes.
    pub(crate) fn push_memory(&mut self, address: u64, bytes: u64, write: bool) {
        self.push(address);
        self.extents.push(Extent::new(address, bytes, write));
    }

    /// Adds a block of 32-bit words.
    pub(crate) fn push_words(&mut self, words: &[u32]) {
        self.starts.push(self.words.len());
        let pairs = words.chunks(2).map(|p| u64::from(p[0]) | u64::from(p.get(1).copied().unwrap_or(0)) << 32);
        self.words.extend(pairs);
    }

    pub(super) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// One address per parameter; valid while the parameters are.
    pub(super) fn pointers(&self) -> Vec<*mut c_void> {
        self.starts.iter().map(|at| self.words[*at..].as_ptr().cast_mut().cast()).collect()
    }
}
