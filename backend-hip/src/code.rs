//! Code objects: taken from the plan where it carries some that fit, else compiled once per source, architecture and compiler,
//! kept in a folder, and loaded once per device.

use crate::compiler::Compiler;
use crate::device::{Device, DeviceError, Function, Module, Platform};
use kernels::{Kernel, Source, source};
use plan::{CodeObject, Hash};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::{fmt, fs, io, thread};

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

    /// Where the code object of a source is, whether it is there or not.
    fn place(&self, compiler: &Compiler, text: &str, arch: &str) -> PathBuf {
        let mut hash = blake3::Hasher::new();
        for part in [text, arch, &compiler.version(), &compiler.options(arch).join(" ")] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let key = &hash.finalize().to_hex()[..32];
        self.folder.join(format!("{key}.{}", compiler.ending()))
    }

    /// The file with the code object of a source, compiled now if it is not there.
    pub fn object(&self, compiler: &Compiler, text: &str, arch: &str) -> Result<PathBuf, DeviceError> {
        let failed = |e: io::Error| DeviceError::Compile(format!("{}: {e}", self.folder.display()));
        let object = self.place(compiler, text, arch);
        if object.is_file() {
            return Ok(object);
        }
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = |what: &str| object.with_extension(format!("{}.{number}.{what}", std::process::id()));
        let (from, to) = (own("source"), own("object"));
        fs::write(&from, text).map_err(failed)?;
        let compiled = compiler.compile(text, arch, &from, &to);
        let _ = fs::remove_file(&from);
        compiled?;
        // Whoever comes later finds a whole file or none.
        fs::rename(&to, &object).map_err(failed)?;
        Ok(object)
    }

    /// The code object of a file of kernels, for a plan to carry.
    pub fn of_file(&self, compiler: &Compiler, file: &str, arch: &str) -> Result<CodeObject, DeviceError> {
        let text = text(file, compiler.source())?;
        let object = self.object(compiler, &text, arch)?;
        CodeObject::of_file(object, arch, file, Hash::of(text.as_bytes()), &compiler.version())
            .map_err(|e| DeviceError::Compile(e.to_string()))
    }
}

/// What happens while code objects are brought to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeEvent {
    /// Kernels are compiled, which takes seconds.
    Compiling {
        /// Their file, or how many files.
        what: String,
        /// For what.
        arch: String,
    },
    /// They have been compiled, or could not be.
    Compiled,
    /// Something that people should know.
    Note(String),
}

/// Hears of every [`CodeEvent`].
#[derive(Clone, Default)]
pub struct CodeWatch(Option<Arc<dyn Fn(CodeEvent) + Send + Sync>>);

impl CodeWatch {
    /// Calls a function for each event, on the thread where it happens.
    pub fn new(hear: impl Fn(CodeEvent) + Send + Sync + 'static) -> CodeWatch {
        CodeWatch(Some(Arc::new(hear)))
    }

    /// Tells of an event.
    pub fn tell(&self, event: CodeEvent) {
        if let Some(hear) = &self.0 {
            hear(event);
        }
    }
}

impl fmt::Debug for CodeWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "CodeWatch(a function)" } else { "CodeWatch(nobody)" })
    }
}

/// Hears the name of each node before it is given to the device.
#[derive(Clone, Default)]
pub struct StepWatch(Option<Arc<HearStep>>);

type HearStep = dyn Fn(&str) + Send + Sync;

impl StepWatch {
    /// Calls a function with the node's first result.
    pub fn new(hear: impl Fn(&str) + Send + Sync + 'static) -> StepWatch {
        StepWatch(Some(Arc::new(hear)))
    }

    pub(crate) fn tell(&self, node: &str) {
        if let Some(hear) = &self.0 {
            hear(node);
        }
    }
}

impl fmt::Debug for StepWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "StepWatch(a function)" } else { "StepWatch(nobody)" })
    }
}

/// Modules of one device.
pub(crate) struct Modules {
    device: Device,
    store: CodeStore,
    watch: CodeWatch,
    compiler: OnceLock<Result<Compiler, DeviceError>>,
    carried: Mutex<Vec<CodeObject>>,
    loaded: Mutex<BTreeMap<&'static str, Arc<Module>>>,
}

impl Modules {
    pub(crate) fn new(device: &Device, store: CodeStore, watch: CodeWatch) -> Modules {
        let (compiler, carried, loaded) = (OnceLock::new(), Mutex::default(), Mutex::default());
        Modules { device: device.clone(), store, watch, compiler, carried, loaded }
    }

