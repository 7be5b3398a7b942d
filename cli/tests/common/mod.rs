//! Small ONNX models and test data, written byte by byte, and the built program.

#![allow(dead_code, reason = "every test file uses some of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs the program; its cache lies in the folder `cache` of the current test.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastinference"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env("FASTINFERENCE_CACHE", folder.join("cache"));
    command.output().unwrap()
}

/// Standard output of a run that must succeed.
pub fn good(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{out}\n{err}");
    out
}

/// Standard error of a run that must end with this exit code, and without a panic.
pub fn bad(folder: &Path, code: i32, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
    assert!(!err.contains("panicked"), "{err}");
    err
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Everything in a folder, hidden files too.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// A field that holds a number.
pub fn number(field: u64, n: u64) -> Vec<u8> {
    [varint(field << 3), varint(n)].concat()
}

/// A field that holds bytes, text or a message.
pub fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// A TensorProto of floats.
pub fn floats(name: &str, dims: &[u64], values: &[f32]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|d| number(1, *d)).collect();
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    [dims, number(2, 1), bytes(8, name), bytes(9, data)].concat()
}

/// A ValueInfoProto of floats; dimensions are numbers or names.
pub fn float_port(name: &str, dims: &[&str]) -> Vec<u8> {
    let dim = |d: &&str| match d.parse::<u64>() {
        Ok(n) => bytes(1, number(1, n)),
        Err(_) => bytes(1, bytes(2, d)),
    };
    let shape: Vec<u8> = dims.iter().flat_map(dim).collect();
    let tensor = [number(1, 1), bytes(2, shape)].concat();
    [bytes(1, name), bytes(2, bytes(1, tensor))].concat()
}

/// A NodeProto without attributes.
pub fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|i| bytes(1, i)).collect();
    let outputs: Vec<u8> = outputs.iter().flat_map(|o| bytes(2, o)).collect();
    [inputs, outputs, bytes(3, name), bytes(4, op)].concat()
}

/// A ModelProto of ONNX 17.
pub fn model(nodes: &[Vec<u8>], weights: &[Vec<u8>], inputs: &[Vec<u8>], outputs: &[Vec<u8>]) -> Vec<u8> {
    let many = |field: u64, list: &[Vec<u8>]| -> Vec<u8> { list.iter().flat_map(|m| bytes(field, m)).collect() };
    let graph = [many(1, nodes), bytes(2, "tiny"), many(5, weights), many(11, inputs), many(12, outputs)].concat();
    let opset = [bytes(1, ""), number(2, 17)].concat();
    [number(1, 8), bytes(7, graph), bytes(8, opset)].concat()
}

/// `y = relu(x @ w) + b` with x: f32[batch, 2] and w = [[1, 2, 3], [4, 5, 6]], b = [10, 20, 30].
pub fn tiny() -> Vec<u8> {
    model(
        &[
            node("MatMul", "first", &["x", "w"], &["h"]),
            node("Relu", "second", &["h"], &["r"]),
            node("Add", "third", &["r", "b"], &["y"]),
        ],
        &[floats("w", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), floats("b", &[3], &[10.0, 20.0, 30.0])],
        &[float_port("x", &["batch", "2"])],
        &[float_port("y", &["batch", "3"])],
    )
}

/// A folder with tiny.onnx.
pub fn folder_with_tiny() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.onnx");
    fs::write(&path, tiny()).unwrap();
    (folder, path)
}

/// A .npy file of floats.
pub fn npy(dims: &str, values: &[f32]) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {dims}, }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    file
}

/// A conformance case: the tiny model, an input and what is expected of it.
pub fn case(folder: &Path, name: &str, expected: &[f32]) {
    let set = folder.join(name).join("test_data_set_0");
    fs::create_dir_all(&set).unwrap();
    fs::write(folder.join(name).join("model.onnx"), tiny()).unwrap();
    fs::write(set.join("input_0.pb"), floats("x", &[1, 2], &[1.0, 1.0])).unwrap();
    fs::write(set.join("output_0.pb"), floats("y", &[1, 3], expected)).unwrap();
}
