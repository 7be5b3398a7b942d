//! An ONNX model as plain structures: everything of the file that changes what the model computes, nothing of how it was
//! stored. Doc strings, training information and device hints are dropped.

use bytes::Bytes;

/// A whole model file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// The version of the file format; 0 where the file does not say.
    pub ir_version: i64,
    /// The operator sets the graph is written against: (domain, version), `""` is ONNX's own domain.
    pub opset_imports: Vec<(String, i64)>,
    /// The main graph.
    pub graph: Graph,
    /// Operators that the file defines itself.
    pub functions: Vec<Function>,
    /// Free key-value pairs, in file order.
    pub metadata: Vec<(String, String)>,
    /// The tool that wrote the file.
    pub producer: Producer,
}

/// The tool that wrote a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Producer {
    /// Such as `pytorch`.
    pub name: String,
    /// Such as `2.8.0`.
    pub version: String,
}

/// A graph: the main one, or the body of an `If`, `Loop`, `Scan` or `SequenceMap`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// The graph's name; may be empty.
    pub name: String,
    /// Nodes in file order, which ONNX asks to be a topological order (not checked here).
    pub nodes: Vec<Node>,
    /// Constants by name. One that has the name of an input is that input's default.
    pub initializers: Vec<Tensor>,
    /// Constants in coordinate form, named by their `values`.
    pub sparse_initializers: Vec<SparseTensor>,
    /// Inputs in order.
    pub inputs: Vec<ValueInfo>,
    /// Outputs in order.
    pub outputs: Vec<ValueInfo>,
    /// What the exporter noted about values inside the graph.
    pub value_infos: Vec<ValueInfo>,
}

/// A node: one application of an operator or function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// The node's name; may be empty, and need not be unique.
    pub name: String,
    /// The operator, such as `MatMul`.
    pub op_type: String,
    /// The operator's domain, as written: `""` and `ai.onnx` mean the same.
    pub domain: String,
    /// Which of several functions of one name is meant; mostly empty.
    pub overload: String,
    /// Names of the operands; `""` is an optional operand left out.
    pub inputs: Vec<String>,
    /// Names of the results; `""` is a result that nobody wants.
    pub outputs: Vec<String>,
    /// Attributes in file order.
    pub attributes: Vec<Attribute>,
}

/// An attribute of a node, or a function's default for one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attribute {
    /// The attribute's name, such as `axis`.
    pub name: String,
    /// Inside a function: the attribute of the calling node that gives the value. Empty otherwise.
    pub ref_attr_name: String,
    /// The value; `None` where `ref_attr_name` gives it.
    pub value: AttrValue,
}

/// The value of an attribute.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AttrValue {
    /// No value in the file.
    #[default]
    None,
    /// One float.
    Float(f32),
    /// One integer.
    Int(i64),
    /// A string: bytes, mostly UTF-8.
    String(Vec<u8>),
    /// A tensor.
    Tensor(Box<Tensor>),
    /// A subgraph.
    Graph(Box<Graph>),
    /// A sparse tensor.
    SparseTensor(Box<SparseTensor>),
    /// A type.
    Type(Type),
    /// Floats.
    Floats(Vec<f32>),
    /// Integers.
    Ints(Vec<i64>),
    /// Strings.
    Strings(Vec<Vec<u8>>),
    /// Tensors.
    Tensors(Vec<Tensor>),
    /// Subgraphs.
    Graphs(Vec<Graph>),
    /// Sparse tensors.
    SparseTensors(Vec<SparseTensor>),
    /// Types.
    Types(Vec<Type>),
}

/// A tensor as the file stores it; whether `data` has as many elements as `dims` asks for is not checked here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    /// The tensor's name; may be empty.
    pub name: String,
    /// The element type, by ONNX's number (see [`data_type`](super::data_type)); may be one that is not known.
    pub data_type: i32,
    /// Sizes, outermost first; empty for a scalar.
    pub dims: Vec<i64>,
    /// The elements, row-major.
    pub data: TensorData,
}

