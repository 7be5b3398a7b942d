//! Reads ONNX files into graphs; the only room that knows ONNX.
