//! Text: joining, cutting, cleaning, matching, and tables from text to numbers; encoded images.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::host::{
    CaseChange, ImageDecoder, LabelEncoder, PixelFormat, RegexFullMatch, StringConcat, StringNormalizer, StringSplit,
    TfIdf, TfIdfMode,
};
use ir::tensor::Tensor;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "ImageDecoder", image_decoder),
    ("", "RegexFullMatch", regex_full_match),
    ("", "StringConcat", |cx| cx.one(StringConcat {}, &[cx.input(0)?, cx.input(1)?])),
    ("", "StringNormalizer", string_normalizer),
    ("", "StringSplit", string_split),
    ("", "TfIdfVectorizer", tf_idf),
    ("ai.onnx.ml", "LabelEncoder", label_encoder),
];

fn image_decoder(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let format = match &*cx.attr_str("pixel_format", "RGB")? {
        "RGB" => PixelFormat::Rgb,
        "BGR" => PixelFormat::Bgr,
        "Grayscale" => PixelFormat::Grayscale,
        other => return Err(NodeError::wrong(format!("attribute `pixel_format` is `{other}`"))),
    };
    cx.one(ImageDecoder { format }, &[cx.input(0)?])
}

fn regex_full_match(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let pattern = cx.opt_str("pattern")?.ok_or_else(|| NodeError::wrong("attribute `pattern` is missing"))?;
    cx.one(RegexFullMatch { pattern }, &[cx.input(0)?])
}

fn string_normalizer(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let change = match &*cx.attr_str("case_change_action", "NONE")? {
        "NONE" => CaseChange::None,
        "LOWER" => CaseChange::Lower,
        "UPPER" => CaseChange::Upper,
        other => return Err(NodeError::wrong(format!("attribute `case_change_action` is `{other}`"))),
    };
    let case_sensitive = cx.attr_bool("is_case_sensitive", false)?;
    let stopwords = cx.attr_strs("stopwords", &[])?;
    cx.one(StringNormalizer { change, case_sensitive, stopwords }, &[cx.input(0)?])
}

fn string_split(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = StringSplit { delimiter: cx.attr_str("delimiter", "")?, most: cx.opt_i64("maxsplit")? };
    cx.push_n(op, &[cx.input(0)?], 2)
}

fn tf_idf(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let required = |name: &str| NodeError::wrong(format!("attribute `{name}` is missing"));
    let mode = match &*cx.opt_str("mode")?.ok_or_else(|| required("mode"))? {
        "TF" => TfIdfMode::Tf,
        "IDF" => TfIdfMode::Idf,
        "TFIDF" => TfIdfMode::TfIdf,
        other => return Err(NodeError::wrong(format!("attribute `mode` is `{other}`"))),
    };
    let positions = cx.attr_ints("ngram_indexes", &[])?;
    let op = TfIdf {
        starts: cx.attr_ints("ngram_counts", &[])?,
        columns: positions.iter().max().map_or(0, |p| p.saturating_add(1)),
        positions,
        shortest: cx.attr_i64("min_gram_length", 1)?,
        longest: cx.attr_i64("max_gram_length", 1)?,
        skips: cx.attr_i64("max_skip_count", 0)?,
        mode,
    };
    let pool = match cx.opt_strs("pool_strings")? {
        Some(texts) if !texts.is_empty() => {
            Tensor::from_strings(&[texts.len()], texts).map_err(|e| NodeError::wrong(e.to_string()))?
        }
        _ => Tensor::vector_i64(&cx.attr_ints("pool_int64s", &[])?),
    };
    let mut operands = vec![x, cx.add_constant(pool)];
    if let Some(weights) = cx.opt_floats("weights")?.filter(|w| !w.is_empty()) {
        let weights = Tensor::from_slice(&[weights.len()], &weights).map_err(|e| NodeError::wrong(e.to_string()))?;
        operands.push(cx.add_constant(weights));
    }
    cx.one(op, &operands)
}

/// Version 1 has a list of texts that stand for their positions; from version 2 on keys and values are lists or tensors.
fn label_encoder(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let wrong = |e: ir::tensor::TensorError| NodeError::wrong(e.to_string());
    let text = |s: String| Tensor::from_strings(&[], vec![s]).map_err(wrong);
    if let Some(classes) = cx.opt_strs("classes_strings")? {
        let numbers: Vec<i64> = (0..classes.len() as i64).collect();
        let classes = Tensor::from_strings(&[classes.len()], classes).map_err(wrong)?;
        let (keys, values, default) = match cx.dtype(x)? {
            DType::Str => (classes, Tensor::vector_i64(&numbers), Tensor::scalar(cx.attr_i64("default_int64", -1)?)),
            _ => (Tensor::vector_i64(&numbers), classes, text(cx.attr_str("default_string", "_Unused")?)?),
        };
        return encode(cx, x, [keys, values, default]);
    }
    let list = |what: &str| -> Result<Tensor, NodeError> {
        if let Some(t) = cx.opt_tensor(&format!("{what}_tensor"))? {
            return t.reshaped(&[t.len()]).map_err(wrong);
        }
        if let Some(v) = cx.opt_strs(&format!("{what}_strings"))? {
            return Tensor::from_strings(&[v.len()], v).map_err(wrong);
        }
        if let Some(v) = cx.opt_ints(&format!("{what}_int64s"))? {
            return Ok(Tensor::vector_i64(&v));
        }
        let v = cx.attr_floats(&format!("{what}_floats"), &[])?;
        Tensor::from_slice(&[v.len()], &v).map_err(wrong)
    };
    let (keys, values) = (list("keys")?, list("values")?);
    let default = match (cx.opt_tensor("default_tensor")?, values.dtype()) {
        (Some(t), _) => t.reshaped(&[]).map_err(wrong)?,
        (None, DType::Str) => text(cx.attr_str("default_string", "_Unused")?)?,
        (None, DType::I64) => Tensor::scalar(cx.attr_i64("default_int64", -1)?),
        (None, DType::F32) => Tensor::scalar(cx.attr_f32("default_float", -0.0)?),
        (None, dtype) => Tensor::from_f64(dtype, &[], &[if dtype.is_float() { -0.0 } else { -1.0 }]).map_err(wrong)?,
    };
    encode(cx, x, [keys, values, default])
}

fn encode(cx: &mut NodeCx<'_>, x: Value, lists: [Tensor; 3]) -> Result<Vec<Value>, NodeError> {
    let [keys, values, default] = lists.map(|t| cx.add_constant(t));
    cx.one(LabelEncoder {}, &[x, keys, values, default])
}
