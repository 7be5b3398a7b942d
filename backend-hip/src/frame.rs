//! A queue and memory for one entry of a plan, and the loop over its steps.

use crate::binding::Binding;
use crate::device::{DeviceError, DeviceMemory};
use crate::loaded::Shared;
use crate::program::{HostStep, Instr, Operand};
use crate::step::{BoundCall, Span};
use crate::working::{REPORT, Working, bytes};
use ir::ops::EvalError;
use ir::tensor::{Aligned, Memory};
use ir::{Datum, Op, Tensor, TensorType, ValueType};
use plan::Place;
use runtime::{HostWorker, RunError, StepKernel, StepTime};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An entry's working memory on a device.
pub(crate) struct Frame {
    shared: Arc<Shared>,
    worker: Box<dyn HostWorker>,
    binding: Binding,
    /// Made by the first run, so that opening a session cannot fail.
    memory: Option<Working>,
    /// Symbols of states, with their sizes.
    given: Vec<(Arc<str>, i64)>,
    bound: Vec<Bound>,
    slots: Vec<Option<Datum>>,
    results: Vec<Datum>,
    times: Option<Vec<(u64, Duration)>>,
    fresh: bool,
}

/// A step under the current binding.
enum Bound {
    Kernel(Vec<BoundCall>),
    /// The operator with numbers for its expressions; `None` when they are only known when it runs.
    Host(Option<Op>),
    Copy {
        from: usize,
        to: usize,
        len: usize,
    },
    Nothing,
}

impl Frame {
    pub(crate) fn new(shared: &Arc<Shared>, worker: Box<dyn HostWorker>) -> Frame {
        Frame {
            shared: shared.clone(),
            worker,
            binding: Binding::default(),
            given: vec![],
            memory: None,
            bound: vec![],
            slots: vec![],
            results: vec![],
            times: None,
            fresh: true,
        }
    }

    fn working(&mut self) -> Result<&mut Working, DeviceError> {
        if self.memory.is_none() {
            self.memory = Some(Working::new(&self.shared)?);
        }
        Ok(self.memory.as_mut().expect("it was just made"))
    }

    /// Lays out both arenas and binds every step to its sizes.
    fn lay_out(&mut self) -> Result<(), RunError> {
        let shared = self.shared.clone();
        let binding = self.binding.clone();
        let memory = |e: String| RunError::Memory(e);
        let working = self.working().map_err(|e| memory(e.to_string()))?;
        let program = &shared.program;
        let get = |s: &str| binding.get(s);
        program.host_arena.layout(&get, &mut working.host_offsets).map_err(|e| memory(e.to_string()))?;
        program.device_arena.layout(&get, &mut working.device_offsets).map_err(|e| memory(e.to_string()))?;
        working.reserve().map_err(|e| memory(e.to_string()))?;
        let working = self.memory.as_ref().expect("it was just laid out");
        let mut bound = Vec::with_capacity(program.steps.len());
        for (at, step) in program.steps.iter().enumerate() {
            bound.push(match step {
                Instr::Kernel(k) => {
                    let failed = |reason: String| RunError::Device { node: k.about.node.clone(), reason };
                    let calls = working.bind_kernel(k, at, &binding, &shared).map_err(failed)?;
                    Bound::Kernel(calls)
                }
                Instr::Host(h) if h.late => Bound::Host(None),
                Instr::Host(h) => {
                    let op = h.op.as_ref().map(|op| op.bind(&get)).transpose();
                    Bound::Host(op.map_err(|e| node_error(&h.about, e.into()))?)
                }
                Instr::Copy { from, to, value, .. } => {
                    let failed = |e: EvalError| RunError::Device { node: value.clone(), reason: e.to_string() };
                    let len = bytes(&from.ty, &binding.dims(&from.ty).map_err(failed)?);
                    let start = |o: &Operand| working.offset(&o.loc, &binding);
                    Bound::Copy { from: start(from).map_err(failed)?, to: start(to).map_err(failed)?, len }
                }
                Instr::HostWaits | Instr::Nothing => Bound::Nothing,
            });
        }
        self.bound = bound;
        Ok(())
    }

