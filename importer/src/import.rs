//! Reads a model: its constants, inputs and nodes, into a graph.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ir::dim::Dim;
use ir::graph::Graph;
use ir::types::ValueType;

use crate::error::ImportError;
use crate::external::Folder;
use crate::node::{NodeCx, NodeError, function, ops_domain};
use crate::order::{label, order};
use crate::proto::{self, Model, Node, Producer};
use crate::scope::{Captures, Entry, Frame, Names, Outer, Place, Progress, reborrow};
use crate::{ops, tensor, types};

/// How to import a model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Symbols of the inputs that are numbers from now on.
    pub fixed: BTreeMap<String, i64>,
}

/// An imported model.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What it computes.
    pub graph: Graph,
    /// What the file says of itself.
    pub info: Info,
    /// What was odd, but did no harm.
    pub warnings: Vec<String>,
    /// The files that constants may lie in, by absolute path: a constant whose bytes are within a file's was not copied.
    pub files: Vec<(PathBuf, Bytes)>,
}

/// What a model file says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Info {
    /// The tool that wrote it.
    pub producer: Producer,
    /// Operator sets by domain; the empty domain is ONNX's own.
    pub opsets: Vec<(String, i64)>,
    /// Version of the file format.
    pub ir_version: i64,
    /// Free key-value pairs.
    pub metadata: Vec<(String, String)>,
}

/// Imports the model at `path`; its weights stay in the file, which is memory-mapped.
pub fn import(path: &Path, options: &Options) -> Result<Imported, ImportError> {
    let file = proto::map_file(path).map_err(|source| ImportError::Read { path: path.to_owned(), source })?;
    let folder = Folder::of_model(path)?;
    let mut imported = import_bytes(file.clone(), Some(&folder), options)?;
    let path = path.canonicalize().map_err(|source| ImportError::Read { path: path.to_owned(), source })?;
    imported.files = folder.into_files();
    imported.files.push((path, file));
    Ok(imported)
}

/// Imports a model in memory; `folder` is where its external data lies, `None` where it must not have any.
pub fn import_bytes(file: Bytes, folder: Option<&Folder>, options: &Options) -> Result<Imported, ImportError> {
    let model = proto::decode_model(file)?;
    let mut functions = HashMap::new();
    for f in &model.functions {
        functions.insert((ops_domain(&f.domain), &*f.name, &*f.overload), f);
    }
    let place = Place {
        functions: &functions,
        folder,
        ir_version: model.ir_version,
        opsets: &model.opset_imports,
        attributes: HashMap::new(),
        prefix: String::new(),
        depth: 0,
        calls: vec![],
    };
    let mut progress = Progress::default();
    let graph = main_graph(&model, &place, options, &mut progress)?;
    if !progress.failures.is_empty() {
        return Err(ImportError::Nodes(Box::new(progress.failures)));
    }
    let info = Info {
        producer: model.producer.clone(),
        opsets: model.opset_imports.clone(),
        ir_version: model.ir_version,
        metadata: model.metadata.clone(),
    };
    Ok(Imported { graph, info, warnings: progress.warnings, files: vec![] })
}

