//! The simulator as a driver: memory is this process's, a module is a shared library of kernels compiled for this
//! processor, and everything is done when its call returns. A module's image is the path of its library.
#![allow(unsafe_code, reason = "implements a driver's functions")]

use super::Faults;
use super::table::{DeviceFunctions, ErrorText, Functions, Handle, Table};
use super::watch::{Extent, Told};
use libloading::Library;
use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::ptr;
use std::sync::Mutex;

/// What fresh memory holds: a value that is read before it is written is NaN.
const POISON: u8 = 0xff;
const ALIGN: usize = 256;
/// Poison before and behind every allocation; nobody may touch it.
const MARGIN: usize = 4096;

const OUT_OF_MEMORY: i32 = 2;
const NOT_FOUND: i32 = 500;
const INVALID: i32 = 1;
/// Added to what the simulator's own runtime reports (simulator.h).
const FAULT: i32 = 9000;

static ALLOCATED: Mutex<Option<HashMap<u64, usize>>> = Mutex::new(None);

type Simulate = unsafe extern "C" fn(u32, u32, u32, u32, *mut *mut c_void, *mut Watch) -> i32;

/// What is watched in a launch, as in simulator.h.
#[repr(C)]
struct Watch {
    extents: *mut Extent,
    count: u64,
    memory: *const [u64; 2],
    ranges: u64,
    /// From the first of them to the last.
    all: [u64; 2],
}

/// The driver, with what goes wrong on purpose.
pub(super) fn table(faults: Option<Faults>) -> Table {
    let functions = Functions {
        init,
        device_count,
        device_name,
        device_attribute,
        memory_info,
        alloc: device_alloc,
        free: device_free,
        host_alloc,
        host_free,
        to_device,
        to_host,
        fill,
        stream_create: create,
        stream_destroy: succeed,
        stream_synchronize: succeed,
        module_load,
        module_unload,
        module_function,
        launch,
        device: DeviceFunctions::Current(set_device),
        error_text: ErrorText::Returned(error_text),
    };
    Table { functions, library: None, faults }
}

unsafe extern "C" fn init(_: u32) -> i32 {
    0
}

unsafe extern "C" fn device_count(count: *mut i32) -> i32 {
    // SAFETY: the caller gives a place for it.
    unsafe { *count = 1 };
    0
}

unsafe extern "C" fn device_name(name: *mut c_char, len: i32, _: i32) -> i32 {
    if len > 0 {
        // SAFETY: there is room for a character at least.
        unsafe { *name = 0 };
    }
    0
}

unsafe extern "C" fn device_attribute(_: *mut i32, _: i32, _: i32) -> i32 {
    INVALID
}

unsafe extern "C" fn memory_info(free: *mut usize, all: *mut usize) -> i32 {
    // SAFETY: the caller gives places for both.
    unsafe { (*free, *all) = (0, 0) };
    0
}

fn layout(len: usize) -> Option<Layout> {
    Layout::from_size_align(len.checked_add(2 * MARGIN)?, ALIGN).ok()
}

/// Allocates poisoned memory; 0 when there is none.
fn allocate(len: usize) -> u64 {
    let Some(layout) = layout(len) else { return 0 };
    // SAFETY: the layout is larger than nothing.
    let memory = unsafe { alloc(layout) };
    if memory.is_null() {
        return 0;
    }
    // SAFETY: it was just allocated with this size.
    unsafe { ptr::write_bytes(memory, POISON, layout.size()) };
    let mut known = ALLOCATED.lock().unwrap_or_else(|e| e.into_inner());
    let at = memory as u64 + MARGIN as u64;
    known.get_or_insert_default().insert(at, len);
    at
}

fn release(at: u64) -> i32 {
    let known = ALLOCATED.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert_default().remove(&at);
    let Some(layout) = known.and_then(layout) else { return INVALID };
    // SAFETY: `allocate` gave this address with this layout, and it was still known.
    unsafe { dealloc((at as usize - MARGIN) as *mut u8, layout) };
    0
}

unsafe extern "C" fn device_alloc(at: *mut u64, len: usize) -> i32 {
    let memory = allocate(len);
    // SAFETY: the caller gives a place for it.
    unsafe { *at = memory };
    if memory == 0 { OUT_OF_MEMORY } else { 0 }
}

unsafe extern "C" fn device_free(at: u64) -> i32 {
    release(at)
}

unsafe extern "C" fn host_alloc(at: *mut *mut c_void, len: usize, _: u32) -> i32 {
    let memory = allocate(len);
    // SAFETY: the caller gives a place for it.
    unsafe { *at = memory as *mut c_void };
    if memory == 0 { OUT_OF_MEMORY } else { 0 }
}

unsafe extern "C" fn host_free(at: *mut c_void) -> i32 {
    release(at as u64)
}

unsafe extern "C" fn to_device(to: u64, from: *const c_void, len: usize, _: Handle) -> i32 {
    // SAFETY: the caller's ranges are `len` bytes each, of different allocations.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), to as *mut u8, len) };
    0
}