    fn step(&mut self, at: usize, inputs: &[Datum]) -> Result<(), RunError> {
        let shared = self.shared.clone();
        shared.tell(&shared.program.steps[at]);
        let working = self.memory.as_mut().expect("it was laid out");
        match (&shared.program.steps[at], &self.bound[at]) {
            (Instr::Kernel(k), Bound::Kernel(calls)) => {
                for call in calls {
                    let queued = working.queue.launch(&call.function, call.grid, call.block, &call.parameters);
                    queued.map_err(|e| device_error(&k.about.node, e))?;
                }
                Ok(())
            }
            (Instr::Copy { to_device, from, to, value }, Bound::Copy { from: a, to: b, len }) => {
                let moved = match to_device {
                    true => working.send(from, (*a, *b), *len, inputs),
                    false => working.bring_home(to, (*a, *b), *len),
                };
                moved.map_err(|e| device_error(value, e))
            }
            (Instr::HostWaits, _) => {
                working.queue.synchronise().map_err(|e| failed_while_waiting(&shared.program.steps[..at], e))
            }
            (Instr::Host(h), Bound::Host(_)) => self.host_step(h, at, inputs).map_err(|e| node_error(&h.about, e)),
            (Instr::Nothing, _) => Ok(()),
            (Instr::Kernel(_) | Instr::Host(_) | Instr::Copy { .. }, _) => unreachable!("steps are bound in order"),
        }
    }

    fn host_step(&mut self, step: &HostStep, at: usize, inputs: &[Datum]) -> Result<(), EvalError> {
        let operands = step.ins.iter().map(|o| self.datum(o, inputs)).collect::<Result<Vec<Datum>, _>>()?;
        let results = match (&step.op, &self.bound[at]) {
            (None, _) => operands,
            (Some(_), Bound::Host(Some(op))) => self.worker.run(op, &operands)?,
            (Some(op), _) => {
                let op = op.bind(&|s| self.binding.get(s))?;
                self.worker.run(&op, &operands)?
            }
        };
        for (out, datum) in step.outs.iter().zip(results) {
            self.store(out, datum)?;
        }
        if step.late
            && let Some((c, left, right)) = self.binding.broken(&self.shared.program.constraints)
        {
            return Err(EvalError::Invalid(format!("{c} was assumed, but {left} is not {right}")));
        }
        for slot in &step.frees {
            self.slots[*slot] = None;
        }
        Ok(())
    }

    /// The value of an operand of the host.
    fn datum(&self, o: &Operand, inputs: &[Datum]) -> Result<Datum, EvalError> {
        let working = self.memory.as_ref().expect("it was laid out");
        let whole = o.ty.as_tensor().and_then(TensorType::dims).is_none();
        let of_tensor = |t: &Tensor| -> Result<Datum, EvalError> {
            let (dims, start) = (self.binding.dims(&o.ty)?, self.binding.size(&o.loc.offset)?);
            if o.ty.as_tensor().is_some_and(|ty| ty.dtype == ir::DType::Str) {
                return Ok(t.reshaped(&dims)?.into());
            }
            let len = bytes(&o.ty, &dims);
            match start == 0 && t.bytes().len() == len {
                true => Ok(t.reshaped(&dims)?.into()),
                false => tensor(&o.ty, &dims, &t.bytes()[start..start + len]),
            }
        };
        match &o.loc.place {
            Place::None => Ok(Datum::Absent),
            Place::Input(i) => match &inputs[*i as usize] {
                Datum::Tensor(t) if !whole => of_tensor(t),
                other => Ok(other.clone()),
            },
            Place::Weight(key) => {
                let missing = || EvalError::Invalid(format!("the constant `{key}` has no data"));
                of_tensor(self.shared.constant(key).ok_or_else(missing)?)
            }
            Place::State(_) => Err(EvalError::Invalid("states are kept by the device only".into())),
            Place::Slot(s) => {
                let empty = || EvalError::Invalid("an empty slot is read".into());
                self.slots[s.0 as usize].clone().ok_or_else(empty)
            }
            Place::Buffer(_) | Place::Output(_) => {
                let dims = self.binding.dims(&o.ty)?;
                let start = working.offset(&o.loc, &self.binding)?;
                let range = start..start + bytes(&o.ty, &dims);
                match &o.loc.place {
                    Place::Output(i) => tensor(&o.ty, &dims, &working.outputs[*i as usize].bytes()[range]),
                    _ => tensor(&o.ty, &dims, working.host.bytes(range)),
                }
            }
        }
    }

    /// Puts a result of the host where the plan wants it.
    fn store(&mut self, out: &Operand, datum: Datum) -> Result<(), EvalError> {
        if let Place::Slot(s) = out.loc.place {
            if let Some(t) = datum.as_tensor() {
                self.binding.learn(&out.ty, t.dims());
            }
            self.slots[s.0 as usize] = Some(datum);
            return Ok(());
        }
        let dims = self.binding.dims(&out.ty)?;
        let dtype = out.ty.as_tensor().map(|ty| ty.dtype);
        let t = datum.as_tensor().filter(|t| Some(t.dtype()) == dtype && *t.dims() == *dims).ok_or_else(|| {
            let found = ir::eval::type_of(&datum).map_or_else(|| "another kind".to_string(), |t| t.to_string());
            EvalError::Invalid(format!("the result is {found}, the plan expects {} = {dims:?}", out.ty))
        })?;
        let working = self.memory.as_mut().expect("it was laid out");
        let start = working.offset(&out.loc, &self.binding)?;
        let range = start..start + t.bytes().len();
        match &out.loc.place {
            Place::Output(i) => working.output(*i as usize, range).copy_from_slice(t.bytes()),
            _ => working.host.bytes_mut(range).copy_from_slice(t.bytes()),
        }
        Ok(())
    }