    /// Offers the code objects of a plan, which are looked at before anything is compiled.
    pub(crate) fn carry(&self, objects: Vec<CodeObject>) {
        let arch = self.device.arch();
        if !objects.is_empty() && !objects.iter().any(|o| o.info.arch == arch) {
            let mut arches: Vec<&str> = objects.iter().map(|o| &*o.info.arch).collect();
            arches.dedup();
            let arches = arches.join(", ");
            let why =
                format!("the plan carries code for {arches}, and this device is {arch}: kernels are compiled here");
            self.watch.tell(CodeEvent::Note(why));
        }
        *self.carried.lock().unwrap_or_else(|e| e.into_inner()) = objects;
    }

    /// Compiles those files that neither the plan carries nor the store holds, as many at a time as there are processors.
    pub(crate) fn prepare(&self, files: &BTreeSet<&'static str>) -> Result<(), DeviceError> {
        let arch = self.device.arch();
        let carried = self.carried.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let loaded: Vec<&str> = self.loaded.lock().unwrap_or_else(|e| e.into_inner()).keys().copied().collect();
        let there =
            |file: &str| loaded.contains(&file) || carried.iter().any(|o| o.info.arch == arch && o.info.file() == file);
        let wanted: Vec<&str> = files.iter().copied().filter(|file| !there(file)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let compiler = self.compiler()?;
        let mut missing = vec![];
        for file in wanted {
            let text = text(file, compiler.source())?;
            if !self.store.place(compiler, &text, arch).is_file() {
                missing.push(text);
            }
        }
        // One is compiled where it is loaded.
        if missing.len() < 2 {
            return Ok(());
        }
        self.watch.tell(CodeEvent::Compiling { what: format!("{} files", missing.len()), arch: arch.to_string() });
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), DeviceError> {
            while let Some(text) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.store.object(compiler, text, arch)?;
            }
            Ok(())
        };
        let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(missing.len());
        let done = thread::scope(|scope| {
            let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let joined = running.into_iter().map(|w| w.join().unwrap_or_else(|panic| resume_unwind(panic)));
            joined.collect::<Vec<_>>()
        });
        self.watch.tell(CodeEvent::Compiled);
        done.into_iter().collect()
    }

    fn compiler(&self) -> Result<&Compiler, DeviceError> {
        self.compiler.get_or_init(|| Compiler::of(&self.device)).as_ref().map_err(Clone::clone)
    }

    /// The module of a kernel's file: the plan's where it fits, else compiled and loaded now if it is not yet.
    pub(crate) fn module(&self, file: &'static str) -> Result<Arc<Module>, DeviceError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = loaded.get(file) {
            return Ok(known.clone());
        }
        self.device.make_current()?;
        let carried = self.carried.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let fitting = carried.iter().find(|o| o.info.arch == self.device.arch() && o.info.file() == file);
        let module = match fitting.map(|object| self.of_plan(object, file)) {
            Some(Ok(module)) => module,
            Some(Err(why)) => {
                let why = format!("the plan's code for {} is not used: {why}", fitting.expect("it is there").info.name);
                self.watch.tell(CodeEvent::Note(why.clone()));
                self.compiled(file).map_err(|e| DeviceError::Compile(format!("{e}; {why}")))?
            }
            None => self.compiled(file)?,
        };
        loaded.insert(file, module.clone());
        Ok(module)
    }

    /// Loads what the plan carries, or says why not.
    fn of_plan(&self, object: &CodeObject, file: &'static str) -> Result<Arc<Module>, String> {
        let by = match self.device.platform() {
            Platform::Amd => Source::Amd,
            Platform::Nvidia => Source::Nvidia,
            // It would run on this processor with all that this process may do.
            Platform::Simulator => return Err("the simulator runs only what is compiled here".into()),
        };
        let text = text(file, by).map_err(|e| e.to_string())?;
        if object.info.source != Hash::of(text.as_bytes()) {
            return Err("it was compiled from kernels of another version".into());
        }
        let mut image = object.read().map_err(|e| e.to_string())?;
        image.push(0);
        Module::load(&self.device, &image).map_err(|e| e.to_string())
    }

    fn compiled(&self, file: &'static str) -> Result<Arc<Module>, DeviceError> {
        let compiler = self.compiler()?;
        let (text, arch) = (text(file, compiler.source())?, self.device.arch());
        let news = !self.store.place(compiler, &text, arch).is_file();
        if news {
            self.watch.tell(CodeEvent::Compiling { what: file.to_string(), arch: arch.to_string() });
        }
        let object = self.store.object(compiler, &text, arch);
        if news {
            self.watch.tell(CodeEvent::Compiled);
        }
        Module::load(&self.device, &image(&self.device, &object?)?)
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
