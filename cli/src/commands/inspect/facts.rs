//! What there is to know of a plan, gathered once for every way of showing it.
//!
//! Bytes and flops are expressions over the model's symbols. To give numbers, every symbol that `--dim` does not fix counts as
//! [`ASSUMED`].

use super::Inspected;
use super::indices::{self, Index};
use super::placement::Placement;
use crate::failure::Failure;
use fastinference::CodeInfo;
use fastinference::ir::{Dim, Graph, Op, Value, ValueType};
use fastinference::plan::{Arena, Entry, Offsets, Step};
use fastinference::{HOST_KERNEL, is_processor, why_on_host};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

/// The number that stands for a symbol nobody fixed.
pub const ASSUMED: i64 = 16;

/// An expression and its number under [`Facts::symbols`].
#[derive(Clone, Debug, Serialize)]
pub struct Amount {
    /// The number; missing where it cannot be computed.
    pub number: Option<u64>,
    /// The expression.
    pub formula: String,
}

/// A node of the plan.
#[derive(Debug, Serialize)]
pub struct NodeFacts {
    /// Empty for the main entry, else the entry's name or the body's path.
    pub entry: String,
    /// Its first result.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// The kernel that computes it; `view` where nothing is computed.
    pub kernel: String,
    /// Names of what it reads.
    pub operands: Vec<String>,
    /// Types of its results.
    pub types: Vec<String>,
    /// Bytes read and written.
    pub bytes: Amount,
    /// Arithmetic operations.
    pub flops: Amount,
    /// ONNX nodes it stands for.
    pub origins: Vec<String>,
    /// Why it runs on the host, in a plan for a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_host: Option<&'static str>,
}

/// A buffer of the main entry's arena, placed.
pub struct Block {
    /// Where it begins.
    pub offset: u64,
    /// How large it is.
    pub bytes: u64,
    /// First and last step that touch it.
    pub steps: (u32, u32),
    /// The value that is written to it first.
    pub value: String,
}

/// The waits of an entry.
#[derive(Debug, Default, Serialize)]
pub struct Syncs {
    /// Those that values or memory need.
    pub order: usize,
    /// Those that bound what a device's queue holds.
    pub pace: usize,
    /// How many steps it holds at most, where that is bounded.
    pub steps_between: Option<NonZeroU32>,
}

impl Syncs {
    fn of(entry: &Entry) -> Syncs {
        let syncs = entry.steps.iter().filter(|step| matches!(step, Step::Sync(_)));
        let (pace, order): (Vec<&Step>, Vec<&Step>) = syncs.partition(|step| step.is_pace());
        Syncs { order: order.len(), pace: pace.len(), steps_between: entry.pace }
    }
}

/// An entry of a plan.
#[derive(Debug, Default, Serialize)]
pub struct EntryFacts {
    /// Nodes by operator, bodies included.
    pub ops: BTreeMap<String, usize>,
    /// Nodes by the float type of their first result, bodies included.
    pub floats: BTreeMap<&'static str, usize>,
    /// How many steps it has.
    pub steps: usize,
    /// How often it lets one stream wait for another.
    pub syncs: Syncs,
    /// What the session keeps for it: names and types.
    pub states: Vec<(String, String)>,
    /// Where it uses indices.
    pub indices: Vec<Index>,
}

/// A code object of a plan.
#[derive(Debug, Serialize)]
pub struct CodeFacts {
    /// The architecture.
    pub arch: String,
    /// The file of kernels.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Who compiled it.
    pub compiler: String,
}

impl CodeFacts {
    fn of(info: &CodeInfo) -> CodeFacts {
        let (arch, file, compiler) = (info.arch.clone(), info.file().to_string(), info.compiler.clone());
        CodeFacts { arch, file, bytes: info.bytes, compiler }
    }
}

