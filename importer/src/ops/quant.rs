//! Quantisation, of the ONNX operator set and of com.microsoft. Products of quantised tensors become integer products that
//! are scaled; other operators on quantised tensors compute in f32 between a `dequantize_linear` and a `quantize_linear`.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::{
    ActivationFn, Cast, Concat, DequantizeLinear, DynamicQuantizeLinear, DynamicQuantizeLstm, MatMulInteger, PoolFn,
    QuantizeLinear, Reduce, ReduceFn, Reshape, Select, Softmax, Transpose,
};
use ir::scalar::{BinaryFn, UnaryFn};

use super::nn_recurrent::Layer;
use super::{Table, nn_activation, nn_conv, nn_pool};
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "QuantizeLinear", quantize_linear),
    ("", "DequantizeLinear", dequantize_linear),
    ("", "DynamicQuantizeLinear", dynamic_quantize_linear),
    ("", "MatMulInteger", matmul_integer),
    ("", "QLinearMatMul", qlinear_matmul),
    ("", "QLinearConv", qlinear_conv),
    ("com.microsoft", "QuantizeLinear", quantize_linear),
    ("com.microsoft", "DequantizeLinear", dequantize_linear),
    ("com.microsoft", "MatMulIntegerToFloat", matmul_integer_to_float),
    ("com.microsoft", "DynamicQuantizeMatMul", dynamic_quantize_matmul),
    ("com.microsoft", "DynamicQuantizeLSTM", dynamic_quantize_lstm),
    ("com.microsoft", "QGemm", qgemm),
    ("com.microsoft", "QLinearAdd", |cx| qlinear_binary(cx, BinaryFn::Add)),
    ("com.microsoft", "QLinearMul", |cx| qlinear_binary(cx, BinaryFn::Mul)),
    ("com.microsoft", "QLinearSigmoid", |cx| qlinear(cx, |cx, x| cx.unary(UnaryFn::Sigmoid, x))),
    ("com.microsoft", "QLinearLeakyRelu", |cx| {
        let alpha = cx.attr_f32("alpha", 0.01)?;
        qlinear(cx, move |cx, x| nn_activation::leaky(cx, x, alpha))
    }),
    ("com.microsoft", "QLinearSoftmax", |cx| {
        let axis = cx.attr_i64("axis", -1)?;
        qlinear(cx, move |cx, x| cx.push(Softmax { axis, log: false }, &[x]))
    }),
    ("com.microsoft", "QLinearAveragePool", |cx| qlinear(cx, |cx, x| spatial(cx, x, average_pool))),
    ("com.microsoft", "QLinearGlobalAveragePool", |cx| qlinear(cx, |cx, x| spatial(cx, x, global_average))),
    ("com.microsoft", "QLinearConcat", qlinear_concat),
    ("com.microsoft", "QLinearConv", qlinear_conv),
    ("com.microsoft", "QLinearReduceMean", |cx| qlinear(cx, reduce_mean)),
    ("com.microsoft", "QLinearWhere", qlinear_where),
    ("com.microsoft", "NhwcMaxPool", nhwc_max_pool),
];

fn quantize_linear(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let mut operands = vec![cx.input(0)?, cx.input(1)?];
    operands.extend(cx.opt(2));
    let given = cx.opt_i64("output_dtype")?.filter(|d| *d != 0).and(cx.opt_dtype("output_dtype").transpose());
    let to = match cx.opt(2) {
        Some(zero) => cx.dtype(zero)?,
        None => given.transpose()?.unwrap_or(DType::U8),
    };
    let precision = match cx.attr_i64("precision", 0)? {
        0 => None,
        _ => cx.opt_dtype("precision")?,
    };
    let (axis, block) = (cx.attr_i64("axis", 1)?, cx.attr_i64("block_size", 0)?);
    let wrap = !cx.attr_bool("saturate", true)?;
    cx.one(QuantizeLinear { axis, block, to, precision, wrap }, &operands)
}