    fn run_steps(&mut self, inputs: &[Datum]) -> Result<(), RunError> {
        self.shared.device().make_current().map_err(|e| RunError::Memory(e.to_string()))?;
        self.results.clear();
        self.slots.clear();
        self.slots.resize(self.shared.program.entry.slots as usize, None);
        let shared = self.shared.clone();
        let program = &shared.program;
        let changed = self.binding.bind(&self.given, &program.binders, inputs) || self.fresh;
        self.fresh = true;
        self.binding.check(&program.entry.inputs, &program.constraints, inputs)?;
        if changed {
            self.lay_out()?;
        }
        self.reserve_outputs()?;
        for at in 0..program.steps.len() {
            let started = self.times.is_some().then(Instant::now);
            self.step(at, inputs)?;
            if let (Some(started), Some(times)) = (started, &mut self.times) {
                // Every step is waited for while times are taken: a queue says only when all of it is done.
                let working = self.memory.as_ref().expect("it was laid out");
                working.queue.synchronise().map_err(|e| device_error(&"the profile".into(), e))?;
                times[at].0 += 1;
                times[at].1 += started.elapsed();
            }
        }
        self.finish(inputs)?;
        self.fresh = false;
        Ok(())
    }

    fn reserve_outputs(&mut self) -> Result<(), RunError> {
        let shared = self.shared.clone();
        let binding = &self.binding;
        let working = self.memory.as_mut().expect("it was laid out");
        for (i, port) in shared.program.entry.outputs.iter().enumerate() {
            if matches!(port.value.place, Place::Output(_)) {
                let dims = binding.dims(&port.ty).map_err(|e| RunError::Memory(e.to_string()))?;
                let len = bytes(&port.ty, &dims);
                let memory = &mut working.outputs[i];
                let reusable = Arc::get_mut(memory).is_some() && memory.bytes().len() >= len;
                if !reusable {
                    let failed = |e| RunError::Memory(format!("output `{}`: {e}", port.name));
                    *memory = Arc::new(Aligned::try_zeroed(len).map_err(failed)?);
                }
            }
        }
        Ok(())
    }

    /// Waits for the device, fails if a kernel met an index out of range, and gathers the outputs.
    fn finish(&mut self, inputs: &[Datum]) -> Result<(), RunError> {
        let shared = self.shared.clone();
        let working = self.memory.as_ref().expect("it was laid out");
        let end: Arc<str> = "the end of the run".into();
        working.queue.synchronise().map_err(|e| failed_while_waiting(&shared.program.steps, e))?;
        if working.reports.len() > 0 {
            let mut found = vec![0; working.reports.len()];
            working.reports.read(0, &mut found, &working.queue).map_err(|e| device_error(&end, e))?;
            if let Some(error) = reported(&shared.program.steps, &working.report_of, &found) {
                working.reports.fill(0, &working.queue).map_err(|e| device_error(&end, e))?;
                return Err(error);
            }
        }
        for (i, port) in shared.program.entry.outputs.iter().enumerate() {
            let failed = |e: EvalError| RunError::Memory(format!("output {i}: {e}"));
            let operand = Operand { loc: port.value.clone(), ty: port.ty.clone() };
            let datum = match (&port.value.place, port.ty.as_tensor()) {
                (Place::Output(_), Some(ty)) => {
                    let dims = self.binding.dims(&port.ty).map_err(failed)?;
                    let memory = self.memory.as_ref().expect("it was laid out").outputs[i].clone();
                    let tensor = Tensor::from_memory(ty.dtype, &dims, memory, 0, bytes(&port.ty, &dims));
                    tensor.map_err(|e| failed(e.into()))?.into()
                }
                _ => self.datum(&operand, inputs).map_err(failed)?,
            };
            self.results.push(datum);
        }
        Ok(())
    }
}

/// The error of the first report that is set.
fn reported(steps: &[Instr], report_of: &[Option<usize>], found: &[u8]) -> Option<RunError> {
    for (step, report) in steps.iter().zip(report_of) {
        let (Instr::Kernel(k), Some(i)) = (step, report) else { continue };
        let report = &found[i * REPORT..(i + 1) * REPORT];
        if report[..4] != [0; 4] {
            let index = i64::from_le_bytes(report[8..].try_into().expect("eight bytes"));
            return Some(node_error(&k.about, EvalError::Invalid(format!("the index {index} is out of range"))));
        }
    }
    None
}

