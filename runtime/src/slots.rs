//! The `step` entry of a plan: many sequences at once over caches that the session keeps, one slot each.
//!
//! `step(input_ids i32[B, S], slots i32[B], lengths i32[B], counts i32[B], states ...) -> logits[B, V]` appends the first
//! `counts[b]` ids of row b to the sequence in slot `slots[b]`, which has `lengths[b]` tokens so far, and returns the logits after
//! the last of them. States are `[slots, heads, capacity, width]`. What holds for every backend is here: which batches are
//! admitted, and how large the caches must be for them.

use crate::backend::RunError;
use ir::tensor::{Aligned, Memory};
use ir::{DType, Datum, Tensor};
use plan::{Entry, Plan};
use std::sync::Arc;

/// Name of the entry.
pub const STEP: &str = "step";

/// Rows of a slot at first, and what its capacity is a multiple of.
pub const LEAST_CAPACITY: usize = 256;

/// New tokens for some slots; each may get a different number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The tokens, sequence after sequence.
    pub tokens: Vec<u32>,
    /// Whose they are.
    pub parts: Vec<Part>,
}

/// A sequence's part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where the sequence lives.
    pub slot: u32,
    /// How many of the tokens are its.
    pub count: u32,
}

impl Batch {
    /// Takes everything out.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.parts.clear();
    }

    /// Adds tokens for a slot.
    pub fn push(&mut self, slot: u32, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.parts.push(Part { slot, count: tokens.len() as u32 });
    }

    /// The largest number of tokens of a sequence: S.
    pub fn steps(&self) -> usize {
        self.parts.iter().map(|p| p.count as usize).max().unwrap_or(0)
    }
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotOptions {
    /// How many sequences at a time.
    pub slots: usize,
    /// The most tokens of a sequence; what the model can do where it is less.
    pub max_len: usize,
    /// The most bytes that all caches may take.
    pub max_bytes: u64,
}

/// Why a step could not be taken. Nothing has changed then, but for [`StepError::Run`], after which the slots of the batch must be
/// cleared.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StepError {
    /// The plan has no entry `step`.
    #[error("the plan has no `step` entry: sequences cannot be batched (`compile --explain` says why)")]
    NoStep,
    /// No slots have been opened.
    #[error("no slots are open")]
    NotOpen,
    /// The batch contradicts itself.
    #[error("the batch is malformed: {0}")]
    Batch(String),
    /// A sequence becomes longer than allowed.
    #[error(
        "the context is full: slot {slot} holds {len} tokens and is to get {count} more, {max_len} fit (see --max-len)"
    )]
    Full {
        /// The slot.
        slot: u32,
        /// Tokens that it has.
        len: usize,
        /// Tokens that it should get.
        count: usize,
        /// The most that it may have.
        max_len: usize,
    },
    /// The caches would take more memory than allowed.
    #[error(
        "{slots} slots of {rows} tokens take {needed} bytes of caches, {allowed} are allowed: use fewer slots or a smaller --max-len"
    )]
    Memory {
        /// Slots.
        slots: usize,
        /// Rows of each.
        rows: usize,
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// The step itself failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// What a plan's `step` entry needs, read from the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepModel {
    /// Position of the entry in the plan.
    pub entry: usize,
    /// Symbol of the number of slots.
    pub slots_symbol: Arc<str>,
    /// Symbol of the rows of a slot.
    pub capacity_symbol: Arc<str>,
    /// Bytes of all caches per slot and row.
    pub row_bytes: u64,
    /// The most tokens of a sequence that the model's tables of positions allow.
    pub max_len: Option<usize>,
    /// The most new tokens of a sequence in one step, where the model bounds them.
    pub max_steps: Option<usize>,
}

impl StepModel {
    /// Reads the entry `step`; `None` where there is none.
    pub fn of(plan: &Plan) -> Option<StepModel> {
        let at = plan.entries.iter().position(|e| e.name == STEP)?;
        let entry = &plan.entries[at];
        let mut symbols: Option<(Arc<str>, Arc<str>)> = None;
        let mut row_bytes = 0;
        for state in &entry.states {
            let ty = state.ty.as_tensor()?;
            let [slots, heads, capacity, width] = ty.dims()? else { return None };
            let found = (Arc::from(slots.as_sym()?), Arc::from(capacity.as_sym()?));
            if symbols.get_or_insert_with(|| found.clone()) != &found {
                return None;
            }
            row_bytes += ty.dtype.bytes((heads.as_const()? * width.as_const()?) as usize) as u64;
        }
        let (slots_symbol, capacity_symbol) = symbols?;
        let ids = entry.inputs.first().and_then(|p| p.ty.as_tensor()?.dims()?.get(1)?.as_const());
        let max_steps = ids.map(|n| n as usize);
        Some(StepModel { entry: at, slots_symbol, capacity_symbol, row_bytes, max_len: max_len(entry), max_steps })
    }
}

