//! `verify`: checks a plan's weights against their hashes, and its results against the reference evaluation of the model.
//!
//! Where outputs differ it looks for the first value that does. Values that the imported graph and the plan's graph share by name
//! tell whether a pass is to blame; the plan's graph run with every value as an output tells which kernel is.

use crate::failure::Failure;
use crate::flags::{DimFlags, RunFlags};
use crate::models;
use crate::progress;
use crate::units;
use clap::Args;
use fastinference::cases::{self, Allowed};
use fastinference::importer;
use fastinference::ir::{self, Graph, eval};
use fastinference::plan::graph_with_weights;
use fastinference::{CompileOptions, Datum, Error, Model, RandomInputs};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Checks that a plan computes what its model means.
#[derive(Args)]
pub struct Flags {
    /// A plan, an .onnx file, or a folder with model.onnx
    plan: PathBuf,
    /// The .onnx file that the plan was made from; without it the plan is compared with its own graph
    #[arg(long, value_name = "MODEL")]
    against: Option<PathBuf>,
    /// Sets of random inputs to try
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    sets: u64,
    /// Seed of the first set
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    dims: DimFlags,
    /// Relative difference allowed
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    rtol: f64,
    /// Absolute difference allowed, as a share of the largest expected value
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    atol: f64,
    #[command(flatten)]
    on: RunFlags,
}

/// Runs the command.
pub fn main(flags: Flags) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let model = models::open(&flags.plan, &CompileOptions { on: flags.on.on()?, ..CompileOptions::default() })?;
    if models::is_plan(&flags.plan) {
        model.weights().verify(model.plan()).map_err(Error::from)?;
        let count = model.plan().weights.len();
        writeln!(out, "weights  {} as they were written", units::plural(count, "tensor"))?;
    }
    let optimised = &model.plan().entries[0].graph;
    let imported = match &flags.against {
        Some(path) => import(path)?,
        None => with_weights(&model)?,
    };
    same_signature(&imported, optimised)?;
    let mut session = model.session(flags.on.threads);
    let mut worst = 0.0f64;
    for set in 0..flags.sets {
        let spinner = progress::spinner(&format!("random inputs {} of {}", set + 1, flags.sets));
        let wanted = RandomInputs { seed: flags.seed + set, dims: flags.dims.to_map(), given: BTreeMap::new() };
        let inputs = model.random_inputs(&wanted)?;
        let found = session.run(&inputs).map_err(Error::from)?.to_vec();
        let expected = eval::run(&imported, &inputs);
        spinner.finish_and_clear();
        let expected = expected.map_err(|e| Failure::work(format!("the reference evaluation failed: {e}")))?;
        for ((output, found), expected) in imported.outputs.iter().zip(&found).zip(&expected) {
            worst = worst.max(distance(found, expected));
            if let Err(difference) = near(found, expected, &flags) {
                let message =
                    format!("output `{}` differs on random inputs {}: {difference}", output.name, flags.seed + set);
                let first = locate(&model, &imported, &inputs, &flags)?;
                return Err(Failure::work(message).with_help(first));
            }
        }
        writeln!(out, "inputs   set {}: {} agree", flags.seed + set, units::plural(found.len(), "output"))?;
    }
    writeln!(out, "verified: the largest difference is {worst:.2e} of the largest value")?;
    Ok(())
}

fn import(path: &Path) -> Result<Graph, Error> {
    Ok(importer::import(&fastinference::model_file(path)?, &importer::Options::default())?.graph)
}

/// The graph of the main entry with the data of its weights.
fn with_weights(model: &Model) -> Result<Graph, Error> {
    Ok(graph_with_weights(model.plan(), &model.plan().entries[0], model.weights())?)
}

fn same_signature(model: &Graph, plan: &Graph) -> Result<(), Failure> {
    let names = |g: &Graph| -> Vec<String> {
        let inputs = g.inputs.iter().map(|id| g.name((*id).into()).to_string());
        inputs.chain(g.outputs.iter().map(|o| o.name.to_string())).collect()
    };
    if names(model) == names(plan) {
        return Ok(());
    }
    let message = "the plan was not made from this model: their inputs and outputs have other names";
    Err(Failure::work(message).with_help("give the .onnx file that the plan was compiled from"))
}

