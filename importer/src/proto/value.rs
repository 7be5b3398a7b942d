//! Values saved as .pb files: ONNX's test data, and what `run` reads and writes for strings and sequences.

use bytes::Bytes;

use super::convert::{self, Join, decode as decode_message};
use super::error::ProtoError;
use super::model::{SparseTensor, Tensor};
use super::schema::Message;
use super::supplement as rest;

/// Which message a file holds. The file itself does not say; the type of the graph's input or output does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// `TensorProto`.
    Tensor,
    /// `SparseTensorProto`.
    SparseTensor,
    /// `SequenceProto`.
    Sequence,
    /// `MapProto`.
    Map,
    /// `OptionalProto`.
    Optional,
}

/// A value of any ONNX type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A tensor in coordinate form.
    SparseTensor(SparseTensor),
    /// A sequence.
    Sequence(Sequence),
    /// A map.
    Map(Map),
    /// A value that may be absent.
    Optional(Optional),
}

/// What a sequence or optional holds, by ONNX's numbers (`SequenceProto.DataType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Element {
    /// Not said: an empty sequence or optional.
    #[default]
    Undefined = 0,
    /// Tensors.
    Tensor = 1,
    /// Sparse tensors.
    SparseTensor = 2,
    /// Sequences.
    Sequence = 3,
    /// Maps.
    Map = 4,
    /// Optionals.
    Optional = 5,
}

/// A sequence of values of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    /// The value's name; may be empty.
    pub name: String,
    /// The kind of every item.
    pub element: Element,
    /// The items.
    pub items: Vec<Value>,
}

/// A value or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Optional {
    /// The value's name; may be empty.
    pub name: String,
    /// The kind of the value.
    pub element: Element,
    /// The value.
    pub value: Option<Box<Value>>,
}

/// A map from integers or strings to values of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// The value's name; may be empty.
    pub name: String,
    /// ONNX's number of the key type: an integer type or string.
    pub key_type: i32,
    /// The keys.
    pub keys: MapKeys,
    /// As many values, in the order of the keys.
    pub values: Sequence,
}

/// The keys of a map.
#[derive(Clone, Debug, PartialEq)]
pub enum MapKeys {
    /// Integer keys.
    Ints(Vec<i64>),
    /// String keys: bytes, mostly UTF-8.
    Strings(Vec<Vec<u8>>),
}

pub(super) fn decode(file: Bytes, kind: ValueKind) -> Result<Value, ProtoError> {
    let message = match kind {
        ValueKind::Tensor => Message::Tensor,
        ValueKind::SparseTensor => Message::SparseTensor,
        ValueKind::Sequence => Message::Sequence,
        ValueKind::Map => Message::Map,
        ValueKind::Optional => Message::Optional,
    };
    let what = message.name();
    let skeleton = convert::skeleton(file, message)?;
    let join = Join { skeleton: &skeleton };
    match kind {
        ValueKind::Tensor => join.tensor(decode_message(&skeleton.bytes, what)?).map(Value::Tensor),
        ValueKind::SparseTensor => join.sparse_tensor(decode_message(&skeleton.bytes, what)?).map(Value::SparseTensor),
        ValueKind::Sequence => join.sequence(decode_message(&skeleton.bytes, what)?).map(Value::Sequence),
        ValueKind::Map => join.map(decode_message(&skeleton.bytes, what)?).map(Value::Map),
        ValueKind::Optional => join.optional(decode_message(&skeleton.bytes, what)?).map(Value::Optional),
    }
}