/// Rows of the smallest constant table that is read at positions.
fn max_len(entry: &Entry) -> Option<usize> {
    let graph = &entry.graph;
    let rows = |id| {
        let op = graph.op(id)?;
        let operands = graph.operands(id);
        // `rope(x, cos, sin, positions)`: positions grow with the sequence.
        if op.name() != "rope" || operands.len() < 4 {
            return None;
        }
        graph.tensor_ty(operands[1])?.dims()?.first()?.as_const()
    };
    graph.order().into_iter().filter_map(rows).min().map(|n| n as usize)
}

/// The sequences of a session: how long each is, and how much room there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    lengths: Vec<usize>,
    capacity: usize,
    max_len: usize,
    max_steps: usize,
    row_bytes: u64,
    max_bytes: u64,
}

impl Slots {
    /// Empty slots of the least capacity.
    pub fn new(model: &StepModel, options: SlotOptions) -> Result<Slots, StepError> {
        let max_len = options.max_len.min(model.max_len.unwrap_or(usize::MAX));
        let (row_bytes, max_bytes) = (model.row_bytes, options.max_bytes);
        let max_steps = model.max_steps.unwrap_or(usize::MAX);
        let lengths = vec![0; options.slots];
        let mut slots = Slots { lengths, capacity: 0, max_len, max_steps, row_bytes, max_bytes };
        slots.capacity = slots.room_for(1)?;
        Ok(slots)
    }

    /// How many slots there are.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens in every slot.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Rows that every slot has room for now.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The most tokens of a sequence.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// The most new tokens of a sequence in one step.
    pub fn max_steps(&self) -> usize {
        self.max_steps
    }

    /// Checks a batch; returns the capacity that it needs, which is the present one or a larger one that memory allows.
    pub fn admit(&self, batch: &Batch) -> Result<usize, StepError> {
        let wrong = |what: String| Err(StepError::Batch(what));
        let total: usize = batch.parts.iter().map(|p| p.count as usize).sum();
        if total != batch.tokens.len() || batch.parts.is_empty() {
            return wrong(format!("{} tokens for {} sequences of {total}", batch.tokens.len(), batch.parts.len()));
        }
        let mut needed = 0;
        for (i, part) in batch.parts.iter().enumerate() {
            let (slot, count) = (part.slot, part.count as usize);
            let Some(len) = self.lengths.get(slot as usize).copied() else {
                return wrong(format!("there is no slot {slot}, only {}", self.lengths.len()));
            };
            if batch.parts[..i].iter().any(|p| p.slot == slot) {
                return wrong(format!("slot {slot} is there twice"));
            }
            if count > self.max_steps {
                return wrong(format!("slot {slot} gets {count} tokens, the model takes {} at a time", self.max_steps));
            }
            if count == 0 {
                return wrong(format!("slot {slot} gets no tokens"));
            }
            if len + count > self.max_len {
                return Err(StepError::Full { slot, len, count, max_len: self.max_len });
            }
            needed = needed.max(len + count);
        }
        if needed <= self.capacity { Ok(self.capacity) } else { self.room_for(needed) }
    }

    /// The next capacity that holds `rows`: twice the present one as long as length and memory allow it.
    fn room_for(&self, rows: usize) -> Result<usize, StepError> {
        let round = |n: usize| n.div_ceil(LEAST_CAPACITY) * LEAST_CAPACITY;
        let least = round(rows);
        let fits = |rows: usize| {
            let bytes = (self.lengths.len() as u64).saturating_mul(rows as u64).saturating_mul(self.row_bytes);
            (bytes <= self.max_bytes).then_some(rows).ok_or(bytes)
        };
        let doubled = (2 * self.capacity).max(least).min(round(self.max_len.min(isize::MAX as usize))).max(least);
        fits(doubled).or_else(|_| fits(least)).map_err(|needed| StepError::Memory {
            slots: self.lengths.len(),
            rows: least,
            needed,
            allowed: self.max_bytes,
        })
    }

