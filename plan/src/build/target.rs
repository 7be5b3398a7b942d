//! What a target tells the planner.

use super::{LowerError, Memory, PlanBuilder};
use crate::model::{Entry, Stream};
use ir::{Dim, NodeId, Verified};
use std::num::NonZeroU32;

/// Something that plans can be made for.
pub trait Target {
    /// The word in the plan: "cpu".
    fn name(&self) -> &str;

    /// Plans one operator: calls [`PlanBuilder::launch`] or [`PlanBuilder::view`] for it, once.
    fn lower(&self, graph: Verified<'_>, node: NodeId, plan: &mut PlanBuilder<'_>) -> Result<(), LowerError>;

    /// Where copies between memories are queued; asked only of a target that has several ([`Memory`]).
    fn copies_on(&self) -> Stream {
        Stream::HOST
    }

    /// The memory in which states lie.
    fn states_in(&self) -> Memory {
        Memory::HOST
    }

    /// Whether the target says itself where streams wait ([`PlanBuilder::sync`]). Otherwise the planner finds the places,
    /// and no more than are needed.
    fn places_syncs(&self) -> bool {
        true
    }

    /// How many steps of an entry a stream of a device may hold before the host waits for it; any number where there is none.
    /// The planner puts the waits in.
    fn pace(&self, _entry: &Entry) -> Option<NonZeroU32> {
        None
    }
}

/// How a launch differs from the plainest one.
#[derive(Clone, Debug, Default)]
pub struct LaunchOptions {
    /// Where it is queued; the host unless given.
    pub stream: Option<Stream>,
    /// Bytes of memory the kernel needs beside operands and results.
    pub scratch: Option<Dim>,
    /// The operand whose memory the first result may take, where nobody reads it afterwards.
    pub in_place: Option<usize>,
    /// Where results and scratch memory lie; the host's unless given.
    pub memory: Memory,
}

impl LaunchOptions {
    /// A launch with scratch memory.
    pub fn scratch(bytes: impl Into<Dim>) -> LaunchOptions {
        LaunchOptions { scratch: Some(bytes.into()), ..LaunchOptions::default() }
    }
}