impl Join<'_> {
    fn sequence(&self, decoded: rest::Sequence) -> Result<Sequence, ProtoError> {
        let place = || format!("sequence `{}`", decoded.name);
        let element = element(decoded.elem_type, place)?;
        let lists = [
            (Element::Tensor, decoded.tensor_values.len()),
            (Element::SparseTensor, decoded.sparse_tensor_values.len()),
            (Element::Sequence, decoded.sequence_values.len()),
            (Element::Map, decoded.map_values.len()),
            (Element::Optional, decoded.optional_values.len()),
        ];
        let element = held(element, lists.map(|(kind, len)| (kind, len > 0)), place)?;
        let items: Result<Vec<Value>, ProtoError> = match element {
            Element::Undefined => Ok(Vec::new()),
            Element::Tensor => collect(decoded.tensor_values, |tensor| self.tensor(tensor).map(Value::Tensor)),
            Element::SparseTensor => {
                collect(decoded.sparse_tensor_values, |sparse| self.sparse_tensor(sparse).map(Value::SparseTensor))
            }
            Element::Sequence => collect(decoded.sequence_values, |items| self.sequence(items).map(Value::Sequence)),
            Element::Map => collect(decoded.map_values, |map| self.map(map).map(Value::Map)),
            Element::Optional => collect(decoded.optional_values, |value| self.optional(value).map(Value::Optional)),
        };
        Ok(Sequence { items: items?, name: decoded.name, element })
    }

    fn optional(&self, decoded: rest::Optional) -> Result<Optional, ProtoError> {
        let place = || format!("optional `{}`", decoded.name);
        let element = element(decoded.elem_type, place)?;
        let fields = [
            (Element::Tensor, decoded.tensor_value.is_some()),
            (Element::SparseTensor, decoded.sparse_tensor_value.is_some()),
            (Element::Sequence, decoded.sequence_value.is_some()),
            (Element::Map, decoded.map_value.is_some()),
            (Element::Optional, decoded.optional_value.is_some()),
        ];
        let element = held(element, fields, place)?;
        let value = match element {
            Element::Undefined => None,
            Element::Tensor => decoded.tensor_value.map(|tensor| self.tensor(tensor).map(Value::Tensor)),
            Element::SparseTensor => {
                decoded.sparse_tensor_value.map(|sparse| self.sparse_tensor(sparse).map(Value::SparseTensor))
            }
            Element::Sequence => decoded.sequence_value.map(|items| self.sequence(items).map(Value::Sequence)),
            Element::Map => decoded.map_value.map(|map| self.map(map).map(Value::Map)),
            Element::Optional => decoded.optional_value.map(|inner| self.optional(*inner).map(Value::Optional)),
        };
        Ok(Optional { value: value.transpose()?.map(Box::new), name: decoded.name, element })
    }

    fn map(&self, decoded: rest::Map) -> Result<Map, ProtoError> {
        let invalid = |why: &str| ProtoError::Invalid { place: format!("map `{}`", decoded.name), why: why.to_owned() };
        let values = self.sequence(decoded.values.unwrap_or_default())?;
        if !decoded.keys.is_empty() && !decoded.string_keys.is_empty() {
            return Err(invalid("it has integer keys and string keys"));
        }
        if decoded.keys.len() + decoded.string_keys.len() != values.items.len() {
            return Err(invalid("it does not have as many keys as values"));
        }
        let keys = match decoded.key_type == super::data_type::STRING || !decoded.string_keys.is_empty() {
            true if !decoded.keys.is_empty() => {
                return Err(invalid("its keys are declared strings, but are integers"));
            }
            true => MapKeys::Strings(decoded.string_keys),
            false => MapKeys::Ints(decoded.keys),
        };
        Ok(Map { name: decoded.name, key_type: decoded.key_type, keys, values })
    }
}

fn collect<M>(list: Vec<M>, value: impl Fn(M) -> Result<Value, ProtoError>) -> Result<Vec<Value>, ProtoError> {
    list.into_iter().map(value).collect()
}

fn element(number: i32, place: impl Fn() -> String) -> Result<Element, ProtoError> {
    Ok(match number {
        0 => Element::Undefined,
        1 => Element::Tensor,
        2 => Element::SparseTensor,
        3 => Element::Sequence,
        4 => Element::Map,
        5 => Element::Optional,
        _ => {
            let why = format!("element kind {number} is not one of ONNX's");
            return Err(ProtoError::Invalid { place: place(), why });
        }
    })
}

/// The kind that is really there: the declared one, or where none is declared that of the field in use.
fn held(declared: Element, fields: [(Element, bool); 5], place: impl Fn() -> String) -> Result<Element, ProtoError> {
    let mut used = fields.into_iter().filter(|(_, used)| *used).map(|(kind, _)| kind);
    match (used.next(), used.next()) {
        (None, _) => Ok(declared),
        (Some(kind), None) if declared == kind || declared == Element::Undefined => Ok(kind),
        (Some(_), _) => {
            let why = "it holds values of another kind than it declares".to_owned();
            Err(ProtoError::Invalid { place: place(), why })
        }
    }
}
