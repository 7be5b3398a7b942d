//! The `step` entry: caches that the session keeps, and batches of sequences over them.

use crate::kernels::pool::Pool;
use crate::program::Program;
use crate::session::{Frame, Symbols};
use ir::tensor::{Aligned, Memory};
use ir::{Datum, TensorType};
use runtime::slots::{Batch, StepInputs};
use runtime::{RunError, SlotOptions, Slots, StepError, StepModel};
use std::sync::Arc;

/// A program over the caches of open slots.
pub(crate) struct Stepper {
    program: Arc<Program>,
    model: StepModel,
    pub(crate) frame: Frame,
    pub(crate) slots: Slots,
    /// The number of slots and their capacity.
    symbols: Symbols,
    inputs: StepInputs,
}

impl Stepper {
    pub(crate) fn open(program: &Arc<Program>, model: &StepModel, options: SlotOptions) -> Result<Stepper, StepError> {
        let slots = Slots::new(model, options)?;
        let mut stepper = Stepper {
            program: program.clone(),
            model: model.clone(),
            frame: Frame::new(program),
            slots,
            symbols: Symbols::default(),
            inputs: StepInputs::default(),
        };
        stepper.grow(stepper.slots.capacity());
        Ok(stepper)
    }

    /// Gives every slot `capacity` rows; what they hold stays.
    fn grow(&mut self, capacity: usize) {
        let (count, before) = (self.slots.count(), self.slots.capacity());
        let first = self.symbols.0.is_empty();
        for (i, port) in self.program.entry.states.iter().enumerate() {
            let ty = port.ty.as_tensor();
            let size =
                |axis: usize| ty.and_then(TensorType::dims).and_then(|d| d[axis].as_const()).unwrap_or(0) as usize;
            let (heads, width) = (size(1), size(3));
            let row = ty.map_or(0, |t| t.dtype.bytes(width));
            let mut memory = Aligned::zeroed(count * heads * capacity * row);
            if first {
                self.frame.replace_state(i, memory);
                continue;
            }
            let old = self.frame.replace_state(i, Aligned::zeroed(0));
            let to = memory.bytes_mut();
            for (slot, len) in self.slots.lengths().iter().enumerate() {
                for head in slot * heads..(slot + 1) * heads {
                    let from = &old.bytes()[head * before * row..][..len * row];
                    to[head * capacity * row..][..len * row].copy_from_slice(from);
                }
            }
            self.frame.replace_state(i, memory);
        }
        let (slots, rows) = (self.model.slots_symbol.clone(), self.model.capacity_symbol.clone());
        self.symbols.0 = vec![(slots, count as i64), (rows, capacity as i64)];
        self.slots.grown(capacity);
    }

    pub(crate) fn step(&mut self, pool: &Pool, batch: &Batch) -> Result<&Datum, StepError> {
        let capacity = self.slots.admit(batch)?;
        if capacity != self.slots.capacity() {
            self.grow(capacity);
        }
        let Stepper { program, frame, slots, symbols, inputs, .. } = self;
        let results = frame.run(program, pool, inputs.fill(batch, slots.lengths())?, symbols)?;
        slots.advance(batch);
        results.first().ok_or_else(|| RunError::Memory("the entry has no result".into()).into())
    }
}
