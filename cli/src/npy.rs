//! NumPy's .npy files.
//!
//! NumPy has no bfloat16 and nothing below 8 bits: such tensors are written as raw integers (bfloat16 as u16; the 8-bit floats and
//! 4-bit floats as u8; 2- and 4-bit integers as one i8 or u8 each) and read back where the model declares the type.

use fastinference::{DType, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";

/// The tensor in a .npy file. `declared` is the type the model wants, which decides what raw integers mean.
pub fn decode(file: &[u8], declared: Option<DType>) -> Result<Tensor, String> {
    let header = Header::parse(file)?;
    let data = &file[header.data..];
    let elements = header.dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let size = elements.and_then(|n| n.checked_mul(header.width));
    let size = size.ok_or_else(|| format!("its shape {:?} is too large for memory", header.dims))?;
    if data.len() < size {
        return Err(format!("it is cut off: {} bytes of data are needed, {} are there", size, data.len()));
    }
    let data = &data[..size];
    let tensor = match header.kind {
        Kind::Number(dtype) => number(dtype, &header, data)?,
        Kind::Text => Tensor::from_strings(&header.dims, texts(data, &header)?).map_err(|e| e.to_string())?,
    };
    let tensor = if header.fortran { row_major(&tensor)? } else { tensor };
    match declared {
        Some(dtype) => from_raw(tensor, dtype),
        None => Ok(tensor),
    }
}

/// The .npy file of a tensor; `None` for text, which belongs in a .pb file.
pub fn encode(tensor: &Tensor) -> Option<Vec<u8>> {
    let descr = descr(tensor.dtype())?;
    let dims = tensor.dims();
    let shape = match dims {
        [one] => format!("({one},)"),
        _ => format!("({})", dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    // Magic, version, length and header together are a multiple of 64 bytes, and the header ends with a line feed.
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let mut file = MAGIC.to_vec();
    file.extend([1, 0]);
    file.extend(u16::try_from(header.len()).ok()?.to_le_bytes());
    file.extend(header.bytes());
    match tensor.dtype().bits() {
        bits if bits < 8 => file.extend((0..tensor.len()).map(|i| unpacked(tensor, i))),
        _ => file.extend(tensor.bytes()),
    }
    Some(file)
}

/// The NumPy type that holds elements of this type, as they are or raw.
fn descr(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::U64 => "<u8",
        DType::U32 => "<u4",
        DType::U16 | DType::BF16 => "<u2",
        DType::I8 | DType::I4 | DType::I2 => "|i1",
        DType::U8 | DType::U4 | DType::U2 => "|u1",
        DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0 | DType::F4E2M1 => {
            "|u1"
        }
        DType::Bool => "|b1",
        DType::Str => return None,
    })
}

/// The type whose values an integer stands for when NumPy has no such type.
fn raw_type(dtype: DType) -> Option<DType> {
    match dtype {
        DType::BF16 => Some(DType::U16),
        DType::I4 | DType::I2 => Some(DType::I8),
        DType::U4 | DType::U2 | DType::F4E2M1 => Some(DType::U8),
        d if d.is_storage_only() => Some(DType::U8),
        _ => None,
    }
}

/// An element below 8 bits as the byte that stands for it.
fn unpacked(tensor: &Tensor, i: usize) -> u8 {
    let (bits, bytes) = (tensor.dtype().bits(), tensor.bytes());
    let raw = bytes[i * bits / 8] >> (i * bits % 8) & ((1 << bits) - 1);
    let signed = matches!(tensor.dtype(), DType::I4 | DType::I2);
    match signed && raw >> (bits - 1) == 1 {
        true => raw | !((1 << bits) - 1),
        false => raw,
    }
}

/// Integers in the place of a type that NumPy lacks become that type.
fn from_raw(tensor: Tensor, dtype: DType) -> Result<Tensor, String> {
    if raw_type(dtype) != Some(tensor.dtype()) {
        return Ok(tensor);
    }
    let bits = dtype.bits();
    let made = match bits {
        bits if bits >= 8 => Tensor::from_bytes(dtype, tensor.dims(), tensor.bytes()),
        _ => Tensor::build(dtype, tensor.dims(), |out| {
            for (i, byte) in tensor.bytes().iter().enumerate() {
                out[i * bits / 8] |= (byte & ((1 << bits) - 1)) << (i * bits % 8);
            }
        }),
    };
    made.map_err(|e| e.to_string())
}

/// Big-endian elements are turned round.
fn number(dtype: DType, header: &Header, data: &[u8]) -> Result<Tensor, String> {
    if !header.big_endian {
        return Tensor::from_bytes(dtype, &header.dims, data).map_err(|e| e.to_string());
    }
    let mut data = data.to_vec();
    data.chunks_exact_mut(header.width).for_each(<[u8]>::reverse);
    Tensor::from_bytes(dtype, &header.dims, &data).map_err(|e| e.to_string())
}

/// Texts of fixed length, four bytes a character, ended by zeros.
fn texts(data: &[u8], header: &Header) -> Result<Vec<String>, String> {
    if header.width == 0 {
        return Ok(vec![String::new(); header.dims.iter().product()]);
    }
    let character = |b: &[u8]| {
        let bytes = [b[0], b[1], b[2], b[3]];
        if header.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    let text = |item: &[u8]| {
        let codes = item.chunks_exact(4).map(character).take_while(|c| *c != 0);
        codes.map(char::from_u32).collect::<Option<String>>().ok_or_else(|| "it holds text that is not Unicode".into())
    };
    data.chunks_exact(header.width).map(text).collect()
}

/// The tensor of column-major data: dimensions were read reversed, as it were.
fn row_major(tensor: &Tensor) -> Result<Tensor, String> {
    let dims = tensor.dims();
    let mut strides = vec![1; dims.len()];
    for i in 1..dims.len() {
        strides[i] = strides[i - 1] * dims[i - 1];
    }
    let mut from = Vec::with_capacity(tensor.len());
    for i in 0..tensor.len() {
        let (mut rest, mut at) = (i, 0);
        for (dim, stride) in dims.iter().zip(&strides).rev() {
            at += rest % dim * stride;
            rest /= dim;
        }
        from.push(at);
    }
    tensor.pick(dims, &from).map_err(|e| e.to_string())
}

enum Kind {
    Number(DType),
    Text,
}

struct Header {
    kind: Kind,
    /// Bytes of an element.
    width: usize,
    big_endian: bool,
    fortran: bool,
    dims: Vec<usize>,
    /// Where the data begins.
    data: usize,
}

impl Header {
    fn parse(file: &[u8]) -> Result<Header, String> {
        if !file.starts_with(MAGIC) {
            return Err("it is not a .npy file".into());
        }
        let cut_off = || "its header is cut off".to_string();
        let start = match file.get(6).ok_or_else(cut_off)? {
            1 => 10,
            2 | 3 => 12,
            v => return Err(format!("version {v} of the .npy format is unknown")),
        };
        let length = file.get(8..start).ok_or_else(cut_off)?;
        let length = length.iter().rev().fold(0usize, |n, b| n << 8 | *b as usize);
        let data = start.checked_add(length).ok_or_else(cut_off)?;
        let text = std::str::from_utf8(file.get(start..data).ok_or_else(cut_off)?);
        let text = text.map_err(|_| "its header is not text")?;
        let descr = field(text, "descr").ok_or("its header has no `descr`")?;
        let fortran = field(text, "fortran_order").ok_or("its header has no `fortran_order`")?.starts_with("True");
        let shape = field(text, "shape").ok_or("its header has no `shape`")?;
        let (kind, width, big_endian) = element(descr)?;
        Ok(Header { kind, width, big_endian, fortran, dims: dims(shape)?, data })
    }
}

/// What follows `'name':` in a Python dictionary.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let quoted = [format!("'{name}'"), format!("\"{name}\"")];
    let at = quoted.iter().find_map(|q| Some(text.find(q.as_str())? + q.len()))?;
    Some(text[at..].trim_start().strip_prefix(':')?.trim_start())
}

fn dims(shape: &str) -> Result<Vec<usize>, String> {
    let inside = shape.strip_prefix('(').and_then(|s| s.split_once(')')).ok_or("its `shape` is not a tuple")?.0;
    let numbers = inside.split(',').map(str::trim).filter(|n| !n.is_empty());
    numbers.map(|n| n.parse().map_err(|_| format!("its shape holds `{n}`"))).collect()
}

fn element(descr: &str) -> Result<(Kind, usize, bool), String> {
    let quote = descr.chars().next().filter(|c| matches!(c, '\'' | '"'));
    let inside = quote.and_then(|q| descr[1..].split(q).next()).ok_or("it holds records, not plain elements")?;
    let unknown = || format!("elements of NumPy type `{inside}` are not supported");
    let big_endian = inside.starts_with('>');
    let code = inside.trim_start_matches(['<', '>', '=', '|']);
    let dtype = match code {
        "f8" => DType::F64,
        "f4" => DType::F32,
        "f2" => DType::F16,
        "i8" => DType::I64,
        "i4" => DType::I32,
        "i2" => DType::I16,
        "i1" => DType::I8,
        "u8" => DType::U64,
        "u4" => DType::U32,
        "u2" | "V2" => DType::U16,
        "u1" | "V1" => DType::U8,
        "b1" => DType::Bool,
        "O" => return Err("it holds Python objects; save strings with dtype `U`, or as .pb".into()),
        text => {
            let length: usize = text.strip_prefix('U').and_then(|n| n.parse().ok()).ok_or_else(unknown)?;
            return Ok((Kind::Text, length.checked_mul(4).ok_or_else(unknown)?, big_endian));
        }
    };
    Ok((Kind::Number(dtype), dtype.bits() / 8, big_endian))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.bytes());
        file.extend(data);
        file
    }

    #[test]
    fn what_is_written_is_read_back() {
        for dtype in DType::ALL.iter().filter(|d| **d != DType::Str) {
            let values: Vec<f64> = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0].to_vec();
            let tensor = Tensor::from_f64(*dtype, &[2, 3], &values).unwrap();
            assert_eq!(decode(&encode(&tensor).unwrap(), Some(*dtype)).unwrap(), tensor, "{dtype}");
        }
    }

    #[test]
    fn headers_are_a_multiple_of_64_bytes() {
        let tensor = Tensor::vector_i64(&[1, 2, 3]);
        assert_eq!((encode(&tensor).unwrap().len() - 24) % 64, 0);
    }

    #[test]
    fn column_major_data_is_turned_round() {
        let data = [1u8, 4, 2, 5, 3, 6];
        let tensor = decode(&file("|u1", "True", "(2, 3)", &data), None).unwrap();
        assert_eq!(tensor.bytes(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn big_endian_elements_and_texts_are_understood() {
        let tensor = decode(&file(">i2", "False", "(1,)", &[1, 2]), None).unwrap();
        assert_eq!(tensor.to_i64().unwrap(), [258]);
        let text: Vec<u8> = "hi\0ab\0".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        let tensor = decode(&file("<U3", "False", "(2,)", &text), None).unwrap();
        assert_eq!(tensor.strings().unwrap(), ["hi", "ab"]);
    }

    #[test]
    fn damaged_files_are_errors() {
        assert!(decode(b"hello", None).unwrap_err().contains("not a .npy"));
        assert!(decode(&file("<f4", "False", "(4,)", &[0; 4]), None).unwrap_err().contains("cut off"));
        assert!(
            decode(&file("<f4", "False", "(9999999999, 9999999999)", &[]), None).unwrap_err().contains("too large")
        );
        assert!(decode(&file("|O", "False", "(1,)", &[0; 8]), None).unwrap_err().contains("objects"));
        let whole = file("<f4", "False", "(1,)", &[0; 4]);
        (0..whole.len()).for_each(|n| assert!(decode(&whole[..n], None).is_err()));
    }
}
