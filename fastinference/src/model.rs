//! A model that is ready to run.

use crate::device::{DeviceOptions, Engine};
use crate::supervise::Supervised;
use crate::{CompileOptions, Error, RandomInputs, compile, random};
use ir::{Datum, Verified};
use plan::{CheckedPlan, CodeInfo, CodeObject, GraphWeights, Port, StoreError, Weights};
use runtime::{Loaded, Session, StepKernel};
use std::path::Path;
use std::sync::Arc;

/// A plan with its weights, ready to run. Sessions share it; they may run on different threads.
pub struct Model {
    plan: Arc<CheckedPlan>,
    weights: Weights,
    code: Vec<CodeObject>,
    loaded: Box<dyn Loaded>,
}

impl Model {
    pub(crate) fn new(
        plan: CheckedPlan,
        weights: Weights,
        code: Vec<CodeObject>,
        engine: &Engine,
    ) -> Result<Model, Error> {
        let plan = Arc::new(plan);
        engine.carry(&code);
        let loaded = engine.backend()?.load(plan.clone(), weights.clone())?;
        Ok(Model { plan, weights, code, loaded })
    }

    /// Opens a plan folder, or compiles an .onnx file or a model folder in memory.
    pub fn open(path: &Path, options: &CompileOptions) -> Result<Model, Error> {
        if path.join("plan.yaml").is_file() {
            return Model::load_on(path, &options.on);
        }
        compile(path, options, &mut ())?.into_model()
    }

    /// Loads a plan folder for the processor; the plan is proven safe again.
    pub fn load(folder: &Path) -> Result<Model, Error> {
        Model::load_on(folder, &DeviceOptions::default())
    }

    /// Loads a plan folder for a device; a plan that was made for another one is planned anew from its graph.
    pub fn load_on(folder: &Path, on: &DeviceOptions) -> Result<Model, Error> {
        let loaded = plan::store::load(folder)?;
        if let Some(how) = on.supervise.as_ref().filter(|_| on.may_use_device()) {
            let supervised = Supervised::open(folder, loaded.plan.clone(), on, how)?;
            let (plan, weights, code) = (Arc::new(loaded.plan), loaded.weights, loaded.code);
            return Ok(Model { plan, weights, code, loaded: Box::new(supervised) });
        }
        let pacing = on.sync_every.unwrap_or(loaded.plan.pacing);
        let engine = Engine::open(&DeviceOptions { sync_every: Some(pacing), ..on.clone() })?;
        if loaded.plan.target == engine.target().name() {
            let plan = engine.repaced(loaded.plan, on)?;
            return Model::new(plan, loaded.weights, loaded.code, &engine);
        }
        let graphs = loaded.plan.entries.iter().map(|e| plan::graph_with_weights(&loaded.plan, e, &loaded.weights));
        let graphs = graphs.collect::<Result<Vec<_>, _>>()?;
        let verified = graphs.iter().map(|g| ir::verify(g).expect("a plan's graph was verified when it was loaded"));
        let names = loaded.plan.entries.iter().map(|e| e.name.as_str());
        let entries: Vec<(&str, Verified<'_>)> = names.zip(verified).collect();
        let mut made = plan::build_entries(&entries, engine.target(), &loaded.plan.model_hash)?;
        made.pacing = pacing;
        Model::of_plan(made, loaded.code, &engine)
    }

    fn of_plan(made: plan::Plan, code: Vec<CodeObject>, engine: &Engine) -> Result<Model, Error> {
        let plan = plan::check(made).map_err(StoreError::Unsafe)?;
        let weights = Weights::from_source(&plan, &GraphWeights::new(&plan))?;
        Model::new(plan, weights, code, engine)
    }

    /// Plans a graph as it stands, without passes; its weights must have their data.
    pub fn from_graph(graph: Verified<'_>) -> Result<Model, Error> {
        let engine = Engine::open(&DeviceOptions::default())?;
        Model::of_plan(plan::build(graph, engine.target(), "")?, vec![], &engine)
    }

    /// Inputs, in order.
    pub fn inputs(&self) -> &[Port] {
        &self.plan.entries[0].inputs
    }

    /// Outputs, in order.
    pub fn outputs(&self) -> &[Port] {
        &self.plan.entries[0].outputs
    }

    /// The plan.
    pub fn plan(&self) -> &CheckedPlan {
        &self.plan
    }

    /// The weights, as the plan stores them.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The code objects that the plan carries.
    pub fn code(&self) -> impl Iterator<Item = &CodeInfo> {
        self.code.iter().map(|object| &object.info)
    }

    /// Every step with the kernel that runs it.
    pub fn kernels(&self) -> Vec<StepKernel> {
        self.loaded.kernels()
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(|(_, t)| t.bytes().len() as u64).sum()
    }

    /// Opens a session with so many threads; 0 means all of the machine.
    pub fn session(&self, threads: usize) -> Box<dyn Session> {
        self.loaded.session(threads)
    }

    /// Inputs that the model accepts: ids within the vocabulary, masks of ones, dimensions that fit each other.
    pub fn random_inputs(&self, options: &RandomInputs) -> Result<Vec<Datum>, Error> {
        random::inputs(&self.plan.entries[0], options)
    }
}
