//! The data of a plan: entries of steps over places, with symbolic sizes that are bound when it runs.
//!
//! A [`Step`] refers to nodes of its entry's graph by the name of their first result; the graph says what a value means,
//! the plan only where it lies ([`Loc`]) and who computes it when. A value whose type is plannable lies in an input, an
//! output, a weight or an arena [`Buffer`]; any other value lies in a slot, which owns whatever it holds.
//!
//! Offsets of buffers are not numbers: a buffer starts where the highest of the buffers in [`Buffer::after`] ends, so two
//! buffers that live together are disjoint for every binding of the symbols.

use crate::layout::Layout;
use crate::pace::Pacing;
use ir::{DType, Dim, Graph, Tensor, ValueType};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

/// What is run: entries that share one set of weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it was made for: "cpu".
    pub target: String,
    /// Hash of the model's files, as the importer gives it.
    pub model_hash: String,
    /// How often its user wants the host to wait for a device. [`Entry::pace`] is what came of it here; whoever plans the entries
    /// for another target asks again.
    pub pacing: Pacing,
    /// The first is `main`, with the signature of the ONNX model.
    pub entries: Vec<Entry>,
    /// Constants whose data lies beside the plan. Small ones ([`ir::text::is_inline`]) are in the graphs instead.
    pub weights: BTreeMap<Arc<str>, WeightInfo>,
}

/// A graph with the steps that compute it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `main`, or the path of a body.
    pub name: String,
    /// What the steps compute.
    pub graph: Graph,
    /// Parameters that are no states, in the graph's order.
    pub inputs: Vec<Port>,
    /// Results, in the graph's order.
    pub outputs: Vec<Port>,
    /// What the session keeps from run to run, in the graph's order: each is there before the first step, and holds its next
    /// version after the last. Entries that have states have the same ones.
    pub states: Vec<Port>,
    /// Memory of the arena. `after` of a buffer names only buffers before it in this list.
    pub buffers: Vec<Buffer>,
    /// How many slots the steps use.
    pub slots: u32,
    /// What happens, in order (within each stream).
    pub steps: Vec<Step>,
    /// How many steps a stream of a device may hold before the host waits for it, and then none is left at the end; any number
    /// where there is no pace.
    pub pace: Option<NonZeroU32>,
    /// Plans of the graphs among a node's attributes, by [`body_key`].
    pub bodies: BTreeMap<String, Entry>,
}

/// The key of a body: `%if_3.then` for the attribute `then` of the node whose first result is `if_3`.
pub fn body_key(node: &str, attr: &str) -> String {
    format!("%{node}.{attr}")
}

impl Entry {
    /// Small constants of the graph: what [`Place::Weight`] means where the plan's weights have no such name.
    pub fn inline_constants(&self) -> BTreeMap<Arc<str>, Tensor> {
        let mut found = BTreeMap::new();
        for id in self.graph.order() {
            let constant = self.graph.constant_of(id.into()).filter(|t| ir::text::is_inline(t));
            if let Some(t) = constant {
                found.insert(self.graph.node(id).names[0].clone(), t.clone());
            }
        }
        found
    }
}

/// A parameter or result of an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The name its users know.
    pub name: Arc<str>,
    /// Its type.
    pub ty: ValueType,
    /// Where the value is.
    pub value: Loc,
}

/// Where a value begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Loc {
    /// What holds it.
    pub place: Place,
    /// Bytes from the start of the place; 0 unless the value is a view.
    pub offset: Dim,
}

impl From<Place> for Loc {
    fn from(place: Place) -> Loc {
        Loc { place, offset: Dim::constant(0) }
    }
}

/// Something that holds a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A parameter of the entry.
    Input(u32),
    /// Memory of a result of the entry; the caller may provide it.
    Output(u32),
    /// A constant: a key of [`Plan::weights`], or a small constant of the entry's graph, which comes first.
    Weight(Arc<str>),
    /// Memory of a state, which a step changes in place.
    State(u32),
    /// Memory of the arena.
    Buffer(BufferId),
    /// An owned value.
    Slot(SlotId),
    /// Nothing: the operand that was left out.
    None,
}

