//! A session: working memory for one plan, and the loop that runs its steps.

use crate::arena::{Part, Regions, Slice};
use crate::control;
use crate::kernel::{Call, CallDims, View, ViewMut};
use crate::kernels::dims::Dims;
use crate::kernels::pool::Pool;
use crate::program::{Instr, Operand, Program, Source};
use ir::eval::GraphError;
use ir::ops::EvalError;
use ir::tensor::{Aligned, Memory};
use ir::{Datum, Dim, Tensor, TensorType, ValueType};
use plan::arena::Offsets;
use runtime::{RunError, StepTime};
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod bound;
mod late;
mod symbols;
pub(crate) use symbols::Symbols;

/// No machine that this is for has more memory; beyond it the allocator would abort instead of failing.
const MAX_ARENA: u64 = 1 << 40;

/// Sizes of one step under the current binding.
#[derive(Default)]
struct StepSizes {
    ins: SmallVec<[Dims; 4]>,
    outs: SmallVec<[Dims; 2]>,
    in_offsets: SmallVec<[usize; 4]>,
    out_offsets: SmallVec<[usize; 2]>,
    numbers: SmallVec<[i64; 4]>,
    scratch: usize,
}

/// Working memory of one program.
pub(crate) struct Frame {
    regions: Regions,
    /// How many of the regions, the last ones, are states.
    states: usize,
    offsets: Offsets,
    pub(crate) symbols: Symbols,
    /// How many symbols the inputs (and the surroundings) bind; those after them are late.
    bound: usize,
    sizes: Vec<StepSizes>,
    slots: Vec<Option<Datum>>,
    results: Vec<Datum>,
    scratch: Aligned,
    /// One frame per body, made when it first runs.
    pub(crate) bodies: Vec<Vec<Option<Box<Frame>>>>,
    times: Option<Vec<(u64, Duration)>>,
    fresh: bool,
}

