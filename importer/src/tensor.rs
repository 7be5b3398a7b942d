//! Tensors of an ONNX file as tensors of a graph. Bytes that lie in the file (or beside it) are used where they are.

use std::sync::Arc;

use bytes::Bytes;
use ir::dtype::DType;
use ir::tensor::{Memory, Tensor, count};

use crate::external::Folder;
use crate::proto::{self, TensorData, data_type};
use crate::types::dtype;

/// The most bytes that a sparse tensor may take when it is written out.
const MAX_DENSE: usize = 256 << 20;

/// Bytes that a tensor keeps alive: a slice of the mapped file.
struct Slice(Bytes);

impl Memory for Slice {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The tensor; `folder` is where external data lies, `None` for values that must not have any.
///
/// Fails with the reason when the element type is not known, or dimensions and data do not fit.
pub fn tensor(t: &proto::Tensor, folder: Option<&Folder>) -> Result<Tensor, String> {
    let dtype = dtype(t.data_type)?;
    let dims = dims(&t.dims)?;
    let n = count(&dims).map_err(|e| e.to_string())?;
    let made = match &t.data {
        TensorData::Raw(bytes) if dtype == DType::Str && n == 0 && bytes.is_empty() => {
            Tensor::from_strings(&dims, vec![])
        }
        TensorData::Raw(_) | TensorData::External(_) if dtype == DType::Str => {
            return Err("its strings are stored as raw bytes".into());
        }
        TensorData::Raw(bytes) => return from_bytes(dtype, &dims, bytes.clone()),
        TensorData::External(external) => {
            let folder = folder.ok_or("its data lies outside the file, which is not allowed here")?;
            let mut bytes = folder.locate(&t.name, external).map_err(|e| e.to_string())?.bytes;
            if external.length.is_none() {
                bytes.truncate(dtype.bytes(n));
            }
            return from_bytes(dtype, &dims, bytes);
        }
        TensorData::Strings(texts) => {
            let text = |b: &Vec<u8>| String::from_utf8(b.clone()).map_err(|_| "a string is not UTF-8".to_string());
            Tensor::from_strings(&dims, texts.iter().map(text).collect::<Result<_, _>>()?)
        }
        TensorData::Floats(data) => match dtype {
            DType::F32 => Tensor::from_slice(&dims, data),
            _ => return Err(misplaced(dtype, "float_data")),
        },
        TensorData::Doubles(data) => match dtype {
            DType::F64 => Tensor::from_slice(&dims, data),
            _ => return Err(misplaced(dtype, "double_data")),
        },
        TensorData::Int64s(data) => match dtype {
            DType::I64 => Tensor::from_slice(&dims, data),
            _ => return Err(misplaced(dtype, "int64_data")),
        },
        TensorData::Uint64s(data) => match dtype {
            DType::U64 => Tensor::from_slice(&dims, data),
            DType::U32 => Tensor::from_slice(&dims, &data.iter().map(|v| *v as u32).collect::<Vec<_>>()),
            _ => return Err(misplaced(dtype, "uint64_data")),
        },
        TensorData::Int32s(data) => match dtype {
            DType::F32 | DType::F64 | DType::I64 | DType::U64 | DType::U32 | DType::Str => {
                return Err(misplaced(dtype, "int32_data"));
            }
            DType::Bool => Tensor::from_bools(&dims, &data.iter().map(|v| *v != 0).collect::<Vec<_>>()),
            // The low bytes of each entry are the element, or several packed ones.
            _ => {
                let width = dtype.bits().div_ceil(8);
                let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(width)).collect();
                Tensor::from_bytes(dtype, &dims, &bytes)
            }
        },
    };
    made.map_err(|e| e.to_string())
}

