//! Code objects that a plan carries: kernels compiled for a device, so that no compiler is needed where the plan runs.
//!
//! They lie in `kernels/ARCHITECTURE/` of the plan's folder; plan.yaml has a line for each, with hashes of the source that it was
//! compiled from and of its bytes:
//!
//! ```text
//! gfx1151 linear.hsaco source 8a31... bytes 51264 5be0... by Debian clang version 19.1.7 (3~deb12u1)
//! ```

use crate::model::Hash;
use crate::store::StoreError;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder within a plan's folder.
pub(crate) const FOLDER: &str = "kernels";

/// What a plan says of a code object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeInfo {
    /// The architecture: `gfx1151`.
    pub arch: String,
    /// Its file's name: the file of kernels, and an ending of the platform.
    pub name: String,
    /// Hash of the source.
    pub source: Hash,
    /// How many bytes it has.
    pub bytes: u64,
    /// Hash of them.
    pub hash: Hash,
    /// Who compiled it.
    pub compiler: String,
}

impl CodeInfo {
    /// The file of kernels that it was compiled from: `linear`.
    pub fn file(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// Reads a line. Names can only be names of files.
    pub(crate) fn read(line: &str) -> Result<CodeInfo, String> {
        let (front, compiler) = line.split_once(" by ").ok_or("expected `by` and the compiler")?;
        let words: Vec<&str> = front.split(' ').collect();
        let [arch, name, "source", source, "bytes", bytes, hash] = words[..] else {
            return Err("expected `ARCHITECTURE NAME source HASH bytes NUMBER HASH by COMPILER`".into());
        };
        for word in [arch, name] {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if word.starts_with('.') || word.is_empty() || !word.chars().all(plain) {
                return Err(format!("`{word}` is not a name"));
            }
        }
        let hash_of = |text: &str| Hash::from_hex(text).ok_or_else(|| format!("`{text}` is not a hash"));
        Ok(CodeInfo {
            arch: arch.to_string(),
            name: name.to_string(),
            source: hash_of(source)?,
            bytes: bytes.parse().map_err(|_| format!("`{bytes}` is not a number"))?,
            hash: hash_of(hash)?,
            compiler: compiler.to_string(),
        })
    }
}

impl fmt::Display for CodeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CodeInfo { arch, name, source, bytes, hash, compiler } = self;
        let compiler = compiler.replace(['\n', '\r'], " ");
        write!(f, "{arch} {name} source {source} bytes {bytes} {hash} by {compiler}")
    }
}

/// A code object of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeObject {
    /// What the plan says of it.
    pub info: CodeInfo,
    /// Where its bytes are.
    pub path: PathBuf,
}

impl CodeObject {
    /// Describes a file that a compiler made: `linear` for the architecture `gfx1151`.
    pub fn of_file(
        path: PathBuf,
        arch: &str,
        file: &str,
        source: Hash,
        compiler: &str,
    ) -> Result<CodeObject, StoreError> {
        let content = fs::read(&path).map_err(|e| StoreError::io(&path, e))?;
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        let info = CodeInfo {
            arch: arch.to_string(),
            name: format!("{file}.{ending}"),
            source,
            bytes: content.len() as u64,
            hash: Hash::of(&content),
            compiler: compiler.to_string(),
        };
        Ok(CodeObject { info, path })
    }

    /// The code object that a plan in `folder` carries.
    pub(crate) fn carried(info: CodeInfo, folder: &Path) -> CodeObject {
        CodeObject { path: folder.join(FOLDER).join(&info.arch).join(&info.name), info }
    }

    /// Its bytes; an error when they are not those that were written.
    pub fn read(&self) -> Result<Vec<u8>, StoreError> {
        let content = fs::read(&self.path).map_err(|e| StoreError::io(&self.path, e))?;
        match content.len() as u64 == self.info.bytes && Hash::of(&content) == self.info.hash {
            true => Ok(content),
            false => Err(StoreError::Code { arch: self.info.arch.clone(), name: self.info.name.clone() }),
        }
    }
}

/// Copies code objects into a plan's folder.
pub(crate) fn write(folder: &Path, objects: &[CodeObject]) -> Result<(), StoreError> {
    for object in objects {
        let to = CodeObject::carried(object.info.clone(), folder).path;
        let home = to.parent().expect("it lies in a folder");
        fs::create_dir_all(home).map_err(|e| StoreError::io(home, e))?;
        fs::write(&to, object.read()?).map_err(|e| StoreError::io(&to, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> CodeInfo {
        let (source, hash) = (Hash::of(b"source"), Hash::of(b"code"));
        let (arch, name, compiler) = ("gfx1151".into(), "linear.hsaco".into(), "clang version 19.1.7 by nobody".into());
        CodeInfo { arch, name, source, bytes: 4, hash, compiler }
    }

    #[test]
    fn a_line_reads_as_it_prints() {
        assert_eq!(CodeInfo::read(&info().to_string()), Ok(info()));
        assert_eq!(info().file(), "linear");
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for name in ["../linear.hsaco", "a/b", ".hidden", "", "a\\b", "a\u{e4}"] {
            let line = CodeInfo { name: name.into(), ..info() }.to_string();
            assert!(CodeInfo::read(&line).is_err(), "{name}");
            let line = CodeInfo { arch: name.into(), ..info() }.to_string();
            assert!(CodeInfo::read(&line).is_err(), "{name}");
        }
        for (from, to) in [("source ", "sauce "), ("bytes 4", "bytes -4"), (" by ", " "), ("8", "g")] {
            assert!(CodeInfo::read(&info().to_string().replace(from, to)).is_err(), "{from}");
        }
    }
}
