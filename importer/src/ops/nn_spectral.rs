//! Spectra: Fourier transforms, and the weights for and of them.

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::host::{Dft, MelWeightMatrix, SpectralWindow, Stft, WindowFn};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "BlackmanWindow", |cx| window(cx, WindowFn::Blackman)),
    ("", "DFT", dft),
    ("", "HammingWindow", |cx| window(cx, WindowFn::Hamming)),
    ("", "HannWindow", |cx| window(cx, WindowFn::Hann)),
    ("", "MelWeightMatrix", mel_weight_matrix),
    ("", "STFT", stft),
];

/// Up to version 19 the axis is an attribute.
fn dft(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (x, length) = (cx.input(0)?, cx.or_absent(1));
    let axis = match cx.opset() < 20 {
        true => {
            let axis = cx.attr_i64("axis", 1)?;
            cx.const_i64(axis)
        }
        false => cx.or_absent(2),
    };
    let op = Dft { inverse: cx.attr_bool("inverse", false)?, onesided: cx.attr_bool("onesided", false)? };
    cx.one(op, &[x, length, axis])
}

fn stft(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let operands = [cx.input(0)?, cx.input(1)?, cx.or_absent(2), cx.or_absent(3)];
    cx.one(Stft { onesided: cx.attr_bool("onesided", true)? }, &operands)
}

fn window(cx: &mut NodeCx<'_>, f: WindowFn) -> Result<Vec<Value>, NodeError> {
    let symmetric = !cx.attr_bool("periodic", true)?;
    let dtype = cx.opt_dtype("output_datatype")?.unwrap_or(DType::F32);
    cx.one(SpectralWindow { f, symmetric, dtype }, &[cx.input(0)?])
}

fn mel_weight_matrix(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let dtype = cx.opt_dtype("output_datatype")?.unwrap_or(DType::F32);
    let operands: Vec<Value> = (0..5).map(|i| cx.input(i)).collect::<Result<_, _>>()?;
    cx.one(MelWeightMatrix { dtype }, &operands)
}