fn main_graph(
    model: &Model,
    place: &Place<'_>,
    options: &Options,
    progress: &mut Progress,
) -> Result<Graph, ImportError> {
    let proto = &model.graph;
    let mut graph = Graph::new(if proto.name.is_empty() { "main" } else { &proto.name });
    let (mut names, mut captures) = (Names::default(), Captures::default());
    let mut frame =
        Frame { graph: &mut graph, names: &mut names, captures: &mut captures, outer: None, sees_outer: false };
    inputs(proto, options, &mut frame)?;
    constants(proto, place, &mut frame, &|_| true)?;
    for node in &proto.nodes {
        let taken = |name: &&String| !name.is_empty() && frame.names.get(name).is_some();
        if let Some(name) = node.outputs.iter().find(taken) {
            let second = format!("node `{}` ({})", node.name, node.op_type);
            return Err(ImportError::Twice { value: name.clone(), first: "an input or constant".into(), second });
        }
    }
    nodes(&proto.nodes, place, &mut frame, progress)?;
    for output in &proto.outputs {
        match frame.resolve(&output.name) {
            Some(Entry::Value(v)) => {
                frame.graph.output(&output.name, v);
                check_hint(frame.graph.ty(v), output, progress);
            }
            Some(Entry::Absent | Entry::Failed) => {}
            None => {
                return Err(ImportError::Undefined {
                    reader: "the graph's outputs".into(),
                    value: output.name.clone(),
                });
            }
        }
    }
    if proto.outputs.is_empty() {
        return Err(ImportError::Undefined { reader: "the graph has no outputs and".into(), value: String::new() });
    }
    graph.remove_dead();
    Ok(graph)
}

/// Adds the graph's inputs. One that has a constant of its name is that constant.
fn inputs(proto: &proto::Graph, options: &Options, frame: &mut Frame<'_>) -> Result<(), ImportError> {
    let dense = proto.initializers.iter().map(|t| &*t.name);
    let constants: HashSet<&str> = dense.chain(proto.sparse_initializers.iter().map(|t| &*t.values.name)).collect();
    let inputs: Vec<_> = proto.inputs.iter().filter(|i| !constants.contains(&*i.name)).collect();
    let (mut seen, symbols) = (BTreeSet::new(), RefCell::new(BTreeSet::new()));
    for (input, ty) in inputs.iter().zip(types::input_types(&inputs)) {
        let ty = ty.map_err(|reason| ImportError::Input { input: input.name.clone(), reason })?;
        if !seen.insert(&input.name) {
            let (value, second) = (input.name.clone(), "another input".into());
            return Err(ImportError::Twice { value, first: "an input".into(), second });
        }
        let ty = ty.map_dims(&|d| {
            symbols.borrow_mut().extend(d.symbols());
            d.substitute(&|s| options.fixed.get(s).map(|n| Dim::constant(*n)))
        });
        let ty = loose_items(ty, frame.graph);
        let v = frame.graph.input(&input.name, ty);
        frame.names.set(&input.name, Entry::Value(v));
    }
    let symbols = symbols.into_inner();
    match options.fixed.keys().find(|name| !symbols.contains(name.as_str())) {
        Some(name) => {
            Err(ImportError::Symbol { name: name.clone(), known: symbols.iter().map(|s| s.to_string()).collect() })
        }
        None => Ok(()),
    }
}

/// The type with symbols inside sequences, optionals and maps made late: items may differ in what a list's type calls `N`, so
/// that they bind nothing.
fn loose_items(ty: ValueType, graph: &mut Graph) -> ValueType {
    if ty.as_tensor().is_some() {
        return ty;
    }
    let graph = RefCell::new(graph);
    ty.map_dims(&|d| if d.as_const().is_some() { d.clone() } else { graph.borrow_mut().fresh_late_dim() })
}

/// Adds the constants of a graph for which `wanted` holds.
pub(crate) fn constants(
    proto: &proto::Graph,
    place: &Place<'_>,
    frame: &mut Frame<'_>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<(), ImportError> {
    let dense = proto.initializers.iter().map(|t| (&t.name, tensor::tensor(t, place.folder)));
    let sparse = proto.sparse_initializers.iter().map(|t| (&t.values.name, tensor::dense(t, place.folder)));
    for (name, tensor) in dense.chain(sparse).filter(|(name, _)| wanted(name)) {
        let tensor = tensor.map_err(|reason| ImportError::Tensor { tensor: name.clone(), reason })?;
        let v = frame.keep(name, &tensor);
        frame.names.set(name, Entry::Value(v));
    }
    Ok(())
}