fn dequantize_linear(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let mut operands = vec![cx.input(0)?, cx.input(1)?];
    operands.extend(cx.opt(2));
    let to = match cx.attr_i64("output_dtype", 0)? {
        0 => cx.dtype(operands[1])?,
        _ => cx.opt_dtype("output_dtype")?.unwrap_or(DType::F32),
    };
    let (axis, block) = (cx.attr_i64("axis", 1)?, cx.attr_i64("block_size", 0)?);
    cx.one(DequantizeLinear { axis, block, to }, &operands)
}

fn dynamic_quantize_linear(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    cx.push_n(DynamicQuantizeLinear {}, &[x], 3)
}

fn matmul_integer(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let operands = [cx.input(0)?, cx.input(1)?, cx.or_absent(2), cx.or_absent(3)];
    cx.one(MatMulInteger {}, &operands)
}

/// `v` as f32.
pub(super) fn wide(cx: &mut NodeCx<'_>, v: Value) -> Result<Value, NodeError> {
    if cx.dtype(v)? == DType::F32 { Ok(v) } else { cx.push(Cast { to: DType::F32, wrap: false }, &[v]) }
}

/// The product of the scales of both factors; a vector of the first has one element per row.
pub(super) fn both_scales(cx: &mut NodeCx<'_>, a: Value, b: Value) -> Result<Value, NodeError> {
    let (mut a, b) = (wide(cx, a)?, wide(cx, b)?);
    if let Some([n]) = cx.dims(a).as_deref()
        && n.as_const() != Some(1)
    {
        a = cx.push(Reshape { shape: vec![n.clone(), 1.into()] }, &[a])?;
    }
    cx.binary(BinaryFn::Mul, a, b)
}

fn quantize(cx: &mut NodeCx<'_>, x: Value, scale: Value, zero: Option<Value>, to: DType) -> Result<Value, NodeError> {
    let mut operands = vec![x, wide(cx, scale)?];
    operands.extend(zero);
    cx.push(QuantizeLinear { axis: 1, block: 0, to, precision: None, wrap: false }, &operands)
}

fn dequantize(cx: &mut NodeCx<'_>, x: Value, scale: Value, zero: Option<Value>) -> Result<Value, NodeError> {
    let mut operands = vec![x, wide(cx, scale)?];
    operands.extend(zero);
    cx.push(DequantizeLinear { axis: 1, block: 0, to: DType::F32 }, &operands)
}

fn qlinear_matmul(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let factors = [cx.input(0)?, cx.input(3)?, cx.input(2)?, cx.input(5)?];
    let (a_scale, b_scale, y_scale, y_zero) = (cx.input(1)?, cx.input(4)?, cx.input(6)?, cx.input(7)?);
    let sum = cx.push(MatMulInteger {}, &factors)?;
    let scale = both_scales(cx, a_scale, b_scale)?;
    let sum = wide(cx, sum)?;
    let y = cx.binary(BinaryFn::Mul, sum, scale)?;
    let to = cx.dtype(y_zero)?;
    Ok(vec![quantize(cx, y, y_scale, Some(y_zero), to)?])
}

fn qlinear_conv(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    Ok(vec![spatial(cx, x, qlinear_convolve)?])
}

fn qlinear_convolve(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, NodeError> {
    let operands = [x, cx.input(3)?, cx.input(2)?, cx.input(5)?];
    let (x_scale, w_scale, y_scale, y_zero) = (cx.input(1)?, cx.input(4)?, cx.input(6)?, cx.input(7)?);
    let mut sum = nn_conv::convolve_integers(cx, &operands)?;
    let spatial = cx.known_dims(sum, "its channels are scaled")?.len() - 2;
    // One element per channel, in front of the spatial dimensions.
    let per_channel = |cx: &mut NodeCx<'_>, v: Value| match cx.dims(v).as_deref() {
        Some([n]) => {
            let mut shape = vec![n.clone()];
            shape.resize(1 + spatial, 1.into());
            cx.push(Reshape { shape }, &[v])
        }
        _ => Ok(v),
    };
    if let Some(bias) = cx.opt(8) {
        let bias = per_channel(cx, bias)?;
        sum = cx.binary(BinaryFn::Add, sum, bias)?;
    }
    let (x_scale, w_scale) = (wide(cx, x_scale)?, wide(cx, w_scale)?);
    let scale = cx.binary(BinaryFn::Mul, x_scale, w_scale)?;
    let scale = per_channel(cx, scale)?;
    let sum = wide(cx, sum)?;
    let y = cx.binary(BinaryFn::Mul, sum, scale)?;
    let to = cx.dtype(y_zero)?;
    quantize(cx, y, y_scale, Some(y_zero), to)
}

