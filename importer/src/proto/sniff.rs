//! Says what a file that is not ONNX probably is, because "malformed at byte 0" helps nobody.

/// What these bytes look like, if they are something well known that is not a protobuf message.
pub(super) fn sniff(file: &[u8]) -> Option<&'static str> {
    const KNOWN: [(usize, &[u8], &str); 12] = [
        (0, b"version https://git-lfs", "it is a Git LFS pointer; run `git lfs pull` to fetch the model itself"),
        (0, b"PK\x03\x04", "it is a zip archive, such as PyTorch writes; export the model to ONNX"),
        (0, b"\x89HDF", "it is an HDF5 file, such as Keras writes; export the model to ONNX"),
        (0, b"GGUF", "it is a GGUF file"),
        (0, b"\x1f\x8b", "it is compressed with gzip; unpack it first"),
        (0, b"\x28\xb5\x2f\xfd", "it is compressed with zstd; unpack it first"),
        (0, b"\x80\x02", "it is a Python pickle"),
        (0, b"\x93NUMPY", "it is a NumPy array"),
        (0, b"<", "it is an HTML or XML page, perhaps a failed download"),
        (4, b"ORTM", "it is an ORT-format model; convert the .onnx file it was made from"),
        (4, b"TFL3", "it is a TensorFlow Lite model"),
        (8, b"{\"", "it is a safetensors file"),
    ];
    if file.is_empty() {
        return Some("the file is empty");
    }
    let known = KNOWN.iter().find(|(at, magic, _)| file.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    known.map(|(_, _, what)| *what)
}
