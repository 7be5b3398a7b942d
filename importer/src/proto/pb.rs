//! The protobuf messages of ONNX as the `tract-onnx` crate has them, and the only file that names it. What they lack is in
//! `supplement`.

pub(crate) use tract_onnx::pb::*;
