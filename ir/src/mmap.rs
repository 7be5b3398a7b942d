//! Maps a file into memory, read-only: weights are used where they lie on disk, and pages that nobody touches are never read.
//!
//! This is the only file that memory-maps. A [`Mapped`] is cheap to share behind an `Arc`, and because it owns its
//! bytes it can also become a reference-counted byte slice (`bytes::Bytes::from_owner(mapped)`).
#![expect(unsafe_code, reason = "memory-mapping a file is unsafe by nature; this is the one place that does it")]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// A whole file, mapped read-only. An empty file gives an empty slice.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
}

impl Mapped {
    /// Maps the file at `path`; fails as opening or mapping fails (a folder cannot be mapped).
    ///
    /// The file must not be shortened or rewritten while it is mapped: readers would see the new bytes, or the
    /// operating system would stop the process.
    pub fn open(path: &Path) -> io::Result<Mapped> {
        Mapped::of(&File::open(path)?)
    }

    /// Maps an open file from its first byte to its last; `file` may be closed afterwards.
    pub fn of(file: &File) -> io::Result<Mapped> {
        // SAFETY: the mapping is private to this value and read-only, so nothing in this process writes to it. That no
        // other process shortens or rewrites the file meanwhile is asked of the user, as by every program that maps
        // its weights; plain bytes have no invalid values, so a rewritten file gives other numbers, never other types.
        let map = unsafe { Mmap::map(file)? };
        Ok(Mapped { map })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl crate::tensor::Memory for Mapped {
    fn bytes(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_whole() {
        let mapped = Mapped::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mmap.rs")).unwrap();
        assert!(mapped.starts_with(b"//! Maps a file"));
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let path = std::env::temp_dir().join(format!("mapped-empty-{}", std::process::id()));
        std::fs::write(&path, b"").unwrap();
        let mapped = Mapped::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(mapped.is_empty());
    }

    #[test]
    fn a_missing_file_is_an_error() {
        assert_eq!(Mapped::open(Path::new("/no/such/file")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
