//! The CPU backend: lowering and kernels.
