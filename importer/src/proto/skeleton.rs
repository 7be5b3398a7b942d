//! Takes the weights out of a protobuf file before it is decoded, so that no byte of them is copied or even touched.
//!
//! Decoding an ONNX file the plain way copies each tensor's `raw_data`, and decoding it twice (`pb` and `supplement`) walks
//! it twice. [`Skeleton::of`] walks the wire format once and writes a small file with the same messages, in which each
//! `raw_data` holds only the number of a byte range of the original; [`Skeleton::weights`] gives that range back as a slice.
//! Fields that nobody decodes (doc strings, unknown ones) are left out.
//!
//! ```text
//! initializer { dims: 4096 dims: 4096 raw_data: 64 MiB }   ->   initializer { dims: 4096 dims: 4096 raw_data: 8 bytes }
//! ```
//!
//! It is also where hostile bytes are met: lengths are checked against what is left, depth and the memory that decoding
//! would take are limited, and an error names the field's path and place.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use prost::encoding::encode_varint;

use super::error::ProtoError;
use super::schema::{Message, Rule};

/// Messages inside each other; the decoder itself stops at 100.
const DEPTH: usize = 100;
/// What decoding may take, without weights and number lists (those take at most 8 times their bytes in the file).
const BUDGET: u64 = 2 << 30;
/// What a decoded message takes at most, with its names: an attribute is the largest.
const MESSAGE_BYTES: u64 = 1024;
/// What an element of a list of strings takes beside its contents.
const TEXT_BYTES: u64 = 64;
/// What one byte of a small message (type, shape, key and value) becomes at most: a dimension is 2 bytes in the file.
const LEAF_FACTOR: u64 = 64;

/// A file without its weights.
pub(super) struct Skeleton {
    /// The messages, with the numbers of weights in place of weights.
    pub bytes: Bytes,
    file: Bytes,
    weights: Vec<Range<usize>>,
}

impl Skeleton {
    /// The skeleton of `file`, which holds one message of the kind `root`.
    pub fn of(file: Bytes, root: Message) -> Result<Skeleton, ProtoError> {
        let mut walk = Walk { file: &file, weights: Vec::new(), budget: BUDGET };
        let path = Path { above: None, name: root.name(), index: None, depth: 0 };
        let bytes = walk.message(root, 0..file.len(), &path)?;
        let weights = walk.weights;
        Ok(Skeleton { bytes: bytes.into(), file, weights })
    }

    /// The bytes that belong where the skeleton's `raw_data` is `stored`; empty where there was none.
    pub fn weights(&self, stored: &[u8]) -> Bytes {
        if stored.is_empty() {
            return Bytes::new();
        }
        let number = u64::from_le_bytes(stored.try_into().expect("the skeleton stores 8 bytes"));
        let range = self.weights[usize::try_from(number).expect("the skeleton counts from 0")].clone();
        self.file.slice(range)
    }
}

/// One walk over a file.
struct Walk<'a> {
    file: &'a [u8],
    weights: Vec<Range<usize>>,
    budget: u64,
}

/// A field in the file: its number, how it is stored, where its contents lie and where it ends.
struct Field {
    number: u32,
    wire: Wire,
    contents: Range<usize>,
}

/// How a field is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Varint,
    Fixed64,
    Delimited,
    Fixed32,
}

