//! Normalisation. Batch normalisation of constants becomes a product and a sum, which fold into a convolution.

use ir::dim::Dim;
use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::{Cast, Compare, Expand, GroupNorm, LayerNorm, Lrn, Reduce, ReduceFn, Reshape, RmsNorm, Select};
use ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use ir::tensor::Tensor;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "BatchNormalization", batch_norm),
    ("", "InstanceNormalization", instance_norm),
    ("", "GroupNormalization", group_norm),
    ("", "LayerNormalization", layer_norm),
    ("", "RMSNormalization", rms_norm),
    ("", "SimplifiedLayerNormalization", rms_norm),
    ("com.microsoft", "SimplifiedLayerNormalization", rms_norm),
    ("", "LRN", lrn),
    ("", "LpNormalization", lp_norm),
    ("", "MeanVarianceNormalization", mean_variance),
];

fn batch_norm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let rank = cx.known_dims(x, "its parameters belong to dimension 1")?.len();
    let epsilon = f64::from(cx.attr_f32("epsilon", 1e-5)?);
    let parameters = [cx.input(1)?, cx.input(2)?, cx.input(3)?, cx.input(4)?];
    let training = cx.attr_bool("training_mode", false)? && cx.opset() >= 14;
    if training {
        return batch_norm_training(cx, x, rank, parameters, epsilon);
    }
    Ok(vec![normalise_channels(cx, x, rank, parameters, epsilon)?])
}

/// `(x - mean) / sqrt(var + eps) * scale + bias` as one product and one sum per element.
fn normalise_channels(
    cx: &mut NodeCx<'_>,
    x: Value,
    rank: usize,
    parameters: [Value; 4],
    epsilon: f64,
) -> Result<Value, NodeError> {
    let dtype = cx.dtype(x)?;
    let constants: Option<Vec<Tensor>> = parameters.iter().map(|v| cx.constant(*v)).collect();
    let constants = constants.and_then(|all| all.iter().map(|t| t.to_f64().ok()).collect::<Option<Vec<_>>>());
    let per_channel = |n: Dim| {
        let mut shape = vec![n];
        shape.resize(rank.max(2) - 1, 1.into());
        shape
    };
    let (factor, offset) = match constants.as_deref() {
        Some([scale, bias, mean, var]) if [bias, mean, var].iter().all(|v| v.len() == scale.len()) => {
            let factor: Vec<f64> = scale.iter().zip(var).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
            let offset: Vec<f64> = (0..scale.len()).map(|i| bias[i] - mean[i] * factor[i]).collect();
            let mut dims = vec![scale.len()];
            dims.resize(rank.max(2) - 1, 1);
            let mut constant = |v: &[f64]| {
                let t = Tensor::from_f64(dtype, &dims, v).map_err(|e| NodeError::wrong(e.to_string()))?;
                Ok::<_, NodeError>(cx.add_constant(t))
            };
            (constant(&factor)?, constant(&offset)?)
        }
        _ => {
            let [scale, bias, mean, var] = parameters;
            let safe = cx.with_number(BinaryFn::Add, var, epsilon)?;
            let deviation = cx.unary(UnaryFn::Sqrt, safe)?;
            let deviation = like(cx, deviation, scale)?;
            let factor = cx.binary(BinaryFn::Div, scale, deviation)?;
            let mean = like(cx, mean, scale)?;
            let shift = cx.binary(BinaryFn::Mul, mean, factor)?;
            let offset = cx.binary(BinaryFn::Sub, bias, shift)?;
            let mut shaped = |v: Value| {
                let n = cx.dims(v).and_then(|d| d.first().cloned());
                let n = n.ok_or_else(|| NodeError::unsupported("the size of its parameters is unknown"))?;
                let v = cx.push(Reshape { shape: per_channel(n) }, &[v])?;
                like(cx, v, x)
            };
            (shaped(factor)?, shaped(offset)?)
        }
    };
    let scaled = cx.binary(BinaryFn::Mul, x, factor)?;
    cx.binary(BinaryFn::Add, scaled, offset)
}

