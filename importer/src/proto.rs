//! Reads the bytes of an .onnx file into plain structures ([`Model`]), and those of .pb test data into a [`Value`].
//!
//! This is where the file format ends: nothing behind it knows protobuf. Weights are slices of the bytes given, so a
//! memory-mapped model is read without copying them:
//!
//! ```
//! use bytes::Bytes;
//! use importer::proto;
//!
//! let error = proto::decode_model(Bytes::from_static(b"hello")).unwrap_err();
//! assert!(error.to_string().starts_with("this is not an ONNX model: "));
//! ```
//!
//! Decoding has three steps: `skeleton` takes the weights out and checks the wire format; `pb` and `supplement`, whose
//! messages complete each other, decode what is left; `convert` and `value` join the two.

mod convert;
pub mod data_type;
mod error;
mod model;
pub(crate) mod pb;
mod schema;
mod skeleton;
mod sniff;
pub(crate) mod supplement;
mod value;

#[cfg(test)]
mod tests;

use std::path::Path;

use bytes::Bytes;
use ir::mmap::Mapped;

pub use error::ProtoError;
pub use model::{
    AttrValue, Attribute, DimParam, External, Function, Graph, Model, Node, Producer, SparseTensor, Tensor, TensorData,
    Type, ValueInfo,
};
pub use value::{Element, Map, MapKeys, Optional, Sequence, Value, ValueKind};

/// Reads a model; its weights are slices of `file`.
///
/// Fails where the bytes are not a model, are cut off, or contradict themselves. What the model computes is not looked at.
pub fn decode_model(file: Bytes) -> Result<Model, ProtoError> {
    convert::model(file.clone()).map_err(|error| match sniff::sniff(&file) {
        Some(why) => ProtoError::NotOnnx { what: "model", why: why.to_owned() },
        None => error,
    })
}

/// Reads a value that was saved as the protobuf message that `kind` names; its tensors are slices of `file`.
pub fn decode_value(file: Bytes, kind: ValueKind) -> Result<Value, ProtoError> {
    value::decode(file, kind)
}

/// The bytes of the file at `path`, memory-mapped, for [`decode_model`] and [`decode_value`].
pub fn map_file(path: &Path) -> std::io::Result<Bytes> {
    Mapped::open(path).map(Bytes::from_owner)
}
