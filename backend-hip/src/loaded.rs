//! A plan on a device: code objects and weights, shared by all sessions.

use crate::code::{CodeStore, CodeWatch, Modules, StepWatch};
use crate::device::{Device, DeviceError, DeviceMemory, HostMemory, Queue};
use crate::program::{Instr, Program};
use crate::session::HipSession;
use crate::target::Planner;
use ir::{Tensor, Verified};
use plan::{CheckedPlan, CodeObject, Entry, LowerError, Memory, Pacing, PlanBuilder, Stream, Target, Weights};
use runtime::backend::fits;
use runtime::{Backend, HostExecutor, LoadError, Loaded, Session, StepKernel, StepModel};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

/// Weights go to the device through so much pinned memory.
const STAGING: usize = 8 << 20;
/// Weights begin at multiples of this on the device.
const ALIGN: usize = 256;

/// The backend for one open device.
#[derive(Clone)]
pub struct Hip {
    planner: Planner,
    device: Device,
    modules: Arc<Modules>,
    steps: StepWatch,
    host: Arc<dyn HostExecutor>,
}

impl Hip {
    /// A device, with a store for code objects and someone to run what has no kernel.
    pub fn new(device: Device, store: CodeStore, host: Arc<dyn HostExecutor>) -> Hip {
        Hip::watched(device, store, host, CodeWatch::default())
    }

    /// [`Hip::new`], which tells of the code objects that it compiles or does not use.
    pub fn watched(device: Device, store: CodeStore, host: Arc<dyn HostExecutor>, watch: CodeWatch) -> Hip {
        let modules = Arc::new(Modules::new(&device, store, watch));
        Hip { planner: Planner::new(device.arch()), device, modules, host, steps: StepWatch::default() }
    }

    /// Lets the host wait for the device so often, in all plans that are made from now on.
    pub fn set_pacing(&mut self, pacing: Pacing) {
        self.planner = Planner::new(self.device.arch()).paced(pacing);
    }

    /// Offers the code objects that a plan carries to every plan that is loaded from now on. Those for this device's architecture
    /// and of this program's kernels are used; nothing is compiled in their place.
    pub fn carry(&self, objects: Vec<CodeObject>) {
        self.modules.carry(objects);
    }

    /// Tells of every node before it is given to the device, in all plans that are loaded from now on.
    pub fn watch_steps(&mut self, steps: StepWatch) {
        self.steps = steps;
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Target for Hip {
    fn name(&self) -> &str {
        self.planner.name()
    }

    fn copies_on(&self) -> Stream {
        self.planner.copies_on()
    }

    fn states_in(&self) -> Memory {
        self.planner.states_in()
    }

    fn places_syncs(&self) -> bool {
        self.planner.places_syncs()
    }

    fn pace(&self, entry: &Entry) -> Option<NonZeroU32> {
        self.planner.pace(entry)
    }

    fn lower(&self, graph: Verified<'_>, node: ir::NodeId, plan: &mut PlanBuilder<'_>) -> Result<(), LowerError> {
        self.planner.lower(graph, node, plan)
    }
}

impl Backend for Hip {
    fn load(&self, plan: Arc<CheckedPlan>, weights: Weights) -> Result<Box<dyn Loaded>, LoadError> {
        fits(self.name(), &plan, &weights)?;
        examine(&plan)?;
        let main = Program::new(&plan, &plan.entries[0])?;
        let model = StepModel::of(&plan);
        let step = model.as_ref().map(|m| Program::new(&plan, &plan.entries[m.entry])).transpose()?;
        let device = |e: DeviceError| LoadError::Device(e.to_string());
        let mut constants = BTreeMap::new();
        let mut inline = BTreeMap::new();
        let programs = || [Some(&main), step.as_ref()].into_iter().flatten();
        let needed: BTreeSet<&'static str> = programs().flat_map(files).collect();
        self.modules.prepare(&needed).map_err(device)?;
        for file in needed {
            self.modules.module(file).map_err(device)?;
        }
        for program in programs() {
            inline.extend(program.entry.inline_constants());
            for key in &program.device_weights {
                let missing = || LoadError::Weight { name: key.clone(), reason: "it has no data".into() };
                let tensor = inline.get(key).or_else(|| weights.get(key)).ok_or_else(missing)?;
                constants.insert(key.clone(), tensor.clone());
            }
        }
        let on_device = DeviceWeights::upload(&self.device, &constants).map_err(device)?;
        let common = Arc::new(Common { weights, inline, on_device, hip: self.clone() });
        let shared = |program: Program| Arc::new(Shared { program, common: common.clone() });
        let step = step.map(&shared).zip(model);
        Ok(Box::new(LoadedHip { plan, main: shared(main), step }))
    }
}

/// What a device needs of a plan beyond its being safe: every step has a kernel here, reads and writes memory of its own side,
/// reads weights as they lie, has the scratch memory that its kernels need, and replaces an operand only where they can.
/// [`Hip`] asks for it on every load; no device is needed.
pub fn examine(plan: &CheckedPlan) -> Result<(), LoadError> {
    plan.entries.iter().try_for_each(|entry| Program::new(plan, entry).map(drop))
}

/// The files of kernels that a plan for a device needs.
pub fn kernel_files(plan: &CheckedPlan) -> Result<BTreeSet<&'static str>, LoadError> {
    let mut needed = BTreeSet::new();
    for entry in &plan.entries {
        needed.extend(files(&Program::new(plan, entry)?));
    }
    Ok(needed)
}

fn files(program: &Program) -> BTreeSet<&'static str> {
    let of_step = |step: &Instr| match step {
        Instr::Kernel(kernel) => kernel.lowering.files(),
        Instr::Host(_) | Instr::Copy { .. } | Instr::HostWaits | Instr::Nothing => &[],
    };
    program.steps.iter().flat_map(of_step).copied().collect()
}

