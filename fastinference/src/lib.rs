//! FastInference: compile ONNX models to plans and run them.
//!
//! ```no_run
//! # fn main() -> Result<(), fastinference::Error> {
//! use fastinference::{CompileOptions, Model, RandomInputs};
//! let model = Model::open("model.onnx".as_ref(), &CompileOptions::default())?;
//! let mut session = model.session(0);
//! let inputs = model.random_inputs(&RandomInputs::default())?;
//! let outputs = session.run(&inputs)?;
//! # Ok(()) }
//! ```
//!
//! [`compile`] makes a [`Compiled`] model, which is saved as a plan or run at once; [`Model`] is a plan ready to run;
//! [`generate::Generator`] writes text with a language model, [`batch::BatchGenerator`] for many prompts at a time.

pub mod batch;
mod carry;
pub mod cases;
mod compile;
mod compute;
mod device;
mod error;
pub mod generate;
mod model;
mod random;
pub mod supervise;

pub use backend_hip::{CodeEvent, CodeWatch, Fault, Faults, HOST_KERNEL, StepWatch, why_on_host};
pub use batch::{BatchGenerator, BatchOptions};
pub use carry::Carried;
pub use compile::{CompileOptions, Compiled, Progress, Report, compile, model_file};
pub use compute::Compute;
pub use device::{Device, DeviceOptions, examine_devices, hip_version, is_processor};
pub use error::Error;
pub use generate::{GenerateOptions, Generated, Generator, TextFiles};
pub use importer;
pub use ir::{self, DType, Datum, Tensor, TensorType, ValueType};
pub use model::Model;
pub use plan::{self, CheckedPlan, CodeInfo, Pacing, Plan, Port};
pub use random::RandomInputs;
pub use runtime::slots::{Batch, Part, SlotOptions, Slots, StepError, StepModel};
pub use runtime::text;
pub use runtime::{Decoder, Loaded, RunError, Session, StepKernel, StepTime};
pub use supervise::Supervise;
