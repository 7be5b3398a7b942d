//! A plan's entry made ready for a device: each step with its lowering, and the memory that each value lies in.

use crate::binding::{Binder, binders};
use crate::lower::{Lowering, transposed};
use crate::target::{COMPUTE, HOST_KERNEL, lowering};
use crate::tuning::{self, Tuning};
use ir::ops::Constraint;
use ir::{Dim, Op, Value, ValueType};
use plan::{Arena, COPY, Entry, Launch, Layout, Loc, Place, Plan, Step, Stream, WeightInfo};
use runtime::{LoadError, StepKernel};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What the plan says of each weight.
pub(crate) type WeightInfos = BTreeMap<Arc<str>, WeightInfo>;

/// An entry that is ready to run.
pub(crate) struct Program {
    pub(crate) entry: Entry,
    /// Where buffers lie in the memory of the host, and in that of the device.
    pub(crate) host_arena: Arena,
    pub(crate) device_arena: Arena,
    pub(crate) steps: Vec<Instr>,
    pub(crate) binders: Vec<Binder>,
    pub(crate) constraints: Vec<Constraint>,
    /// Weights that kernels of the device read.
    pub(crate) device_weights: BTreeSet<Arc<str>>,
    tuning: &'static Tuning,
}

/// A step.
pub(crate) enum Instr {
    /// On the device.
    Kernel(KernelStep),
    /// On the host.
    Host(HostStep),
    /// Between memories.
    Copy {
        to_device: bool,
        from: Operand,
        to: Operand,
        value: Arc<str>,
    },
    /// The host waits for the device. Where the device waits for the host nothing is to do: it is given work later.
    HostWaits,
    Nothing,
}

impl Instr {
    /// What is queued on the device: the first result of its node, or the value that moves.
    pub(crate) fn on_device(&self) -> Option<&Arc<str>> {
        match self {
            Instr::Kernel(kernel) => Some(&kernel.about.node),
            Instr::Copy { value, .. } => Some(value),
            Instr::Host(_) | Instr::HostWaits | Instr::Nothing => None,
        }
    }
}

pub(crate) struct KernelStep {
    pub(crate) about: StepKernel,
    pub(crate) lowering: Box<dyn Lowering>,
    pub(crate) numbers: Vec<Dim>,
    /// Memory beside operands and results, and how much.
    pub(crate) scratch: Option<(Loc, Dim)>,
    pub(crate) ins: Vec<Operand>,
    pub(crate) outs: Vec<Operand>,
}

pub(crate) struct HostStep {
    pub(crate) about: StepKernel,
    /// `None`: the value is copied to where the second says.
    pub(crate) op: Option<Op>,
    pub(crate) ins: Vec<Operand>,
    pub(crate) outs: Vec<Operand>,
    /// Slots that nobody reads afterwards.
    pub(crate) frees: Vec<usize>,
    /// Whether the operator's attributes, or sizes of its values, are only known when it runs.
    pub(crate) late: bool,
}

/// A value as a step sees it.
#[derive(Clone)]
pub(crate) struct Operand {
    pub(crate) loc: Loc,
    pub(crate) ty: ValueType,
}

impl Program {
    pub(crate) fn new(plan: &Plan, entry: &Entry) -> Result<Program, LoadError> {
        let infos = &plan.weights;
        let graph = &entry.graph;
        let mut values: HashMap<&str, Value> = HashMap::new();
        for id in graph.order() {
            values.extend(graph.results(id).map(|v| (&**graph.name(v), v)));
        }
        let on_device = device_buffers(entry)?;
        let mut program = Program {
            entry: entry.clone(),
            host_arena: arena(entry, &on_device, false),
            device_arena: arena(entry, &on_device, true),
            steps: Vec::with_capacity(entry.steps.len()),
            binders: binders(entry),
            constraints: graph.constraints.iter().cloned().collect(),
            device_weights: BTreeSet::new(),
            tuning: tuning::of(&plan.target),
        };
        for step in &entry.steps {
            let instr = program.instr(step, &values, &on_device, infos)?;
            program.steps.push(instr);
        }
        Ok(program)
    }