fn matmul_integer_to_float(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let factors = [cx.input(0)?, cx.input(1)?, cx.or_absent(4), cx.or_absent(5)];
    let scales = (cx.input(2)?, cx.input(3)?);
    scaled_product(cx, &factors, scales, 6)
}

fn dynamic_quantize_matmul(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, b, b_scale, b_zero) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.or_absent(3));
    let a = cx.push_n(DynamicQuantizeLinear {}, &[x], 3)?;
    scaled_product(cx, &[a[0], b, a[2], b_zero], (a[1], b_scale), 4)
}

fn scaled_product(
    cx: &mut NodeCx<'_>,
    factors: &[Value],
    (a_scale, b_scale): (Value, Value),
    bias: usize,
) -> Result<Vec<Value>, NodeError> {
    let sum = cx.push(MatMulInteger {}, factors)?;
    let scale = both_scales(cx, a_scale, b_scale)?;
    let sum = wide(cx, sum)?;
    let mut y = cx.binary(BinaryFn::Mul, sum, scale)?;
    if let Some(bias) = cx.opt(bias) {
        y = cx.binary(BinaryFn::Add, y, bias)?;
    }
    Ok(vec![y])
}

/// `alpha * A' * B' + C`, quantised where `y_scale` is given.
fn qgemm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (mut a, mut b) = (cx.input(0)?, cx.input(3)?);
    for (name, v) in [("transA", &mut a), ("transB", &mut b)] {
        if cx.attr_bool(name, false)? {
            *v = cx.push(Transpose { perm: vec![1, 0] }, &[*v])?;
        }
    }
    let (a_zero, b_zero) = (cx.or_absent(2), cx.or_absent(5));
    let (a_scale, b_scale) = (cx.input(1)?, cx.input(4)?);
    let mut sum = cx.push(MatMulInteger {}, &[a, b, a_zero, b_zero])?;
    if let Some(c) = cx.opt(6) {
        sum = cx.binary(BinaryFn::Add, sum, c)?;
    }
    let mut scale = both_scales(cx, a_scale, b_scale)?;
    let alpha = cx.attr_f32("alpha", 1.0)?;
    if alpha != 1.0 {
        scale = cx.with_number(BinaryFn::Mul, scale, alpha.into())?;
    }
    let sum = wide(cx, sum)?;
    let y = cx.binary(BinaryFn::Mul, sum, scale)?;
    match cx.opt(7) {
        Some(y_scale) => {
            let to = cx.dtype(a)?;
            Ok(vec![quantize(cx, y, y_scale, cx.opt(8), to)?])
        }
        None => Ok(vec![y]),
    }
}

fn dynamic_quantize_lstm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let layer = Layer::read(cx, &[ActivationFn::Sigmoid, ActivationFn::Tanh, ActivationFn::Tanh])?;
    let Layer { direction, activations, alphas, betas, clip, batch_first: _ } = layer;
    let input_forget = cx.attr_bool("input_forget", false)?;
    let operands: Vec<Value> = (0..12).map(|i| cx.or_absent(i)).collect();
    cx.push_n(DynamicQuantizeLstm { direction, activations, alphas, betas, clip, input_forget }, &operands, 3)
}

/// Operands A, A_scale, A_zero, B, B_scale, B_zero, C_scale, C_zero.
fn qlinear_binary(cx: &mut NodeCx<'_>, f: BinaryFn) -> Result<Vec<Value>, NodeError> {
    let (a, b) = ((cx.input(0)?, cx.input(1)?), (cx.input(3)?, cx.input(4)?));
    let to = cx.dtype(a.0)?;
    let a = dequantize(cx, a.0, a.1, cx.opt(2))?;
    let b = dequantize(cx, b.0, b.1, cx.opt(5))?;
    let y = cx.binary(f, a, b)?;
    let scale = cx.input(6)?;
    Ok(vec![quantize(cx, y, scale, cx.opt(7), to)?])
}

