//! The one error of the library: what failed, from which room, with words for a person.

use std::path::PathBuf;
use std::sync::Arc;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be read.
    #[error(transparent)]
    Import(#[from] importer::ImportError),
    /// A pass broke the graph: a bug of this program.
    #[error(transparent)]
    Passes(#[from] passes::PassError),
    /// The graph could not be planned.
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
    /// The plan on disk could not be read or written.
    #[error(transparent)]
    Store(#[from] plan::store::StoreError),
    /// The plan could not be prepared for running.
    #[error(transparent)]
    Load(#[from] runtime::LoadError),
    /// A run failed.
    #[error(transparent)]
    Run(Box<runtime::RunError>),
    /// The model cannot generate text, or failed to.
    #[error(transparent)]
    Decode(Box<runtime::DecodeError>),
    /// A batch of sequences was refused, or failed.
    #[error(transparent)]
    Step(#[from] runtime::StepError),
    /// Tokenizer, sampling or stop rules failed.
    #[error(transparent)]
    Text(#[from] runtime::text::TextError),
    /// There is no target of this name.
    #[error("there is no target `{0}`; targets are `cpu` and architectures such as `gfx1151` and `sm_90`")]
    Target(String),
    /// The plan was only made, for an architecture; it runs where it is loaded on such a device.
    #[error("the plan is for `{0}`: save it and load it there")]
    Planned(String),
    /// A device cannot be opened.
    #[error("the device {device}: {reason}")]
    Device {
        /// The device.
        device: crate::Device,
        /// Why not.
        reason: String,
    },
    /// There is no model where one was expected.
    #[error("{}: {reason}", path.display())]
    NotAModel {
        /// What was given.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// There is no pass of this name.
    #[error("there is no pass `{name}`; the passes are: {known}")]
    Pass {
        /// The name given.
        name: String,
        /// The passes, in order.
        known: String,
    },
    /// f32 was asked of a model that computes in a narrower type itself.
    #[error(
        "the model computes in {found} itself, first at `{at}`, and nothing is widened to f32: leave the type out, or export the model in f32"
    )]
    Narrow {
        /// The first such ONNX node.
        at: String,
        /// Its type.
        found: &'static str,
    },
    /// `--dim` names a symbol that the model does not have.
    #[error("there is no symbol `{name}` in this model; it has: {known}")]
    Symbol {
        /// The name given.
        name: String,
        /// The model's symbols.
        known: String,
    },
    /// An input for which no random value can be made.
    #[error("no random value for the input `{name}`: {reason}")]
    NoRandomInput {
        /// The input.
        name: Arc<str>,
        /// Why not.
        reason: String,
    },
}

impl From<runtime::RunError> for Error {
    fn from(error: runtime::RunError) -> Error {
        Error::Run(Box::new(error))
    }
}

impl From<runtime::DecodeError> for Error {
    fn from(error: runtime::DecodeError) -> Error {
        Error::Decode(Box::new(error))
    }
}
