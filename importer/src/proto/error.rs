//! What can be wrong with the bytes of an ONNX file.

/// Why bytes are not a model or a value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProtoError {
    /// The bytes are something else altogether.
    #[error("this is not an ONNX {what}: {why}")]
    NotOnnx {
        /// `model`, `tensor`, `sequence` or `optional`.
        what: &'static str,
        /// What they look like.
        why: String,
    },
    /// The file ends inside a field.
    #[error("the file is truncated: `{field}` at byte {at} needs {needs} bytes, {left} are left")]
    Truncated {
        /// The field's path, such as `graph.initializer[3].raw_data`.
        field: String,
        /// Where the field starts.
        at: usize,
        /// The bytes that its contents need.
        needs: u64,
        /// The bytes that the file still has.
        left: usize,
    },
    /// A field is stored in a way that its type does not allow.
    #[error("`{field}` at byte {at} has the wrong type: {found} where {expected} belongs")]
    WrongType {
        /// The field's path.
        field: String,
        /// Where it starts.
        at: usize,
        /// How it is stored.
        found: &'static str,
        /// How it should be.
        expected: &'static str,
    },
    /// The bytes are no protobuf message.
    #[error("`{field}` at byte {at} is malformed: {why}")]
    Malformed {
        /// The path of the field, or of the message that should have had one there.
        field: String,
        /// Where it starts.
        at: usize,
        /// What is wrong.
        why: String,
    },
    /// Messages lie inside each other deeper than any model needs.
    #[error("`{field}` is nested too deeply: more than {limit} messages inside each other")]
    TooDeep {
        /// The field's path, shortened.
        field: String,
        /// The greatest depth.
        limit: usize,
    },
    /// The file has so many tiny parts that reading it would fill the memory.
    #[error("`{field}` is one part too many: the file's nodes and attributes would need more than {limit_mib} MiB")]
    TooLarge {
        /// The field at which the limit was reached.
        field: String,
        /// The limit.
        limit_mib: u64,
    },
    /// A field inside a message does not decode.
    #[error("this ONNX {what} does not decode: {why}")]
    Undecodable {
        /// `model`, `tensor`, `sequence` or `optional`.
        what: &'static str,
        /// The decoder's words, with the field's path.
        why: String,
    },
    /// Fields that contradict each other.
    #[error("{place}: {why}")]
    Invalid {
        /// The node, attribute or tensor.
        place: String,
        /// What is wrong.
        why: String,
    },
}
