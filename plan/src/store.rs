//! A plan as a folder: plan.yaml, graph.ir, weights.safetensors, code objects of devices, and files that come along
//! (a tokenizer).
//!
//! Writing fills a sibling folder and renames it, so that a plan is there whole or not at all. Loading is parse, then
//! check: what comes out is a [`CheckedPlan`] and its weights, mapped where they lie. plan.yaml and graph.ir are hashed on
//! load, of weights the header and the sizes are compared; their bytes only by [`Weights::verify`].

use crate::check::{CheckedPlan, Finding, check};
use crate::code::{self, CodeObject};
use crate::model::{Entry, Hash, Plan, Source, body_key};
use crate::weights::{WeightSource, Weights};
use crate::{weights, yaml};
use ir::attr::Attr;
use ir::graph::Kind;
use ir::{Graph, Tensor, Value};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const GRAPH_FILE: &str = "graph.ir";

/// Why a plan could not be written or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A field is not what it must be.
    #[error("{file}: {field}: {reason}")]
    Field {
        /// The file.
        file: &'static str,
        /// The field, with its line.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A file is not the one that was written.
    #[error("{file} was changed or cut short after it was written; recompile the plan")]
    Changed {
        /// The file.
        file: &'static str,
    },
    /// Another version of the format.
    #[error("this plan has version {found}, this program reads {}.{}: recompile the model with `fastinference compile`", yaml::VERSION.0, yaml::VERSION.1)]
    Version {
        /// The version found.
        found: String,
    },
    /// A weight is missing or not what the plan says.
    #[error("weight `{key}`: {reason}")]
    Weight {
        /// Its key.
        key: Arc<str>,
        /// What is wrong.
        reason: String,
    },
    /// A code object is not the one that was written.
    #[error("{}/{arch}/{name} was changed or cut short after it was written; recompile the plan", crate::code::FOLDER)]
    Code {
        /// Its architecture.
        arch: String,
        /// Its file.
        name: String,
    },
    /// The plan is not safe to run.
    #[error("the plan is not safe to run; recompile it\n{}", shown(.0))]
    Unsafe(Vec<Finding>),
    /// There is something where the plan should go.
    #[error("{} is already there", .0.display())]
    Exists(PathBuf),
}

fn shown(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().take(5).map(ToString::to_string).collect();
    lines.join("\n")
}

impl StoreError {
    pub(crate) fn io(path: &Path, source: io::Error) -> StoreError {
        StoreError::Io { path: path.to_path_buf(), source }
    }
}

/// How a plan is written.
#[derive(Default)]
pub struct WriteOptions<'a> {
    /// Replace what is there.
    pub replace: bool,
    /// Files that come along: name in the plan, and the file to copy.
    pub files: Vec<(String, PathBuf)>,
    /// Code objects that come along.
    pub code: Vec<CodeObject>,
    /// Called with the bytes written and the bytes in all.
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
}

/// Writes a plan as a folder. Fails, and leaves nothing behind, when there is one already and `replace` is not set.
pub fn write(
    plan: &CheckedPlan,
    source: &dyn WeightSource,
    folder: &Path,
    options: WriteOptions<'_>,
) -> Result<(), StoreError> {
    if !options.replace && folder.symlink_metadata().is_ok() {
        return Err(StoreError::Exists(folder.to_path_buf()));
    }
    let unfinished = Unfinished::beside(folder)?;
    let at = &unfinished.0;
    let put = |name: &str, text: &str| {
        let path = at.join(name);
        fs::write(&path, text).map_err(|e| StoreError::io(&path, e))
    };
    let mut plan: Plan = (**plan).clone();
    let mut silent = |_, _| {};
    let progress = options.progress.unwrap_or(&mut silent);
    let content = weights::write(&at.join(weights::FILE), &mut plan, source, progress)?;
    let graphs: String = plan.entries.iter().map(|entry| entry.graph.to_string()).collect();
    put(GRAPH_FILE, &graphs)?;
    put(yaml::FILE, &yaml::print(&plan, &options.code, Hash::of(graphs.as_bytes()), content))?;
    code::write(at, &options.code)?;
    for (name, from) in &options.files {
        fs::copy(from, at.join(name)).map_err(|e| StoreError::io(from, e))?;
    }
    unfinished.move_to(folder)
}

