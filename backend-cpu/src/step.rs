//! The `step` entry: caches that the session keeps, and batches of sequences over them.

use crate::kernels::pool::Pool;
use crate::program::Program;
use crate::session::{Frame, Symbols};
use ir::tensor::{Aligned, Memory};
use ir::{DType, Datum, Tensor, TensorType};
use runtime::slots::Batch;
use runtime::{RunError, SlotOptions, Slots, StepError, StepModel};
use std::sync::Arc;

/// Inputs of the entry: ids, slots, lengths, counts.
const INPUTS: usize = 4;

/// A program over the caches of open slots.
pub(crate) struct Stepper {
    program: Arc<Program>,
    model: StepModel,
    pub(crate) frame: Frame,
    pub(crate) slots: Slots,
    /// The number of slots and their capacity.
    symbols: Symbols,
    memory: Vec<Arc<Aligned>>,
    inputs: Vec<Datum>,
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
            memory: (0..INPUTS).map(|_| Arc::new(Aligned::zeroed(0))).collect(),
            inputs: vec![],
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
        self.fill(batch)?;
        let Stepper { program, frame, slots, symbols, inputs, .. } = self;
        let results = frame.run(program, pool, inputs, symbols)?;
        slots.advance(batch);
        results.first().ok_or_else(|| RunError::Memory("the entry has no result".into()).into())
    }

    /// Writes the inputs of the entry; memory of a batch of the same shape is used again.
    fn fill(&mut self, batch: &Batch) -> Result<(), StepError> {
        self.inputs.clear();
        let (b, s) = (batch.parts.len(), batch.steps());
        let lengths = self.slots.lengths();
        for (which, memory) in self.memory.iter_mut().enumerate() {
            let elements = if which == 0 { b * s } else { b };
            let fits = Arc::get_mut(memory).is_some_and(|m| m.bytes().len() == 4 * elements);
            if !fits {
                *memory = Arc::new(Aligned::zeroed(4 * elements));
            }
            let bytes = Arc::get_mut(memory).expect("it was just made, or is nobody else's").bytes_mut();
            let to: &mut [i32] = bytemuck::cast_slice_mut(bytes);
            let mut tokens = &batch.tokens[..];
            for (i, part) in batch.parts.iter().enumerate() {
                match which {
                    0 => {
                        let (own, rest) = tokens.split_at(part.count as usize);
                        let row = &mut to[i * s..(i + 1) * s];
                        row.fill(0);
                        row.iter_mut().zip(own).for_each(|(to, token)| *to = *token as i32);
                        tokens = rest;
                    }
                    1 => to[i] = part.slot as i32,
                    2 => to[i] = lengths[part.slot as usize] as i32,
                    _ => to[i] = part.count as i32,
                }
            }
            let dims: &[usize] = if which == 0 { &[b, s] } else { &[b] };
            let tensor = Tensor::from_memory(DType::I32, dims, memory.clone(), 0, 4 * elements);
            self.inputs.push(tensor.map_err(|e| RunError::Memory(e.to_string()))?.into());
        }
        Ok(())
    }
}
