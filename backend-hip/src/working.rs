//! Working memory of a session: arenas of the host and the device, outputs, reports, and the queue that fills them.

use crate::binding::Binding;
use crate::device::{DeviceError, DeviceMemory, HostMemory, Queue};
use crate::loaded::Shared;
use crate::lower::Sizes;
use crate::program::{Instr, KernelStep, Operand};
use crate::step::{BoundCall, Span, Spans, bind, reports};
use ir::ops::EvalError;
use ir::tensor::{Aligned, Memory};
use ir::{Datum, ValueType};
use plan::{Loc, Offsets, Place};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a report: whether it is set, and the index.
pub(crate) const REPORT: usize = 16;

/// Memory and queue of a session.
pub(crate) struct Working {
    pub(crate) queue: Queue,
    pub(crate) host: HostMemory,
    pub(crate) host_offsets: Offsets,
    pub(crate) device: DeviceMemory,
    pub(crate) device_offsets: Offsets,
    pub(crate) outputs: Vec<Arc<Aligned>>,
    /// Memory of each state; a session's stepper gives it.
    pub(crate) states: Vec<DeviceMemory>,
    /// One report per kernel step that may have one.
    pub(crate) reports: DeviceMemory,
    pub(crate) report_of: Vec<Option<usize>>,
}

impl Working {
    pub(crate) fn new(shared: &Shared) -> Result<Working, DeviceError> {
        let (device, program) = (shared.device(), &shared.program);
        let mut count = 0;
        let mut report_of = vec![];
        for step in &program.steps {
            let may = matches!(step, Instr::Kernel(k) if reports(k.lowering.files()));
            report_of.push(may.then_some(count));
            count += usize::from(may);
        }
        let queue = Queue::new(device)?;
        let reports = DeviceMemory::new(device, count * REPORT)?;
        reports.fill(0, &queue)?;
        Ok(Working {
            queue,
            host: HostMemory::new(device, 0)?,
            host_offsets: Offsets::default(),
            device: DeviceMemory::new(device, 0)?,
            device_offsets: Offsets::default(),
            outputs: program.entry.outputs.iter().map(|_| Arc::new(Aligned::zeroed(0))).collect(),
            states: vec![],
            reports,
            report_of,
        })
    }

    /// Grows both arenas to what the offsets need.
    pub(crate) fn reserve(&mut self) -> Result<(), DeviceError> {
        let (host, device) = (self.host_offsets.total as usize, self.device_offsets.total as usize);
        // Sizes that grow by one a step must not allocate each time.
        let grown = |needed: usize, len: usize| needed.max(len + len / 2);
        if self.host.len() < host {
            self.queue.synchronise()?;
            self.host = HostMemory::new(self.queue.device(), grown(host, self.host.len()))?;
        }
        if self.device.len() < device {
            self.queue.synchronise()?;
            let len = grown(device, self.device.len());
            // The old one goes first: both together may be more than there is.
            self.device = DeviceMemory::new(self.queue.device(), 0)?;
            self.device = DeviceMemory::new(self.queue.device(), len)?;
        }
        Ok(())
    }

    /// Where a value begins within its memory; of a buffer of the device, within the device's arena.
    pub(crate) fn offset(&self, loc: &Loc, binding: &Binding) -> Result<usize, EvalError> {
        let within = binding.size(&loc.offset)?;
        Ok(match &loc.place {
            // Both arenas know all buffers; those of the other memory have size 0 there and are never asked for.
            Place::Buffer(b) => {
                let at = b.0 as usize;
                let host = self.host_offsets.sizes[at] > 0 || self.device_offsets.sizes[at] == 0;
                within + if host { self.host_offsets.offsets[at] } else { self.device_offsets.offsets[at] } as usize
            }
            _ => within,
        })
    }

    pub(crate) fn bind_kernel(
        &self,
        step: &KernelStep,
        at: usize,
        binding: &Binding,
        shared: &Shared,
    ) -> Result<Vec<BoundCall>, String> {
        let text = |e: EvalError| e.to_string();
        let dims = |all: &[Operand]| {
            all.iter().map(|o| binding.dims(&o.ty)).collect::<Result<Vec<Vec<usize>>, _>>().map_err(text)
        };
        let (ins, outs) = (dims(&step.ins)?, dims(&step.outs)?);
        let numbers = step.numbers.iter().map(|d| binding.eval(d)).collect::<Result<Vec<i64>, _>>().map_err(text)?;
        let span = |(o, dims): (&Operand, &Vec<usize>)| -> Result<Span, String> {
            let len = bytes(&o.ty, dims) as i64;
            let address = match &o.loc.place {
                Place::Weight(key) => {
                    let start = shared.address(key).ok_or("a constant is not on the device")?;
                    start + binding.size(&o.loc.offset).map_err(text)? as u64
                }
                Place::Buffer(_) => self.device.address() + self.offset(&o.loc, binding).map_err(text)? as u64,
                Place::State(i) => {
                    self.states[*i as usize].address() + binding.size(&o.loc.offset).map_err(text)? as u64
                }
                Place::None => 0,
                _ => return Err("a kernel's value is not on the device".into()),
            };
            Ok(Span { address, len })
        };
        let scratch = match &step.scratch {
            Some((loc, bytes)) => Span {
                address: self.device.address() + self.offset(loc, binding).map_err(text)? as u64,
                len: binding.eval(bytes).map_err(text)?,
            },
            None => Span { address: 0, len: 0 },
        };
        let spans = Spans {
            scratch,
            ins: step.ins.iter().zip(&ins).map(span).collect::<Result<_, _>>()?,
            outs: step.outs.iter().zip(&outs).map(span).collect::<Result<_, _>>()?,
            report: self.report_of[at].map_or(0, |i| self.reports.address() + (i * REPORT) as u64),
        };
        bind(step, &Sizes { ins: &ins, outs: &outs, numbers: &numbers }, &spans, shared.modules())
    }

    pub(crate) fn send(
        &self,
        from: &Operand,
        (start, to): (usize, usize),
        len: usize,
        inputs: &[Datum],
    ) -> Result<(), DeviceError> {
        let bytes = match &from.loc.place {
            Place::Input(i) => inputs[*i as usize].as_tensor().map_or(&[][..], |t| &t.bytes()[start..start + len]),
            Place::Output(i) => &self.outputs[*i as usize].bytes()[start..start + len],
            _ => self.host.bytes(start..start + len),
        };
        self.device.write(to, bytes, &self.queue)
    }

    pub(crate) fn bring_home(
        &mut self,
        to: &Operand,
        (from, start): (usize, usize),
        len: usize,
    ) -> Result<(), DeviceError> {
        match &to.loc.place {
            Place::Output(i) => {
                let memory = Arc::get_mut(&mut self.outputs[*i as usize]).expect("outputs are made anew when shared");
                self.device.read(from, &mut memory.bytes_mut()[start..start + len], &self.queue)
            }
            _ => self.device.read_later(from, &mut self.host, start..start + len, &self.queue),
        }
    }

    pub(crate) fn output(&mut self, i: usize, range: Range<usize>) -> &mut [u8] {
        let memory = Arc::get_mut(&mut self.outputs[i]).expect("outputs are made anew when shared");
        &mut memory.bytes_mut()[range]
    }
}

/// Bytes of a tensor of these dimensions.
pub(crate) fn bytes(ty: &ValueType, dims: &[usize]) -> usize {
    ty.as_tensor().map_or(0, |t| t.dtype.bytes(dims.iter().product()))
}
