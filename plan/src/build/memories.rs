//! Values in several memories: a target with memory of its own brings operands to where its kernels read them.

use super::PlanBuilder;
use crate::model::{Loc, Place, Step, Transfer};
use ir::Value;

/// A memory that kernels of some streams reach: the host's is 0, the others are numbered by the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Memory(pub u8);

impl Memory {
    /// What the processor reads: inputs, outputs, slots, and buffers of its own.
    pub const HOST: Memory = Memory(0);
    /// What a device reads.
    pub const DEVICE: Memory = Memory(1);
}

impl PlanBuilder<'_> {
    /// Lets the next launch read a value in `memory`: it is copied there ([`crate::Target::copies_on`]) unless it has been
    /// before. Constants are everywhere.
    pub fn bring(&mut self, value: Value, memory: Memory) {
        let from = self.value_loc(value);
        let Some(here) = self.memory_at(&from).filter(|here| *here != memory) else { return };
        self.copies.insert((value, here), from.clone());
        let known = self.copies.get(&(value, memory)).cloned();
        let to = known.unwrap_or_else(|| {
            let to = Loc::from(self.room(value, memory));
            self.copy_step(value, from, to.clone());
            to
        });
        self.define(value, to);
    }

    /// Whether a value can be brought anywhere: its bytes are known before it exists.
    pub fn is_plannable(&self, value: Value) -> bool {
        self.graph().ty(value).is_plannable()
    }

    /// Whether the body of another node is planned.
    pub fn in_body(&self) -> bool {
        self.name.starts_with('%')
    }

    /// The memory of a place; `None` where every memory has it.
    pub(super) fn memory_at(&self, loc: &Loc) -> Option<Memory> {
        match &loc.place {
            Place::Buffer(id) => Some(self.memories[id.0 as usize]),
            Place::State(_) => Some(self.states_in),
            Place::Input(_) | Place::Output(_) | Place::Slot(_) => Some(Memory::HOST),
            Place::Weight(_) | Place::None => None,
        }
    }

    pub(super) fn copy_step(&mut self, value: Value, from: Loc, to: Loc) {
        self.read(&from);
        // The copy itself is the next step.
        if let Place::Buffer(id) = to.place {
            self.touch(id);
        }
        let name = self.graph.name(value).clone();
        self.steps.push(Step::Copy(Transfer { stream: self.copies_on, value: name, from, to }));
    }
}