    fn instr(
        &mut self,
        step: &Step,
        values: &HashMap<&str, Value>,
        on_device: &[bool],
        infos: &WeightInfos,
    ) -> Result<Instr, LoadError> {
        let value = |name: &Arc<str>| {
            let missing = || LoadError::Step { node: name.clone(), reason: "the graph has no such value".into() };
            values.get(&**name).copied().ok_or_else(missing)
        };
        match step {
            Step::Sync(sync) => Ok(match (sync.signaller, sync.waiter) {
                (_, Stream::HOST) => Instr::HostWaits,
                _ => Instr::Nothing,
            }),
            Step::Copy(t) => {
                let ty = self.entry.graph.ty(value(&t.value)?).clone();
                let operand = |loc: &Loc| Operand { loc: loc.clone(), ty: ty.clone() };
                let of_device = |loc: &Loc| matches!(loc.place, Place::Buffer(b) if on_device[b.0 as usize]);
                if of_device(&t.from) == of_device(&t.to) || t.stream != COMPUTE {
                    let reason = "it is copied within one memory".to_string();
                    return Err(LoadError::Step { node: t.value.clone(), reason });
                }
                // Only these have memory that a copy of this backend reaches.
                let reached = |loc: &Loc| matches!(loc.place, Place::Input(_) | Place::Output(_) | Place::Buffer(_));
                if !reached(&t.from) || !reached(&t.to) {
                    let reason = format!("it is copied from {} to {}", t.from, t.to);
                    return Err(LoadError::Step { node: t.value.clone(), reason });
                }
                let to_device = of_device(&t.to);
                Ok(Instr::Copy { to_device, from: operand(&t.from), to: operand(&t.to), value: t.value.clone() })
            }
            Step::Launch(launch) => self.launch(launch, value(&launch.node)?, infos),
        }
    }

    fn launch(&mut self, launch: &Launch, value: Value, infos: &WeightInfos) -> Result<Instr, LoadError> {
        let graph = &self.entry.graph;
        let node = graph.node(value.node);
        let fail = |reason: &str| LoadError::Step { node: launch.node.clone(), reason: reason.into() };
        let copies = launch.kernel == COPY;
        let (operands, results) = match copies {
            true => (vec![value], vec![value]),
            false => (graph.operands(value.node).to_vec(), graph.results(value.node).collect()),
        };
        if operands.len() != launch.reads.len() || results.len() != launch.writes.len() {
            return Err(fail("it does not read and write what its node does"));
        }
        let bind = |(v, loc): (&Value, &Loc)| Operand { loc: loc.clone(), ty: graph.ty(*v).clone() };
        let ins: Vec<Operand> = operands.iter().zip(&launch.reads).map(bind).collect();
        let outs: Vec<Operand> = results.iter().zip(&launch.writes).map(bind).collect();
        let op = node.op().filter(|_| !copies);
        let about = |kernel: &'static str| StepKernel {
            node: launch.node.clone(),
            origin: node.origin.clone(),
            op: op.map_or("copy", Op::name),
            kernel,
        };
        let layout = |loc: &Loc| match &loc.place {
            Place::Weight(key) => infos.get(key).map_or(Layout::RowMajor, |w| w.layout),
            _ => Layout::RowMajor,
        };
        let layouts: Vec<Layout> = launch.reads.iter().map(layout).collect();
        let strange = || fail("it cannot read a weight in the layout that it lies in");
        if launch.stream == Stream::HOST {
            if layouts.iter().any(|l| *l != Layout::RowMajor) {
                return Err(strange());
            }
            if !copies && launch.kernel != HOST_KERNEL {
                return Err(fail("the plan was made by another version: compile the model again"));
            }
            let late = ins.iter().chain(&outs).any(|o| !o.ty.is_plannable() && o.ty != ValueType::Absent);
            let late = late || op.is_some_and(mentions_late);
            let frees = launch.frees.iter().map(|s| s.0 as usize).collect();
            let about = about(if copies { "copy" } else { "host" });
            return Ok(Instr::Host(HostStep { about, op: op.cloned(), ins, outs, frees, late }));
        }
        let op = op.ok_or_else(|| fail("a copy within the device is not planned"))?;
        let lowering = lowering(graph, value.node, op, &layouts, self.tuning).map_err(&fail)?;
        let known = |(i, l): (usize, &Layout)| {
            *l == Layout::RowMajor || transposed(op).contains(&i) && *l == Layout::Transposed
        };
        if !layouts.iter().enumerate().all(known) {
            return Err(strange());
        }
        if lowering.name() != launch.kernel || launch.stream != COMPUTE {
            return Err(fail("the plan was made by another version: compile the model again"));
        }
        let room = lowering.scratch().unwrap_or_else(|| Dim::constant(0));
        if launch.scratch_bytes != room {
            return Err(fail("its scratch memory is not what its kernels need"));
        }
        let replaced = lowering.in_place().and_then(|i| launch.reads.get(i));
        if launch.in_place && launch.writes.first() != replaced {
            return Err(fail("its kernels cannot write to the memory of that operand"));
        }
        let weights = launch.reads.iter().filter_map(|loc| match &loc.place {
            Place::Weight(key) => Some(key.clone()),
            _ => None,
        });
        let weights: Vec<Arc<str>> = weights.collect();
        let about = about(lowering.name());
        let numbers = lowering.numbers();
        self.device_weights.extend(weights);
        let scratch = launch.scratch.map(|b| (Place::Buffer(b).into(), launch.scratch_bytes.clone()));
        Ok(Instr::Kernel(KernelStep { about, numbers, scratch, lowering, ins, outs }))
    }

    /// Every step that computes something.
    pub(crate) fn kernels(&self) -> Vec<StepKernel> {
        let about = |step: &Instr| match step {
            Instr::Kernel(k) => Some(k.about.clone()),
            Instr::Host(h) => Some(h.about.clone()),
            Instr::Copy { .. } | Instr::HostWaits | Instr::Nothing => None,
        };
        self.steps.iter().filter_map(about).collect()
    }
}