fn reduce_mean(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, NodeError> {
    let all: Vec<i64> = (0..cx.rank(x).unwrap_or(0) as i64).collect();
    let axes = cx.attr_ints("axes", &all)?;
    cx.push(Reduce { f: ReduceFn::Mean, axes, keep: cx.attr_bool("keepdims", true)? }, &[x])
}

/// Operands condition, X, X_scale, X_zero, Y, Y_scale, Y_zero, Z_scale, Z_zero.
fn qlinear_where(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (condition, x, y) = (cx.input(0)?, (cx.input(1)?, cx.input(2)?), (cx.input(4)?, cx.input(5)?));
    let to = cx.dtype(x.0)?;
    let x = dequantize(cx, x.0, x.1, cx.opt(3))?;
    let y = dequantize(cx, y.0, y.1, cx.opt(6))?;
    let z = cx.push(Select {}, &[condition, x, y])?;
    let scale = cx.input(7)?;
    Ok(vec![quantize(cx, z, scale, cx.opt(8), to)?])
}

/// Operands X, X_scale, X_zero, Y_scale, Y_zero around a function of floats.
fn qlinear(
    cx: &mut NodeCx<'_>,
    f: impl FnOnce(&mut NodeCx<'_>, Value) -> Result<Value, NodeError>,
) -> Result<Vec<Value>, NodeError> {
    let (x, scale, y_scale) = (cx.input(0)?, cx.input(1)?, cx.input(3)?);
    let to = cx.dtype(x)?;
    let x = dequantize(cx, x, scale, cx.opt(2))?;
    let y = f(cx, x)?;
    Ok(vec![quantize(cx, y, y_scale, cx.opt(4), to)?])
}

/// Applies a function of `[N, C, ..]`; with `channels_last` the operand is `[N, .., C]`.
fn spatial(
    cx: &mut NodeCx<'_>,
    x: Value,
    f: fn(&mut NodeCx<'_>, Value) -> Result<Value, NodeError>,
) -> Result<Value, NodeError> {
    if !cx.attr_bool("channels_last", false)? {
        return f(cx, x);
    }
    channels_last(cx, x, f)
}

/// Applies a function of `[N, C, ..]` to `[N, .., C]`.
fn channels_last(
    cx: &mut NodeCx<'_>,
    x: Value,
    f: fn(&mut NodeCx<'_>, Value) -> Result<Value, NodeError>,
) -> Result<Value, NodeError> {
    let rank = cx.known_dims(x, "its channels come last")?.len() as i64;
    let first: Vec<i64> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let last: Vec<i64> = [0].into_iter().chain(2..rank).chain([1]).collect();
    let x = cx.push(Transpose { perm: first }, &[x])?;
    let y = f(cx, x)?;
    cx.push(Transpose { perm: last }, &[y])
}

fn average_pool(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, NodeError> {
    let count_pads = cx.attr_bool("count_include_pad", false)?;
    nn_pool::pool(cx, x, PoolFn::Average, count_pads, None)
}

fn nhwc_max_pool(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    Ok(vec![channels_last(cx, x, |cx, x| nn_pool::pool(cx, x, PoolFn::Max, false, None))?])
}

fn global_average(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, NodeError> {
    let axes = nn_pool::spatial(cx, x)?;
    cx.push(Reduce { f: ReduceFn::Mean, axes, keep: true }, &[x])
}

/// Operands Y_scale, Y_zero, then tensor, scale and zero point of each part.
fn qlinear_concat(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let axis = cx.opt_i64("axis")?.ok_or_else(|| NodeError::wrong("attribute `axis` is missing"))?;
    let parts: Vec<usize> = (2..cx.n_inputs()).step_by(3).collect();
    let to = cx.input(2).and_then(|x| cx.dtype(x))?;
    let mut floats = vec![];
    for i in parts {
        let (x, scale) = (cx.input(i)?, cx.input(i + 1)?);
        floats.push(dequantize(cx, x, scale, cx.opt(i + 2))?);
    }
    let y = cx.push(Concat { axis }, &floats)?;
    let scale = cx.input(0)?;
    Ok(vec![quantize(cx, y, scale, cx.opt(1), to)?])
}
