//! com.microsoft operators over weights that stay packed in blocks: embeddings and mixtures of experts.

use ir::dim::Dim;
use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::{DequantizeLinear, Expand, Gather, MoeNBits, Reshape};
use ir::tensor::Tensor;

use super::{Table, contrib};
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table =
    &[("com.microsoft", "GatherBlockQuantized", gather_block_quantized), ("com.microsoft", "QMoE", qmoe)];

/// Codes of `bits` in the bytes of a constant, `n` in each of its rows, as a tensor of that element type.
fn unpacked(cx: &NodeCx<'_>, v: Value, bits: i64, n: usize) -> Result<Tensor, NodeError> {
    let wrong = |e: ir::tensor::TensorError| NodeError::wrong(e.to_string());
    let Some(t) = cx.constant(v) else { return cx.unsupported("packed data that is not constant is not") };
    let dtype = match bits {
        2 => DType::U2,
        4 => DType::U4,
        8 => DType::U8,
        _ => return Err(NodeError::wrong(format!("attribute `bits` is {bits}"))),
    };
    let (lead, row) = match t.dims() {
        [lead @ .., row] => (lead, *row),
        [] => return Err(NodeError::wrong("packed data has no rows")),
    };
    let (per_byte, rows) = ((8 / bits) as usize, lead.iter().product::<usize>());
    let dims = [lead, &[n]].concat();
    if n.div_ceil(per_byte) != row {
        return Err(NodeError::wrong(format!("rows of {row} bytes do not hold {n} codes of {bits} bits")));
    }
    if n.is_multiple_of(per_byte) {
        return Tensor::from_bytes(dtype, &dims, t.bytes()).map_err(wrong);
    }
    // Rows end inside a byte: codes must follow each other.
    let whole = Tensor::from_bytes(dtype, &[rows * row * per_byte], t.bytes()).map_err(wrong)?;
    let from: Vec<usize> = (0..rows * n).map(|i| i / n * row * per_byte + i % n).collect();
    whole.pick(&dims, &from).map_err(wrong)
}

/// Rows of packed data and of its scales and zero points, dequantised.
fn gather_block_quantized(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (mut data, indices, scales) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let mut zeros = cx.opt(3);
    let (bits, block) = (cx.attr_i64("bits", 4)?, cx.attr_i64("block_size", 128)?);
    let scale_dims = cx.known_dims(scales, "its blocks are found by it")?;
    let rank = scale_dims.len();
    let axis = |cx: &NodeCx<'_>, name: &str, default: i64| {
        ir::ops::axis(cx.attr_i64(name, default)?, rank)
            .map_err(|e| NodeError::wrong(format!("attribute `{name}`: {e}")))
    };
    let (gather, quantised) = (axis(cx, "gather_axis", 0)?, axis(cx, "quantize_axis", 1)?);
    if gather == quantised {
        return cx.unsupported("gathering along the dimension that is cut into blocks is not");
    }
    let bytes = cx.dtype(data)? == DType::U8;
    if bytes {
        let row = cx.known_dims(data, "it is packed")?.last().and_then(Dim::as_const).unwrap_or(0);
        let codes = unpacked(cx, data, bits, (row * 8 / bits.max(1)) as usize)?;
        data = cx.add_constant(codes);
        if let Some(packed) = zeros {
            let n = scale_dims.last().and_then(Dim::as_const).unwrap_or(0);
            let codes = unpacked(cx, packed, bits, n as usize)?;
            zeros = Some(cx.add_constant(codes));
        }
    }
    let (from, to) = (cx.dtype(data)?, cx.dtype(scales)?);
    let op = Gather { axis: gather as i64 };
    let x = cx.push(op.clone(), &[data, indices])?;
    let s = cx.push(op.clone(), &[scales, indices])?;
    let mut operands = vec![x, s];
    if let Some(zeros) = zeros {
        operands.push(cx.push(op, &[zeros, indices])?);
    } else if bytes {
        let middle = Tensor::from_f64(from, &[], &[(1i64 << (bits - 1)) as f64]);
        let middle = cx.add_constant(middle.map_err(|e| NodeError::wrong(e.to_string()))?);
        let shape = cx.known_dims(s, "zero points have its shape")?;
        operands.push(cx.push(Expand { shape }, &[middle])?);
    }
    let more = cx.known_dims(indices, "it moves the blocks")?.len() as i64 - 1;
    let at = quantised as i64 + if quantised > gather { more } else { 0 };
    cx.one(DequantizeLinear { axis: at, block, to }, &operands)
}

/// Inputs of one layer: weight, scales, bias, zero points.
const LAYERS: [[usize; 4]; 3] = [[2, 3, 4, 11], [5, 6, 7, 12], [8, 9, 10, 13]];

fn qmoe(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let quantised = cx.attr_str("quant_type", "int")?;
    if quantised != "int" {
        return cx.unsupported(format!("weights of the quantisation `{quantised}` are not"));
    }
    if cx.attr_i64("weights_prepacked", -1)? != 0 {
        // The default says what the accelerator's own packing is, which a file cannot say.
        return cx.unsupported("weights packed for one accelerator (`weights_prepacked` other than 0) are not");
    }
    let (act, gating) = contrib::expert_activation(cx)?;
    let all = cx.attr_i64("expert_weight_bits", 4)?;
    let count = if cx.opt(LAYERS[2][0]).is_some() { 3 } else { 2 };
    let mut bits = vec![];
    for name in ["fc1_expert_weight_bits", "fc2_expert_weight_bits", "fc3_expert_weight_bits"].into_iter().take(count) {
        let own = cx.attr_i64(name, all)?;
        if !matches!(own, 2 | 4 | 8) {
            return cx.unsupported(format!("codes of {own} bits are not"));
        }
        bits.push(own);
    }
    let (x, logits, shares) = (cx.input(0)?, cx.input(1)?, cx.or_absent(14));
    let mut operands = vec![x, logits, shares];
    for ([weight, scales, bias, zeros], bits) in LAYERS.into_iter().zip(&bits) {
        let (w, mut s) = (cx.input(weight)?, cx.input(scales)?);
        let mut z = cx.or_absent(zeros);
        let dims = cx.known_dims(s, "its blocks are found by it")?;
        if let [experts, n] = &dims[..] {
            // One block per row; the zero points of rows share bytes.
            let one: Vec<Dim> = vec![experts.clone(), n.clone(), 1.into()];
            s = cx.push(Reshape { shape: one }, &[s])?;
            if let Some(packed) = cx.opt(zeros) {
                let n = n.as_const().ok_or_else(|| NodeError::unsupported("the size of its weight is unknown"))?;
                let codes = unpacked(cx, packed, *bits, n as usize)?;
                let dims = [codes.dims(), &[1]].concat();
                let values = codes.to_f64().and_then(|v| Tensor::from_f64(DType::F32, &dims, &v));
                z = cx.add_constant(values.map_err(|e| NodeError::wrong(e.to_string()))?);
            }
        }
        operands.extend([w, s, z, cx.or_absent(bias)]);
    }
    let op = MoeNBits {
        bits,
        k: cx.attr_i64("k", 1)?,
        act,
        gating,
        // Without shares ONNX Runtime takes the softmax over the chosen, whatever the attribute says.
        normalize: cx.attr_bool("normalize_routing_weights", false)? || cx.opt(14).is_none(),
        alpha: cx.opt_f32("activation_alpha")?,
        beta: cx.opt_f32("activation_beta")?,
        limit: cx.opt_f32("swiglu_limit")?,
    };
    cx.one(op, &operands)
}
