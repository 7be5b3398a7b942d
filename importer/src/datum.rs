//! Values of .pb files as the values that graphs compute with, and back.

use bytes::Bytes;
use ir::dtype::DType;
use ir::tensor::{Datum, Tensor};

use crate::proto::{self, Element, Map, MapKeys, Optional, Sequence, TensorData, Value, data_type};
use crate::tensor::{dense, onnx_type, tensor};

/// The value to compute with.
pub fn datum(value: &Value) -> Result<Datum, String> {
    Ok(match value {
        Value::Tensor(t) => tensor(t, None)?.into(),
        Value::SparseTensor(t) => dense(t, None)?.into(),
        Value::Sequence(s) => Datum::Sequence(s.items.iter().map(datum).collect::<Result<_, _>>()?),
        Value::Optional(o) => match &o.value {
            Some(v) => Datum::Optional(Some(Box::new(datum(v)?))),
            None => Datum::Optional(None),
        },
        Value::Map(m) => {
            let keys: Vec<Tensor> = match &m.keys {
                MapKeys::Ints(keys) => keys.iter().map(|k| Tensor::scalar(*k)).collect(),
                MapKeys::Strings(keys) => keys.iter().map(|k| text_key(k)).collect::<Result<_, _>>()?,
            };
            let values = m.values.items.iter().map(datum).collect::<Result<Vec<_>, _>>()?;
            Datum::Map(keys.into_iter().zip(values).collect())
        }
    })
}

fn text_key(key: &[u8]) -> Result<Tensor, String> {
    let text = String::from_utf8(key.to_vec()).map_err(|_| "a map's key is not UTF-8")?;
    Tensor::from_strings(&[], vec![text]).map_err(|e| e.to_string())
}

/// The value to save, under a name.
pub fn value(name: &str, datum: &Datum) -> Value {
    let name = name.to_string();
    match datum {
        Datum::Tensor(t) => Value::Tensor(proto_tensor(name, t)),
        Datum::Sequence(items) => Value::Sequence(sequence(name, items.iter())),
        Datum::Optional(v) => {
            let inner = v.as_ref().map(|v| Box::new(value("", v)));
            let element = inner.as_deref().map_or(Element::Undefined, element);
            Value::Optional(Optional { name, element, value: inner })
        }
        Datum::Absent => Value::Optional(Optional { name, element: Element::Undefined, value: None }),
        Datum::Map(pairs) => {
            let values = sequence(String::new(), pairs.iter().map(|(_, v)| v));
            let texts: Vec<Vec<u8>> =
                pairs.iter().flat_map(|(k, _)| k.strings().ok()).flatten().map(|s| s.clone().into_bytes()).collect();
            let (key_type, keys) = match texts.is_empty() {
                true => {
                    let ints = pairs.iter().filter_map(|(k, _)| k.to_i64().ok()?.first().copied());
                    (data_type::INT64, MapKeys::Ints(ints.collect()))
                }
                false => (data_type::STRING, MapKeys::Strings(texts)),
            };
            Value::Map(Map { name, key_type, keys, values })
        }
    }
}

fn sequence<'a>(name: String, items: impl Iterator<Item = &'a Datum>) -> Sequence {
    let items: Vec<Value> = items.map(|d| value("", d)).collect();
    Sequence { name, element: items.first().map_or(Element::Undefined, element), items }
}

fn element(value: &Value) -> Element {
    match value {
        Value::Tensor(_) => Element::Tensor,
        Value::SparseTensor(_) => Element::SparseTensor,
        Value::Sequence(_) => Element::Sequence,
        Value::Map(_) => Element::Map,
        Value::Optional(_) => Element::Optional,
    }
}

fn proto_tensor(name: String, t: &Tensor) -> proto::Tensor {
    let data = match t.dtype() {
        DType::Str => {
            let texts = t.strings().expect("a tensor of text");
            TensorData::Strings(texts.iter().map(|s| s.clone().into_bytes()).collect())
        }
        _ => TensorData::Raw(Bytes::copy_from_slice(t.bytes())),
    };
    proto::Tensor { name, data_type: onnx_type(t.dtype()), dims: t.dims().iter().map(|d| *d as i64).collect(), data }
}