/// Notes an output whose declared type cannot be right; the declared type is otherwise not used.
fn check_hint(found: &ValueType, output: &proto::ValueInfo, progress: &mut Progress) {
    let mut n = 0;
    let declared = types::value_type(&output.r#type, &mut |_, d| {
        n += 1;
        types::named_dim(d).filter(|d| d.as_const().is_some()).unwrap_or_else(|| Dim::sym(&format!("?{n}")))
    });
    // Where a loop fills an optional value its result may be there or not, though the file says that it is.
    let inside = if let ValueType::Optional(of) = found { of } else { found };
    if let Ok(declared) = declared
        && !declared.compatible(found)
        && !declared.compatible(inside)
    {
        let name = &output.name;
        progress.warnings.push(format!("output `{name}` is declared {declared}, but is {found}; the file is wrong"));
    }
}

/// Imports nodes, in an order in which operands come first.
pub(crate) fn nodes(
    list: &[Node],
    place: &Place<'_>,
    frame: &mut Frame<'_>,
    progress: &mut Progress,
) -> Result<(), ImportError> {
    for i in order(list)? {
        let label = format!("{}{}", place.prefix, label(&list[i], i));
        node(&list[i], &label, place, frame, progress)?;
    }
    Ok(())
}

fn node(
    node: &Node,
    label: &str,
    place: &Place<'_>,
    frame: &mut Frame<'_>,
    progress: &mut Progress,
) -> Result<(), ImportError> {
    progress.nodes += 1;
    if progress.nodes > Progress::MAX_NODES {
        return Err(ImportError::TooLarge { limit: Progress::MAX_NODES });
    }
    let mut operands = vec![];
    for name in &node.inputs {
        let entry = if name.is_empty() { Some(Entry::Absent) } else { frame.resolve(name) };
        operands.push(entry.ok_or_else(|| {
            let reader = format!("node `{label}` ({})", node.op_type);
            ImportError::Undefined { reader, value: name.clone() }
        })?);
    }
    if node.outputs.iter().all(String::is_empty) {
        return Ok(());
    }
    let value = |entry: &Entry| match entry {
        Entry::Value(v) => Some(*v),
        Entry::Absent | Entry::Failed => None,
    };
    let mut cx = NodeCx {
        graph: &mut *frame.graph,
        node,
        place,
        names: &mut *frame.names,
        captures: &mut *frame.captures,
        outer: reborrow(&mut frame.outer),
        sees_outer: frame.sees_outer,
        progress,
        inputs: operands.iter().map(value).collect(),
        label,
        made: vec![],
    };
    let failed = operands.contains(&Entry::Failed);
    let results = match (function(place, node), ops::handler(ops_domain(&node.domain), &node.op_type)) {
        (Some(function), _) => cx.expand(function, &operands),
        (None, None) => Err(NodeError::unsupported(unknown(node))),
        (None, Some(_)) if failed => Err(NodeError::Reported),
        (None, Some(handler)) => handler(&mut cx),
    };
    let bound = results.and_then(|results| cx.bind(&results));
    if let Err(error) = bound {
        for name in node.outputs.iter().filter(|name| !name.is_empty()) {
            cx.names.set(name, Entry::Failed);
        }
        let op = match ops_domain(&node.domain) {
            "" => node.op_type.clone(),
            domain => format!("{domain}.{}", node.op_type),
        };
        cx.progress.fail(label, &op, error)?;
    }
    Ok(())
}

/// Why an operator without a handler is refused, and what to do where that is known.
fn unknown(node: &Node) -> &'static str {
    match (ops_domain(&node.domain), &*node.op_type) {
        ("com.microsoft", "PagedAttention") => {
            "its cache is one table of blocks that a server owns; export the model with a cache of its own for each layer \
             (`past_key_values` in, `present` out), for example with GroupQueryAttention: sequences are batched over slots then"
        }
        _ => "the operator is not known",
    }
}
