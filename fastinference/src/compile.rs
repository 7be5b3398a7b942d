//! From an ONNX file to a checked plan.

use crate::carry::{Carried, code_for};
use crate::device::{DeviceOptions, Engine, is_processor};
use crate::{Compute, Error, Model};
use bytes::Bytes;
use ir::DType;
use passes::{Driver, Miss, Stage, audit::Audit, make_kv_stateful, narrow_floats, pipeline};
use plan::store::{WriteOptions, write};
use plan::{CheckedPlan, CodeObject, GraphWeights, Hash, Layout, Pacing, Source, WeightSource, Weights};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How a model is compiled.
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// Leave weights that need no repacking in the model's own file.
    pub link_weights: bool,
    /// Symbols of the inputs that are numbers from now on.
    pub dims: BTreeMap<String, i64>,
    /// What the model's f32 becomes: activations, weights and the caches of `step`. `main` keeps the signature of the ONNX model.
    pub compute: Option<Compute>,
    /// Evaluate the graph before and after every pass and compare; slow, for small models.
    pub verify: bool,
    /// End the pipeline after the pass of this name.
    pub stop_after: Option<String>,
    /// Show the graph after these passes; `import` is what the importer made.
    pub print_after: Vec<String>,
    /// The device that the plan is made for.
    pub on: DeviceOptions,
    /// An architecture that the plan is made for instead: `gfx1151`, `sm_90`, `cpu`. No such device need be here.
    pub target: Option<String>,
    /// More architectures that the plan carries code objects for; those of `target` it always carries where a compiler is here.
    pub code_for: Vec<String>,
}

/// Watches a compilation.
pub trait Progress {
    /// A stage begins.
    fn stage(&mut self, _name: &str) {}
    /// The graph after a pass that [`CompileOptions::print_after`] names.
    fn graph(&mut self, _pass: &str, _graph: &dyn Display) {}
}

impl Progress for () {}

/// What a compilation did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Operators of the graph as it was imported.
    pub nodes_before: usize,
    /// Operators of the graph that was planned.
    pub nodes_after: usize,
    /// How often each rule rewrote something, in order of the rules' names.
    pub rewrites: BTreeMap<String, usize>,
    /// Places where a rule matched and was refused: rule, place with its ONNX nodes, reason.
    pub near_misses: Vec<String>,
    /// Whether f32 was narrowed.
    pub narrowed: bool,
    /// With [`CompileOptions::compute`], operators that stay f32 all the same, by reason and operator; those of the entry `step`
    /// where there is one.
    pub kept_f32: BTreeMap<&'static str, BTreeMap<&'static str, usize>>,
    /// Operators that will run their reference evaluation, and how many nodes of each.
    pub reference: BTreeMap<String, usize>,
    /// With how many inputs the graph was evaluated before and after every pass; `None` when that was not asked for. The pass
    /// `narrow-floats` and those after it round differently by design, and are not compared.
    pub verified: Option<usize>,
    /// Caches of the entry `step`; 0 where there is none.
    pub states: usize,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Code objects in the plan, by architecture.
    pub code: Vec<Carried>,
    /// Oddities of the model that did no harm.
    pub warnings: Vec<String>,
}

/// A compiled model in memory.
pub struct Compiled {
    plan: CheckedPlan,
    weights: GraphWeights,
    report: Report,
    companions: Vec<(String, PathBuf)>,
    code: Vec<CodeObject>,
    engine: Engine,
}

/// Files of a model's folder that a plan carries along.
const COMPANIONS: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"];

/// The entry with the signature of the ONNX model.
const MAIN: &str = "main";

/// What [`CompileOptions::print_after`] calls the graph before the first pass.
const IMPORT: &str = "import";

