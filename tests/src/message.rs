//! Protobuf messages without a schema: read into fields, changed field by field, written again with right lengths.

use crate::random::Random;

/// One field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its number.
    pub number: u64,
    /// What it holds.
    pub value: Content,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A number.
    Varint(u64),
    /// Eight bytes.
    Eight([u8; 8]),
    /// Four bytes.
    Four([u8; 4]),
    /// Text or data.
    Bytes(Vec<u8>),
    /// Bytes that read as a message.
    Message(Vec<Field>),
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

fn write_varint(mut n: u64, to: &mut Vec<u8>) {
    while n >= 0x80 {
        to.push(n as u8 | 0x80);
        n >>= 7;
    }
    to.push(n as u8);
}

/// The fields of a message; `None` when the bytes are none.
pub fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = vec![];
    while !bytes.is_empty() {
        let tag = read_varint(&mut bytes)?;
        let number = tag >> 3;
        if number == 0 || number > 100 {
            return None;
        }
        let mut take = |n: usize| -> Option<&[u8]> {
            let (part, rest) = bytes.split_at_checked(n)?;
            bytes = rest;
            Some(part)
        };
        let value = match tag & 7 {
            0 => Content::Varint(read_varint(&mut bytes)?),
            1 => Content::Eight(take(8)?.try_into().ok()?),
            5 => Content::Four(take(4)?.try_into().ok()?),
            2 => {
                let len = read_varint(&mut bytes)?;
                let (part, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
                bytes = rest;
                match parse(part) {
                    Some(inner) if !inner.is_empty() => Content::Message(inner),
                    _ => Content::Bytes(part.to_vec()),
                }
            }
            _ => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

/// The bytes of a message.
pub fn write(fields: &[Field]) -> Vec<u8> {
    let mut to = vec![];
    for field in fields {
        let wire = match &field.value {
            Content::Varint(_) => 0,
            Content::Eight(_) => 1,
            Content::Four(_) => 5,
            Content::Bytes(_) | Content::Message(_) => 2,
        };
        write_varint(field.number << 3 | wire, &mut to);
        match &field.value {
            Content::Varint(n) => write_varint(*n, &mut to),
            Content::Eight(bytes) => to.extend(bytes),
            Content::Four(bytes) => to.extend(bytes),
            Content::Bytes(bytes) => {
                write_varint(bytes.len() as u64, &mut to);
                to.extend(bytes);
            }
            Content::Message(inner) => {
                let inner = write(inner);
                write_varint(inner.len() as u64, &mut to);
                to.extend(inner);
            }
        }
    }
    to
}

/// Changes one field of the message, at any depth.
pub fn mutate(random: &mut Random, fields: &mut Vec<Field>) {
    let (mut texts, mut parts) = (vec![], vec![]);
    collect(fields, &mut texts, &mut parts);
    let mut at = random.below(parts.len().max(1));
    change(random, fields, &mut at, &texts, &parts);
}

fn collect(fields: &[Field], texts: &mut Vec<Vec<u8>>, parts: &mut Vec<Field>) {
    for field in fields {
        parts.push(field.clone());
        match &field.value {
            Content::Message(inner) => collect(inner, texts, parts),
            Content::Bytes(bytes) if bytes.len() < 64 => texts.push(bytes.clone()),
            _ => {}
        }
    }
}

fn change(random: &mut Random, fields: &mut Vec<Field>, at: &mut usize, texts: &[Vec<u8>], parts: &[Field]) -> bool {
    for i in 0..fields.len() {
        if *at == 0 {
            change_here(random, fields, i, texts, parts);
            return true;
        }
        *at -= 1;
        if let Content::Message(inner) = &mut fields[i].value
            && change(random, inner, at, texts, parts)
        {
            return true;
        }
    }
    false
}

/// Numbers that are limits of something.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    3,
    7,
    16,
    63,
    64,
    255,
    1 << 16,
    1 << 31,
    (1 << 31) - 1,
    1 << 40,
    i64::MAX as u64,
    i64::MIN as u64,
    u64::MAX,
];

fn change_here(random: &mut Random, fields: &mut Vec<Field>, i: usize, texts: &[Vec<u8>], parts: &[Field]) {
    match random.below(10) {
        0 => drop(fields.remove(i)),
        1 => fields.insert(i, fields[i].clone()),
        2 => {
            let other = random.below(fields.len());
            fields.swap(i, other);
        }
        3 => fields[i].number = 1 + random.below(26) as u64,
        4 => {
            let number = fields[i].number;
            fields[i] = Field { number, ..random.pick(parts).clone() };
        }
        _ => match &mut fields[i].value {
            Content::Varint(n) => *n = *random.pick(&NUMBERS),
            Content::Eight(bytes) => *bytes = random.pick(&NUMBERS).to_le_bytes(),
            Content::Four(bytes) => *bytes = (random.number() as u32).to_le_bytes(),
            Content::Bytes(bytes) if !texts.is_empty() && random.below(2) == 0 => *bytes = random.pick(texts).clone(),
            Content::Bytes(bytes) => crate::random::mutate_bytes(random, bytes),
            Content::Message(inner) => {
                if inner.len() > 1 {
                    inner.truncate(random.below(inner.len()));
                } else {
                    inner.push(random.pick(parts).clone());
                }
            }
        },
    }
}
