//! Opens what the user names: a plan, an .onnx file or a model's folder. Compiled plans are kept for the next time.

use crate::failure::Failure;
use crate::progress::{self, Stages};
use fastinference::plan::Hash;
use fastinference::{CodeEvent, CodeWatch, CompileOptions, Device, DeviceOptions, Model, TextFiles};
use indicatif::ProgressBar;
use std::env;
use std::fs;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::UNIX_EPOCH;

/// How many compiled plans are kept.
const KEPT: usize = 16;

/// Whether the path is a plan's folder.
pub fn is_plan(path: &Path) -> bool {
    path.join("plan.yaml").is_file()
}

/// The folder that holds a model's tokenizer and configuration: the plan's own, or the one the model lies in.
fn text_folder(path: &Path) -> PathBuf {
    let here = if path.is_dir() { path.to_owned() } else { parent(path) };
    match is_plan(&here) && !here.join("tokenizer.json").exists() {
        true => parent(&here),
        false => here,
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A device with the folder for its code objects. Kernels that are compiled while a plan is loaded show a spinner, and why a plan's
/// own code is not used is said on standard error.
pub fn on(device: Device) -> DeviceOptions {
    let bar: Mutex<Option<ProgressBar>> = Mutex::default();
    let watch = CodeWatch::new(move |event| {
        let mut bar = bar.lock().unwrap_or_else(|e| e.into_inner());
        match event {
            CodeEvent::Compiling { what, arch } => {
                *bar = Some(progress::spinner(&format!("compiling kernels of {what} for {arch}")));
            }
            CodeEvent::Compiled => bar.take().iter().for_each(ProgressBar::finish_and_clear),
            CodeEvent::Note(why) => eprintln!("note: {why}"),
        }
    });
    DeviceOptions { device, code_objects: code_objects(), watch, ..DeviceOptions::default() }
}

/// Loads a plan, or compiles a model in memory.
pub fn open(path: &Path, options: &CompileOptions) -> Result<Model, Failure> {
    if is_plan(path) {
        return Ok(Model::load_on(path, &options.on)?);
    }
    if options.on.supervise.is_some() {
        return open_supervised(path, options.on.clone());
    }
    Ok(compile(path, options)?.into_model()?)
}

/// A worker loads a plan from a folder: the model is compiled for the processor and kept; the worker plans it for its device.
fn open_supervised(path: &Path, on: DeviceOptions) -> Result<Model, Failure> {
    let kept = kept(path, &DeviceOptions { device: Device::Cpu, ..DeviceOptions::default() });
    let kept =
        kept.ok_or_else(|| Failure::work("there is no folder to keep the compiled plan in; set FASTINFERENCE_CACHE"))?;
    if !is_plan(&kept) || Model::load(&kept).is_err() {
        let options = CompileOptions { link_weights: true, ..CompileOptions::default() };
        keep(&compile(path, &options)?, &kept).map_err(Failure::work)?;
    }
    Ok(Model::load_on(&kept, &on)?)
}

fn kept(path: &Path, on: &DeviceOptions) -> Option<PathBuf> {
    let every = on.sync_every.map_or(String::new(), |every| format!(".every-{every}"));
    Some(plans()?.join(format!("{}.{}{every}.plan", key(path)?, on.device).replace(':', "-")))
}

/// [`open`], which keeps what it compiles and finds it again while the model's files are unchanged.
pub fn open_cached(path: &Path, on: DeviceOptions) -> Result<Model, Failure> {
    let options = CompileOptions { link_weights: true, on, ..CompileOptions::default() };
    if is_plan(path) {
        return Ok(Model::load_on(path, &options.on)?);
    }
    if options.on.supervise.is_some() {
        return open_supervised(path, options.on);
    }
    let Some(kept) = kept(path, &options.on) else {
        return open(path, &options);
    };
    if is_plan(&kept) {
        // A kept plan that does not load is of another version or damaged: it is made again.
        if let Ok(model) = Model::load_on(&kept, &options.on) {
            return Ok(model);
        }
    }
    let compiled = compile(path, &options)?;
    if let Err(why) = keep(&compiled, &kept) {
        eprintln!("note: the compiled plan is not kept: {why}");
    }
    Ok(compiled.into_model()?)
}

/// [`open_cached`] for a language model: its tokenizer is read meanwhile.
pub fn open_with_text(path: &Path, on: DeviceOptions) -> Result<(Model, TextFiles), Failure> {
    let folder = text_folder(path);
    let (model, text) = thread::scope(|scope| {
        let text = scope.spawn(|| TextFiles::open(&folder));
        let model = open_cached(path, on);
        (model, text.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    Ok((model?, text?))
}

fn compile(path: &Path, options: &CompileOptions) -> Result<fastinference::Compiled, Failure> {
    let mut stages = Stages::new(&options.print_after);
    let compiled = fastinference::compile(path, options, &mut stages);
    stages.finish();
    Ok(compiled?)
}

fn keep(compiled: &fastinference::Compiled, at: &Path) -> Result<(), String> {
    let folder = parent(at);
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    compiled.save(at, true).map_err(|e| e.to_string())?;
    forget_oldest(&folder).map_err(|e| format!("{}: {e}", folder.display()))
}

fn forget_oldest(folder: &Path) -> io::Result<()> {
    let mut plans = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_plan(&path) {
            plans.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    plans.sort();
    let many = plans.len().saturating_sub(KEPT);
    plans[..many].iter().try_for_each(|(_, path)| fs::remove_dir_all(path))
}

/// Where compiled plans are kept; `None` where the system names no place for such things.
pub fn plans() -> Option<PathBuf> {
    Some(cache()?.join("plans"))
}

/// Where code objects of devices are kept.
pub fn code_objects() -> Option<PathBuf> {
    Some(cache()?.join("kernels"))
}

fn cache() -> Option<PathBuf> {
    let named = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(folder) = named("FASTINFERENCE_CACHE") {
        return Some(folder);
    }
    let home = named("HOME");
    let base =
        named("XDG_CACHE_HOME").or_else(|| named("LOCALAPPDATA")).or_else(|| match cfg!(target_os = "macos") {
            true => Some(home?.join("Library/Caches")),
            false => Some(home?.join(".cache")),
        })?;
    Some(base.join("fastinference"))
}

/// A name that changes with the program's version and with every file of the model's folder, by size and time.
fn key(path: &Path) -> Option<String> {
    let model = fs::canonicalize(fastinference::model_file(path).ok()?).ok()?;
    let mut files: Vec<PathBuf> = fs::read_dir(model.parent()?).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    let mut text = format!("{} {}\n", env!("CARGO_PKG_VERSION"), model.display());
    for file in files {
        let about = fs::metadata(&file).ok()?;
        if about.is_file() {
            let changed = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            text += &format!("{} {} {}\n", file.display(), about.len(), changed.as_nanos());
        }
    }
    Some(Hash::of(text.as_bytes()).to_string()[..24].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_changes_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.onnx");
        fs::write(&model, b"a").unwrap();
        let before = key(&model).unwrap();
        assert_eq!(key(folder.path()).unwrap(), before);
        fs::write(folder.path().join("weights.bin"), b"w").unwrap();
        assert_ne!(key(&model).unwrap(), before);
    }
}
