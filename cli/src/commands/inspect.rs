//! `inspect`: shows what is in a model or plan: nodes, kernels, bytes, flops, memory.

mod dot;
mod facts;
mod html;
mod indices;
mod json;
mod placement;
mod text;

use crate::failure::Failure;
use crate::flags::DimFlags;
use crate::models;
use crate::tensor_file::write_file;
use clap::Args;
use facts::Facts;
use fastinference::{CheckedPlan, CodeInfo, CompileOptions, Compute, Device, plan};
use std::io::{self, Write};
use std::path::PathBuf;

/// Shows what is in a plan, or what compiling a model makes of it.
#[derive(Args)]
pub struct Flags {
    /// A plan, an .onnx file, or a folder with model.onnx
    model: PathBuf,
    /// Also prints the graph as text
    #[arg(long, conflicts_with_all = ["json", "dot"])]
    graph: bool,
    /// Also prints the steps of the plan
    #[arg(long, conflicts_with_all = ["json", "dot"])]
    steps: bool,
    /// Prints one JSON object: `ops` counts the nodes of `main` by operator, `entries` those of each entry, `nodes` has each node's details
    #[arg(long, conflicts_with = "dot")]
    json: bool,
    /// Prints the graph for Graphviz
    #[arg(long)]
    dot: bool,
    /// Writes one self-contained page: a table of nodes to search and sort, and a picture of the memory
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// With a model: what its f32 becomes, as `compile --compute` has it
    #[arg(long, value_name = "TYPE")]
    compute: Option<Compute>,
    #[command(flatten)]
    dims: DimFlags,
    /// The device to plan for: `auto`, `cpu`, `hip:0`, `hip:sim` [default: what a plan was made for; `auto` for a model]
    #[arg(long, value_name = "DEVICE")]
    device: Option<Device>,
}

/// What is inspected: a plan as it lies on disk, or as it is made for a device.
struct Inspected {
    plan: CheckedPlan,
    weight_bytes: u64,
    code: Vec<CodeInfo>,
}

impl Inspected {
    fn open(flags: &Flags) -> Result<Inspected, Failure> {
        let is_plan = models::is_plan(&flags.model);
        if flags.compute.is_some() && is_plan {
            return Err(Failure::work("a plan computes in the type that it was compiled with")
                .with_help("leave --compute out, or give the model"));
        }
        if is_plan && flags.device.is_none() {
            let stored = plan::load(&flags.model).map_err(fastinference::Error::from)?;
            let weight_bytes = stored.weights.iter().map(|(_, t)| t.bytes().len() as u64).sum();
            let code = stored.code.into_iter().map(|object| object.info).collect();
            return Ok(Inspected { plan: stored.plan, weight_bytes, code });
        }
        let on = models::on(flags.device.unwrap_or_default());
        let options = CompileOptions { on, compute: flags.compute, ..CompileOptions::default() };
        let model = models::open(&flags.model, &options)?;
        let code = model.code().cloned().collect();
        Ok(Inspected { plan: model.plan().clone(), weight_bytes: model.weight_bytes(), code })
    }
}

/// Runs the command.
pub fn main(flags: Flags) -> Result<(), Failure> {
    let inspected = Inspected::open(&flags)?;
    let facts = Facts::of(&flags.model, &inspected, &flags.dims.to_map())?;
    let mut out = io::stdout().lock();
    if let Some(path) = &flags.html {
        write_file(path, html::page(&facts).as_bytes())?;
    }
    match () {
        _ if flags.json => writeln!(out, "{}", json::object(&facts))?,
        _ if flags.dot => dot::print(&mut out, &inspected.plan)?,
        _ if flags.html.is_some() && !flags.graph && !flags.steps => {}
        _ => text::print(&mut out, &facts, &inspected.plan, flags.graph, flags.steps)?,
    }
    Ok(())
}
