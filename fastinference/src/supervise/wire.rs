//! Messages between a process and its worker, over pipes: a few words as JSON, and the bytes of tensors behind them.
//!
//! ```text
//! FIWP | bytes of the words, bytes of the tensors | {"do":"run","values":[{"dtype":"f32","dims":[2,3]}]} | 24 bytes
//! ```

use ir::tensor::Aligned;
use ir::{DType, Datum, Tensor};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::sync::Arc;

const MAGIC: &[u8; 4] = b"FIWP";
/// Tensors begin at multiples of this within a message.
const ALIGN: usize = 64;
/// More words than this are no message of ours.
const MOST_WORDS: u32 = 1 << 28;

/// A message.
pub(super) struct Message {
    pub(super) words: Value,
    pub(super) values: Vec<Datum>,
}

impl Message {
    pub(super) fn text(&self, field: &str) -> &str {
        self.words[field].as_str().unwrap_or_default()
    }

    pub(super) fn number(&self, field: &str) -> u64 {
        self.words[field].as_u64().unwrap_or(0)
    }

    /// Numbers of a list.
    pub(super) fn numbers(&self, field: &str) -> Vec<u32> {
        let list = self.words[field].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|n| u32::try_from(n.as_u64()?).ok()).collect()
    }
}

/// Writes a message whose values are these.
pub(super) fn write(to: &mut dyn Write, mut words: Value, values: &[Datum]) -> io::Result<()> {
    let mut parts = vec![];
    let descriptions: Vec<Value> = values.iter().map(|v| describe(v, &mut parts)).collect();
    words["values"] = json!(descriptions);
    let text = words.to_string();
    let bytes: usize = parts.iter().map(|p| p.len().next_multiple_of(ALIGN)).sum();
    to.write_all(MAGIC)?;
    to.write_all(&(text.len() as u32).to_le_bytes())?;
    to.write_all(&(bytes as u64).to_le_bytes())?;
    to.write_all(text.as_bytes())?;
    for part in parts {
        to.write_all(part)?;
        to.write_all(&[0; ALIGN][..part.len().next_multiple_of(ALIGN) - part.len()])?;
    }
    to.flush()
}

fn describe<'v>(value: &'v Datum, parts: &mut Vec<&'v [u8]>) -> Value {
    let mut of_tensor = |t: &'v Tensor| match t.strings() {
        Ok(strings) => json!({"dims": t.dims(), "strings": strings}),
        Err(_) => {
            parts.push(t.bytes());
            json!({"dims": t.dims(), "dtype": t.dtype().name()})
        }
    };
    match value {
        Datum::Tensor(t) => of_tensor(t),
        Datum::Sequence(items) => json!({"items": items.iter().map(|v| describe(v, parts)).collect::<Vec<_>>()}),
        Datum::Optional(None) => json!({"none": true}),
        Datum::Optional(Some(v)) => json!({"some": describe(v, parts)}),
        Datum::Map(pairs) => {
            let mut all = vec![];
            for (key, value) in pairs {
                let key = match key.strings() {
                    Ok(strings) => json!({"dims": key.dims(), "strings": strings}),
                    Err(_) => {
                        parts.push(key.bytes());
                        json!({"dims": key.dims(), "dtype": key.dtype().name()})
                    }
                };
                all.push(json!([key, describe(value, parts)]));
            }
            json!({ "pairs": all })
        }
        Datum::Absent => json!({"absent": true}),
    }
}

/// Reads a message; `None` when the other side has closed its end between two.
pub(super) fn read(from: &mut dyn Read) -> io::Result<Option<Message>> {
    let mut head = [0; 16];
    let first = loop {
        match from.read(&mut head[..1]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..])?;
    let words = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
    let bytes = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
    let size = usize::try_from(bytes).ok().filter(|n| ir::tensor::ensure_room(&[*n], 1).is_ok());
    let (Some(bytes), true) = (size, head[..4] == *MAGIC && words <= MOST_WORDS) else {
        return Err(garbled("it does not begin like one"));
    };
    let mut text = vec![0; words as usize];
    from.read_exact(&mut text)?;
    let words: Value = serde_json::from_slice(&text).map_err(|e| garbled(&e.to_string()))?;
    let mut memory = Aligned::zeroed(bytes);
    from.read_exact(memory.bytes_mut())?;
    let mut reader = Reader { memory: Arc::new(memory), at: 0 };
    let descriptions = words["values"].as_array().cloned().unwrap_or_default();
    let values = descriptions.iter().map(|d| reader.value(d).ok_or_else(|| garbled("a value is not as described")));
    let values = values.collect::<io::Result<Vec<Datum>>>()?;
    Ok(Some(Message { words, values }))
}

