//! Shared libraries, found by the names they have on Linux and Windows.
#![allow(unsafe_code, reason = "loads libraries of drivers")]

use super::DeviceError;
use libloading::Library;

/// The first of these libraries that loads. `what` is what the user would install.
pub(super) fn open(names: &[&str], what: &str) -> Result<Library, DeviceError> {
    let mut why: Option<String> = None;
    for name in names {
        // SAFETY: initialisers of a driver's library run here; they are the vendor's and expect to be loaded so.
        match unsafe { Library::new(name) } {
            Ok(library) => return Ok(library),
            // Of the names that are tried, the first is the one to look for.
            Err(e) => drop(why.get_or_insert_with(|| e.to_string())),
        }
    }
    Err(DeviceError::Missing(format!("{what} is not installed ({})", why.unwrap_or_default())))
}

/// A function of a library as a plain pointer, which stays valid while the library is loaded: callers keep it for good.
///
/// # Safety
/// `F` must be a function pointer type with the signature that the library's documentation gives `name`.
pub(super) unsafe fn function<F: Copy>(library: &Library, name: &str) -> Result<F, DeviceError> {
    let missing = |e: libloading::Error| DeviceError::Missing(format!("the driver's library has no {name} ({e})"));
    // SAFETY: the caller vouches for the signature.
    let symbol = unsafe { library.get::<F>(name.as_bytes()) }.map_err(missing)?;
    Ok(*symbol)
}
