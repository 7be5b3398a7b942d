//! Random numbers. A node without a seed gets one from its name, so that runs repeat and nodes differ.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::host::{Distribution, Multinomial, Random};
use ir::ops::{Cast, Compare};
use ir::scalar::CompareFn;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "Bernoulli", bernoulli),
    ("", "Multinomial", multinomial),
    ("", "RandomNormal", |cx| random(cx, Distribution::Normal, false)),
    ("", "RandomNormalLike", |cx| random(cx, Distribution::Normal, true)),
    ("", "RandomUniform", |cx| random(cx, Distribution::Uniform, false)),
    ("", "RandomUniformLike", |cx| random(cx, Distribution::Uniform, true)),
];

fn seed(cx: &NodeCx<'_>) -> Result<i64, NodeError> {
    match cx.opt_f32("seed")? {
        Some(seed) => Ok(i64::from(seed.to_bits())),
        None => Ok(seed_of_name(cx)),
    }
}

/// FNV-1a of the node's name.
pub(super) fn seed_of_name(cx: &NodeCx<'_>) -> i64 {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    cx.label.bytes().fold(0xcbf2_9ce4_8422_2325, hash) as i64
}

fn random(cx: &mut NodeCx<'_>, f: Distribution, like: bool) -> Result<Vec<Value>, NodeError> {
    let (a, b) = match f {
        Distribution::Uniform => (cx.attr_f32("low", 0.0)?, cx.attr_f32("high", 1.0)?),
        Distribution::Normal => (cx.attr_f32("mean", 0.0)?, cx.attr_f32("scale", 1.0)?),
    };
    let seed = seed(cx)?;
    let given = cx.opt_dtype("dtype")?;
    if !like {
        let shape = cx.attr_ints("shape", &[])?.into_iter().map(Into::into).collect();
        return cx.one(Random { f, a, b, seed, dtype: given.unwrap_or(DType::F32), shape: Some(shape) }, &[]);
    }
    let x = cx.input(0)?;
    let dtype = given.map_or_else(|| cx.dtype(x), Ok)?;
    cx.one(Random { f, a, b, seed, dtype, shape: None }, &[x])
}

/// 1 with the probability that the element gives.
fn bernoulli(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let to = cx.opt_dtype("dtype")?.map_or_else(|| cx.dtype(x), Ok)?;
    let op = Random { f: Distribution::Uniform, a: 0.0, b: 1.0, seed: seed(cx)?, dtype: cx.dtype(x)?, shape: None };
    let drawn = cx.push(op, &[x])?;
    let below = cx.push(Compare { f: CompareFn::Lt }, &[drawn, x])?;
    cx.one(Cast { to, wrap: false }, &[below])
}

fn multinomial(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let dtype = cx.opt_dtype("dtype")?.unwrap_or(DType::I32);
    let op = Multinomial { count: cx.attr_i64("sample_size", 1)?, seed: seed(cx)?, dtype };
    cx.one(op, &[cx.input(0)?])
}