/// What sessions of one plan share of all entries.
pub(crate) struct Common {
    weights: Weights,
    /// Small constants of the graphs.
    inline: BTreeMap<Arc<str>, Tensor>,
    on_device: DeviceWeights,
    hip: Hip,
}

/// What sessions share of one entry.
pub(crate) struct Shared {
    pub(crate) program: Program,
    common: Arc<Common>,
}

impl Shared {
    pub(crate) fn device(&self) -> &Device {
        &self.common.hip.device
    }

    /// Where a constant begins on the device.
    pub(crate) fn address(&self, key: &str) -> Option<u64> {
        self.common.on_device.address(key)
    }

    /// Tells whoever listens that a step is next.
    pub(crate) fn tell(&self, step: &Instr) {
        let steps = &self.common.hip.steps;
        match step {
            Instr::Kernel(kernel) => steps.tell(&kernel.about.node),
            Instr::Host(host) => steps.tell(&host.about.node),
            Instr::Copy { value, .. } => steps.tell(value),
            Instr::HostWaits | Instr::Nothing => {}
        }
    }

    pub(crate) fn modules(&self) -> &Modules {
        &self.common.hip.modules
    }

    /// A constant as the host has it.
    pub(crate) fn constant(&self, key: &str) -> Option<&Tensor> {
        self.common.inline.get(key).or_else(|| self.common.weights.get(key))
    }
}

/// Constants in the device's memory.
pub(crate) struct DeviceWeights {
    memory: DeviceMemory,
    offsets: BTreeMap<Arc<str>, usize>,
}

impl DeviceWeights {
    fn upload(device: &Device, constants: &BTreeMap<Arc<str>, Tensor>) -> Result<DeviceWeights, DeviceError> {
        let mut total = 0usize;
        let mut offsets = BTreeMap::new();
        for (key, tensor) in constants {
            offsets.insert(key.clone(), total);
            total += tensor.bytes().len().next_multiple_of(ALIGN);
        }
        device.make_current()?;
        let memory = DeviceMemory::new(device, total)?;
        // While one piece is on its way the next is gathered.
        let lane = || Ok((Queue::new(device)?, HostMemory::new(device, STAGING.min(total))?));
        let mut lanes = [lane()?, lane()?];
        let pieces = constants.iter().flat_map(|(key, tensor)| {
            let starts = (offsets[key]..).step_by(STAGING);
            starts.zip(tensor.bytes().chunks(STAGING))
        });
        for (i, (at, piece)) in pieces.enumerate() {
            let (queue, staging) = &mut lanes[i % 2];
            queue.synchronise()?;
            staging.bytes_mut(0..piece.len()).copy_from_slice(piece);
            memory.write(at, staging.bytes(0..piece.len()), queue)?;
        }
        lanes.iter().try_for_each(|(queue, _)| queue.synchronise())?;
        Ok(DeviceWeights { memory, offsets })
    }

    /// Where a constant begins.
    pub(crate) fn address(&self, key: &str) -> Option<u64> {
        Some(self.memory.address() + *self.offsets.get(key)? as u64)
    }
}

struct LoadedHip {
    plan: Arc<CheckedPlan>,
    main: Arc<Shared>,
    step: Option<(Arc<Shared>, StepModel)>,
}

impl Loaded for LoadedHip {
    fn plan(&self) -> &CheckedPlan {
        &self.plan
    }

    fn session(&self, threads: usize) -> Box<dyn Session> {
        let worker = || self.main.common.hip.host.worker(threads);
        Box::new(HipSession::new(&self.main, self.step.clone(), worker))
    }

    fn kernels(&self) -> Vec<StepKernel> {
        self.main.program.kernels()
    }
}
