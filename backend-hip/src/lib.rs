//! The HIP backend: plans for AMD GPUs (and, through the same table of driver functions, NVIDIA's and a simulator), and
//! sessions that run them.
//!
//! [`Planner`] plans for an architecture and needs no device: a node runs on the device where [`lower`](self) has a kernel for
//! it, else on the host within the same plan, with copies and syncs that the planner places and the checker proves.
//! [`Hip`] loads such plans on an open [`Device`]: code objects come from the plan, or are compiled once and kept on disk, weights are brought to
//! the device through pinned memory, and each kernel is called only where its declared extents fit.

mod binding;
mod code;
mod compiler;
mod device;
mod frame;
mod loaded;
mod lower;
mod pace;
mod program;
mod session;
mod step;
mod target;
mod tuning;
mod working;

pub use code::{CodeEvent, CodeStore, CodeWatch, StepWatch};
pub use compiler::Compiler;
pub use device::{Device, DeviceError, DriverCall, Fault, Faults, Mishap, Platform, Touched};
pub use loaded::{Hip, examine, kernel_files};
pub use target::{HOST_KERNEL, Planner, why_on_host};
