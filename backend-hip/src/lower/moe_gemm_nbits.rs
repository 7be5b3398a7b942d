//! `moe_gemm_nbits`: experts whose weights stay packed in the device's memory. Where an expert has about one pair its weights are
//! streamed for it; where it has more, matrix instructions take 32 of its pairs at a time. Where rows and scales are f16 and codes have
//! 4 bits, matrix instructions take 16, whatever their number.

use super::linear::activation;
use super::packed::{Packed, blocks_fit};
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output, scratch};
use ir::Dim;
use ir::ops::{Gating, MoeGemmNBits};
use kernels::{Element, table};

/// Bytes of a product, which lies in scratch memory until it is gated, weighted and summed.
const F32: i64 = 4;
/// Operands of the two weights, and the weights of the pairs.
const FIRST: [usize; 2] = [3, 7];
const WEIGHTS: usize = 11;

struct Layer {
    w: Packed,
    bias: Option<usize>,
    row_bytes: i64,
    blocks: i64,
    /// Inputs that share a scale.
    block: i64,
}

struct Gemm {
    op: MoeGemmNBits,
    x: Element,
    layers: Vec<Layer>,
    experts: i64,
    /// Outputs of a layer, and inputs.
    outputs: i64,
    k: i64,
    has_weights: bool,
    act: i64,
    /// Bytes of all products.
    bytes: Dim,
}

pub(super) fn moe_gemm_nbits(op: &MoeGemmNBits, types: &Types<'_>) -> Chosen {
    let x = types.element(0)?;
    let sides = [FIRST[0] + 3, FIRST[1] + 3, WEIGHTS];
    let alike = sides.iter().filter(|i| types.input(**i).is_some()).all(|i| types.element(*i) == Ok(x));
    let index = |i: usize| types.element(i) == Ok(Element::I32);
    if !matches!(x, Element::F32 | Element::F16 | Element::BF16) || !alike || !index(1) || !index(2) {
        return Err("its element types differ, or are not f32, f16 or bf16");
    }
    types.dims(0)?;
    let [pairs] = types.dims(1)? else { return Err("its pairs are not a vector") };
    let weights = FIRST.into_iter().zip(&op.bits);
    let layers: Vec<_> = weights.clone().map(|(at, bits)| layer(types, at, *bits)).collect::<Result<_, _>>()?;
    let ([experts, outputs, row_bytes], Some(bits)) = (sizes(types, FIRST[0])?, op.bits.first()) else {
        return Err("it has no weight");
    };
    let bytes = pairs * (outputs * F32 * layers.len() as i64);
    let act = op.act.map_or(Ok(0), activation)?;
    let (k, has_weights) = (row_bytes * 8 / bits, types.input(WEIGHTS).is_some());
    Ok(Box::new(Gemm { op: op.clone(), x, layers, experts, outputs, k, has_weights, act, bytes }))
}

/// The three dimensions of an operand.
fn sizes(types: &Types<'_>, i: usize) -> Result<[i64; 3], &'static str> {
    let [a, b, c] = types.dims(i)? else { return Err("packed weights and their scales have rank 3") };
    match (a.as_const(), b.as_const(), c.as_const()) {
        (Some(a), Some(b), Some(c)) if c > 0 => Ok([a, b, c]),
        _ => Err("the sizes of its weights are not known"),
    }
}

fn layer(types: &Types<'_>, at: usize, bits: i64) -> Result<Layer, &'static str> {
    let ([_, _, row_bytes], [_, _, blocks]) = (sizes(types, at)?, sizes(types, at + 1)?);
    let k = row_bytes * 8 / bits;
    if k % blocks != 0 {
        return Err("its inputs do not divide into its scales");
    }
    blocks_fit(blocks, k / blocks)?;
    let bias = types.input(at + 3).map(|_| at + 3);
    Ok(Layer { w: Packed::new(types, at, bits)?, bias, row_bytes, blocks, block: k / blocks })
}

impl Gemm {
    /// The products of one layer, to scratch memory.
    fn product(&self, layer: &Layer, to: i64, pairs: i64) -> Call<Memory> {
        let (experts, n, k, repeat) = (self.experts, self.outputs, self.k, self.op.repeat.max(1));
        let row = layer.w.row(layer.row_bytes, layer.blocks, layer.block);
        let [w, scales, zeros] = layer.w.memory();
        let (bias, has_bias) = (input(layer.bias.unwrap_or(0)), i64::from(layer.bias.is_some()));
        let matrices = layer.w.fits(self.x) && k % 32 == 0 && pairs > experts;
        let kernel = match matrices {
            _ if row.in_registers(self.x, k) => table::moe_nbits_coded,
            true => table::moe_nbits_tiles,
            false => table::moe_nbits_rows,
        };
        call(kernel(
            self.x,
            input(0),
            input(1),
            input(2),
            w,
            scales,
            zeros,
            bias,
            scratch(to),
            pairs,
            pairs / repeat,
            repeat,
            experts,
            experts.min(pairs),
            n,
            k,
            row.bits,
            row.bytes,
            row.blocks,
            row.shift,
            row.scale_kind,
            row.zero_kind,
            has_bias,
        ))
    }
}

impl Lowering for Gemm {
    fn name(&self) -> &'static str {
        "moe_gemm_nbits"
    }

    fn files(&self) -> &'static [&'static str] {
        &["moe_nbits", "moe"]
    }

    fn scratch(&self) -> Option<Dim> {
        Some(self.bytes.clone())
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (pairs, y) = (sizes.ins[1][0] as i64, &sizes.outs[0]);
        if y.contains(&0) || pairs == 0 {
            return Ok(vec![]);
        }
        let second = pairs * self.outputs * F32;
        let products = self.layers.iter().zip([0, second]).map(|(layer, to)| self.product(layer, to, pairs));
        let mut calls: Vec<_> = products.collect();
        let gating = match (self.op.gating, self.layers.len()) {
            (Gating::None, 1) => 0,
            (Gating::Interleaved, _) => 1,
            (Gating::Halves, _) => 2,
            (Gating::None, _) => 3,
        };
        let results = y[0] as i64;
        calls.push(call(table::moe_finish(
            self.x,
            scratch(0),
            scratch(if gating == 3 { second } else { 0 }),
            input(if self.has_weights { WEIGHTS } else { 0 }),
            output(0),
            results,
            pairs / results,
            y[1] as i64,
            gating,
            self.act,
            self.outputs,
            i64::from(gating == 3),
            i64::from(self.has_weights),
            self.op.alpha.unwrap_or(1.0),
            self.op.beta.unwrap_or(0.0),
            self.op.limit.unwrap_or(f32::INFINITY),
        )));
        Ok(calls)
    }
}
