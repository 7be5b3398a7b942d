//! A session: the entry `main`, and where the plan has it the entry `step` over caches in the device's memory.

use crate::frame::Frame;
use crate::loaded::Shared;
use crate::lower::copies_of_rows;
use crate::step::{Span, Spans, bind_calls};
use ir::{Datum, TensorType};
use plan::Port;
use runtime::slots::{Batch, StepInputs};
use runtime::{HostWorker, RunError, Session, SlotOptions, Slots, StepError, StepModel, StepTime};
use std::sync::Arc;

/// A session on a device.
pub(crate) struct HipSession {
    shared: Arc<Shared>,
    main: Frame,
    /// What `step` is made of.
    step: Option<(Arc<Shared>, StepModel)>,
    stepping: Option<Frame>,
    slots: Option<Slots>,
    inputs: StepInputs,
}

impl HipSession {
    pub(crate) fn new(
        main: &Arc<Shared>,
        step: Option<(Arc<Shared>, StepModel)>,
        worker: impl Fn() -> Box<dyn HostWorker>,
    ) -> HipSession {
        HipSession {
            shared: main.clone(),
            main: Frame::new(main, worker()),
            stepping: step.as_ref().map(|(shared, _)| Frame::new(shared, worker())),
            step,
            slots: None,
            inputs: StepInputs::default(),
        }
    }

    /// Gives every slot `capacity` rows; the first rows of each stay.
    fn grow(&mut self, slots: &mut Slots, capacity: usize) -> Result<(), StepError> {
        let ((shared, model), Some(frame)) = (self.step.as_ref().ok_or(StepError::NoStep)?, &mut self.stepping) else {
            return Err(StepError::NoStep);
        };
        let (count, before) = (slots.count(), slots.capacity());
        let states: Vec<&TensorType> = shared.program.entry.states.iter().filter_map(|p| p.ty.as_tensor()).collect();
        let size = |ty: &TensorType, axis: usize| ty.dims().and_then(|d| d[axis].as_const()).unwrap_or(0) as usize;
        let dims = |ty: &TensorType, rows: usize| [count, size(ty, 1), rows, size(ty, 3)];
        let bytes = |ty: &TensorType| ty.dtype.bytes(dims(ty, capacity).iter().product());
        let sizes: Vec<usize> = states.iter().map(|ty| bytes(ty)).collect();
        let symbols = [(&model.slots_symbol, count), (&model.capacity_symbol, capacity)];
        let given = symbols.map(|(s, n)| (s.clone(), n as i64)).to_vec();
        frame.replace_states(given, &sizes, |i, old, new| {
            let none = Span { address: 0, len: 0 };
            let spans = Spans { ins: vec![old], outs: vec![new], scratch: none, report: 0 };
            let (ty, rows) = (states[i], before.min(capacity));
            let calls = copies_of_rows(ty.dtype, rows, &dims(ty, before), &dims(ty, capacity))?;
            bind_calls(&calls, &spans, shared.modules())
        })?;
        slots.grown(capacity);
        Ok(())
    }

    fn advance(&mut self, slots: &mut Slots, batch: &Batch) -> Result<(), StepError> {
        let capacity = slots.admit(batch)?;
        if capacity != slots.capacity() {
            self.grow(slots, capacity)?;
        }
        let inputs = self.inputs.fill(batch, slots.lengths())?;
        self.stepping.as_mut().ok_or(StepError::NoStep)?.run(inputs)?;
        slots.advance(batch);
        Ok(())
    }
}

impl Session for HipSession {
    fn inputs(&self) -> &[Port] {
        &self.shared.program.entry.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.shared.program.entry.outputs
    }

    fn run(&mut self, inputs: &[Datum]) -> Result<&[Datum], RunError> {
        self.main.run(inputs)
    }

    fn open_slots(&mut self, options: SlotOptions) -> Result<(), StepError> {
        let (_, model) = self.step.as_ref().ok_or(StepError::NoStep)?;
        let mut slots = Slots::new(model, options)?;
        // The memory of those that there were goes first.
        self.slots = None;
        self.stepping.iter_mut().for_each(Frame::forget_states);
        let capacity = slots.capacity();
        self.grow(&mut slots, capacity)?;
        self.slots = Some(slots);
        Ok(())
    }

    fn slots(&self) -> Option<&Slots> {
        self.slots.as_ref()
    }

    fn step(&mut self, batch: &Batch) -> Result<&Datum, StepError> {
        let mut slots = self.slots.take().ok_or(StepError::NotOpen)?;
        let done = self.advance(&mut slots, batch);
        self.slots = Some(slots);
        done?;
        let result = self.stepping.as_ref().and_then(|frame| frame.results().first());
        result.ok_or_else(|| RunError::Memory("the entry has no result".into()).into())
    }

    fn truncate(&mut self, slot: u32, len: usize) -> Result<(), StepError> {
        self.slots.as_mut().ok_or(StepError::NotOpen)?.truncate(slot, len)
    }

    fn set_profiling(&mut self, on: bool) {
        self.main.set_profiling(on);
        self.stepping.iter_mut().for_each(|frame| frame.set_profiling(on));
    }

    fn profile(&self) -> Vec<StepTime> {
        let step = self.stepping.iter().filter(|_| self.slots.is_some());
        std::iter::once(&self.main).chain(step).flat_map(Frame::profile).collect()
    }

    fn memory_bytes(&self) -> usize {
        self.main.memory_bytes() + self.stepping.as_ref().map_or(0, Frame::memory_bytes)
    }
}