/// A sparse tensor written out.
pub fn dense(sparse: &proto::SparseTensor, folder: Option<&Folder>) -> Result<Tensor, String> {
    let values = tensor(&sparse.values, folder)?;
    let indices = tensor(&sparse.indices, folder)?.to_i64().map_err(|e| format!("its indices: {e}"))?;
    let dims = dims(&sparse.dims)?;
    let n = count(&dims).map_err(|e| e.to_string())?;
    if n > MAX_DENSE / values.dtype().bits().div_ceil(8).max(1) {
        return Err(format!(
            "written out, a sparse tensor of dimensions {dims:?} takes more than {} MiB",
            MAX_DENSE >> 20
        ));
    }
    let places = places(&indices, sparse.indices.dims.len(), &dims, values.len())?;
    let width = values.dtype().bits() / 8;
    if width == 0 {
        return Err(format!("a sparse tensor of {} is not supported", values.dtype()));
    }
    if let Some(at) = places.iter().find(|at| **at >= n) {
        return Err(format!("index {at} is outside a tensor of {n} elements"));
    }
    let made = Tensor::build(values.dtype(), &dims, |out| {
        for (at, element) in places.iter().zip(values.bytes().chunks_exact(width)) {
            out[at * width..][..width].copy_from_slice(element);
        }
    });
    made.map_err(|e| e.to_string())
}

/// Linear places of the values of a sparse tensor; its indices are linear already or coordinates.
fn places(indices: &[i64], rank: usize, dims: &[usize], values: usize) -> Result<Vec<usize>, String> {
    let width = if rank == 1 { 1 } else { dims.len() };
    if indices.len() != values * width {
        return Err(format!("{values} values have {} index numbers, not {}", indices.len(), values * width));
    }
    if rank == 1 {
        return indices.iter().map(|i| usize::try_from(*i).map_err(|_| format!("index {i} is negative"))).collect();
    }
    let place = |coordinates: &[i64]| {
        let mut at = 0;
        for (i, n) in coordinates.iter().zip(dims) {
            let i = usize::try_from(*i).ok().filter(|i| i < n);
            at = at * n + i.ok_or_else(|| format!("coordinates {coordinates:?} are outside {dims:?}"))?;
        }
        Ok(at)
    };
    indices.chunks_exact(width.max(1)).map(place).collect()
}

fn from_bytes(dtype: DType, dims: &[usize], bytes: Bytes) -> Result<Tensor, String> {
    let len = bytes.len();
    if dtype == DType::Bool && bytes.iter().any(|b| *b > 1) {
        let bools: Vec<bool> = bytes.iter().map(|b| *b != 0).collect();
        return Tensor::from_bools(dims, &bools).map_err(|e| e.to_string());
    }
    Tensor::from_memory(dtype, dims, Arc::new(Slice(bytes)), 0, len).map_err(|e| e.to_string())
}

fn dims(dims: &[i64]) -> Result<Vec<usize>, String> {
    dims.iter().map(|d| usize::try_from(*d).map_err(|_| format!("a dimension of {d}"))).collect()
}

fn misplaced(dtype: DType, field: &str) -> String {
    format!("elements of type {dtype} do not belong in `{field}`")
}

/// The number that ONNX gives an element type.
pub fn onnx_type(dtype: DType) -> i32 {
    match dtype {
        DType::F64 => data_type::DOUBLE,
        DType::F32 => data_type::FLOAT,
        DType::F16 => data_type::FLOAT16,
        DType::BF16 => data_type::BFLOAT16,
        DType::I64 => data_type::INT64,
        DType::I32 => data_type::INT32,
        DType::I16 => data_type::INT16,
        DType::I8 => data_type::INT8,
        DType::U64 => data_type::UINT64,
        DType::U32 => data_type::UINT32,
        DType::U16 => data_type::UINT16,
        DType::U8 => data_type::UINT8,
        DType::Bool => data_type::BOOL,
        DType::Str => data_type::STRING,
        DType::F8E4M3FN => data_type::FLOAT8E4M3FN,
        DType::F8E4M3FNUZ => data_type::FLOAT8E4M3FNUZ,
        DType::F8E5M2 => data_type::FLOAT8E5M2,
        DType::F8E5M2FNUZ => data_type::FLOAT8E5M2FNUZ,
        DType::F8E8M0 => data_type::FLOAT8E8M0,
        DType::F4E2M1 => data_type::FLOAT4E2M1,
        DType::I4 => data_type::INT4,
        DType::U4 => data_type::UINT4,
        DType::I2 => data_type::INT2,
        DType::U2 => data_type::UINT2,
    }
}
