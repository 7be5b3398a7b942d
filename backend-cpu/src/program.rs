//! A plan's entry made ready: each step with its kernel and everything that does not depend on sizes.

use crate::kernel::{Kernel, Types, View};
use crate::lower;
use ir::graph::Kind;
use ir::ops::HostOp;
use ir::ops::{Constraint, Fact};
use ir::{Dim, Graph, Op, Tensor, TensorType, Value, ValueType};
use plan::arena::Arena;
use plan::{Entry, Launch, Layout, Loc, Place, Plan, Step, Weights};
use runtime::{LoadError, StepKernel};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An entry that is ready to run.
pub(crate) struct Program {
    /// The entry: layouts are computed from it.
    pub(crate) entry: Entry,
    /// Where its buffers lie, as a function of the symbols.
    pub(crate) arena: Arena,
    pub(crate) steps: Vec<Instr>,
    /// Where each output comes from.
    pub(crate) outputs: Vec<Operand>,
    pub(crate) constraints: Vec<Constraint>,
    /// Symbols that inputs bind: (input, axis, symbol).
    pub(crate) binders: Vec<(usize, usize, Arc<str>)>,
}

/// A value as a step sees it.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) source: Source,
    /// Bytes from the start of the source.
    pub(crate) offset: Dim,
    pub(crate) ty: ValueType,
    /// Whether the source is a weight in another layout than rows: its bytes are not those of its elements, and are taken whole.
    pub(crate) packed: bool,
}

/// Where a value lies.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Input(usize),
    Weight(Tensor),
    /// A region of [`crate::arena::Regions`]: 0 with a buffer's number, or an output's region.
    Buffer(usize),
    Output(usize),
    State(usize),
    Slot(usize),
    Absent,
}

/// One step.
pub(crate) struct Instr {
    pub(crate) step: StepKernel,
    pub(crate) op: Op,
    /// `None`: the reference evaluation, or a body run by the executor.
    pub(crate) kernel: Option<Box<dyn Kernel>>,
    pub(crate) numbers: Vec<Dim>,
    pub(crate) ins: Vec<Operand>,
    pub(crate) outs: Vec<Operand>,
    /// Slots that nobody reads after this step.
    pub(crate) frees: Vec<usize>,
    /// Bodies of `if`, `loop` and `scan` by attribute.
    pub(crate) bodies: Vec<(String, Program)>,
    /// Whether sizes of this step are only known when it runs.
    pub(crate) late: bool,
}

impl Instr {
    /// Whether an operand is a state of which this step makes the next version in place.
    pub(crate) fn replaces(&self, operand: &Operand) -> bool {
        let Source::State(state) = operand.source else { return false };
        self.outs.iter().any(|o| matches!(o.source, Source::State(other) if other == state))
    }
}

impl Program {
    /// Resolves places and chooses kernels.
    pub(crate) fn new(plan: &Plan, entry: &Entry, weights: &Weights) -> Result<Program, LoadError> {
        Program::with_known(plan, entry, weights, &[])
    }

    /// As [`Program::new`] for a body, some of whose inputs are weights that surround it.
    fn with_known(
        plan: &Plan,
        entry: &Entry,
        weights: &Weights,
        known: &[Option<Tensor>],
    ) -> Result<Program, LoadError> {
        let graph = &entry.graph;
        let mut values: HashMap<Arc<str>, Value> = HashMap::new();
        for id in graph.order() {
            values.extend(graph.results(id).map(|v| (graph.name(v).clone(), v)));
        }
        let resolve = Resolve { plan, graph, weights, inline: entry.inline_constants(), known };
        let mut steps = vec![];
        for step in &entry.steps {
            let Step::Launch(launch) = step else { continue };
            let missing = || LoadError::Step { node: launch.node.clone(), reason: "the graph has no such node".into() };
            let value = *values.get(&launch.node).ok_or_else(missing)?;
            steps.push(resolve.instr(entry, launch, value)?);
        }
        let outputs = entry.outputs.iter().map(|port| resolve.operand(&port.value, &port.ty));
        let outputs = outputs.collect::<Result<_, _>>()?;
        let mut binders: Vec<(usize, usize, Arc<str>)> = vec![];
        for (i, port) in entry.inputs.iter().enumerate() {
            let dims = port.ty.as_tensor().and_then(TensorType::dims).unwrap_or_default();
            for (axis, d) in dims.iter().enumerate() {
                if let Some(s) = d.as_sym().filter(|s| !binders.iter().any(|(_, _, known)| &**known == *s)) {
                    binders.push((i, axis, s.into()));
                }
            }
        }
        let constraints = graph.constraints.iter().cloned().collect();
        Ok(Program { entry: entry.clone(), arena: Arena::new(entry), steps, outputs, constraints, binders })
    }