/// `v` in the element type of `model`.
fn like(cx: &mut NodeCx<'_>, v: Value, model: Value) -> Result<Value, NodeError> {
    let to = cx.dtype(model)?;
    if cx.dtype(v)? == to { Ok(v) } else { cx.push(Cast { to, wrap: false }, &[v]) }
}

/// Normalises with the batch's own mean and variance; the running ones move towards them by `1 - momentum`.
fn batch_norm_training(
    cx: &mut NodeCx<'_>,
    x: Value,
    rank: usize,
    [scale, bias, running_mean, running_var]: [Value; 4],
    epsilon: f64,
) -> Result<Vec<Value>, NodeError> {
    let momentum = f64::from(cx.attr_f32("momentum", 0.9)?);
    let axes: Vec<i64> = (0..rank as i64).filter(|a| *a != 1).collect();
    let keep = |axes: &[i64]| Reduce { f: ReduceFn::Mean, axes: axes.to_vec(), keep: true };
    let mean = cx.push(keep(&axes), &[x])?;
    let centred = cx.binary(BinaryFn::Sub, x, mean)?;
    let square = cx.binary(BinaryFn::Mul, centred, centred)?;
    let flat = Reduce { f: ReduceFn::Mean, axes: axes.clone(), keep: false };
    let (mean, var) = (cx.push(flat.clone(), &[x])?, cx.push(flat, &[square])?);
    let y = normalise_channels(cx, x, rank, [scale, bias, mean, var], epsilon)?;
    let mut results = vec![y];
    for (old, new) in [(running_mean, mean), (running_var, var)] {
        let new = like(cx, new, old)?;
        let (old, new) =
            (cx.with_number(BinaryFn::Mul, old, momentum)?, cx.with_number(BinaryFn::Mul, new, 1.0 - momentum)?);
        results.push(cx.binary(BinaryFn::Add, old, new)?);
    }
    Ok(results)
}

fn instance_norm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let channels =
        [cx.dims(operands[1]).and_then(|d| d.first().cloned()), cx.dims(operands[0]).and_then(|d| d.get(1).cloned())];
    let Some(groups) = channels.into_iter().flatten().next() else {
        return cx.unsupported("the number of channels is unknown");
    };
    let eps = cx.attr_f32("epsilon", 1e-5)?;
    cx.one(GroupNorm { groups, eps }, &operands)
}

fn group_norm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let groups = cx.opt_i64("num_groups")?.ok_or_else(|| NodeError::wrong("attribute `num_groups` is missing"))?;
    let eps = cx.attr_f32("epsilon", 1e-5)?;
    let channels = cx.known_dims(x, "its groups split dimension 1")?.get(1).cloned();
    let channels = channels.ok_or_else(|| NodeError::wrong("its operand has no channels"))?;
    let mut operands = vec![x];
    for v in [cx.input(1)?, cx.input(2)?] {
        let per_group = cx.opset() < 21
            && cx.dims(v).is_some_and(|d| d[..] == [Dim::constant(groups)])
            && channels.as_const() != Some(groups);
        if !per_group {
            operands.push(v);
            continue;
        }
        // Before version 21 there is one scale per group.
        let size = channels.floor_div(&Dim::constant(groups));
        let column = cx.push(Reshape { shape: vec![groups.into(), 1.into()] }, &[v])?;
        let wide = cx.push(Expand { shape: vec![groups.into(), size] }, &[column])?;
        operands.push(cx.push(Reshape { shape: vec![channels.clone()] }, &[wide])?);
    }
    cx.one(GroupNorm { groups: groups.into(), eps }, &operands)
}