/// The .onnx file meant by `path`: itself, or `model.onnx` in a folder.
pub fn model_file(path: &Path) -> Result<PathBuf, Error> {
    let not = |reason: &str| Error::NotAModel { path: path.to_owned(), reason: reason.into() };
    if path.is_file() {
        return Ok(path.to_owned());
    }
    if !path.is_dir() {
        return Err(not("there is no such file or folder"));
    }
    let inside = path.join("model.onnx");
    if inside.is_file() { Ok(inside) } else { Err(not("the folder holds no model.onnx")) }
}

/// Compiles a model: an .onnx file, or a folder with `model.onnx` (and perhaps a tokenizer).
pub fn compile(path: &Path, options: &CompileOptions, progress: &mut dyn Progress) -> Result<Compiled, Error> {
    let started = Instant::now();
    let file = model_file(path)?;
    if options.on.supervise.is_some() {
        let reason = "a device is supervised where a plan is loaded: compile without, and load the plan".to_string();
        return Err(Error::Device { device: options.on.device, reason });
    }
    for arch in &options.code_for {
        Engine::of_target(arch, Pacing::Auto)?;
    }
    let pacing = options.on.sync_every.unwrap_or_default();
    let engine = match &options.target {
        Some(target) => Engine::of_target(target, pacing)?,
        None => Engine::open(&options.on)?,
    };
    progress.stage("import");
    let imported = importer::import(&file, &importer::Options { fixed: options.dims.clone() })?;
    let mut graph = imported.graph;
    let operators = |g: &ir::Graph| g.order().into_iter().filter(|n| g.op(*n).is_some()).count();
    let nodes_before = operators(&graph);
    if options.print_after.iter().any(|p| p == IMPORT) {
        progress.graph(IMPORT, &graph);
    }
    progress.stage("passes");
    known_passes(options)?;
    options.compute.map_or(Ok(()), |compute| compute.check(&graph))?;
    let audit = options.verify.then(|| Audit::of(&graph));
    let inputs_evaluated = audit.as_ref().map(Audit::len);
    let mut show = |pass: &'static str, graph: &ir::Graph| {
        if options.print_after.iter().any(|p| p == pass) {
            progress.graph(pass, graph);
        }
    };
    let mut log: Vec<(&str, &str, passes::Entry)> = vec![];
    // Entries share the weights that are narrowed for both.
    let narrowed = narrow_floats::Narrowed::default();
    let mut run = |entry, stages: &[Stage], graph: &mut ir::Graph, audit: Option<&Audit>| {
        let ends = options.stop_after.as_ref().is_some_and(|last| names(stages).contains(&last.as_str()));
        let mut driver = Driver::new(stages.to_vec());
        driver.stop_after = options.stop_after.clone();
        driver.audit = audit.cloned();
        driver.narrowed = narrowed.clone();
        driver.observe = Some(&mut show);
        let did = driver.run(graph)?.log;
        log.extend(did.into_iter().map(|(pass, made)| (entry, pass, made)));
        Ok::<bool, Error>(!ends)
    };
    let finish = finish(options, engine.is_device());
    // From there on values are rounded differently by design: nothing is compared.
    let narrows = finish.iter().position(|stage| names(std::slice::from_ref(stage)) == [narrow_floats::NAME]);
    let (exact, rest) = finish.split_at(narrows.unwrap_or(finish.len()));
    let mut step = None;
    if run(MAIN, &pipeline::recognise(), &mut graph, audit.as_ref())? {
        let mut made = graph.clone();
        // A merged decoder takes its branch with a past.
        if make_kv_stateful::take_cache_branch(&mut made) {
            run(make_kv_stateful::STEP, &pipeline::recognise(), &mut made, None)?;
        }
        let goes_on = run(make_kv_stateful::STEP, &pipeline::step(), &mut made, None)?;
        let is_step = !made.states().is_empty();
        if goes_on {
            if run(MAIN, &[pipeline::main(), exact.to_vec()].concat(), &mut graph, audit.as_ref())? {
                run(MAIN, rest, &mut graph, None)?;
            }
            if is_step {
                run(make_kv_stateful::STEP, &finish, &mut made, None)?;
            }
        }
        step = is_step.then_some(made);
    }
    progress.stage("plan");
    let verified = ir::verify(&graph).expect("the driver verified the graph after the last pass");
    let hash = hash_of(&file)?;
    let with_step = step.as_ref().map(|step| {
        let step = ir::verify(step).expect("the driver verified the graph after the last pass");
        plan::build_entries(&[(MAIN, verified), (make_kv_stateful::STEP, step)], engine.target(), &hash)
    });
    let mut refused = None;
    let mut made = match with_step {
        Some(Ok(made)) => made,
        // A device without kernels for it runs `main` alone.
        Some(Err(e)) => {
            refused = Some(format!("the entry `step` cannot be planned for this device: {e}"));
            step = None;
            plan::build(verified, engine.target(), &hash)?
        }
        None => plan::build(verified, engine.target(), &hash)?,
    };
    made.pacing = pacing;
    if options.link_weights {
        link(&mut made, &imported.files);
    }
    let plan = plan::check(made).map_err(|found| plan::store::StoreError::Unsafe(found.clone()))?;
    let mut entries = vec![(MAIN, verified)];
    let step = step.as_ref().map(|step| ir::verify(step).expect("the driver verified the graph after the last pass"));
    entries.extend(step.map(|step| (make_kv_stateful::STEP, step)));
    let mut carried = vec![];
    let mut code = vec![];
    for arch in architectures(options) {
        let (did, objects) = code_for(arch, &plan, &entries, options.on.code_objects.as_deref(), progress);
        carried.push(did);
        code.extend(objects);
    }
    let weights = GraphWeights::new(&plan);
    let mut report = Report {
        narrowed: narrows.is_some(),
        code: carried,
        nodes_before,
        nodes_after: operators(&graph),
        warnings: imported.warnings,
        verified: inputs_evaluated,
        states: step.map_or(0, |s| s.graph().states().len()),
        weight_bytes: plan.weights.values().filter_map(|w| w.layout.bytes(w.dtype, &w.dims)).sum::<usize>() as u64,
        ..Report::default()
    };
    report.near_misses.extend(refused);
    let last = if step.is_some() { make_kv_stateful::STEP } else { MAIN };
    for (of, pass, entry) in &log {
        match &entry.outcome {
            Err(Miss::Refused(reason)) if *pass == narrow_floats::NAME => {
                if *of == last {
                    *report.kept_f32.entry(reason).or_default().entry(entry.rule).or_default() += 1;
                }
            }
            Ok(()) => *report.rewrites.entry(entry.rule.to_string()).or_default() += 1,
            Err(Miss::NoEffect) => {}
            Err(Miss::Refused(reason)) => report.near_misses.push(near_miss(entry, reason)),
        }
    }
    count_reference(&plan.entries[0], &mut report.reference);
    report.elapsed = started.elapsed();
    let folder = file.parent().unwrap_or(Path::new("."));
    let companions = COMPANIONS.iter().map(|name| (name.to_string(), folder.join(name)));
    let companions = companions.filter(|(_, path)| path.is_file()).collect();
    Ok(Compiled { plan, weights, report, companions, code, engine })
}