fn tensor(ty: &ValueType, dims: &[usize], bytes: &[u8]) -> Result<Datum, EvalError> {
    let ty = ty.as_tensor().ok_or_else(|| EvalError::Invalid(format!("{ty} has no memory")))?;
    Ok(Tensor::from_bytes(ty.dtype, dims, bytes)?.into())
}

fn node_error(about: &StepKernel, source: EvalError) -> RunError {
    RunError::Node { node: about.node.clone(), op: about.op, origin: about.origin.clone(), source }
}

/// The error of a wait after these steps: it names the last one that was queued, and says how many others it may be.
fn failed_while_waiting(steps: &[Instr], e: DeviceError) -> RunError {
    let since = steps.iter().rev().take_while(|step| !matches!(step, Instr::HostWaits));
    let queued: Vec<&Arc<str>> = since.filter_map(Instr::on_device).collect();
    let Some(last) = queued.first() else { return device_error(&"the end of the run".into(), e) };
    let reason = match queued.len() {
        1 => e.to_string(),
        n => format!(
            "{e}; it may be any of {n} steps, from this back to `{}` (--sync-every 1 tells which)",
            queued[n - 1]
        ),
    };
    RunError::Device { node: (*last).clone(), reason }
}

fn device_error(node: &Arc<str>, e: DeviceError) -> RunError {
    RunError::Device { node: node.clone(), reason: e.to_string() }
}

impl Frame {
    /// Runs the entry. The results stay valid until the next call.
    pub(crate) fn run(&mut self, inputs: &[Datum]) -> Result<&[Datum], RunError> {
        let done = self.run_steps(inputs);
        if done.is_err()
            && let Some(working) = &self.memory
        {
            // Nothing of a failed run may still be going on when the caller takes its inputs back.
            let _ = working.queue.synchronise();
        }
        done.map(|()| &self.results[..])
    }

    /// The results of the last run.
    pub(crate) fn results(&self) -> &[Datum] {
        &self.results
    }

    /// Gives the memory of all states back.
    pub(crate) fn forget_states(&mut self) {
        self.memory.iter_mut().for_each(|m| m.states.clear());
    }

    /// Gives every state memory of these sizes, and the symbols of their types sizes. What `keep` copies from the old memory to the
    /// new stays.
    pub(crate) fn replace_states(
        &mut self,
        given: Vec<(Arc<str>, i64)>,
        sizes: &[usize],
        keep: impl Fn(usize, Span, Span) -> Result<Vec<BoundCall>, String>,
    ) -> Result<(), RunError> {
        let shared = self.shared.clone();
        let failed = |reason: String| RunError::Device { node: "the caches".into(), reason };
        let device = |e: DeviceError| failed(e.to_string());
        shared.device().make_current().map_err(device)?;
        let working = self.working().map_err(device)?;
        for (i, size) in sizes.iter().enumerate() {
            let memory = DeviceMemory::new(shared.device(), *size).map_err(device)?;
            memory.fill(0, &working.queue).map_err(device)?;
            let Some(old) = working.states.get_mut(i) else {
                working.states.push(memory);
                continue;
            };
            let span = |m: &DeviceMemory| Span { address: m.address(), len: m.len() as i64 };
            for call in keep(i, span(old), span(&memory)).map_err(failed)? {
                let queued = working.queue.launch(&call.function, call.grid, call.block, &call.parameters);
                queued.map_err(device)?;
            }
            // The old memory goes when its rows have been copied.
            working.queue.synchronise().map_err(device)?;
            *old = memory;
        }
        self.given = given;
        self.fresh = true;
        Ok(())
    }

    pub(crate) fn set_profiling(&mut self, on: bool) {
        self.times = on.then(|| vec![(0, Duration::ZERO); self.shared.program.steps.len()]);
    }

    pub(crate) fn profile(&self) -> Vec<StepTime> {
        let Some(times) = &self.times else { return vec![] };
        let mut found = vec![];
        for (step, (calls, time)) in self.shared.program.steps.iter().zip(times) {
            let about = match step {
                Instr::Kernel(k) => k.about.clone(),
                Instr::Host(h) => h.about.clone(),
                Instr::Copy { to_device, value, .. } => StepKernel {
                    node: value.clone(),
                    origin: Default::default(),
                    op: "copy",
                    kernel: if *to_device { "to device" } else { "to host" },
                },
                Instr::HostWaits | Instr::Nothing => continue,
            };
            found.push(StepTime { step: about, calls: *calls, time: *time });
        }
        found
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let Some(working) = &self.memory else { return 0 };
        let states = working.states.iter().map(|s| s.len()).sum::<usize>();
        working.host.len()
            + working.device.len()
            + states
            + working.outputs.iter().map(|o| o.bytes().len()).sum::<usize>()
    }
}