/// Says which value is the first to differ, and whose fault it is.
fn locate(model: &Model, imported: &Graph, inputs: &[Datum], flags: &Flags) -> Result<String, Failure> {
    let spinner = progress::spinner("looking for the first value that differs");
    let of_model = values(imported, inputs)?;
    let optimised = with_weights(model)?;
    let of_plan = values(&optimised, inputs)?;
    let by_name: HashMap<&Arc<str>, &Datum> = of_plan.iter().map(|(name, _, d)| (name, d)).collect();
    let by_pass = of_model.iter().find_map(|(name, origin, expected)| {
        let difference = near(by_name.get(name)?, expected, flags).err()?;
        Some(format!("a pass changed the value `{name}`{}: {difference}", from(origin)))
    });
    let by_kernel = match by_pass {
        Some(_) => None,
        None => wrong_kernel(optimised, &of_plan, inputs, flags)?,
    };
    spinner.finish_and_clear();
    let unknown = || "no single value explains it: the difference grows over many nodes".to_string();
    Ok(by_pass.or(by_kernel).unwrap_or_else(unknown))
}

type Observed = Vec<(Arc<str>, Vec<Arc<str>>, Datum)>;

/// Every value of a graph by the reference evaluation, in order, with its ONNX nodes.
fn values(graph: &Graph, inputs: &[Datum]) -> Result<Observed, Failure> {
    let mut observed = vec![];
    let done = eval::run_observed(graph, inputs, &mut |id, results| {
        let origin = graph.node(id).origin.to_vec();
        let named = graph.results(id).map(|v| graph.name(v).clone()).zip(results);
        observed.extend(named.map(|(name, datum)| (name, origin.clone(), datum.clone())));
    });
    done.map_err(|e| Failure::work(format!("the reference evaluation failed: {e}")))?;
    Ok(observed)
}

/// Runs the graph with every value as an output and compares each with the reference.
fn wrong_kernel(
    mut graph: Graph,
    expected: &Observed,
    inputs: &[Datum],
    flags: &Flags,
) -> Result<Option<String>, Failure> {
    let order = graph.order();
    let results: Vec<_> =
        order.into_iter().filter(|id| graph.op(*id).is_some()).flat_map(|id| graph.results(id)).collect();
    graph.outputs.clear();
    for v in results {
        let name = graph.name(v).clone();
        graph.output(&name, v);
    }
    let names: Vec<Arc<str>> = graph.outputs.iter().map(|o| o.name.clone()).collect();
    let everything = Model::from_graph(ir::verify(&graph).map_err(|e| Failure::work(e.to_string()))?)?;
    let mut session = everything.session(flags.on.threads);
    let found = session.run(inputs).map_err(Error::from)?;
    let found: HashMap<&Arc<str>, &Datum> = names.iter().zip(found).collect();
    let kernels: HashMap<Arc<str>, &'static str> =
        everything.kernels().into_iter().map(|k| (k.node, k.kernel)).collect();
    Ok(expected.iter().find_map(|(name, origin, expected)| {
        let difference = near(found.get(name)?, expected, flags).err()?;
        let kernel = kernels.get(name).copied().unwrap_or("unknown");
        Some(format!("the kernel `{kernel}` gives another `{name}`{}: {difference}", from(origin)))
    }))
}

fn from(origin: &[Arc<str>]) -> String {
    if origin.is_empty() { String::new() } else { format!(" (from {})", origin.join(" + ")) }
}

/// Compares with the absolute tolerance in units of the largest expected value.
fn near(found: &Datum, expected: &Datum, flags: &Flags) -> Result<(), cases::Difference> {
    let atol = flags.atol * largest(expected).max(f64::MIN_POSITIVE);
    cases::compare(found, expected, Allowed { rtol: flags.rtol, atol, equal_nan: true })
}

fn largest(datum: &Datum) -> f64 {
    let numbers = datum.as_tensor().filter(|t| t.dtype().is_float()).and_then(|t| t.to_f64().ok());
    numbers.into_iter().flatten().filter(|v| v.is_finite()).fold(0.0, |m, v| m.max(v.abs()))
}

/// The largest difference between finite elements, as a share of the largest expected one.
fn distance(found: &Datum, expected: &Datum) -> f64 {
    let (Some(f), Some(e)) = (found.as_tensor(), expected.as_tensor()) else { return 0.0 };
    let (Ok(f), Ok(e)) = (f.to_f64(), e.to_f64()) else { return 0.0 };
    let largest_difference = f.iter().zip(&e).map(|(f, e)| (f - e).abs()).filter(|d| d.is_finite()).fold(0.0, f64::max);
    largest_difference / largest(expected).max(1.0)
}
