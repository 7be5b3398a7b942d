//! Memory of a device, and memory of the host that a device copies from and to.
#![allow(unsafe_code, reason = "calls of a driver, and memory that it gave")]

use super::table::Functions;
use super::{Device, DeviceError, DriverCall, Queue};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr;

/// Bytes of a device.
pub(crate) struct DeviceMemory {
    device: Device,
    at: u64,
    len: usize,
}

impl DeviceMemory {
    /// Memory of arbitrary content.
    pub(crate) fn new(device: &Device, len: usize) -> Result<DeviceMemory, DeviceError> {
        let mut at = 0;
        if len > 0 {
            // SAFETY: writes one address.
            device.table().call(DriverCall::Alloc, |f| unsafe { (f.alloc)(&mut at, len) })?;
        }
        Ok(DeviceMemory { device: device.clone(), at, len })
    }

    /// Where it begins, for kernels.
    pub(crate) fn address(&self) -> u64 {
        self.at
    }

    /// How much it is.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Fills it with one byte.
    pub(crate) fn fill(&self, byte: u8, queue: &Queue) -> Result<(), DeviceError> {
        if self.len == 0 {
            return Ok(());
        }
        // SAFETY: the range is the whole allocation.
        let fill = |f: &Functions| unsafe { (f.fill)(self.at, byte, self.len, queue.handle()) };
        self.device.table().call(DriverCall::Fill, fill)
    }

    /// Copies bytes in; when the call returns, `from` has been read or is pinned memory that a sync guards.
    pub(crate) fn write(&self, offset: usize, from: &[u8], queue: &Queue) -> Result<(), DeviceError> {
        assert!(offset.checked_add(from.len()).is_some_and(|end| end <= self.len), "a copy leaves device memory");
        if from.is_empty() {
            return Ok(());
        }
        let (to, start) = (self.at + offset as u64, from.as_ptr().cast::<c_void>());
        // SAFETY: both ranges hold that many bytes. Pageable memory is read before the call returns; of pinned memory a
        // checked plan says when it is written again.
        let copy = |f: &Functions| unsafe { (f.to_device)(to, start, from.len(), queue.handle()) };
        self.device.table().call(DriverCall::ToDevice, copy)
    }

    /// Copies bytes out and waits for them.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8], queue: &Queue) -> Result<(), DeviceError> {
        assert!(offset.checked_add(to.len()).is_some_and(|end| end <= self.len), "a copy leaves device memory");
        if to.is_empty() {
            return Ok(());
        }
        let (from, start) = (self.at + offset as u64, to.as_mut_ptr().cast::<c_void>());
        // SAFETY: both ranges hold that many bytes, and nobody else sees `to` until the queue is done.
        let copy = |f: &Functions| unsafe { (f.to_host)(start, from, to.len(), queue.handle()) };
        self.device.table().call(DriverCall::ToHost, copy)?;
        queue.synchronise()
    }

    /// Copies bytes to host memory that the device reaches; they are there when the queue is done with it.
    pub(crate) fn read_later(
        &self,
        offset: usize,
        to: &mut HostMemory,
        range: Range<usize>,
        queue: &Queue,
    ) -> Result<(), DeviceError> {
        let len = range.len();
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "a copy leaves device memory");
        assert!(range.end <= to.len, "a copy leaves host memory");
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the range was checked; a checked plan has nobody read or write it until it waited for the queue.
        let copy = |f: &Functions| unsafe {
            let start = to.at.add(range.start).cast::<c_void>();
            (f.to_host)(start, self.at + offset as u64, len, queue.handle())
        };
        self.device.table().call(DriverCall::ToHost, copy)
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.len > 0 && self.device.make_current().is_ok() {
            // SAFETY: it is this allocation, given back once; the driver waits for work that uses it.
            let _ = self.device.table().call(DriverCall::Free, |f| unsafe { (f.free)(self.at) });
        }
    }
}

/// Pinned memory of the host.
pub(crate) struct HostMemory {
    device: Device,
    at: *mut u8,
    len: usize,
}

// SAFETY: it is plain memory; access goes through `&self` and `&mut self`.
unsafe impl Send for HostMemory {}

impl HostMemory {
    /// Zeroed memory.
    pub(crate) fn new(device: &Device, len: usize) -> Result<HostMemory, DeviceError> {
        let mut at: *mut c_void = ptr::null_mut();
        if len > 0 {
            // SAFETY: writes one address; without flags it is ordinary pinned memory.
            device.table().call(DriverCall::HostAlloc, |f| unsafe { (f.host_alloc)(&mut at, len, 0) })?;
            // SAFETY: it has just been allocated with this size.
            unsafe { ptr::write_bytes(at.cast::<u8>(), 0, len) };
        }
        Ok(HostMemory { device: device.clone(), at: at.cast(), len })
    }

    /// How much it is.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Some of its bytes.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len, "a read leaves host memory");
        if range.is_empty() {
            return &[];
        }
        // SAFETY: in bounds; a checked plan waits for a device that writes here before the host reads.
        unsafe { std::slice::from_raw_parts(self.at.add(range.start), range.len()) }
    }

    /// Some of its bytes, to be written.
    pub(crate) fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len, "a write leaves host memory");
        if range.is_empty() {
            return &mut [];
        }
        // SAFETY: in bounds and borrowed exclusively; a checked plan waits for a device that reads here before the host
        // writes.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(range.start), range.len()) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.len > 0 && self.device.make_current().is_ok() {
            // SAFETY: it is this allocation, given back once; queues that use it were synchronised by their session.
            let _ = self.device.table().call(DriverCall::HostFree, |f| unsafe { (f.host_free)(self.at.cast()) });
        }
    }
}