/// Whether an attribute mentions a symbol that only a value binds.
fn mentions_late(op: &Op) -> bool {
    let mut late = false;
    op.clone().map_dims(&mut |d| {
        late |= d.is_late();
        d.clone()
    });
    late
}

/// Which buffers are the device's: those that its steps touch. The host's steps must keep to the others, and the device's
/// off everything else but weights.
fn device_buffers(entry: &Entry) -> Result<Vec<bool>, LoadError> {
    let mut of: Vec<Option<bool>> = vec![None; entry.buffers.len()];
    let mixed = |node: &Arc<str>| {
        let reason = "a step reaches for memory that is not its stream's".to_string();
        LoadError::Step { node: node.clone(), reason }
    };
    for step in &entry.steps {
        let Step::Launch(launch) = step else { continue };
        let device = launch.stream != Stream::HOST;
        for loc in launch.reads.iter().chain(&launch.writes) {
            match &loc.place {
                Place::Buffer(b) => {
                    let known = of[b.0 as usize].get_or_insert(device);
                    if *known != device {
                        return Err(mixed(&launch.node));
                    }
                }
                Place::Input(_) | Place::Output(_) | Place::Slot(_) if device => return Err(mixed(&launch.node)),
                Place::State(_) if !device => return Err(mixed(&launch.node)),
                _ => {}
            }
        }
        if let Some(b) = launch.scratch
            && *of[b.0 as usize].get_or_insert(device) != device
        {
            return Err(mixed(&launch.node));
        }
    }
    // What only copies touch is on the other side of what they connect.
    for step in entry.steps.iter().chain(entry.steps.iter().rev()) {
        let Step::Copy(t) = step else { continue };
        let side = |of: &[Option<bool>], loc: &Loc| match &loc.place {
            Place::Buffer(b) => of[b.0 as usize],
            _ => Some(false),
        };
        let (from, to) = (side(&of, &t.from), side(&of, &t.to));
        for (loc, other) in [(&t.from, to), (&t.to, from)] {
            if let (Place::Buffer(b), Some(other)) = (&loc.place, other) {
                of[b.0 as usize].get_or_insert(!other);
            }
        }
    }
    Ok(of.into_iter().map(|o| o.unwrap_or(false)).collect())
}

/// The arena of one memory: buffers of the other take no room in it.
fn arena(entry: &Entry, on_device: &[bool], device: bool) -> Arena {
    let mut own = Entry { steps: vec![], bodies: Default::default(), ..entry.clone() };
    for (buffer, of_device) in own.buffers.iter_mut().zip(on_device) {
        if *of_device != device {
            buffer.bytes = Dim::constant(0);
        }
    }
    Arena::new(&own)
}
