//! Which fields of ONNX's messages are read, and how `skeleton` treats each: the numbers are those of `onnx.proto` and
//! `onnx-data.proto`.

/// A message that can hold tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Tensor,
    SparseTensor,
    Sequence,
    Map,
    Optional,
}

/// How a field is treated.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// Numbers, single or packed: copied.
    Number,
    /// A string or bytes: copied.
    Text,
    /// A message without tensors inside: copied.
    Leaf,
    /// A message of which there is one.
    One(Message),
    /// A message in a list.
    Each(Message),
    /// `raw_data`.
    Weights,
}

impl Message {
    /// The name under which errors show the message where it is the whole file.
    pub fn name(self) -> &'static str {
        match self {
            Message::Model => "model",
            Message::Graph => "graph",
            Message::Node => "node",
            Message::Attribute => "attribute",
            Message::Function => "function",
            Message::Tensor => "tensor",
            Message::SparseTensor => "sparse tensor",
            Message::Sequence => "sequence",
            Message::Map => "map",
            Message::Optional => "optional",
        }
    }

    /// The field with this number: its name and what to do with it; `None` for one that nobody decodes.
    pub fn field(self, number: u32) -> Option<(&'static str, Rule)> {
        use Message as M;
        use Rule::*;
        let field = match (self, number) {
            (M::Model, 1) => ("ir_version", Number),
            (M::Model, 2) => ("producer_name", Text),
            (M::Model, 3) => ("producer_version", Text),
            (M::Model, 7) => ("graph", One(M::Graph)),
            (M::Model, 8) => ("opset_import", Leaf),
            (M::Model, 14) => ("metadata_props", Leaf),
            (M::Model, 25) => ("functions", Each(M::Function)),

            (M::Graph, 1) => ("node", Each(M::Node)),
            (M::Graph, 2) => ("name", Text),
            (M::Graph, 5) => ("initializer", Each(M::Tensor)),
            (M::Graph, 11) => ("input", Leaf),
            (M::Graph, 12) => ("output", Leaf),
            (M::Graph, 13) => ("value_info", Leaf),
            (M::Graph, 15) => ("sparse_initializer", Each(M::SparseTensor)),

            (M::Node, 1) => ("input", Text),
            (M::Node, 2) => ("output", Text),
            (M::Node, 3) => ("name", Text),
            (M::Node, 4) => ("op_type", Text),
            (M::Node, 5) => ("attribute", Each(M::Attribute)),
            (M::Node, 7) => ("domain", Text),
            (M::Node, 8) => ("overload", Text),

            (M::Attribute, 1) => ("name", Text),
            (M::Attribute, 2) => ("f", Number),
            (M::Attribute, 3) => ("i", Number),
            (M::Attribute, 4) => ("s", Text),
            (M::Attribute, 5) => ("t", One(M::Tensor)),
            (M::Attribute, 6) => ("g", One(M::Graph)),
            (M::Attribute, 7) => ("floats", Number),
            (M::Attribute, 8) => ("ints", Number),
            (M::Attribute, 9) => ("strings", Text),
            (M::Attribute, 10) => ("tensors", Each(M::Tensor)),
            (M::Attribute, 11) => ("graphs", Each(M::Graph)),
            (M::Attribute, 14) => ("tp", Leaf),
            (M::Attribute, 15) => ("type_protos", Leaf),
            (M::Attribute, 20) => ("type", Number),
            (M::Attribute, 21) => ("ref_attr_name", Text),
            (M::Attribute, 22) => ("sparse_tensor", One(M::SparseTensor)),
            (M::Attribute, 23) => ("sparse_tensors", Each(M::SparseTensor)),

            (M::Function, 1) => ("name", Text),
            (M::Function, 4) => ("input", Text),
            (M::Function, 5) => ("output", Text),
            (M::Function, 6) => ("attribute", Text),
            (M::Function, 7) => ("node", Each(M::Node)),
            (M::Function, 9) => ("opset_import", Leaf),
            (M::Function, 10) => ("domain", Text),
            (M::Function, 11) => ("attribute_proto", Each(M::Attribute)),
            (M::Function, 12) => ("value_info", Leaf),
            (M::Function, 13) => ("overload", Text),

            (M::Tensor, 1) => ("dims", Number),
            (M::Tensor, 2) => ("data_type", Number),
            (M::Tensor, 3) => ("segment", Leaf),
            (M::Tensor, 4) => ("float_data", Number),
            (M::Tensor, 5) => ("int32_data", Number),
            (M::Tensor, 6) => ("string_data", Text),
            (M::Tensor, 7) => ("int64_data", Number),
            (M::Tensor, 8) => ("name", Text),
            (M::Tensor, 9) => ("raw_data", Weights),
            (M::Tensor, 10) => ("double_data", Number),
            (M::Tensor, 11) => ("uint64_data", Number),
            (M::Tensor, 13) => ("external_data", Leaf),
            (M::Tensor, 14) => ("data_location", Number),

            (M::SparseTensor, 1) => ("values", One(M::Tensor)),
            (M::SparseTensor, 2) => ("indices", One(M::Tensor)),
            (M::SparseTensor, 3) => ("dims", Number),

            (M::Sequence, 1) => ("name", Text),
            (M::Sequence, 2) => ("elem_type", Number),
            (M::Sequence, 3) => ("tensor_values", Each(M::Tensor)),
            (M::Sequence, 4) => ("sparse_tensor_values", Each(M::SparseTensor)),
            (M::Sequence, 5) => ("sequence_values", Each(M::Sequence)),
            (M::Sequence, 6) => ("map_values", Each(M::Map)),
            (M::Sequence, 7) => ("optional_values", Each(M::Optional)),

            (M::Map, 1) => ("name", Text),
            (M::Map, 2) => ("key_type", Number),
            (M::Map, 3) => ("keys", Number),
            (M::Map, 4) => ("string_keys", Text),
            (M::Map, 5) => ("values", One(M::Sequence)),

            (M::Optional, 1) => ("name", Text),
            (M::Optional, 2) => ("elem_type", Number),
            (M::Optional, 3) => ("tensor_value", One(M::Tensor)),
            (M::Optional, 4) => ("sparse_tensor_value", One(M::SparseTensor)),
            (M::Optional, 5) => ("sequence_value", One(M::Sequence)),
            (M::Optional, 6) => ("map_value", One(M::Map)),
            (M::Optional, 7) => ("optional_value", One(M::Optional)),

            (
                M::Model
                | M::Graph
                | M::Node
                | M::Attribute
                | M::Function
                | M::Tensor
                | M::SparseTensor
                | M::Sequence
                | M::Map
                | M::Optional,
                _,
            ) => return None,
        };
        Some(field)
    }
}

impl Rule {
    /// What belongs into such a field, in words.
    pub fn expects(self) -> &'static str {
        match self {
            Rule::Number => "a number",
            Rule::Text => "a string",
            Rule::Leaf | Rule::One(_) | Rule::Each(_) => "a message",
            Rule::Weights => "bytes",
        }
    }
}