/// Architectures of GPUs that the plan is made for.
fn architectures(options: &CompileOptions) -> Vec<&str> {
    let mut found: Vec<&str> = vec![];
    for arch in options.target.iter().chain(&options.code_for) {
        if !found.contains(&arch.as_str()) && !is_processor(arch) && arch != "sim" {
            found.push(arch);
        }
    }
    found
}

/// What every entry goes through last.
fn finish(options: &CompileOptions, for_device: bool) -> Vec<Stage> {
    let stages = if for_device { pipeline::finish_for_device() } else { pipeline::finish() };
    match options.compute.and_then(Compute::narrower) {
        Some(to) => pipeline::narrowed(stages, to),
        None => stages,
    }
}

fn names(stages: &[Stage]) -> Vec<&'static str> {
    let names = |stage: &Stage| match stage {
        Stage::Once(pass) => vec![pass.name],
        Stage::Repeat { passes, .. } => passes.iter().map(|p| p.name).collect(),
    };
    stages.iter().flat_map(names).collect()
}

/// Refuses names of passes that do not exist.
fn known_passes(options: &CompileOptions) -> Result<(), Error> {
    let stages = [pipeline::recognise(), pipeline::step(), pipeline::main(), finish(options, true)].concat();
    let known = names(&stages);
    let printed = options.print_after.iter().filter(|name| *name != IMPORT);
    match printed.chain(&options.stop_after).find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Error::Pass { name: name.clone(), known: known.join(", ") }),
        None => Ok(()),
    }
}

