//! Graph to plan: buffers, arena, steps, the safety checker and the store on disk.
//!
//! [`build`](build::build) asks a [`Target`] how each node of a graph is computed and lays the result out as a [`Plan`].

pub mod arena;
pub mod build;
pub mod check;
pub mod code;
pub mod layout;
pub mod model;
mod pace;
pub mod store;
mod sync;
mod text;
mod view;
pub mod weights;
mod yaml;

pub use arena::{Arena, LayoutError, Offsets};
pub use build::{LaunchOptions, LowerError, Memory, PlanBuilder, PlanError, Target, build, build_entries};
pub use check::{CheckedPlan, Finding, check};
pub use code::{CodeInfo, CodeObject};
pub use layout::Layout;
pub use model::{
    Buffer, BufferId, COPY, Entry, Hash, Launch, Loc, Place, Plan, Port, SlotId, Source, Step, Stream, SyncKind,
    SyncPoint, Transfer, WeightInfo, body_key,
};
pub use pace::{Pacing, repace};
pub use store::{Loaded, StoreError, WriteOptions, graph_with_weights, load, write};
pub use weights::{GraphWeights, WeightSource, Weights};