/// The elements of a tensor, in the field the file has them in.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// Little-endian bytes, 2- and 4-bit types packed with the first element in the low bits. A slice of the file, not a copy.
    /// Starts at any address, aligned or not. Also a tensor without any data (empty).
    Raw(Bytes),
    /// f32; complex64 as pairs.
    Floats(Vec<f32>),
    /// i32, i16, i8, u16, u8, bool; 16- and 8-bit floats as bit patterns; 4-bit types two, 2-bit types four to an entry.
    Int32s(Vec<i32>),
    /// i64.
    Int64s(Vec<i64>),
    /// f64; complex128 as pairs.
    Doubles(Vec<f64>),
    /// u32 and u64.
    Uint64s(Vec<u64>),
    /// Strings: bytes, mostly UTF-8.
    Strings(Vec<Vec<u8>>),
    /// Little-endian bytes in another file (see [`external`](crate::external)).
    External(External),
}

impl Default for TensorData {
    fn default() -> TensorData {
        TensorData::Raw(Bytes::new())
    }
}

/// Where a tensor's bytes lie outside the model file; nothing of it is checked here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct External {
    /// A path relative to the model's folder.
    pub location: String,
    /// The first byte.
    pub offset: u64,
    /// The number of bytes; to the end of the file where absent.
    pub length: Option<u64>,
    /// The file's SHA-1 in hexadecimal, where given.
    pub checksum: Option<String>,
}

/// A tensor in coordinate form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SparseTensor {
    /// The values that are not the default, one-dimensional; its name is the sparse tensor's name.
    pub values: Tensor,
    /// Their places: linear indices `[n]`, or coordinates `[n, rank]`.
    pub indices: Tensor,
    /// The sizes of the dense tensor.
    pub dims: Vec<i64>,
}

/// The name and type of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValueInfo {
    /// The value's name.
    pub name: String,
    /// Its type.
    pub r#type: Type,
}

/// The type of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Type {
    /// The file does not say.
    #[default]
    Unset,
    /// A tensor of element type `elem`; `shape` is `None` where even the rank is unknown.
    Tensor {
        /// ONNX's number of the element type; 0 where unknown.
        elem: i32,
        /// Dimensions, outermost first.
        shape: Option<Vec<DimParam>>,
    },
    /// A sequence of one type.
    Sequence(Box<Type>),
    /// A value that may be absent.
    Optional(Box<Type>),
    /// A map.
    Map {
        /// ONNX's number of the key type: an integer type or string.
        key: i32,
        /// The type of the values.
        value: Box<Type>,
    },
    /// A tensor in coordinate form.
    SparseTensor {
        /// ONNX's number of the element type.
        elem: i32,
        /// Dimensions, outermost first.
        shape: Option<Vec<DimParam>>,
    },
    /// A type that only its domain's operators understand.
    Opaque {
        /// The domain.
        domain: String,
        /// The name within it.
        name: String,
    },
}

/// One dimension of a declared shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum DimParam {
    /// A size.
    Value(i64),
    /// A named size. Names are as the exporter wrote them: `batch`, but also expressions such as `s28 + s70`.
    Param(String),
    /// Neither; also a negative size and an empty name, which some exporters write for it.
    #[default]
    Unknown,
}

/// An operator that the file defines itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Function {
    /// The operator's name.
    pub name: String,
    /// The operator's domain.
    pub domain: String,
    /// Tells several functions of one name and domain apart; mostly empty.
    pub overload: String,
    /// Names of the operands inside the body.
    pub inputs: Vec<String>,
    /// Names of the results inside the body.
    pub outputs: Vec<String>,
    /// Names of the attributes that have no default.
    pub attributes: Vec<String>,
    /// The attributes that have one, with it.
    pub attribute_defaults: Vec<Attribute>,
    /// The body.
    pub nodes: Vec<Node>,
    /// The operator sets the body is written against: (domain, version).
    pub opset_imports: Vec<(String, i64)>,
    /// What the exporter noted about values inside the body.
    pub value_infos: Vec<ValueInfo>,
}