/// Weights that need no repacking and whose bytes are still those of a file of the model stay there.
fn link(plan: &mut plan::Plan, files: &[(PathBuf, Bytes)]) {
    let found = GraphWeights::new(plan);
    for (key, info) in plan.weights.iter_mut().filter(|(_, info)| info.layout == Layout::RowMajor) {
        let Some(tensor) = found.tensor(key).filter(|t| t.dtype() != DType::Str) else { continue };
        let bytes = tensor.bytes().as_ptr_range();
        for (path, file) in files {
            let whole = file.as_ptr_range();
            if !tensor.is_empty() && whole.start <= bytes.start && bytes.end <= whole.end {
                let offset = (bytes.start as usize - whole.start as usize) as u64;
                info.source = Source::Linked { path: path.clone(), offset, len: tensor.bytes().len() as u64 };
            }
        }
    }
}

/// The hash of the model's file, without external data.
fn hash_of(file: &Path) -> Result<String, Error> {
    let unreadable = |e: std::io::Error| Error::NotAModel { path: file.to_owned(), reason: e.to_string() };
    let mapped = ir::mmap::Mapped::open(file).map_err(unreadable)?;
    Ok(Hash::of(ir::tensor::Memory::bytes(&mapped)).to_string())
}

fn near_miss(entry: &passes::Entry, reason: &str) -> String {
    let origin = if entry.origin.is_empty() { String::new() } else { format!(" (from {})", entry.origin.join(" + ")) };
    let todo = passes::advice(reason).map(|advice| format!("; {advice}")).unwrap_or_default();
    format!("{} at `{}`{origin}: {reason}{todo}", entry.rule, entry.at)
}

fn count_reference(entry: &plan::Entry, into: &mut BTreeMap<String, usize>) {
    for step in &entry.steps {
        let plan::Step::Launch(launch) = step else { continue };
        if launch.kernel != "reference" {
            continue;
        }
        let node = entry.graph.order().into_iter().find(|n| entry.graph.node(*n).names[0] == launch.node);
        if let Some(op) = node.and_then(|n| entry.graph.op(n)) {
            *into.entry(op.name().to_string()).or_default() += 1;
        }
    }
    entry.bodies.values().for_each(|body| count_reference(body, into));
}

impl Compiled {
    /// What the compilation did.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The plan.
    pub fn plan(&self) -> &CheckedPlan {
        &self.plan
    }

    /// Writes the plan as a folder, whole or not at all; returns its size in bytes. Fails when something is there already
    /// and `overwrite` is not set.
    pub fn save(&self, folder: &Path, overwrite: bool) -> Result<u64, Error> {
        let (files, code) = (self.companions.clone(), self.code.clone());
        let options = WriteOptions { replace: overwrite, files, code, progress: None };
        write(&self.plan, &self.weights, folder, options)?;
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        let code: u64 = self.code.iter().map(|object| object.info.bytes).sum();
        Ok(files.filter_map(|f| f.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum::<u64>() + code)
    }

    /// Makes the model ready to run, without writing it.
    pub fn into_model(self) -> Result<Model, Error> {
        let weights = Weights::from_source(&self.plan, &self.weights)?;
        Model::new(self.plan, weights, self.code, &self.engine)
    }
}