    /// Every step of this program and its bodies.
    pub(crate) fn kernels(&self, into: &mut Vec<StepKernel>) {
        for instr in &self.steps {
            into.push(instr.step.clone());
            instr.bodies.iter().for_each(|(_, body)| body.kernels(into));
        }
    }
}

struct Resolve<'p> {
    plan: &'p Plan,
    graph: &'p Graph,
    weights: &'p Weights,
    /// Small constants of the graph.
    inline: BTreeMap<Arc<str>, Tensor>,
    /// Inputs that are always the same.
    known: &'p [Option<Tensor>],
}

impl Resolve<'_> {
    fn operand(&self, loc: &Loc, ty: &ValueType) -> Result<Operand, LoadError> {
        let source = match &loc.place {
            Place::Input(i) => match self.known.get(*i as usize) {
                Some(Some(weight)) => Source::Weight(weight.clone()),
                _ => Source::Input(*i as usize),
            },
            Place::Output(i) => Source::Output(*i as usize),
            Place::State(i) => Source::State(*i as usize),
            Place::Buffer(b) => Source::Buffer(b.0 as usize),
            Place::Slot(s) => Source::Slot(s.0 as usize),
            Place::None => Source::Absent,
            Place::Weight(name) => {
                let missing = || LoadError::Weight { name: name.clone(), reason: "it has no data".into() };
                Source::Weight(self.inline.get(name).or_else(|| self.weights.get(name)).ok_or_else(missing)?.clone())
            }
        };
        let packed = self.layout(loc) != Layout::RowMajor;
        Ok(Operand { source, offset: loc.offset.clone(), ty: ty.clone(), packed })
    }

    fn layout(&self, loc: &Loc) -> Layout {
        match &loc.place {
            Place::Weight(name) => self.plan.weights.get(name).map_or(Layout::RowMajor, |w| w.layout),
            _ => Layout::RowMajor,
        }
    }

    fn instr(&self, entry: &Entry, launch: &Launch, value: Value) -> Result<Instr, LoadError> {
        let id = value.node;
        let node = self.graph.node(id);
        let fail = |reason: &str| LoadError::Step { node: launch.node.clone(), reason: reason.into() };
        // A copy shows the value of any node, the others compute an operator.
        let copies = launch.kernel == plan::COPY;
        let operands: Vec<Value> = match copies {
            true => vec![value],
            false => self.graph.operands(id).to_vec(),
        };
        let results: Vec<Value> = if copies { vec![value] } else { self.graph.results(id).collect() };
        if operands.len() != launch.reads.len() || results.len() != launch.writes.len() {
            return Err(fail("it does not read and write what its node does"));
        }
        let bind = |(v, loc): (&Value, &Loc)| self.operand(loc, self.graph.ty(*v));
        let ins: Vec<Operand> = operands.iter().zip(&launch.reads).map(bind).collect::<Result<_, _>>()?;
        let outs: Vec<Operand> = results.iter().zip(&launch.writes).map(bind).collect::<Result<_, _>>()?;
        let layouts: Vec<Layout> = launch.reads.iter().map(|l| self.layout(l)).collect();
        let op = match (&node.op(), copies) {
            (Some(op), false) => (*op).clone(),
            _ => ir::ops::Reshape { shape: vec![] }.into(),
        };
        let is_weight = |v: &Value| matches!(self.graph.node(v.node).kind, Kind::Weight(_));
        let is_known = |(o, loc): (&Operand, &Loc)| {
            matches!((&o.source, &loc.place), (Source::Weight(_), Place::Input(_))) && loc.offset.as_const() == Some(0)
        };
        let known = ins.iter().zip(&launch.reads).map(is_known);
        let constants: Vec<bool> = operands.iter().zip(known).map(|(v, known)| known || is_weight(v)).collect();
        let mut kernel = match copies {
            true => Some(Box::new(lower::CopyKernel) as _),
            false => choose(&op, &ins, &outs, &layouts, &constants),
        };
        if let Some(kernel) = &mut kernel {
            prepare(kernel.as_mut(), &ins, &layouts);
        }
        if kernel.is_none() && layouts.iter().any(|l| *l != Layout::RowMajor) {
            return Err(fail("no kernel reads its weight's layout"));
        }
        let mut bodies = vec![];
        for (name, attr) in op.attrs() {
            if matches!(attr, ir::attr::Attr::Graph(_)) {
                let body = entry.bodies.get(&plan::body_key(&launch.node, &name));
                let body = body.ok_or_else(|| fail("the plan lacks a body"))?;
                let known = captured(&op, &name, body, &ins);
                bodies.push((name, Program::with_known(self.plan, body, self.weights, &known)?));
            }
        }
        let name = match (&kernel, bodies.is_empty()) {
            (Some(k), _) => k.name(),
            (None, true) => "reference",
            (None, false) => "body",
        };
        let step = StepKernel {
            node: launch.node.clone(),
            origin: node.origin.clone(),
            op: if copies { "copy" } else { op.name() },
            kernel: name,
        };
        let numbers = kernel.as_ref().map(|k| k.numbers()).unwrap_or_default();
        let in_slot = |o: &Operand| matches!(o.source, Source::Slot(_)) || !o.ty.is_plannable();
        let late = numbers.iter().any(Dim::is_late)
            || ins.iter().any(|o| in_slot(o) && !matches!(o.source, Source::Absent))
            || outs.iter().any(in_slot);
        let frees = launch.frees.iter().map(|s| s.0 as usize).collect();
        Ok(Instr { step, op, kernel, numbers, ins, outs, frees, bodies, late })
    }
}

