//! The preprocessing steps of `ai.onnx.ml` that are arithmetic.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::{Binary, Cast, Compare, Concat, Expand, Gather, Reduce, ReduceFn, Reshape, Select, Slice};
use ir::scalar::{BinaryFn, CompareFn};
use ir::tensor::Tensor;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("ai.onnx.ml", "ArrayFeatureExtractor", array_feature_extractor),
    ("ai.onnx.ml", "Binarizer", binarizer),
    ("ai.onnx.ml", "FeatureVectorizer", feature_vectorizer),
    ("ai.onnx.ml", "Imputer", imputer),
    ("ai.onnx.ml", "Normalizer", normalizer),
    ("ai.onnx.ml", "Scaler", scaler),
];

fn floats(cx: &mut NodeCx<'_>, values: &[f32]) -> Value {
    let tensor = match values {
        [one] => Tensor::scalar(*one),
        many => Tensor::from_slice(&[many.len()], many).expect("the length is the list's"),
    };
    cx.add_constant(tensor)
}

pub(super) fn as_f32(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, NodeError> {
    if cx.dtype(x)? == DType::F32 { Ok(x) } else { cx.push(Cast { to: DType::F32, wrap: false }, &[x]) }
}

/// `(x - offset) * scale`, in f32.
fn scaler(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let mut y = as_f32(cx, x)?;
    if let Some(offset) = cx.opt_floats("offset")?.filter(|v| !v.is_empty()) {
        let offset = floats(cx, &offset);
        y = cx.push(Binary { f: BinaryFn::Sub }, &[y, offset])?;
    }
    if let Some(scale) = cx.opt_floats("scale")?.filter(|v| !v.is_empty()) {
        let scale = floats(cx, &scale);
        y = cx.push(Binary { f: BinaryFn::Mul }, &[y, scale])?;
    }
    Ok(vec![y])
}

/// 1 above the threshold, 0 elsewhere.
fn binarizer(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let threshold = cx.attr_f32("threshold", 0.0)?;
    let threshold = cx.const_like(x, f64::from(threshold))?;
    let above = cx.push(Compare { f: CompareFn::Gt }, &[x, threshold])?;
    let to = cx.dtype(x)?;
    cx.one(Cast { to, wrap: false }, &[above])
}

/// Every row divided by its norm; a row of norm 0 stays.
fn normalizer(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let x = as_f32(cx, x)?;
    let f = match &*cx.attr_str("norm", "MAX")? {
        "MAX" => ReduceFn::Max,
        "L1" => ReduceFn::L1,
        "L2" => ReduceFn::L2,
        other => return Err(NodeError::wrong(format!("attribute `norm` is `{other}`"))),
    };
    let norm = cx.push(Reduce { f, axes: vec![-1], keep: true }, &[x])?;
    let (zero, one) = (cx.const_like(x, 0.0)?, cx.const_like(x, 1.0)?);
    let none = cx.push(Compare { f: CompareFn::Eq }, &[norm, zero])?;
    let norm = cx.push(Select {}, &[none, one, norm])?;
    cx.one(Binary { f: BinaryFn::Div }, &[x, norm])
}

/// Elements that are `replaced_value` (or NaN) become the value for their column.
fn imputer(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let (is_missing, values) = match cx.dtype(x)?.is_float() {
        true => {
            let values = cx.attr_floats("imputed_value_floats", &[])?;
            let replaced = cx.attr_f32("replaced_value_float", 0.0)?;
            let is_missing = match replaced.is_nan() {
                true => cx.push(ir::ops::Unary { f: ir::scalar::UnaryFn::IsNan }, &[x])?,
                false => {
                    let replaced = cx.const_like(x, f64::from(replaced))?;
                    cx.push(Compare { f: CompareFn::Eq }, &[x, replaced])?
                }
            };
            (is_missing, values.into_iter().map(f64::from).collect::<Vec<_>>())
        }
        false => {
            let values = cx.attr_ints("imputed_value_int64s", &[])?;
            let replaced = cx.attr_i64("replaced_value_int64", 0)?;
            let replaced = cx.const_i64(replaced);
            let is_missing = cx.push(Compare { f: CompareFn::Eq }, &[x, replaced])?;
            (is_missing, values.into_iter().map(|v| v as f64).collect())
        }
    };
    let dims: &[usize] = if values.len() == 1 { &[] } else { &[values.len()] };
    let values = Tensor::from_f64(cx.dtype(x)?, dims, &values).map_err(|e| NodeError::wrong(e.to_string()))?;
    let values = cx.add_constant(values);
    cx.one(Select {}, &[is_missing, values, x])
}

/// Columns of the last dimension; a vector counts as one row.
fn array_feature_extractor(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (mut x, mut columns) = (cx.input(0)?, cx.input(1)?);
    let dims = cx.known_dims(x, "its columns are wanted")?;
    let count = cx.known_dims(columns, "it lists columns")?.into_iter().product();
    if dims.len() == 1 {
        x = cx.push(Reshape { shape: vec![1.into(), dims[0].clone()] }, &[x])?;
    }
    columns = cx.push(Reshape { shape: vec![count] }, &[columns])?;
    cx.one(Gather { axis: -1 }, &[x, columns])
}

/// Operands side by side, in f32, each cut or filled with zeros to its length in `inputdimensions`; a vector is one row.
fn feature_vectorizer(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let lengths = cx.attr_ints("inputdimensions", &[])?;
    let mut parts = vec![];
    for (i, x) in cx.inputs()?.into_iter().enumerate() {
        let mut x = as_f32(cx, x)?;
        let mut dims = cx.known_dims(x, "it is put beside others")?;
        if dims.len() != 2 {
            dims = match &dims[..] {
                [rows, rest @ .., _] if !rest.is_empty() => vec![rows.clone(), dims[1..].iter().cloned().product()],
                _ => vec![1.into(), dims.iter().cloned().product()],
            };
            x = cx.push(Reshape { shape: dims.clone() }, &[x])?;
        }
        match (lengths.get(i), dims[1].as_const()) {
            (Some(wanted), Some(found)) if *wanted < found => {
                let cut = Slice { axes: vec![1], starts: vec![0.into()], ends: vec![(*wanted).into()], steps: vec![1] };
                x = cx.push(cut, &[x])?;
            }
            (Some(wanted), Some(found)) if *wanted > found => {
                let shape = vec![dims[0].clone(), (wanted - found).into()];
                let zero = floats(cx, &[0.0]);
                let zeros = cx.push(Expand { shape }, &[zero])?;
                x = cx.push(Concat { axis: 1 }, &[x, zeros])?;
            }
            _ => {}
        }
        parts.push(x);
    }
    cx.one(Concat { axis: 1 }, &parts)
}