unsafe extern "C" fn to_host(to: *mut c_void, from: u64, len: usize, _: Handle) -> i32 {
    // SAFETY: the caller's ranges are `len` bytes each, of different allocations.
    unsafe { ptr::copy_nonoverlapping(from as *const u8, to.cast::<u8>(), len) };
    0
}

unsafe extern "C" fn fill(at: u64, byte: u8, len: usize, _: Handle) -> i32 {
    // SAFETY: the caller's range is `len` bytes.
    unsafe { ptr::write_bytes(at as *mut u8, byte, len) };
    0
}

/// Streams have nothing to remember.
unsafe extern "C" fn create(handle: *mut Handle, _: u32) -> i32 {
    // SAFETY: the caller gives a place for it.
    unsafe { *handle = ptr::dangling_mut() };
    0
}

unsafe extern "C" fn succeed(_: Handle) -> i32 {
    0
}

unsafe extern "C" fn set_device(_: i32) -> i32 {
    0
}

unsafe extern "C" fn module_load(module: *mut Handle, image: *const c_void) -> i32 {
    // SAFETY: an image of this driver is a path that ends in a zero.
    let path = unsafe { CStr::from_ptr(image.cast()) };
    let Ok(path) = path.to_str() else { return NOT_FOUND };
    // SAFETY: the library was compiled from kernels; it has no initialisers.
    let Ok(library) = (unsafe { Library::new(OsStr::new(path)) }) else { return NOT_FOUND };
    // SAFETY: the caller gives a place for it.
    unsafe { *module = Box::into_raw(Box::new(library)).cast() };
    0
}

unsafe extern "C" fn module_unload(module: Handle) -> i32 {
    // SAFETY: `module_load` made it, and the caller gives it back once.
    drop(unsafe { Box::from_raw(module.cast::<Library>()) });
    0
}

unsafe extern "C" fn module_function(function: *mut Handle, module: Handle, name: *const c_char) -> i32 {
    // SAFETY: `module_load` made it; the caller keeps it while it uses functions of it.
    let library = unsafe { &*module.cast::<Library>() };
    // SAFETY: the caller's name ends in a zero.
    let name = unsafe { CStr::from_ptr(name) };
    let symbol = [b"simulate_", name.to_bytes_with_nul()].concat();
    // SAFETY: simulator.h defines every such symbol with this signature.
    let Ok(found) = (unsafe { library.get::<Simulate>(&symbol) }) else { return NOT_FOUND };
    // SAFETY: the caller gives a place for it.
    unsafe { *function = *found as Handle };
    0
}

#[allow(clippy::too_many_arguments, reason = "it is the driver's signature")]
unsafe extern "C" fn launch(
    function: Handle,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    _lds: u32,
    _stream: Handle,
    parameters: *mut *mut c_void,
    told: *mut *mut c_void,
) -> i32 {
    if block_y != 1 || block_z != 1 {
        return INVALID;
    }
    // SAFETY: `module_function` gave it.
    let simulate: Simulate = unsafe { std::mem::transmute::<Handle, Simulate>(function) };
    // SAFETY: it is null, or what `Queue::launch` made for this driver.
    let told = unsafe { told.cast::<Told>().as_mut() };
    let memory = told.is_some().then(ranges).unwrap_or_default();
    let mut watch = told.map(|t| Watch {
        extents: t.extents_mut().as_mut_ptr(),
        count: t.extents().len() as u64,
        memory: memory.as_ptr(),
        ranges: memory.len() as u64,
        all: memory.iter().fold([u64::MAX, 0], |[low, high], [from, to]| [low.min(*from), high.max(*to)]),
    });
    let watch = watch.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    // SAFETY: the parameters are the kernel's, as the caller vouches for every driver; what is watched outlives the call.
    match unsafe { simulate(grid_x, grid_y, grid_z, block_x, parameters, watch) } {
        0 => 0,
        fault => FAULT + fault,
    }
}

/// Begin and end of every allocation, with its margins.
fn ranges() -> Vec<[u64; 2]> {
    let known = ALLOCATED.lock().unwrap_or_else(|e| e.into_inner());
    let margin = MARGIN as u64;
    known.iter().flatten().map(|(at, len)| [at - margin, at + *len as u64 + margin]).collect()
}

unsafe extern "C" fn error_text(code: i32) -> *const c_char {
    let text = match code {
        OUT_OF_MEMORY => c"out of memory",
        NOT_FOUND => c"not found",
        INVALID => c"invalid argument",
        9001 => c"lanes of a wave, or waves of a block, diverge at an operation that all must take part in",
        9002 => c"a block takes more than 64 KiB of shared memory",
        9003 => c"a kernel that is said to have independent threads makes them meet",
        9004 => c"the upper half of a wave holds another matrix fragment than the lower",
        9005 => c"a kernel touches memory of the device outside of the extents that it declares",
        _ => c"unknown",
    };
    text.as_ptr()
}