impl Frame {
    pub(crate) fn new(program: &Program) -> Frame {
        Frame {
            regions: Regions::new(1 + program.outputs.len() + program.entry.states.len()),
            states: program.entry.states.len(),
            offsets: Offsets::default(),
            symbols: Symbols::default(),
            bound: 0,
            sizes: program.steps.iter().map(|_| StepSizes::default()).collect(),
            slots: vec![None; program.entry.slots as usize],
            results: Vec::with_capacity(program.outputs.len()),
            scratch: Aligned::zeroed(0),
            bodies: program.steps.iter().map(|s| s.bodies.iter().map(|_| None).collect()).collect(),
            times: None,
            fresh: true,
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let bodies = self.bodies.iter().flatten().flatten().map(|f| f.memory_bytes()).sum::<usize>();
        self.regions.bytes() + self.scratch.bytes().len() + bodies
    }

    pub(crate) fn set_profiling(&mut self, on: bool) {
        self.times = on.then(|| vec![(0, Duration::ZERO); self.sizes.len()]);
        self.bodies.iter_mut().flatten().flatten().for_each(|f| f.set_profiling(on));
    }

    pub(crate) fn is_profiling(&self) -> bool {
        self.times.is_some()
    }

    pub(crate) fn profile(&self, program: &Program, into: &mut Vec<StepTime>) {
        for (i, instr) in program.steps.iter().enumerate() {
            if let Some((calls, time)) = self.times.as_ref().map(|t| t[i]) {
                into.push(StepTime { step: instr.step.clone(), calls, time });
            }
            for ((_, body), frame) in instr.bodies.iter().zip(&self.bodies[i]) {
                if let Some(frame) = frame {
                    frame.profile(body, into);
                }
            }
        }
    }

    /// Runs the program. `outer` are symbols that the surroundings of a body have bound.
    pub(crate) fn run(
        &mut self,
        program: &Program,
        pool: &Pool,
        inputs: &[Datum],
        outer: &Symbols,
    ) -> Result<&[Datum], RunError> {
        self.results.clear();
        self.slots.iter_mut().for_each(|s| *s = None);
        self.bind(program, pool, inputs, outer)?;
        self.reserve_outputs(program)?;
        for at in 0..program.steps.len() {
            let started = self.times.is_some().then(Instant::now);
            self.step(program, at, pool, inputs).map_err(|source| failed(&program.steps[at], source))?;
            if let (Some(started), Some(times)) = (started, &mut self.times) {
                times[at].0 += 1;
                times[at].1 += started.elapsed();
            }
            for slot in &program.steps[at].frees {
                self.slots[*slot] = None;
            }
        }
        self.collect(program, inputs)?;
        Ok(&self.results)
    }

    /// Binds the symbols to the inputs; when any changed, lays out the arena and computes every step's sizes.
    fn bind(&mut self, program: &Program, pool: &Pool, inputs: &[Datum], outer: &Symbols) -> Result<(), RunError> {
        let ports = &program.entry.inputs;
        if inputs.len() != ports.len() {
            return Err(GraphError::Inputs { expected: ports.len(), found: inputs.len() }.into());
        }
        self.symbols.0.truncate(self.bound);
        let mut changed = std::mem::take(&mut self.fresh);
        let count = outer.0.len() + program.binders.len();
        if self.symbols.0.len() != count {
            self.symbols.0.clear();
            self.symbols.0.extend(outer.0.iter().cloned());
            self.symbols.0.extend(program.binders.iter().map(|(_, _, s)| (s.clone(), -1)));
            changed = true;
        }
        for (at, (name, n)) in outer.0.iter().enumerate() {
            let known = &mut self.symbols.0[at];
            if known.1 != *n || known.0 != *name {
                *known = (name.clone(), *n);
                changed = true;
            }
        }
        for (at, (input, axis, _)) in program.binders.iter().enumerate() {
            let n = inputs[*input].as_tensor().and_then(|t| t.dims().get(*axis)).map_or(0, |n| *n as i64);
            let known = &mut self.symbols.0[outer.0.len() + at];
            changed |= known.1 != n;
            known.1 = n;
        }
        self.bound = count;
        let checked = self.check_inputs(program, inputs);
        if checked.is_err() {
            self.fresh = true;
        }
        checked?;
        if changed {
            let laid = self.lay_out(program, pool);
            if laid.is_err() {
                self.fresh = true;
            }
            laid?;
        }
        Ok(())
    }

    fn check_inputs(&self, program: &Program, inputs: &[Datum]) -> Result<(), RunError> {
        for (port, datum) in program.entry.inputs.iter().zip(inputs) {
            let fits = match (&port.ty, datum) {
                (ValueType::Tensor(ty), Datum::Tensor(t)) => {
                    let same = |(d, n): (&Dim, &usize)| self.symbols.eval(d).is_ok_and(|v| v == *n as i64);
                    ty.dtype == t.dtype()
                        && ty.dims().is_none_or(|dims| dims.len() == t.rank() && dims.iter().zip(t.dims()).all(same))
                }
                (ValueType::Tensor(_), _) => false,
                (ValueType::Sequence(_), d) => matches!(d, Datum::Sequence(_)),
                (ValueType::Map { .. }, d) => matches!(d, Datum::Map(_)),
                (ValueType::Optional(_), d) => !matches!(d, Datum::Absent),
                (ValueType::Absent, d) => matches!(d, Datum::Absent),
            };
            if !fits {
                let found = ir::eval::type_of(datum).map_or_else(|| kind(datum).to_string(), |t| t.to_string());
                let (name, expected) = (port.name.clone(), port.ty.to_string());
                return Err(GraphError::Input { name, expected, found }.into());
            }
        }
        for c in &program.constraints {
            if let (Ok(left), Ok(right)) = (self.symbols.eval(&c.left), self.symbols.eval(&c.right))
                && left != right
            {
                return Err(GraphError::Constraint { constraint: c.to_string(), left, right }.into());
            }
        }
        Ok(())
    }

    fn lay_out(&mut self, program: &Program, pool: &Pool) -> Result<(), RunError> {
        let memory = |e: String| RunError::Memory(e);
        let symbols = &self.symbols;
        program.arena.layout(&|s| symbols.get(s), &mut self.offsets).map_err(|e| memory(e.to_string()))?;
        // First, so that an error names the step whose result is too large.
        for (at, instr) in program.steps.iter().enumerate() {
            if !instr.late {
                self.size_step(instr, at, pool).map_err(|source| failed(instr, source))?;
            }
        }
        let total = self.offsets.total;
        let too_large = || memory(format!("the arena would take {total} bytes"));
        if total > MAX_ARENA {
            return Err(too_large());
        }
        self.regions.reserve(0, total as usize).map_err(|_| too_large())
    }

    fn size_step(&mut self, instr: &Instr, at: usize, pool: &Pool) -> Result<(), EvalError> {
        let sizes = &mut self.sizes[at];
        sizes.ins.resize(instr.ins.len(), Dims::new());
        sizes.outs.resize(instr.outs.len(), Dims::new());
        sizes.in_offsets.clear();
        sizes.out_offsets.clear();
        sizes.numbers.clear();
        for (o, dims) in instr.ins.iter().zip(&mut sizes.ins) {
            if let Some(ty) = o.ty.as_tensor() {
                self.symbols.dims(ty, dims)?;
            }
            sizes.in_offsets.push(self.symbols.size(&o.offset)?);
        }
        for (o, dims) in instr.outs.iter().zip(&mut sizes.outs) {
            if let Some(ty) = o.ty.as_tensor() {
                self.symbols.dims(ty, dims)?;
                ir::tensor::ensure_room(dims, ty.dtype.bits().div_ceil(8))?;
            }
            sizes.out_offsets.push(self.symbols.size(&o.offset)?);
        }
        for d in &instr.numbers {
            sizes.numbers.push(self.symbols.eval(d)?);
        }
        if let Some(kernel) = &instr.kernel {
            let ins: SmallVec<[Option<&[usize]>; 4]> =
                instr.ins.iter().zip(&sizes.ins).map(|(o, d)| o.ty.as_tensor().map(|_| &d[..])).collect();
            let outs: SmallVec<[&[usize]; 2]> = sizes.outs.iter().map(|d| &d[..]).collect();
            sizes.scratch = kernel.scratch_words(pool, &CallDims { ins: &ins, outs: &outs });
            reserve(&mut self.scratch, sizes.scratch)?;
        }
        Ok(())
    }

    fn reserve_outputs(&mut self, program: &Program) -> Result<(), RunError> {
        for (i, output) in program.outputs.iter().enumerate() {
            let Source::Output(region) = output.source else { continue };
            let name = &program.entry.outputs[i].name;
            let failed = |e: EvalError| RunError::Memory(format!("output `{name}`: {e}"));
            let Some(ty) = output.ty.as_tensor() else { continue };
            let mut dims = Dims::new();
            self.symbols.dims(ty, &mut dims).map_err(failed)?;
            let len = ty.dtype.bytes(ir::tensor::count(&dims).map_err(|e| failed(e.into()))?);
            self.regions
                .check(1 + region, len)
                .map_err(|reason| RunError::Output { name: program.entry.outputs[i].name.clone(), reason })?;
            self.regions.reserve(1 + region, len).map_err(|e| failed(e.into()))?;
        }
        Ok(())
    }

    fn step(&mut self, program: &Program, at: usize, pool: &Pool, inputs: &[Datum]) -> Result<(), EvalError> {
        let instr = &program.steps[at];
        if instr.late {
            return self.late_step(program, at, pool, inputs);
        }
        match &instr.kernel {
            Some(_) => self.kernel_step(instr, at, pool, inputs),
            None => {
                let results = self.evaluate(program, at, pool, inputs)?;
                for (i, (datum, out)) in results.into_iter().zip(&instr.outs).enumerate() {
                    self.store(out, datum, at, i)?;
                }
                Ok(())
            }
        }
    }

    /// A step whose sizes are known: views into the arena, no allocation.
    fn kernel_step(&mut self, instr: &Instr, at: usize, pool: &Pool, inputs: &[Datum]) -> Result<(), EvalError> {
        let kernel = instr.kernel.as_ref().expect("the caller checked");
        let sizes = &self.sizes[at];
        let mut parts: SmallVec<[Part; 12]> = SmallVec::new();
        for (i, o) in instr.ins.iter().enumerate().filter(|(_, o)| !instr.replaces(o)) {
            parts.extend(self.part(o, &sizes.ins[i], sizes.in_offsets[i], false));
        }
        for (i, o) in instr.outs.iter().enumerate() {
            parts.extend(self.part(o, &sizes.outs[i], sizes.out_offsets[i], true));
        }
        let mut slices = self.regions.split(&parts).into_iter();
        let mut ins: SmallVec<[Option<View<'_>>; 8]> = SmallVec::new();
        for (i, o) in instr.ins.iter().enumerate() {
            let dims = &sizes.ins[i][..];
            // A kernel sees a state that it changes as a result only.
            let Some(ty) = o.ty.as_tensor().filter(|_| !instr.replaces(o)) else {
                ins.push(None);
                continue;
            };
            let bytes = match &o.source {
                Source::Buffer(_) | Source::Output(_) | Source::State(_) => match slices.next() {
                    Some(Slice::Read(bytes)) => bytes,
                    _ => unreachable!("one read slice was asked for"),
                },
                Source::Input(n) => {
                    let t = inputs[*n].as_tensor().ok_or_else(|| EvalError::Invalid("an input is no tensor".into()))?;
                    let start = sizes.in_offsets[i];
                    &t.bytes()[start..start + ty.dtype.bytes(dims.iter().product())]
                }
                Source::Weight(t) if o.packed => t.bytes(),
                Source::Weight(t) => {
                    let start = sizes.in_offsets[i];
                    &t.bytes()[start..start + ty.dtype.bytes(dims.iter().product())]
                }
                Source::Slot(_) | Source::Absent => unreachable!("such a step is late"),
            };
            ins.push(Some(View { dtype: ty.dtype, dims, bytes }));
        }
        let mut outs: SmallVec<[ViewMut<'_>; 3]> = SmallVec::new();
        for (i, o) in instr.outs.iter().enumerate() {
            let ty = o.ty.as_tensor().expect("the results of a kernel are tensors");
            let Some(Slice::Write(bytes)) = slices.next() else { unreachable!("one write slice was asked for") };
            outs.push(ViewMut { dtype: ty.dtype, dims: &sizes.outs[i], bytes });
        }
        let scratch = words(&mut self.scratch, sizes.scratch);
        kernel.run(&mut Call { pool, ins: &ins, outs: &mut outs, numbers: &sizes.numbers, scratch })
    }

    fn state_region(&self, state: usize) -> usize {
        self.regions.count() - self.states + state
    }

    /// The memory of a state, which is given another.
    pub(crate) fn replace_state(&mut self, state: usize, memory: Aligned) -> Arc<Aligned> {
        let region = self.state_region(state);
        self.regions.replace(region, memory)
    }

    fn part(&self, o: &Operand, dims: &[usize], offset: usize, write: bool) -> Option<Part> {
        let (region, base) = match o.source {
            Source::Buffer(b) => (0, self.offsets.offsets[b] as usize),
            Source::Output(i) => (1 + i, 0),
            Source::State(i) => (self.state_region(i), 0),
            _ => return None,
        };
        let len = o.ty.as_tensor()?.dtype.bytes(dims.iter().product());
        Some(Part { region, start: base + offset, len, write })
    }

    /// The value of an operand as a datum; memory of the arena is copied, everything else is shared.
    fn datum(&mut self, o: &Operand, inputs: &[Datum]) -> Result<Datum, EvalError> {
        match &o.source {
            Source::Absent => Ok(Datum::Absent),
            Source::Input(n) if o.ty.as_tensor().and_then(TensorType::dims).is_none() => Ok(inputs[*n].clone()),
            Source::Slot(n) => {
                let datum =
                    self.slots[*n].as_ref().ok_or_else(|| EvalError::Invalid("an empty slot is read".into()))?;
                Ok(datum.clone())
            }
            Source::Input(_) | Source::Weight(_) | Source::Buffer(_) | Source::Output(_) | Source::State(_) => {
                let ty = o.ty.as_tensor().ok_or_else(|| EvalError::Invalid(format!("{} has no memory", o.ty)))?;
                let mut dims = Dims::new();
                self.symbols.dims(ty, &mut dims)?;
                let offset = self.symbols.size(&o.offset)?;
                let len = ty.dtype.bytes(dims.iter().product());
                let shared = match &o.source {
                    Source::Weight(t) => Some(t.clone()),
                    Source::Input(n) => inputs[*n].as_tensor().cloned(),
                    _ => None,
                };
                if let Some(t) = shared {
                    return match offset == 0 && t.bytes().len() == len {
                        true => Ok(t.reshaped(&dims)?.into()),
                        false => Ok(Tensor::from_bytes(ty.dtype, &dims, &t.bytes()[offset..offset + len])?.into()),
                    };
                }
                let part = self.part(o, &dims, offset, false).expect("it lies in a region");
                let slices = self.regions.split(&[part]);
                let Slice::Read(bytes) = &slices[0] else { unreachable!("a read part") };
                Ok(Tensor::from_bytes(ty.dtype, &dims, bytes)?.into())
            }
        }
    }

    /// Runs the reference evaluation, or the bodies, of a step.
    fn evaluate(
        &mut self,
        program: &Program,
        at: usize,
        pool: &Pool,
        inputs: &[Datum],
    ) -> Result<Vec<Datum>, EvalError> {
        let instr = &program.steps[at];
        let operands: Result<SmallVec<[Datum; 4]>, EvalError> =
            instr.ins.iter().map(|o| self.datum(o, inputs)).collect();
        let operands = operands?;
        let refs: SmallVec<[&Datum; 4]> = operands.iter().collect();
        if !instr.bodies.is_empty() {
            return control::run(self, instr, at, pool, &refs);
        }
        instr.op.bind(&|s| self.symbols.get(s))?.eval(&refs)
    }

    /// Puts a result where the plan wants it.
    fn store(&mut self, out: &Operand, datum: Datum, _at: usize, _i: usize) -> Result<(), EvalError> {
        match &out.source {
            Source::Slot(n) => {
                if let Some(t) = datum.as_tensor() {
                    self.symbols.learn(&out.ty, t.dims());
                }
                self.slots[*n] = Some(datum);
                Ok(())
            }
            Source::Buffer(_) | Source::Output(_) | Source::State(_) => {
                let ty = out.ty.as_tensor().expect("memory holds tensors");
                let mut dims = Dims::new();
                self.symbols.dims(ty, &mut dims)?;
                let t = datum.as_tensor().filter(|t| t.dtype() == ty.dtype && *t.dims() == *dims).ok_or_else(|| {
                    let found = ir::eval::type_of(&datum).map_or_else(|| kind(&datum).to_string(), |t| t.to_string());
                    EvalError::Invalid(format!("the result is {found}, the plan expects {ty} = {dims:?}"))
                })?;
                let offset = self.symbols.size(&out.offset)?;
                let part = self.part(out, &dims, offset, true).expect("it lies in a region");
                let mut slices = self.regions.split(&[part]);
                let Slice::Write(bytes) = &mut slices[0] else { unreachable!("a written part") };
                bytes.copy_from_slice(t.bytes());
                Ok(())
            }
            Source::Input(_) | Source::Weight(_) | Source::Absent => {
                Err(EvalError::Invalid("the plan writes where nothing can be written".into()))
            }
        }
    }

    /// Gathers the outputs.
    fn collect(&mut self, program: &Program, inputs: &[Datum]) -> Result<(), RunError> {
        for (i, output) in program.outputs.iter().enumerate() {
            let failed = |e: EvalError| RunError::Memory(format!("output {i}: {e}"));
            let datum = match output.source {
                Source::Output(region) => {
                    let ty = output.ty.as_tensor().expect("an output region holds a tensor");
                    let mut dims = Dims::new();
                    self.symbols.dims(ty, &mut dims).map_err(failed)?;
                    let len = ty.dtype.bytes(dims.iter().product());
                    let memory = self.regions.share(1 + region);
                    Tensor::from_memory(ty.dtype, &dims, memory, 0, len).map_err(|e| failed(e.into()))?.into()
                }
                _ => self.datum(output, inputs).map_err(failed)?,
            };
            self.results.push(datum);
        }
        Ok(())
    }
}

fn kind(d: &Datum) -> &'static str {
    match d {
        Datum::Tensor(_) => "a tensor",
        Datum::Sequence(_) => "a sequence",
        Datum::Optional(_) => "an optional",
        Datum::Map(_) => "a map",
        Datum::Absent => "nothing",
    }
}

fn failed(instr: &Instr, source: EvalError) -> RunError {
    RunError::Node { node: instr.step.node.clone(), op: instr.step.op, origin: instr.step.origin.clone(), source }
}

/// Makes scratch hold at least so many words. Kernels that align their parts find it aligned for vectors.
fn reserve(scratch: &mut Aligned, count: usize) -> Result<(), EvalError> {
    if scratch.bytes().len() < count.saturating_mul(8) {
        *scratch = Aligned::try_zeroed(count.saturating_mul(8))?;
    }
    Ok(())
}

/// The first words of scratch.
fn words(scratch: &mut Aligned, count: usize) -> &mut [u64] {
    bytemuck::cast_slice_mut(&mut scratch.bytes_mut()[..count * 8])
}