/// The weights among what a branch or a loop's body captures, by input of the body: its kernels may prepare them.
fn captured(op: &Op, name: &str, body: &Entry, ins: &[Operand]) -> Vec<Option<Tensor>> {
    let first = match op {
        Op::HostOp(HostOp::If(branches)) if name == "then_branch" => ins.get(1..1 + branches.then_branch.inputs.len()),
        Op::HostOp(HostOp::If(branches)) => ins.get(1 + branches.then_branch.inputs.len()..),
        // Trips, the condition and carried values change.
        Op::HostOp(HostOp::Loop(_)) => Some(ins),
        _ => None,
    };
    let changing = if let Op::HostOp(HostOp::Loop(op)) = op { 2 + op.carried as usize } else { 0 };
    let weight = |(i, (o, port)): (usize, (&Operand, &plan::Port))| {
        let whole = o.offset.as_const() == Some(0) && o.ty == port.ty && i >= changing;
        let Source::Weight(t) = &o.source else { return None };
        let ty = port.ty.as_tensor().filter(|_| whole)?;
        (ty.dtype == t.dtype() && ty.shape.as_const()? == t.dims()).then(|| t.clone())
    };
    first.unwrap_or_default().iter().zip(&body.inputs).enumerate().map(weight).collect()
}

fn choose(
    op: &Op,
    ins: &[Operand],
    outs: &[Operand],
    layouts: &[Layout],
    constants: &[bool],
) -> Option<Box<dyn Kernel>> {
    let tensor = |o: &Operand| o.ty.as_tensor().cloned();
    let in_types: Vec<Option<TensorType>> = ins.iter().map(tensor).collect();
    let out_types: Option<Vec<TensorType>> = outs.iter().map(tensor).collect();
    let out_types = out_types?;
    let known = |o: &Operand| o.ty.as_tensor().is_some() || o.ty == ValueType::Absent;
    if !ins.iter().all(known) || out_types.is_empty() {
        return None;
    }
    let ins: Vec<Option<&TensorType>> = in_types.iter().map(Option::as_ref).collect();
    let outs: Vec<&TensorType> = out_types.iter().collect();
    lower::choose(op, &Types { ins: &ins, outs: &outs, layouts, constants })
}

/// Shows a kernel the operands that are whole constants, packed ones as they lie.
fn prepare(kernel: &mut dyn Kernel, ins: &[Operand], layouts: &[Layout]) {
    let whole = |o: &Operand, layout: &Layout| {
        let ty = o.ty.as_tensor().filter(|_| o.offset.as_const() == Some(0))?;
        let dims = ty.shape.as_const()?;
        Some((ty.dtype, layout.bytes(ty.dtype, &dims)?, dims))
    };
    let shapes: Vec<_> = ins.iter().zip(layouts).map(|(o, layout)| whole(o, layout)).collect();
    let mut views: Vec<Option<View<'_>>> = vec![];
    for (o, shape) in ins.iter().zip(&shapes) {
        views.push(match (&o.source, shape) {
            (Source::Weight(t), Some((dtype, len, dims))) if t.bytes().len() == *len => {
                Some(View { dtype: *dtype, dims, bytes: t.bytes() })
            }
            _ => None,
        });
    }
    kernel.prepare(&views);
}

/// The fact of a value that exists, for typing a step at run time.
pub(crate) fn fact(datum: &ir::Datum) -> Fact {
    match datum {
        ir::Datum::Tensor(t) => Fact::constant(t.clone()),
        _ => Fact::of(ValueType::Absent),
    }
}