/// A plan's facts.
pub struct Facts {
    /// What was inspected.
    pub title: String,
    /// Names and types.
    pub inputs: Vec<(String, String)>,
    /// Names and types.
    pub outputs: Vec<(String, String)>,
    /// The numbers used for the symbols.
    pub symbols: BTreeMap<String, i64>,
    /// Those of them that nobody fixed.
    pub assumed: BTreeSet<String>,
    /// What typing took for granted.
    pub constraints: Vec<String>,
    /// Every node, in plan order.
    pub nodes: Vec<NodeFacts>,
    /// Nodes of `main` by operator.
    pub ops: BTreeMap<String, usize>,
    /// The other entries, and `main`, by name.
    pub entries: BTreeMap<String, EntryFacts>,
    /// Steps of the main entry.
    pub steps: usize,
    /// The arena of the main entry.
    pub arena: Vec<Block>,
    /// Its size.
    pub arena_bytes: u64,
    /// All weights.
    pub weight_bytes: u64,
    /// Code objects that the plan carries.
    pub code: Vec<CodeFacts>,
    /// Where the work is done, in a plan for a device.
    pub placement: Option<Placement>,
}

impl Facts {
    /// Gathers them. Fails when `dims` names a symbol that the model does not have.
    pub fn of(path: &Path, inspected: &Inspected, dims: &BTreeMap<String, i64>) -> Result<Facts, Failure> {
        let plan = &inspected.plan;
        let main = &plan.entries[0];
        let symbols = main.graph.input_symbols();
        if let Some(unknown) = dims.keys().find(|name| !symbols.contains(name.as_str())) {
            let known: Vec<&str> = symbols.iter().map(|s| &**s).collect();
            let known =
                if known.is_empty() { "it has none".to_string() } else { format!("it has {}", known.join(", ")) };
            return Err(Failure::work(format!("the model has no symbol `{unknown}`")).with_help(known));
        }
        let number = |name: &str| dims.get(name).copied().unwrap_or(ASSUMED);
        let mut facts = Facts {
            title: path.display().to_string(),
            inputs: main.inputs.iter().map(|p| (p.name.to_string(), p.ty.to_string())).collect(),
            outputs: main.outputs.iter().map(|p| (p.name.to_string(), p.ty.to_string())).collect(),
            symbols: symbols.iter().map(|s| (s.to_string(), number(s))).collect(),
            assumed: symbols.iter().map(|s| s.to_string()).filter(|s| !dims.contains_key(s)).collect(),
            constraints: main.graph.constraints.iter().map(ToString::to_string).collect(),
            nodes: vec![],
            ops: BTreeMap::new(),
            entries: BTreeMap::new(),
            steps: main.steps.len(),
            arena: vec![],
            arena_bytes: 0,
            weight_bytes: inspected.weight_bytes,
            code: inspected.code.iter().map(CodeFacts::of).collect(),
            placement: None,
        };
        let lookup = |name: &str| Some(number(name));
        for entry in &plan.entries {
            let name = if entry.name == "main" { String::new() } else { entry.name.clone() };
            let of_entry = EntryFacts {
                ops: BTreeMap::new(),
                floats: BTreeMap::new(),
                steps: entry.steps.len(),
                syncs: Syncs::of(entry),
                states: entry.states.iter().map(|p| (p.name.to_string(), p.ty.to_string())).collect(),
                indices: indices::of(&entry.graph),
            };
            facts.entries.insert(entry.name.clone(), of_entry);
            facts.add_nodes(entry, &entry.name, &name, &lookup);
        }
        facts.ops = facts.entries.get("main").map(|e| e.ops.clone()).unwrap_or_default();
        facts.place(main, &lookup);
        facts.placement = (!is_processor(&plan.target)).then(|| Placement::of(&plan.target, &facts.nodes));
        Ok(facts)
    }

