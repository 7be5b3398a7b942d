//! What goes wrong with a device.

/// Why a call of a driver or a compiler failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The driver's library, or the device, is not there.
    #[error("{0}")]
    Missing(String),
    /// A call gave a status that is not success.
    #[error("{call} failed: {text} ({code})")]
    Call {
        /// The function.
        call: &'static str,
        /// Its status.
        code: i32,
        /// What the driver says about it.
        text: String,
    },
    /// No compiler for kernels, or it rejected them.
    #[error("kernels cannot be compiled: {0}")]
    Compile(String),
}
