//! Reads ONNX files into graphs; the only room that knows ONNX.

pub mod encode;
pub mod external;
pub mod proto;
