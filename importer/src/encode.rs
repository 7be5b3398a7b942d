//! Writes values as .pb files, in the messages that ONNX's own tools and [`proto::decode_value`](crate::proto::decode_value)
//! read.
//!
//! ```
//! use bytes::Bytes;
//! use importer::encode::encode_tensor;
//! use importer::proto::{Tensor, TensorData, Value, ValueKind, data_type, decode_value};
//!
//! let data = TensorData::Strings(vec![b"to be".to_vec(), b"or not".to_vec()]);
//! let tensor = Tensor { name: "lines".into(), data_type: data_type::STRING, dims: vec![2], data };
//! let file = Bytes::from(encode_tensor(&tensor));
//! assert_eq!(decode_value(file, ValueKind::Tensor), Ok(Value::Tensor(tensor)));
//! ```

use prost::Message as _;

use crate::proto::pb::{self, StringStringEntryProto, tensor_proto::DataLocation};
use crate::proto::supplement as message;
use crate::proto::{External, Map, MapKeys, Optional, Sequence, SparseTensor, Tensor, TensorData, Value};

/// The tensor as a `TensorProto`.
pub fn encode_tensor(tensor: &Tensor) -> Vec<u8> {
    tensor_message(tensor).encode_to_vec()
}

/// The sequence as a `SequenceProto`.
pub fn encode_sequence(sequence: &Sequence) -> Vec<u8> {
    sequence_message(sequence).encode_to_vec()
}

/// The optional as an `OptionalProto`.
pub fn encode_optional(optional: &Optional) -> Vec<u8> {
    optional_message(optional).encode_to_vec()
}

/// Any value, as the message of its kind.
pub fn encode_value(value: &Value) -> Vec<u8> {
    match value {
        Value::Tensor(tensor) => encode_tensor(tensor),
        Value::SparseTensor(sparse) => sparse_message(sparse).encode_to_vec(),
        Value::Sequence(sequence) => encode_sequence(sequence),
        Value::Map(map) => map_message(map).encode_to_vec(),
        Value::Optional(optional) => encode_optional(optional),
    }
}

fn tensor_message(tensor: &Tensor) -> pb::TensorProto {
    let mut message = pb::TensorProto {
        name: tensor.name.clone(),
        data_type: tensor.data_type,
        dims: tensor.dims.clone(),
        ..Default::default()
    };
    match &tensor.data {
        TensorData::Raw(bytes) => message.raw_data = bytes.to_vec(),
        TensorData::Floats(data) => message.float_data = data.clone(),
        TensorData::Int32s(data) => message.int32_data = data.clone(),
        TensorData::Int64s(data) => message.int64_data = data.clone(),
        TensorData::Doubles(data) => message.double_data = data.clone(),
        TensorData::Uint64s(data) => message.uint64_data = data.clone(),
        TensorData::Strings(data) => message.string_data = data.clone(),
        TensorData::External(external) => {
            message.data_location = Some(DataLocation::External as i32);
            message.external_data = external_message(external);
        }
    }
    message
}

fn external_message(external: &External) -> Vec<StringStringEntryProto> {
    let entries = [
        ("location", Some(external.location.clone())),
        ("offset", Some(external.offset.to_string())),
        ("length", external.length.map(|length| length.to_string())),
        ("checksum", external.checksum.clone()),
    ];
    let entry =
        |(key, value): (&str, Option<String>)| Some(StringStringEntryProto { key: key.to_owned(), value: value? });
    entries.into_iter().filter_map(entry).collect()
}

fn sparse_message(sparse: &SparseTensor) -> pb::SparseTensorProto {
    pb::SparseTensorProto {
        values: Some(tensor_message(&sparse.values)),
        indices: Some(tensor_message(&sparse.indices)),
        dims: sparse.dims.clone(),
    }
}

fn sequence_message(sequence: &Sequence) -> message::Sequence {
    let mut message =
        message::Sequence { name: sequence.name.clone(), elem_type: sequence.element as i32, ..Default::default() };
    for item in &sequence.items {
        match item {
            Value::Tensor(tensor) => message.tensor_values.push(tensor_message(tensor)),
            Value::SparseTensor(sparse) => message.sparse_tensor_values.push(sparse_message(sparse)),
            Value::Sequence(sequence) => message.sequence_values.push(sequence_message(sequence)),
            Value::Map(map) => message.map_values.push(map_message(map)),
            Value::Optional(optional) => message.optional_values.push(optional_message(optional)),
        }
    }
    message
}

fn map_message(map: &Map) -> message::Map {
    let (keys, string_keys) = match &map.keys {
        MapKeys::Ints(keys) => (keys.clone(), Vec::new()),
        MapKeys::Strings(keys) => (Vec::new(), keys.clone()),
    };
    let values = Some(sequence_message(&map.values));
    message::Map { name: map.name.clone(), key_type: map.key_type, keys, string_keys, values }
}

fn optional_message(optional: &Optional) -> message::Optional {
    let mut message =
        message::Optional { name: optional.name.clone(), elem_type: optional.element as i32, ..Default::default() };
    match optional.value.as_deref() {
        None => {}
        Some(Value::Tensor(tensor)) => message.tensor_value = Some(tensor_message(tensor)),
        Some(Value::SparseTensor(sparse)) => message.sparse_tensor_value = Some(sparse_message(sparse)),
        Some(Value::Sequence(sequence)) => message.sequence_value = Some(sequence_message(sequence)),
        Some(Value::Map(map)) => message.map_value = Some(map_message(map)),
        Some(Value::Optional(inner)) => message.optional_value = Some(Box::new(optional_message(inner))),
    }
    message
}
