//! Types that an ONNX file declares, as types of a graph.

use std::collections::{BTreeSet, HashSet};

use ir::dim::Dim;
use ir::dtype::DType;
use ir::types::{TensorType, ValueType};

use crate::proto::{DimParam, Type, ValueInfo, data_type};

/// The element type that ONNX gives this number.
pub fn dtype(number: i32) -> Result<DType, String> {
    Ok(match number {
        data_type::FLOAT => DType::F32,
        data_type::UINT8 => DType::U8,
        data_type::INT8 => DType::I8,
        data_type::UINT16 => DType::U16,
        data_type::INT16 => DType::I16,
        data_type::INT32 => DType::I32,
        data_type::INT64 => DType::I64,
        data_type::STRING => DType::Str,
        data_type::BOOL => DType::Bool,
        data_type::FLOAT16 => DType::F16,
        data_type::DOUBLE => DType::F64,
        data_type::UINT32 => DType::U32,
        data_type::UINT64 => DType::U64,
        data_type::BFLOAT16 => DType::BF16,
        data_type::FLOAT8E4M3FN => DType::F8E4M3FN,
        data_type::FLOAT8E4M3FNUZ => DType::F8E4M3FNUZ,
        data_type::FLOAT8E5M2 => DType::F8E5M2,
        data_type::FLOAT8E5M2FNUZ => DType::F8E5M2FNUZ,
        data_type::UINT4 => DType::U4,
        data_type::INT4 => DType::I4,
        data_type::FLOAT4E2M1 => DType::F4E2M1,
        data_type::FLOAT8E8M0 => DType::F8E8M0,
        data_type::UINT2 => DType::U2,
        data_type::INT2 => DType::I2,
        other => {
            let name = data_type::name(other).map_or_else(|| format!("number {other}"), |name| format!("`{name}`"));
            return Err(format!("the element type {name} is not supported"));
        }
    })
}

/// The type, each dimension through `dim` with its position.
pub(crate) fn value_type(ty: &Type, dim: &mut dyn FnMut(usize, &DimParam) -> Dim) -> Result<ValueType, String> {
    Ok(match ty {
        Type::Unset => return Err("its type is not declared".into()),
        Type::Tensor { elem, shape: None } => TensorType::unranked(dtype(*elem)?).into(),
        Type::Tensor { elem, shape: Some(dims) } => {
            let dims: Vec<Dim> = dims.iter().enumerate().map(|(i, d)| dim(i, d)).collect();
            TensorType::new(dtype(*elem)?, dims).into()
        }
        Type::Sequence(of) => ValueType::Sequence(Box::new(value_type(of, dim)?)),
        Type::Optional(of) => ValueType::Optional(Box::new(value_type(of, dim)?)),
        Type::Map { key, value } => ValueType::Map { key: dtype(*key)?, value: Box::new(value_type(value, dim)?) },
        Type::SparseTensor { .. } => return Err("sparse tensors are only supported as constants".into()),
        Type::Opaque { domain, name } => return Err(format!("the opaque type `{domain}.{name}` is not supported")),
    })
}

/// The types of a model's inputs. Symbols are shared among them; a dimension that the file does not name gets the symbol
/// `{input}_{axis}`. An expression that mentions a symbol no input binds becomes a symbol itself.
pub(crate) fn input_types(inputs: &[&ValueInfo]) -> Vec<Result<ValueType, String>> {
    let (mut bound, mut named) = (BTreeSet::new(), HashSet::new());
    for dim in inputs.iter().flat_map(|input| declared_dims(&input.r#type)) {
        if let Some(dim) = named_dim(dim) {
            bound.extend(dim.as_sym().map(str::to_string));
            named.extend(dim.symbols().iter().map(|s| s.to_string()));
        }
    }
    let types = inputs.iter().map(|input| {
        let mut dim = |axis: usize, declared: &DimParam| match (declared, named_dim(declared)) {
            (_, Some(dim)) if dim.symbols().iter().all(|s| bound.contains(&**s)) => dim,
            (DimParam::Param(text), Some(_)) => Dim::sym(text),
            _ => {
                let mut name = format!("{}_{axis}", input.name.trim_start_matches('?'));
                while named.contains(&name) {
                    name.push('_');
                }
                Dim::sym(&name)
            }
        };
        value_type(&input.r#type, &mut dim)
    });
    types.collect()
}

fn declared_dims(ty: &Type) -> &[DimParam] {
    match ty {
        Type::Tensor { shape: Some(dims), .. } => dims,
        _ => &[],
    }
}

/// The number, symbol or expression that a dimension says; `None` where it says nothing.
pub(crate) fn named_dim(declared: &DimParam) -> Option<Dim> {
    let text = match declared {
        DimParam::Value(n) => return Some(Dim::constant(*n)),
        DimParam::Unknown => return None,
        DimParam::Param(text) => text.trim(),
    };
    // Words that exporters write for a dimension without a name.
    if text.is_empty() || text.starts_with('?') || matches!(text, "None" | "none" | "-1") {
        return None;
    }
    let dim = text.parse().unwrap_or_else(|_| Dim::sym(text));
    let usable = !dim.is_late() && dim.as_const().is_none_or(|n| n >= 0);
    usable.then_some(dim)
}