    fn add_nodes(&mut self, entry: &Entry, root: &str, path: &str, lookup: &dyn Fn(&str) -> Option<i64>) {
        let kernels: HashMap<&Arc<str>, &str> = entry.steps.iter().filter_map(launch).collect();
        let graph = &entry.graph;
        for id in graph.order() {
            let node = graph.node(id);
            let Some(op) = node.op() else { continue };
            let kernel = kernels.get(&node.names[0]).copied().unwrap_or("view");
            let of_entry = self.entries.entry(root.to_string()).or_default();
            *of_entry.ops.entry(op.name().to_string()).or_default() += 1;
            if let Some(t) = node.facts[0].ty.as_tensor().filter(|t| t.dtype.is_float()) {
                *of_entry.floats.entry(t.dtype.name()).or_default() += 1;
            }
            let (bytes, flops) = cost(graph, id.into(), op, kernel == "view");
            self.nodes.push(NodeFacts {
                entry: path.to_string(),
                name: node.names[0].to_string(),
                op: op.name().to_string(),
                kernel: kernel.to_string(),
                operands: graph.operands(id).iter().map(|v| graph.name(*v).to_string()).collect(),
                types: node.facts.iter().map(|f| f.ty.to_string()).collect(),
                bytes: amount(&bytes, lookup),
                flops: amount(&flops, lookup),
                origins: node.origin.iter().map(ToString::to_string).collect(),
                on_host: (kernel == HOST_KERNEL).then(|| why_on_host(graph, id).unwrap_or("it is in a body")),
            });
        }
        for (key, body) in &entry.bodies {
            let path = if path.is_empty() { key.clone() } else { format!("{path}/{key}") };
            self.add_nodes(body, root, &path, lookup);
        }
    }

    fn place(&mut self, main: &Entry, lookup: &dyn Fn(&str) -> Option<i64>) {
        let mut offsets = Offsets::default();
        // Sizes that the assumed numbers make impossible leave the picture empty.
        if Arena::new(main).layout(lookup, &mut offsets).is_err() {
            return;
        }
        self.arena_bytes = offsets.total;
        let mut values = vec![String::from("scratch"); main.buffers.len()];
        for step in main.steps.iter().rev() {
            if let Step::Launch(launch) = step {
                for (result, loc) in launch.writes.iter().enumerate() {
                    if let fastinference::plan::Place::Buffer(id) = loc.place {
                        let more = if result > 0 { format!(" result {result}") } else { String::new() };
                        values[id.0 as usize] = format!("{}{more}", launch.node);
                    }
                }
            }
        }
        for (i, (buffer, value)) in main.buffers.iter().zip(values).enumerate() {
            let (offset, bytes) = (offsets.offsets[i], offsets.sizes[i]);
            self.arena.push(Block { offset, bytes, steps: (buffer.first, buffer.last), value });
        }
    }

    /// Nodes that run on the reference evaluation.
    pub fn on_reference(&self) -> impl Iterator<Item = &NodeFacts> {
        self.nodes.iter().filter(|n| n.kernel == "reference")
    }

    /// `with B = 1, S = 16 assumed`: under which numbers the amounts hold; empty when the model has no symbols.
    pub fn assumption(&self) -> String {
        let word = |name: &String| if self.assumed.contains(name) { " assumed" } else { "" };
        let shown: Vec<String> = self.symbols.iter().map(|(name, n)| format!("{name} = {n}{}", word(name))).collect();
        if shown.is_empty() { String::new() } else { format!("with {}", shown.join(", ")) }
    }
}

fn launch(step: &Step) -> Option<(&Arc<str>, &str)> {
    match step {
        Step::Launch(launch) => Some((&launch.node, &launch.kernel)),
        Step::Copy(_) | Step::Sync(_) => None,
    }
}

fn cost(graph: &Graph, v: Value, op: &Op, view: bool) -> (Dim, Dim) {
    if view {
        return (Dim::constant(0), Dim::constant(0));
    }
    let operands = graph.operands(v.node);
    let operands: Vec<&ValueType> = operands.iter().map(|v| graph.ty(*v)).collect();
    let results: Vec<ValueType> = graph.results(v.node).map(|v| graph.ty(v).clone()).collect();
    let cost = op.cost(&operands, &results);
    (cost.read + cost.written, cost.flops)
}

fn amount(dim: &Dim, lookup: &dyn Fn(&str) -> Option<i64>) -> Amount {
    let number = dim.eval(lookup).ok().and_then(|n| u64::try_from(n).ok());
    Amount { number, formula: dim.to_string() }
}
