//! Streams of a device as owned values.
#![allow(unsafe_code, reason = "calls of a driver")]

use super::table::{Functions, Handle};
use super::watch::Told;
use super::{Device, DeviceError, DriverCall, Function, Parameters};
use std::ptr;

/// Does not wait for the driver's default stream.
pub(super) const NON_BLOCKING: u32 = 1;

/// A stream.
pub(crate) struct Queue {
    device: Device,
    handle: Handle,
}

// SAFETY: handles of a driver may be used from any thread on which the device is current.
unsafe impl Send for Queue {}

impl Queue {
    pub(crate) fn new(device: &Device) -> Result<Queue, DeviceError> {
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle.
        let create = |f: &Functions| unsafe { (f.stream_create)(&mut handle, NON_BLOCKING) };
        device.table().call(DriverCall::StreamCreate, create)?;
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
        self.device.table().call(DriverCall::Wait, |f| unsafe { (f.stream_synchronize)(self.handle) })
    }

    /// Queues a kernel.
    pub(crate) fn launch(
        &self,
        function: &Function,
        grid: [u32; 3],
        block: u32,
        parameters: &Parameters,
    ) -> Result<(), DeviceError> {
        let mut pointers = parameters.pointers();
        let [x, y, z] = grid;
        // Only the simulator is told, through a place that drivers have for something that is not used here.
        let mut told = self.device.watch().map(|_| Told::new(parameters.extents()));
        let extra = told.as_mut().map_or(ptr::null_mut(), |t| ptr::from_mut(t).cast());
        // SAFETY: the parameters are those of the manifest, from which the kernel's own were generated; the caller checked
        // that memory behind them is as large as the kernel's declared extents.
        let launch = |f: &Functions| unsafe {
            let (kernel, parameters) = (function.handle(), pointers.as_mut_ptr());
            (f.launch)(kernel, x, y, z, block, 1, 1, 0, self.handle, parameters, extra)
        };
        self.device.table().call(DriverCall::Launch, launch)?;
        if let (Some(watch), Some(told)) = (self.device.watch(), told) {
            watch.note(function.name(), told.extents());
        }
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.device.make_current().is_err() {
            return;
        }
        // SAFETY: the handle is this queue's and given back once, after all its work.
        let _ = self.device.table().call(DriverCall::StreamDestroy, |f| unsafe {
            (f.stream_synchronize)(self.handle);
            (f.stream_destroy)(self.handle)
        });
    }
}
