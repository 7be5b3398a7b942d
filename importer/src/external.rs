//! Finds the bytes of tensors that are stored beside the model ("external data") and maps each such file once.
//!
//! The location comes from the model file, so it is not trusted: it must be a relative path without `..`, and where it
//! leads, with symbolic links followed, must lie in the model's folder. If the model file is itself a symbolic link, the
//! folder of its target counts too: download caches keep a model and its data as links to files in one other folder.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;

use crate::proto::{External, map_file};

/// Why a tensor's external data cannot be read. Every message names the tensor and the path.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// The model's own folder cannot be looked up.
    #[error("the folder of {path:?} cannot be read: {source}")]
    Folder {
        /// The model.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The path is no plain relative path.
    #[error(
        "tensor `{tensor}`: its data is at {location:?}, which is {why}; only files in the model's folder are read"
    )]
    Location {
        /// The tensor's name.
        tensor: String,
        /// The location as the model has it.
        location: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The path leads out of the folder through a symbolic link.
    #[error("tensor `{tensor}`: its data file {path:?} leads out of the model's folder, to {target:?}")]
    Escapes {
        /// The tensor's name.
        tensor: String,
        /// The path in the model's folder.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// The file is not there or cannot be read.
    #[error("tensor `{tensor}`: its data file {path:?} cannot be read: {source}")]
    File {
        /// The tensor's name.
        tensor: String,
        /// The path in the model's folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The file is shorter than the tensor needs.
    #[error(
        "tensor `{tensor}`: its data is at byte {offset} of {path:?}, {length} bytes long, but the file has {size} bytes"
    )]
    Range {
        /// The tensor's name.
        tensor: String,
        /// The path in the model's folder.
        path: PathBuf,
        /// The first byte.
        offset: u64,
        /// The number of bytes; 0 where it is not said.
        length: u64,
        /// The file's size.
        size: usize,
    },
}

/// External data, found.
#[derive(Clone, Debug)]
pub struct Located {
    /// The file, as an absolute path with symbolic links followed.
    pub path: PathBuf,
    /// The first byte.
    pub offset: u64,
    /// The bytes themselves, memory-mapped.
    pub bytes: Bytes,
}

/// The folder of a model, and the data files in it that are mapped already. May be shared between threads.
#[derive(Debug)]
pub struct Folder {
    folder: PathBuf,
    /// The folders that data may lie in, with symbolic links followed.
    allowed: Vec<PathBuf>,
    mapped: Mutex<BTreeMap<PathBuf, Bytes>>,
}

impl Folder {
    /// The folder of the model file at `model`, which must exist.
    pub fn of_model(model: &Path) -> Result<Folder, ExternalError> {
        let failed = |source| ExternalError::Folder { path: model.to_owned(), source };
        let folder = match model.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut allowed = vec![folder.canonicalize().map_err(failed)?];
        let target = model.canonicalize().map_err(failed)?;
        if let Some(parent) = target.parent().filter(|parent| *parent != allowed[0]) {
            allowed.push(parent.to_owned());
        }
        Ok(Folder { folder: folder.to_owned(), allowed, mapped: Mutex::default() })
    }

    /// The bytes of `tensor`, which lie where `external` says; from there to the end of the file where it gives no length.
    pub fn locate(&self, tensor: &str, external: &External) -> Result<Located, ExternalError> {
        let path = self.checked_path(tensor, &external.location)?;
        let file = self.map(tensor, &external.location, &path)?;
        let offset = external.offset;
        let range = range(offset, external.length, file.len()).ok_or_else(|| ExternalError::Range {
            tensor: tensor.to_owned(),
            path: self.folder.join(&external.location),
            offset,
            length: external.length.unwrap_or(0),
            size: file.len(),
        })?;
        Ok(Located { path, offset, bytes: file.slice(range) })
    }

    /// The files that were mapped, by absolute path.
    pub fn into_files(self) -> Vec<(PathBuf, Bytes)> {
        self.mapped.into_inner().expect("nobody panics while the files are locked").into_iter().collect()
    }

    /// The absolute path of a location, if it may be read.
    fn checked_path(&self, tensor: &str, location: &str) -> Result<PathBuf, ExternalError> {
        if let Some(why) = fault(location) {
            return Err(ExternalError::Location { tensor: tensor.to_owned(), location: location.to_owned(), why });
        }
        let path = self.folder.join(location);
        let failed = |source| ExternalError::File { tensor: tensor.to_owned(), path: path.clone(), source };
        let target = path.canonicalize().map_err(failed)?;
        if !self.allowed.iter().any(|folder| target.starts_with(folder)) {
            return Err(ExternalError::Escapes { tensor: tensor.to_owned(), path, target });
        }
        if !target.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        Ok(target)
    }

