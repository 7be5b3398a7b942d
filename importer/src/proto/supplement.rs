//! The ONNX messages' fields that `pb` lacks, each under its number in ONNX's own `onnx.proto` (and `onnx-data.proto`).
//!
//! The same bytes are decoded into `pb` and into these; protobuf skips the fields that a message does not name, so that
//! each side holds only what it is for. Nodes, inputs and attributes come in the same order on both sides. `Type` is whole,
//! because the types inside a sequence, an optional or a map are types again.

use bytes::Bytes;

use super::pb;

/// The rest of `ModelProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Model {
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<Function>,
}

/// The rest of `GraphProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfo>,
}

/// The rest of `NodeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Node {
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
    #[prost(string, tag = "8")]
    pub overload: String,
}

/// The rest of `AttributeProto`: its types, its subgraphs' rest, and whether `f`, `i` and `s` are present (the oldest files
/// do not say which kind of attribute they hold).
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Attribute {
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub s: Option<Bytes>,
    #[prost(message, optional, tag = "6")]
    pub g: Option<Graph>,
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<Graph>,
    #[prost(message, optional, tag = "14")]
    pub tp: Option<Type>,
    #[prost(message, repeated, tag = "15")]
    pub type_protos: Vec<Type>,
}

/// The rest of `FunctionProto`. An attribute default is left as bytes, to be decoded on both sides.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Function {
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<Node>,
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub attribute_proto: Vec<Bytes>,
    #[prost(message, repeated, tag = "12")]
    pub value_info: Vec<ValueInfo>,
    #[prost(string, tag = "13")]
    pub overload: String,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

/// `TypeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Type {
    #[prost(oneof = "TypeValue", tags = "1, 4, 5, 7, 8, 9")]
    pub value: Option<TypeValue>,
}

/// `TypeProto.value`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum TypeValue {
    #[prost(message, tag = "1")]
    Tensor(pb::type_proto::Tensor),
    #[prost(message, tag = "4")]
    Sequence(Box<Element>),
    #[prost(message, tag = "5")]
    Map(Box<MapType>),
    #[prost(message, tag = "7")]
    Opaque(OpaqueType),
    #[prost(message, tag = "8")]
    SparseTensor(pb::type_proto::Tensor),
    #[prost(message, tag = "9")]
    Optional(Box<Element>),
}

/// `TypeProto.Sequence` and `TypeProto.Optional`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Element {
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<Type>>,
}

/// `TypeProto.Map`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MapType {
    #[prost(int32, tag = "1")]
    pub key_type: i32,
    #[prost(message, optional, boxed, tag = "2")]
    pub value_type: Option<Box<Type>>,
}

/// `TypeProto.Opaque`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OpaqueType {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(string, tag = "2")]
    pub name: String,
}

/// `SequenceProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Sequence {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int32, tag = "2")]
    pub elem_type: i32,
    #[prost(message, repeated, tag = "3")]
    pub tensor_values: Vec<pb::TensorProto>,
    #[prost(message, repeated, tag = "4")]
    pub sparse_tensor_values: Vec<pb::SparseTensorProto>,
    #[prost(message, repeated, tag = "5")]
    pub sequence_values: Vec<Sequence>,
    #[prost(message, repeated, tag = "6")]
    pub map_values: Vec<Map>,
    #[prost(message, repeated, tag = "7")]
    pub optional_values: Vec<Optional>,
}

/// `MapProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Map {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int32, tag = "2")]
    pub key_type: i32,
    #[prost(int64, repeated, packed = "false", tag = "3")]
    pub keys: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub string_keys: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "5")]
    pub values: Option<Sequence>,
}

/// `OptionalProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Optional {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int32, tag = "2")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "3")]
    pub tensor_value: Option<pb::TensorProto>,
    #[prost(message, optional, tag = "4")]
    pub sparse_tensor_value: Option<pb::SparseTensorProto>,
    #[prost(message, optional, tag = "5")]
    pub sequence_value: Option<Sequence>,
    #[prost(message, optional, tag = "6")]
    pub map_value: Option<Map>,
    #[prost(message, optional, boxed, tag = "7")]
    pub optional_value: Option<Box<Optional>>,
}
