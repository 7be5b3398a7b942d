//! FastInference: compile ONNX models to plans and run them.

pub mod cases;