fn layer_norm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, scale, bias) = (cx.input(0)?, cx.or_absent(1), cx.or_absent(2));
    let (axis, eps) = (cx.attr_i64("axis", -1)?, cx.attr_f32("epsilon", 1e-5)?);
    let y = cx.push(LayerNorm { axis, eps }, &[x, scale, bias])?;
    if !cx.wants(1) && !cx.wants(2) {
        return Ok(vec![y]);
    }
    let stash = cx.opt_dtype("stash_type")?.unwrap_or(DType::F32);
    let (mean, inverse) = moments(cx, x, axis, eps, stash)?;
    Ok(vec![y, mean, inverse])
}

/// Mean and `1 / sqrt(variance + eps)` over the dimensions from `axis` on, as `stash`.
pub(super) fn moments(
    cx: &mut NodeCx<'_>,
    x: Value,
    axis: i64,
    eps: f32,
    stash: DType,
) -> Result<(Value, Value), NodeError> {
    let rank = cx.known_dims(x, "mean and deviation keep it")?.len();
    let first = ir::ops::axis(axis, rank).map_err(|e| NodeError::wrong(e.to_string()))?;
    let x = if cx.dtype(x)? == stash { x } else { cx.push(Cast { to: stash, wrap: false }, &[x])? };
    let reduce = Reduce { f: ReduceFn::Mean, axes: (first as i64..rank as i64).collect(), keep: true };
    let mean = cx.push(reduce.clone(), &[x])?;
    let centred = cx.binary(BinaryFn::Sub, x, mean)?;
    let square = cx.binary(BinaryFn::Mul, centred, centred)?;
    let variance = cx.push(reduce, &[square])?;
    let safe = cx.with_number(BinaryFn::Add, variance, eps.into())?;
    Ok((mean, cx.unary(UnaryFn::Rsqrt, safe)?))
}

fn rms_norm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, scale) = (cx.input(0)?, cx.or_absent(1));
    let (axis, eps) = (cx.attr_i64("axis", -1)?, cx.attr_f32("epsilon", 1e-5)?);
    cx.one(RmsNorm { axis, eps }, &[x, scale])
}

fn lrn(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let size = cx.opt_i64("size")?.ok_or_else(|| NodeError::wrong("attribute `size` is missing"))?;
    let (alpha, beta) = (cx.attr_f32("alpha", 0.0001)?, cx.attr_f32("beta", 0.75)?);
    let bias = cx.attr_f32("bias", 1.0)?;
    cx.one(Lrn { size, alpha, beta, bias }, &[x])
}

/// `x / norm`, 0 where the norm is 0.
fn lp_norm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, axis) = (cx.input(0)?, cx.attr_i64("axis", -1)?);
    let f = match cx.attr_i64("p", 2)? {
        1 => ReduceFn::L1,
        2 => ReduceFn::L2,
        p => return Err(NodeError::wrong(format!("attribute `p` is {p}, not 1 or 2"))),
    };
    let norm = cx.push(Reduce { f, axes: vec![axis], keep: true }, &[x])?;
    let zero = cx.const_like(x, 0.0)?;
    let empty = cx.push(Compare { f: CompareFn::Eq }, &[norm, zero])?;
    let y = cx.binary(BinaryFn::Div, x, norm)?;
    cx.one(Select {}, &[empty, zero, y])
}

/// `(x - mean) / (sqrt(mean(x^2) - mean^2) + 1e-9)`.
fn mean_variance(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, axes) = (cx.input(0)?, cx.attr_ints("axes", &[0, 2, 3])?);
    let reduce = Reduce { f: ReduceFn::Mean, axes, keep: true };
    let mean = cx.push(reduce.clone(), &[x])?;
    let centred = cx.binary(BinaryFn::Sub, x, mean)?;
    let square = cx.binary(BinaryFn::Mul, centred, centred)?;
    let variance = cx.push(reduce, &[square])?;
    let deviation = cx.unary(UnaryFn::Sqrt, variance)?;
    let safe = cx.with_number(BinaryFn::Add, deviation, 1e-9)?;
    Ok(vec![cx.binary(BinaryFn::Div, centred, safe)?])
}