/// A folder that goes away unless it is finished.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(folder: &Path) -> Result<Unfinished, StoreError> {
        let invalid = || StoreError::io(folder, io::Error::new(io::ErrorKind::InvalidInput, "not a name for a folder"));
        let name = folder.file_name().ok_or_else(invalid)?.to_string_lossy().into_owned();
        let path = folder.with_file_name(format!(".{name}.{}.unfinished", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).map_err(|e| StoreError::io(&path, e))?;
        Ok(Unfinished(path))
    }

    /// Takes the place of what is there, which is put back when that fails.
    fn move_to(self, folder: &Path) -> Result<(), StoreError> {
        let old = self.0.with_extension("old");
        let replaced = fs::rename(folder, &old).is_ok();
        if let Err(e) = fs::rename(&self.0, folder) {
            if replaced {
                let _ = fs::rename(&old, folder);
            }
            return Err(StoreError::io(folder, e));
        }
        let _ = if old.is_dir() { fs::remove_dir_all(&old) } else { fs::remove_file(&old) };
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A plan from disk, proven safe, with its weights mapped.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The plan.
    pub plan: CheckedPlan,
    /// Its weights.
    pub weights: Weights,
    /// Code objects that it carries.
    pub code: Vec<CodeObject>,
}

/// Loads a plan from its folder.
pub fn load(folder: &Path) -> Result<Loaded, StoreError> {
    let parsed = yaml::parse(&read(folder, yaml::FILE)?)?;
    let graphs = read(folder, GRAPH_FILE)?;
    if Hash::of(graphs.as_bytes()) != parsed.graph {
        return Err(StoreError::Changed { file: GRAPH_FILE });
    }
    let wrong = |reason: String| StoreError::Field { file: GRAPH_FILE, field: "graph".into(), reason };
    let texts = split_graphs(&graphs);
    let mut entries = parsed.entries;
    if texts.len() != entries.len() {
        return Err(wrong(format!("{} graphs for {} entries", texts.len(), entries.len())));
    }
    for (entry, text) in entries.iter_mut().zip(texts) {
        let graph = ir::text::parse(text).map_err(|e| wrong(format!("entry {}: {e}", entry.name)))?;
        give_graph(entry, graph)?;
    }
    let (target, model_hash, pacing) = (parsed.target, parsed.model_hash, parsed.pacing);
    let plan = Plan { target, model_hash, pacing, entries, weights: parsed.weights };
    let plan = check(plan).map_err(StoreError::Unsafe)?;
    let weights = Weights::open(folder, &plan, parsed.content)?;
    let code = parsed.code.into_iter().map(|info| CodeObject::carried(info, folder)).collect();
    Ok(Loaded { plan, weights, code })
}

fn read(folder: &Path, name: &str) -> Result<String, StoreError> {
    let path = folder.join(name);
    fs::read_to_string(&path).map_err(|e| StoreError::io(&path, e))
}

/// The graphs of a file: each ends with a brace at the start of a line.
fn split_graphs(text: &str) -> Vec<&str> {
    let graphs = text.split_inclusive("\n}\n").filter(|graph| !graph.trim().is_empty());
    graphs.collect()
}

/// Gives an entry its graph, and its bodies theirs, which are attributes of nodes.
fn give_graph(entry: &mut Entry, graph: Graph) -> Result<(), StoreError> {
    if !entry.bodies.is_empty() {
        for id in graph.order() {
            let Some(op) = graph.op(id).filter(|op| op.has_body()) else { continue };
            for (attr, value) in op.attrs() {
                let (Attr::Graph(body), key) = (value, body_key(&graph.node(id).names[0], &attr)) else { continue };
                if let Some(entry) = entry.bodies.get_mut(&key) {
                    give_graph(entry, (*body).clone())?;
                }
            }
        }
    }
    entry.graph = graph;
    Ok(())
}

/// The graph of an entry with the data of its weights, row-major: to plan it anew, or to compare with the reference.
pub fn graph_with_weights(plan: &Plan, entry: &Entry, weights: &Weights) -> Result<Graph, StoreError> {
    let mut graph = entry.graph.clone();
    for id in graph.order() {
        let v = Value::from(id);
        if !matches!(graph.node(id).kind, Kind::Weight(None)) {
            continue;
        }
        let name = graph.name(v).clone();
        let path: Arc<str> = crate::build::weight_path(&entry.name, &name).into();
        let key = if plan.weights.contains_key(&path) { path } else { name };
        let bad = |reason: &str| StoreError::Weight { key: key.clone(), reason: reason.to_string() };
        let (Some(info), Some(stored)) = (plan.weights.get(&key), weights.get(&key)) else {
            continue;
        };
        let tensor = match (info.layout, &info.source) {
            (crate::Layout::RowMajor, Source::Own | Source::Linked { .. }) => stored.clone(),
            (layout, _) => {
                let plain = layout.unpack(info.dtype, &info.dims, stored.bytes());
                let plain = plain.ok_or_else(|| bad("its layout cannot be undone"))?;
                Tensor::from_bytes(info.dtype, &info.dims, &plain).map_err(|e| bad(&e.to_string()))?
            }
        };
        graph.attach(id, tensor).map_err(|e| bad(&e.to_string()))?;
    }
    Ok(graph)
}