/// Position in [`Entry::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// Number of a slot, below [`Entry::slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// A piece of the arena during a span of steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its size.
    pub bytes: Dim,
    /// It begins where the highest of these ends, rounded up to [`crate::arena::ALIGN`]; at 0 when there are none.
    pub after: Vec<BufferId>,
    /// The first step that touches it.
    pub first: u32,
    /// The last step that touches it.
    pub last: u32,
}

/// A queue of work: steps of one stream happen in order, different streams only as syncs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream(pub u8);

impl Stream {
    /// The processor that runs the plan.
    pub const HOST: Stream = Stream(0);
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A kernel computes the results of a node.
    Launch(Launch),
    /// Bytes move between memories of the host and a device.
    Copy(Transfer),
    /// A stream waits for another.
    Sync(SyncPoint),
}

impl Step {
    /// The stream of a device that holds the step until it is done.
    pub fn queued_on(&self) -> Option<Stream> {
        let stream = match self {
            Step::Launch(launch) => launch.stream,
            Step::Copy(transfer) => transfer.stream,
            Step::Sync(_) => return None,
        };
        (stream != Stream::HOST).then_some(stream)
    }

    /// Whether it waits only so that a queue does not get too long.
    pub fn is_pace(&self) -> bool {
        matches!(self, Step::Sync(SyncPoint { kind: SyncKind::Pace { .. }, .. }))
    }
}

/// The kernel that moves a value to where a result of the entry lies. Its step's `node` names the value, not a node.
pub const COPY: &str = "copy";

/// Runs a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Where it is queued.
    pub stream: Stream,
    /// The backend's name for it.
    pub kernel: String,
    /// First result of the node that it computes.
    pub node: Arc<str>,
    /// One per operand.
    pub reads: Vec<Loc>,
    /// One per result.
    pub writes: Vec<Loc>,
    /// Memory whose content means nothing before and after.
    pub scratch: Option<BufferId>,
    /// How much of it the kernel needs; 0 without scratch.
    pub scratch_bytes: Dim,
    /// Whether the first result takes the very memory of an operand. A result in a state always does.
    pub in_place: bool,
    /// Slots that nobody reads after this step.
    pub frees: Vec<SlotId>,
}

/// Moves a value between memories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Where it is queued.
    pub stream: Stream,
    /// Name of the value in the graph.
    pub value: Arc<str>,
    /// Where it is.
    pub from: Loc,
    /// Where it is wanted too.
    pub to: Loc,
}

/// `waiter` continues when everything queued on `signaller` so far is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncPoint {
    /// Who is waited for.
    pub signaller: Stream,
    /// Who waits.
    pub waiter: Stream,
    /// Why.
    pub kind: SyncKind,
}

/// Why a stream waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// A value must be there, or memory free: the checker refuses one that orders nothing.
    Order,
    /// Large work is cut into pieces ([`Entry::pace`]); no value depends on it.
    Pace {
        /// What for.
        reason: String,
    },
}

/// A constant beside the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightInfo {
    /// Element type.
    pub dtype: DType,
    /// Dimensions in the graph, whatever the layout.
    pub dims: Vec<usize>,
    /// How its elements lie.
    pub layout: Layout,
    /// Where its bytes are.
    pub source: Source,
    /// Hash of its bytes as they are stored; `None` until the plan is written or the file was hashed.
    pub hash: Option<Hash>,
}

/// Where the bytes of a weight are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the plan's own weight file.
    Own,
    /// In a file of the model, row-major.
    Linked {
        /// The file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// A BLAKE3 hash; printed in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(*blake3::hash(bytes).as_bytes())
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Hash> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Some(Hash(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