fn garbled(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message of the worker is garbled: {why}"))
}

struct Reader {
    memory: Arc<Aligned>,
    at: usize,
}

impl Reader {
    fn value(&mut self, d: &Value) -> Option<Datum> {
        if let Some(items) = d["items"].as_array() {
            return Some(Datum::Sequence(items.iter().map(|d| self.value(d)).collect::<Option<_>>()?));
        }
        if let Some(pairs) = d["pairs"].as_array() {
            let pair = |pair: &Value| Some((self.tensor(&pair[0])?, self.value(&pair[1])?));
            return Some(Datum::Map(pairs.iter().map(pair).collect::<Option<_>>()?));
        }
        match d {
            _ if d["none"] == true => Some(Datum::Optional(None)),
            _ if d["absent"] == true => Some(Datum::Absent),
            _ if d["some"].is_object() => Some(Datum::Optional(Some(Box::new(self.value(&d["some"])?)))),
            _ => self.tensor(d).map(Datum::Tensor),
        }
    }

    fn tensor(&mut self, d: &Value) -> Option<Tensor> {
        let dims = d["dims"].as_array()?.iter().map(|n| usize::try_from(n.as_u64()?).ok());
        let dims: Vec<usize> = dims.collect::<Option<_>>()?;
        if let Some(strings) = d["strings"].as_array() {
            let strings = strings.iter().map(|s| Some(s.as_str()?.to_string())).collect::<Option<_>>()?;
            return Tensor::from_strings(&dims, strings).ok();
        }
        let dtype: DType = d["dtype"].as_str()?.parse().ok()?;
        let (start, len) = (self.at, dtype.bytes(ir::tensor::count(&dims).ok()?));
        self.at = start.checked_add(len)?.checked_next_multiple_of(ALIGN)?;
        Tensor::from_memory(dtype, &dims, self.memory.clone(), start, len).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Vec<Datum> {
        let floats = Tensor::from_slice(&[2, 3], &[1f32, -0.0, 3.5, f32::INFINITY, 5.0, 6.0]).unwrap();
        let words = Tensor::from_strings(&[2], vec!["a".into(), "\u{e4}\n".into()]).unwrap();
        let one = Tensor::vector_i64(&[7]);
        vec![
            floats.clone().into(),
            words.clone().into(),
            Datum::Absent,
            Datum::Optional(None),
            Datum::Optional(Some(Box::new(one.clone().into()))),
            Datum::Sequence(vec![floats.clone().into(), Tensor::from_slice::<f32>(&[0, 4], &[]).unwrap().into()]),
            Datum::Map(vec![(one.clone(), floats.into()), (words, one.into())]),
            Tensor::from_ints(DType::I4, &[3], &[-8, 7, 1]).unwrap().into(),
        ]
    }

    #[test]
    fn a_message_reads_as_it_was_written() {
        let mut bytes = vec![];
        write(&mut bytes, json!({"do": "run"}), &values()).unwrap();
        write(&mut bytes, json!({"n": [1, 2]}), &[]).unwrap();
        let mut from = &bytes[..];
        let message = read(&mut from).unwrap().unwrap();
        assert_eq!(message.text("do"), "run");
        assert_eq!(message.values, values());
        assert_eq!(read(&mut from).unwrap().unwrap().numbers("n"), [1, 2]);
        assert!(read(&mut from).unwrap().is_none());
    }

    #[test]
    fn damaged_messages_are_errors() {
        let mut bytes = vec![];
        write(&mut bytes, json!({"do": "run"}), &values()).unwrap();
        for len in 1..bytes.len() {
            assert!(read(&mut &bytes[..len]).is_err(), "cut at {len}");
        }
        for at in 0..bytes.len().min(900) {
            let mut broken = bytes.clone();
            broken[at] ^= 0x55;
            // No panic and no huge allocation; where a number within a tensor changes it is still a message.
            let _ = read(&mut &broken[..]);
        }
        assert!(read(&mut &b"Segmentation fault\n and more than sixteen bytes"[..]).is_err());
    }
}