impl Walk<'_> {
    /// The skeleton of the message in `range`.
    fn message(&mut self, message: Message, range: Range<usize>, path: &Path) -> Result<Vec<u8>, ProtoError> {
        if path.depth > DEPTH {
            return Err(ProtoError::TooDeep { field: path.to_string(), limit: DEPTH });
        }
        let mut out = Vec::new();
        let mut seen = [0_usize; 32];
        let mut at = range.start;
        while at < range.end {
            let start = at;
            let field = self.field(message, &range, &mut at, path)?;
            let Some((name, rule)) = message.field(field.number) else {
                continue;
            };
            let count = &mut seen[field.number as usize];
            let path = path.field(name, rule, *count);
            *count += 1;
            if !matches!(rule, Rule::Number) && field.wire != Wire::Delimited {
                let (found, expected) = (field.wire.name(), rule.expects());
                return Err(ProtoError::WrongType { field: path.to_string(), at: start, found, expected });
            }
            self.spend(decoded_bytes(rule, field.contents.len() as u64), &path)?;
            match rule {
                Rule::Number | Rule::Text | Rule::Leaf => out.extend_from_slice(&self.file[start..at]),
                Rule::One(child) | Rule::Each(child) => {
                    let contents = self.message(child, field.contents, &path)?;
                    write_delimited(&mut out, field.number, &contents);
                }
                Rule::Weights => {
                    write_delimited(&mut out, field.number, &(self.weights.len() as u64).to_le_bytes());
                    self.weights.push(field.contents);
                }
            }
        }
        Ok(out)
    }

    /// Reads the field at `at`, which lies in the message in `range`, and moves `at` behind it.
    fn field(&self, message: Message, range: &Range<usize>, at: &mut usize, path: &Path) -> Result<Field, ProtoError> {
        let start = *at;
        let malformed = |why: String| ProtoError::Malformed { field: path.to_string(), at: start, why };
        let key = self.varint(range, at).ok_or_else(|| malformed("a field number was expected here".to_owned()))?;
        let number = match u32::try_from(key >> 3) {
            Ok(number) if (1..1 << 29).contains(&number) => number,
            _ => return Err(malformed(format!("there is no field number {}", key >> 3))),
        };
        let (wire, needs) = match key & 7 {
            0 => {
                let first = *at;
                self.varint(range, at)
                    .ok_or_else(|| malformed(format!("the number in field {number} does not end")))?;
                return Ok(Field { number, wire: Wire::Varint, contents: first..*at });
            }
            1 => (Wire::Fixed64, 8),
            2 => {
                let length = self.varint(range, at);
                (
                    Wire::Delimited,
                    length.ok_or_else(|| malformed(format!("the length of field {number} does not end")))?,
                )
            }
            5 => (Wire::Fixed32, 4),
            other => {
                return Err(malformed(format!("field {number} is stored as type {other}, which ONNX does not use")));
            }
        };
        let left = range.end - *at;
        let first = *at;
        match usize::try_from(needs) {
            Ok(needs) if needs <= left => *at += needs,
            _ if range.end < self.file.len() => {
                return Err(malformed(format!("field {number} claims {needs} bytes, its message has {left} left")));
            }
            _ => {
                let field = match message.field(number) {
                    Some((name, rule)) => path.field(name, rule, 0).to_string(),
                    None => path.to_string(),
                };
                return Err(ProtoError::Truncated { field, at: start, needs, left });
            }
        }
        Ok(Field { number, wire, contents: first..*at })
    }

    /// Reads a variable-length number at `at`, ending within `range`, and moves `at` behind it; `None` where it does not end.
    fn varint(&self, range: &Range<usize>, at: &mut usize) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            if *at >= range.end {
                return None;
            }
            let byte = self.file[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Takes `bytes` from what decoding may need.
    fn spend(&mut self, bytes: u64, path: &Path) -> Result<(), ProtoError> {
        match self.budget.checked_sub(bytes) {
            Some(left) => self.budget = left,
            None => {
                return Err(ProtoError::TooLarge { field: path.to_string(), limit_mib: BUDGET >> 20 });
            }
        }
        Ok(())
    }
}

/// What a field that has `length` bytes in the file takes in memory once decoded.
fn decoded_bytes(rule: Rule, length: u64) -> u64 {
    match rule {
        Rule::Number | Rule::Weights => 0,
        Rule::Text => TEXT_BYTES,
        Rule::Leaf => TEXT_BYTES + length.saturating_mul(LEAF_FACTOR),
        Rule::One(_) | Rule::Each(_) => MESSAGE_BYTES,
    }
}

impl Wire {
    fn name(self) -> &'static str {
        match self {
            Wire::Varint => "an integer",
            Wire::Fixed64 => "a 64-bit number",
            Wire::Delimited => "bytes",
            Wire::Fixed32 => "a 32-bit number",
        }
    }
}

fn write_delimited(out: &mut Vec<u8>, number: u32, contents: &[u8]) {
    encode_varint(u64::from(number << 3 | 2), out);
    encode_varint(contents.len() as u64, out);
    out.extend_from_slice(contents);
}

/// Where a field is: `graph.node[3].attribute[0].t.raw_data`, written only when there is an error.
struct Path<'a> {
    above: Option<&'a Path<'a>>,
    name: &'static str,
    index: Option<usize>,
    depth: usize,
}

impl Path<'_> {
    fn field(&self, name: &'static str, rule: Rule, count: usize) -> Path<'_> {
        let index = matches!(rule, Rule::Each(_)).then_some(count);
        Path { above: Some(self), name, index, depth: self.depth + 1 }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.above {
            Some(Path { above: None, .. }) => {}
            Some(above) if above.depth >= 12 => f.write_str("...")?,
            Some(above) => write!(f, "{above}.")?,
            None => {}
        }
        f.write_str(self.name)?;
        match self.index {
            Some(index) => write!(f, "[{index}]"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::pb;
    use prost::Message as _;

    fn skeleton(file: Vec<u8>) -> Skeleton {
        Skeleton::of(file.into(), Message::Tensor).unwrap()
    }

    #[test]
    fn weights_are_slices_of_the_file() {
        let tensor = pb::TensorProto { dims: vec![4096], raw_data: vec![7; 4096], ..Default::default() };
        let skeleton = skeleton(tensor.encode_to_vec());
        assert!(skeleton.bytes.len() < 32);
        let decoded = pb::TensorProto::decode(skeleton.bytes.clone()).unwrap();
        let weights = skeleton.weights(&decoded.raw_data);
        assert_eq!(weights, vec![7; 4096]);
        assert!(skeleton.file.as_ptr_range().contains(&weights.as_ptr()));
    }

    #[test]
    fn doc_strings_are_left_out() {
        let tensor = pb::TensorProto { doc_string: "why".into(), ..Default::default() };
        assert!(skeleton(tensor.encode_to_vec()).bytes.is_empty());
    }

    #[test]
    fn many_tiny_messages_are_refused() {
        let error = Skeleton::of([0x0a, 0].repeat(3 << 20).into(), Message::Graph).err().unwrap();
        assert_eq!(
            error.to_string(),
            "`node[2097152]` is one part too many: the file's nodes and attributes would need more than 2048 MiB"
        );
    }
}