    /// Notes that the caches have grown.
    pub fn grown(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Notes that a batch has been appended.
    pub fn advance(&mut self, batch: &Batch) {
        for part in &batch.parts {
            self.lengths[part.slot as usize] += part.count as usize;
        }
    }

    /// Keeps the first `len` tokens of a slot, all where it has fewer.
    pub fn truncate(&mut self, slot: u32, len: usize) -> Result<(), StepError> {
        let count = self.lengths.len();
        let known = self.lengths.get_mut(slot as usize);
        let known = known.ok_or_else(|| StepError::Batch(format!("there is no slot {slot}, only {count}")))?;
        *known = len.min(*known);
        Ok(())
    }
}

/// Inputs of the entry: ids, slots, lengths, counts. Memory of a batch of the same shape is used again.
pub struct StepInputs {
    memory: [Arc<Aligned>; 4],
    inputs: Vec<Datum>,
}

impl Default for StepInputs {
    fn default() -> StepInputs {
        StepInputs { memory: std::array::from_fn(|_| Arc::new(Aligned::zeroed(0))), inputs: vec![] }
    }
}

impl StepInputs {
    /// Writes the inputs for a batch over sequences of these lengths; ids beyond a sequence's own are 0.
    pub fn fill(&mut self, batch: &Batch, lengths: &[usize]) -> Result<&[Datum], StepError> {
        self.inputs.clear();
        let (b, s) = (batch.parts.len(), batch.steps());
        for (which, memory) in self.memory.iter_mut().enumerate() {
            let elements = if which == 0 { b * s } else { b };
            let fits = Arc::get_mut(memory).is_some_and(|m| m.bytes().len() == 4 * elements);
            if !fits {
                *memory = Arc::new(Aligned::zeroed(4 * elements));
            }
            let bytes = Arc::get_mut(memory).expect("it was just made, or is nobody else's").bytes_mut();
            let (to, _) = bytes.as_chunks_mut::<4>();
            let mut tokens = &batch.tokens[..];
            for (i, part) in batch.parts.iter().enumerate() {
                match which {
                    0 => {
                        let (own, rest) = tokens.split_at(part.count as usize);
                        let row = &mut to[i * s..(i + 1) * s];
                        row.fill([0; 4]);
                        row.iter_mut().zip(own).for_each(|(to, token)| *to = token.to_ne_bytes());
                        tokens = rest;
                    }
                    1 => to[i] = part.slot.to_ne_bytes(),
                    2 => to[i] = (lengths[part.slot as usize] as i32).to_ne_bytes(),
                    _ => to[i] = part.count.to_ne_bytes(),
                }
            }
            let dims: &[usize] = if which == 0 { &[b, s] } else { &[b] };
            let tensor = Tensor::from_memory(DType::I32, dims, memory.clone(), 0, 4 * elements);
            self.inputs.push(tensor.map_err(|e| RunError::Memory(e.to_string()))?.into());
        }
        Ok(&self.inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(max_len: usize, max_bytes: u64) -> Result<Slots, StepError> {
        let model = StepModel {
            entry: 1,
            slots_symbol: "slots".into(),
            capacity_symbol: "capacity".into(),
            row_bytes: 10,
            max_len: Some(2000),
            max_steps: None,
        };
        Slots::new(&model, SlotOptions { slots: 2, max_len, max_bytes })
    }

    fn batch(parts: &[(u32, usize)]) -> Batch {
        let mut batch = Batch::default();
        parts.iter().for_each(|(slot, n)| batch.push(*slot, &vec![1; *n]));
        batch
    }

    #[test]
    fn capacity_doubles_up_to_the_longest_sequence() {
        let mut s = slots(900, u64::MAX).unwrap();
        assert_eq!(s.capacity(), 256);
        for (rows, capacity) in [(256, 256), (257, 512), (600, 768)] {
            assert_eq!(s.admit(&batch(&[(1, rows)])), Ok(capacity));
        }
        s.grown(512);
        assert_eq!(s.admit(&batch(&[(1, 520)])), Ok(1024));
        let full = s.admit(&batch(&[(0, 1), (1, 901)]));
        assert!(matches!(full, Err(StepError::Full { slot: 1, max_len: 900, .. })), "{full:?}");
    }

    #[test]
    fn a_model_is_not_asked_for_positions_that_it_has_not() {
        assert_eq!(slots(5000, u64::MAX).unwrap().max_len(), 2000);
    }

    #[test]
    fn memory_is_refused_before_it_is_taken() {
        assert!(matches!(slots(900, 5000), Err(StepError::Memory { needed: 5120, .. })));
        let s = slots(2000, 16000).unwrap();
        assert_eq!(s.admit(&batch(&[(0, 300)])), Ok(512));
        let mut s = slots(2000, 16000).unwrap();
        s.grown(512);
        // 1024 rows would be too much, 768 fit.
        assert_eq!(s.admit(&batch(&[(0, 600)])), Ok(768));
        assert!(matches!(s.admit(&batch(&[(0, 800)])), Err(StepError::Memory { .. })));
    }

    #[test]
    fn malformed_batches_are_refused() {
        let s = slots(900, u64::MAX).unwrap();
        for parts in [&[(2, 1)][..], &[(0, 1), (0, 1)], &[(0, 0)], &[]] {
            assert!(matches!(s.admit(&batch(parts)), Err(StepError::Batch(_))), "{parts:?}");
        }
        let mut short = batch(&[(0, 2)]);
        short.tokens.pop();
        assert!(matches!(s.admit(&short), Err(StepError::Batch(_))));
    }

    #[test]
    fn lengths_follow_what_is_appended_and_cut() {
        let mut s = slots(900, u64::MAX).unwrap();
        s.advance(&batch(&[(1, 5)]));
        s.advance(&batch(&[(1, 2), (0, 1)]));
        assert_eq!(s.lengths(), [1, 7]);
        s.truncate(1, 3).unwrap();
        s.truncate(0, 9).unwrap();
        assert_eq!(s.lengths(), [1, 3]);
    }
}
