//! Code objects: compiled once per source, architecture and compiler, kept in a folder, loaded once per device.

use crate::compiler::Compiler;
use crate::device::{Device, DeviceError, Function, Module, Platform};
use kernels::{Kernel, Source, source};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::{fs, io};

/// Files being written get a number of their own.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A folder of code objects. Its key covers everything that they depend on, so nothing in it is ever out of date.
#[derive(Clone, Debug)]
pub struct CodeStore {
    folder: PathBuf,
}

impl CodeStore {
    /// The store in a folder, which is made when it is first needed. Only its owner should be able to write to it: what is
    /// found there is run.
    pub fn new(folder: impl Into<PathBuf>) -> CodeStore {
        CodeStore { folder: folder.into() }
    }

    /// The file with the code object of a source, compiled now if it is not there.
    pub fn object(&self, compiler: &Compiler, text: &str, arch: &str) -> Result<PathBuf, DeviceError> {
        let failed = |e: io::Error| DeviceError::Compile(format!("{}: {e}", self.folder.display()));
        let mut hash = blake3::Hasher::new();
        for part in [text, arch, &compiler.version(), &compiler.options(arch).join(" ")] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let key = &hash.finalize().to_hex()[..32];
        let object = self.folder.join(format!("{key}.{}", compiler.ending()));
        if object.is_file() {
            return Ok(object);
        }
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = self.folder.join(format!("{key}.{}.{number}", std::process::id()));
        let (from, to) = (own.with_extension("source"), own.with_extension("object"));
        fs::write(&from, text).map_err(failed)?;
        let compiled = compiler.compile(text, arch, &from, &to);
        let _ = fs::remove_file(&from);
        compiled?;
        // Whoever comes later finds a whole file or none.
        fs::rename(&to, &object).map_err(failed)?;
        Ok(object)
    }
}

/// Modules of one device.
pub(crate) struct Modules {
    device: Device,
    store: CodeStore,
    compiler: OnceLock<Result<Compiler, DeviceError>>,
    loaded: Mutex<BTreeMap<&'static str, Arc<Module>>>,
}

impl Modules {
    pub(crate) fn new(device: &Device, store: CodeStore) -> Modules {
        Modules { device: device.clone(), store, compiler: OnceLock::new(), loaded: Mutex::default() }
    }

    /// The module of a kernel's file, compiled and loaded now if it is not yet.
    pub(crate) fn module(&self, file: &'static str) -> Result<Arc<Module>, DeviceError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = loaded.get(file) {
            return Ok(known.clone());
        }
        let found = self.compiler.get_or_init(|| Compiler::find(self.device.platform()));
        let compiler = found.as_ref().map_err(Clone::clone)?;
        let text = text(file, compiler.source())?;
        let object = self.store.object(compiler, &text, self.device.arch())?;
        self.device.make_current()?;
        let module = Module::load(&self.device, &image(&self.device, &object)?)?;
        loaded.insert(file, module.clone());
        Ok(module)
    }

    /// A kernel.
    pub(crate) fn function(&self, kernel: &'static Kernel) -> Result<Function, DeviceError> {
        self.module(kernel.file)?.function(kernel.name)
    }
}

fn text(file: &str, by: Source) -> Result<String, DeviceError> {
    source(file, by).ok_or_else(|| DeviceError::Compile(format!("there is no kernel file {file}")))
}

/// What the driver loads, with a zero at its end.
fn image(device: &Device, object: &Path) -> Result<Vec<u8>, DeviceError> {
    let mut image = match device.platform() {
        Platform::Simulator => {
            let whole = fs::canonicalize(object).unwrap_or_else(|_| object.to_owned());
            whole.to_string_lossy().into_owned().into_bytes()
        }
        Platform::Amd | Platform::Nvidia => {
            fs::read(object).map_err(|e| DeviceError::Compile(format!("{}: {e}", object.display())))?
        }
    };
    image.push(0);
    Ok(image)
}