    /// The whole file, mapped now or before.
    fn map(&self, tensor: &str, location: &str, path: &Path) -> Result<Bytes, ExternalError> {
        let mut mapped = self.mapped.lock().expect("nobody panics while the files are locked");
        if let Some(file) = mapped.get(path) {
            return Ok(file.clone());
        }
        let failed =
            |source| ExternalError::File { tensor: tensor.to_owned(), path: self.folder.join(location), source };
        let file = map_file(path).map_err(failed)?;
        mapped.insert(path.to_owned(), file.clone());
        Ok(file)
    }
}

/// What is wrong with a location as text; `None` if nothing is.
fn fault(location: &str) -> Option<&'static str> {
    if location.is_empty() {
        return Some("empty");
    }
    if location.contains('\0') {
        return Some("not a path");
    }
    let mut names = 0;
    for component in Path::new(location).components() {
        match component {
            Component::Normal(_) => names += 1,
            Component::CurDir => {}
            Component::ParentDir => return Some("a path through `..`"),
            Component::RootDir | Component::Prefix(_) => return Some("an absolute path"),
        }
    }
    (names == 0).then_some("a folder")
}

/// The range within a file of `size` bytes; `None` where it does not fit.
fn range(offset: u64, length: Option<u64>, size: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = match length {
        Some(length) => start.checked_add(usize::try_from(length).ok()?)?,
        None => size,
    };
    (start <= end && end <= size).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A folder with a model and 8 bytes of data.
    fn folder() -> (TempDir, Folder) {
        let outer = tempfile::tempdir().unwrap();
        let model = outer.path().join("m");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("model.onnx"), b"").unwrap();
        std::fs::write(model.join("w.bin"), b"01234567").unwrap();
        std::fs::write(outer.path().join("secret"), b"secret").unwrap();
        let folder = Folder::of_model(&model.join("model.onnx")).unwrap();
        (outer, folder)
    }

    fn at(location: &str, offset: u64, length: Option<u64>) -> External {
        External { location: location.to_owned(), offset, length, checksum: None }
    }

    fn error(location: &str, offset: u64, length: Option<u64>) -> String {
        let (outer, folder) = folder();
        let error = folder.locate("w", &at(location, offset, length)).unwrap_err().to_string();
        assert!(error.starts_with("tensor `w`: "), "{error}");
        error.replace(outer.path().to_str().unwrap(), "")
    }

    #[test]
    fn bytes_are_slices_of_one_mapping() {
        let (_outer, folder) = folder();
        let all = folder.locate("a", &at("w.bin", 0, None)).unwrap();
        let part = folder.locate("b", &at("./w.bin", 2, Some(3))).unwrap();
        assert_eq!(part.bytes, "234");
        assert_eq!(part.bytes.as_ptr(), all.bytes[2..].as_ptr());
        assert_eq!((part.path, part.offset), (all.path, 2));
    }

    #[test]
    fn an_empty_tensor_may_lie_at_the_end() {
        assert_eq!(range(8, Some(0), 8), Some(8..8));
        assert_eq!(range(8, None, 8), Some(8..8));
    }

    #[test]
    fn paths_out_of_the_folder_are_refused() {
        assert!(error("../secret", 0, None).contains("a path through `..`"));
        assert!(error("sub/../../secret", 0, None).contains("a path through `..`"));
        assert!(error("/etc/passwd", 0, None).contains("an absolute path"));
        assert!(error("", 0, None).contains("empty"));
        assert!(error(".", 0, None).contains("a folder"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let (outer, folder) = folder();
        std::os::unix::fs::symlink("../secret", outer.path().join("m/link")).unwrap();
        let error = folder.locate("w", &at("link", 0, None)).unwrap_err();
        assert!(matches!(error, ExternalError::Escapes { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_beside_the_files_of_a_linked_model_is_followed() {
        let (outer, _) = folder();
        let snapshot = outer.path().join("snapshot");
        std::fs::create_dir(&snapshot).unwrap();
        for name in ["model.onnx", "w.bin"] {
            std::os::unix::fs::symlink(Path::new("../m").join(name), snapshot.join(name)).unwrap();
        }
        std::os::unix::fs::symlink("../secret", snapshot.join("link")).unwrap();
        let folder = Folder::of_model(&snapshot.join("model.onnx")).unwrap();
        assert_eq!(folder.locate("w", &at("w.bin", 0, Some(1))).unwrap().bytes, "0");
        assert!(folder.locate("w", &at("link", 0, None)).is_err());
    }

    #[test]
    fn ranges_outside_the_file_are_refused() {
        for (offset, length) in [(0, Some(9)), (9, None), (9, Some(0)), (u64::MAX, Some(2)), (4, Some(u64::MAX))] {
            assert!(error("w.bin", offset, length).contains("the file has 8 bytes"));
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        assert!(error("gone.bin", 0, None).starts_with("tensor `w`: its data file \"/m/gone.bin\" cannot be read: "));
    }

    #[test]
    fn a_folder_is_not_data() {
        let (outer, folder) = folder();
        std::fs::create_dir(outer.path().join("m/sub")).unwrap();
        assert!(folder.locate("w", &at("sub", 0, None)).unwrap_err().to_string().contains("not a regular file"));
    }
}
