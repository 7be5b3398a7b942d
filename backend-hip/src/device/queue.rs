//! Streams of a device as owned values.
#![allow(unsafe_code, reason = "calls of a driver")]

use super::table::Handle;
use super::{Device, DeviceError, Function, Parameters};
use std::ptr;

/// Does not wait for the driver's default stream.
const NON_BLOCKING: u32 = 1;

/// A stream.
pub(crate) struct Queue {
    device: Device,
    handle: Handle,
}

// SAFETY: handles of a driver may be used from any thread on which the device is current.
unsafe impl Send for Queue {}

impl Queue {
    pub(crate) fn new(device: &Device) -> Result<Queue, DeviceError> {
        let functions = &device.table().functions;
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle.
        device
            .table()
            .check("creation of a stream", unsafe { (functions.stream_create)(&mut handle, NON_BLOCKING) })?;
        Ok(Queue { device: device.clone(), handle })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// Whose queue it is.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Waits until everything queued is done.
    pub(crate) fn synchronise(&self) -> Result<(), DeviceError> {
        // SAFETY: the handle is this queue's.
        let code = unsafe { (self.device.table().functions.stream_synchronize)(self.handle) };
        self.device.table().check("wait for a stream", code)
    }

    /// Queues a kernel.
    pub(crate) fn launch(
        &self,
        function: &Function,
        grid: [u32; 3],
        block: u32,
        parameters: &Parameters,
    ) -> Result<(), DeviceError> {
        let table = self.device.table();
        let mut pointers = parameters.pointers();
        let [x, y, z] = grid;
        // SAFETY: the parameters are those of the manifest, from which the kernel's own were generated; the caller checked
        // that memory behind them is as large as the kernel's declared extents.
        let code = unsafe {
            let launch = table.functions.launch;
            launch(function.handle(), x, y, z, block, 1, 1, 0, self.handle, pointers.as_mut_ptr(), ptr::null_mut())
        };
        table.check("launch of a kernel", code)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.device.make_current().is_err() {
            return;
        }
        let functions = &self.device.table().functions;
        // SAFETY: the handle is this queue's and given back once, after all their work.
        unsafe {
            (functions.stream_synchronize)(self.handle);
            (functions.stream_destroy)(self.handle);
        }
    }
}
