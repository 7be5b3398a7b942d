//! The CPU backend: lowering and kernels.

pub mod kernels;
