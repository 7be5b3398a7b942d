//! Kernels: pure functions on slices and small dimension arrays; they know nothing of the IR.

pub mod attention;
pub mod cached_attention;
pub mod concat;
pub mod conv;
pub mod dims;
pub mod element;
pub mod elementwise;
pub mod gather;
pub mod gemm;
pub mod int4;
pub mod int8;
pub mod lanes;
pub mod lstm;
pub mod math;
pub mod norm;
pub mod pack;
pub mod pool;
pub mod pool2d;
pub mod quantize;
pub mod reduce;
pub mod resize;
pub mod route;
pub mod softmax;
pub mod topk;
pub mod transpose;
pub mod vectorise;
