use super::activation::ActivationFn;
use super::moe::{Gating, Moe};
use super::operand::{ensure, floats, optional, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::ValueType;

op! {
    /// `moe_nbits(x, logits, shares?, fc1, s1, z1?, b1?, fc2, s2, z2?, b2?, fc3?, s3?, z3?, b3?) {bits, k, act, gating}`: `moe` with
    /// packed weights, as com.microsoft's QMoE.
    ///
    /// A layer's weight is u8 `[E, n, width * bits / 8]`, low bits first, with float scales `[E, n, blocks]`: an element is
    /// `(code - zero) * scale`, zero `2^(bits-1)`, or from `z`: floats like the scales, or u8 packed like the weight, each row
    /// starting at a byte. `bits` lists the width of a code for each layer. With `shares[rows, E]` the logits only choose, and an
    /// expert counts as much as its share says, divided by the sum over the chosen with `normalize`.
    pub struct MoeNBits {
        bits: Vec<i64>, k: i64, act: ActivationFn, gating: Gating, normalize: bool, alpha: Option<f32>, beta: Option<f32>,
        limit: Option<f32>,
    }
}

/// Position of a layer's first operand.
const FIRST: [usize; 3] = [3, 7, 11];

impl OpSpec for MoeNBits {
    const NAME: &'static str = "moe_nbits";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[T, 8], %l: f32[T, 4], %a: u8[4, 12, 4], %as: f32[4, 12, 2], %b: u8[4, 8, 3], %bs: f32[4, 8, 1]) { %y = moe_nbits(%x, %l, _, %a, %as, _, _, %b, %bs) {bits = [4, 4], k = 2, act = silu, gating = interleaved, normalize = true} return %y }",
        "graph @g(%x: f32[B, S, 8], %l: f32[B*S, 4], %h: f32[B*S, 4], %a: u8[4, 4, 2], %as: f32[4, 4, 2], %az: u8[4, 4, 1], %ab: f32[4, 4], %b: u8[4, 8, 4], %bs: f32[4, 8, 2], %bz: f32[4, 8, 2], %bb: f32[4, 8]) { %y = moe_nbits(%x, %l, %h, %a, %as, %az, %ab, %b, %bs, %bz, %bb) {bits = [2, 8], k = 1, act = relu, gating = none} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(9, 15)?;
        let x = operands.tensor(0)?;
        let layers = if operands.has(FIRST[2]) { 3 } else { 2 };
        if self.bits.len() != layers || !self.bits.iter().all(|b| matches!(b, 2 | 4 | 8)) || self.k < 1 {
            return Err(TypeError::Invalid(format!("{layers} layers of {:?} bits, {} experts a row", self.bits, self.k)));
        }
        if !x.dtype.is_float() || !operands.dtype(1)?.is_float() {
            return Err(operands.wrong(0, "experts take floats"));
        }
        let (Some(dims), Some([rows, experts])) = (x.dims(), operands.dims(1)?) else {
            return match operands.dims(1)? {
                None => Ok(vec![x.clone().into()]),
                Some(_) => Err(operands.wrong(1, "router logits have rank 2")),
            };
        };
        let Some((hidden, lead)) = dims.split_last() else { return Err(operands.wrong(0, "a scalar has no rows")) };
        operands.assume_same(rows, &lead.iter().cloned().product())?;
        let inner = match operands.dims(FIRST[1])? {
            Some([_, _, bytes]) => (bytes * 8).exact_div(&Dim::constant(self.bits[1])),
            _ => None,
        };
        let inner = inner.ok_or_else(|| operands.wrong(FIRST[1], "packed expert weights have rank 3"))?;
        let gate = if self.gating == Gating::None { 1 } else { 2 };
        let shapes = [(&inner * gate, hidden), (hidden.clone(), &inner), (inner.clone(), hidden)];
        for (layer, (n, width)) in shapes.into_iter().take(layers).enumerate() {
            let at = FIRST[layer];
            let (Some([e, found, bytes]), Some([se, sn, _])) = (operands.dims(at)?, operands.dims(at + 1)?) else {
                return Err(operands.wrong(at, "packed expert weights and their scales have rank 3"));
            };
            if operands.dtype(at)? != DType::U8 || !operands.dtype(at + 1)?.is_float() {
                return Err(operands.wrong(at, "packed weights are u8 with float scales"));
            }
            let bits = Dim::constant(self.bits[layer]);
            for (a, b) in [(e, experts), (se, experts), (found, &n), (sn, &n), (&(bytes * 8), &(width * bits))] {
                operands.assume_same(a, b)?;
            }
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let logits = tensor(Self::NAME, operands, 1)?;
        let &[rows, experts] = logits.dims() else {
            return Err(EvalError::Invalid("router logits have rank 2".into()));
        };
        let hidden = x.dims().last().copied().unwrap_or(0);
        let count = if optional(operands, FIRST[2]).is_some() { 3 } else { 2 };
        ensure(self.bits.len() == count, || format!("{count} layers of {:?} bits", self.bits))?;
        let layers = (0..count).map(|i| Layer::read(operands, FIRST[i], self.bits[i] as usize));
        let layers: Vec<Layer<'_>> = layers.collect::<Result<_, _>>()?;
        let inner = layers[1].width;
        let gate = if self.gating == Gating::None { 1 } else { 2 };
        let fits = x.len() == rows * hidden
            && (1..=experts).contains(&(self.k as usize))
            && layers.iter().all(|l| l.experts == experts)
            && [layers[0].n, layers[0].width, layers[1].n] == [gate * inner, hidden, hidden]
            && layers.get(2).is_none_or(|l| [l.n, l.width] == [inner, hidden]);
        ensure(fits, || format!("packed experts do not fit {:?} with {:?} logits", x.dims(), logits.dims()))?;
        let (xs, logits, shares) = (x.to_f64()?, logits.to_f64()?, floats(operands, 2)?);
        ensure(shares.as_ref().is_none_or(|s| s.len() == logits.len()), || "shares and logits differ in shape".into())?;
        let op = self.dense();
        let mut chosen: Vec<Vec<(usize, f64)>> = vec![vec![]; experts];
        for r in 0..rows {
            let at = r * experts..(r + 1) * experts;
            let mut routed = op.route(&logits[at.clone()]);
            if let Some(shares) = &shares {
                routed.iter_mut().for_each(|(e, w)| *w = shares[at.start + *e]);
                let sum: f64 = routed.iter().map(|(_, w)| w).sum();
                let by = if self.normalize && sum != 0.0 { sum } else { 1.0 };
                routed.iter_mut().for_each(|(_, w)| *w /= by);
            }
            routed.into_iter().for_each(|(e, w)| chosen[e].push((r, w)));
        }
        let mut y = vec![0.0; xs.len()];
        for (expert, routed) in chosen.iter().enumerate().filter(|(_, routed)| !routed.is_empty()) {
            let weights: Vec<Vec<f64>> = layers.iter().map(|l| l.dequantize(expert)).collect();
            for (r, share) in routed {
                let row = &xs[r * hidden..][..hidden];
                let first = layers[0].apply(&weights[0], expert, row);
                let third = layers.get(2).map(|l| l.apply(&weights[2], expert, row));
                let second = layers[1].apply(&weights[1], expert, &op.hidden(&first, third, inner));
                y[r * hidden..][..hidden].iter_mut().zip(second).for_each(|(y, v)| *y += share * v);
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), x.dims(), &y)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        let dims = |i: usize| operands.get(i).and_then(|t| t.as_tensor()?.dims());
        let bytes = |i: usize| dims(FIRST[i]).map_or(Dim::constant(0), |d| d[1..].iter().cloned().product());
        let rows = dims(1).map_or(Dim::constant(0), |d| d[0].clone());
        let elements = self.bits.iter().enumerate().map(|(i, bits)| (bytes(i) * 8).floor_div(&Dim::constant(*bits)));
        rows * elements.sum::<Dim>() * (2 * self.k)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 32.0)
    }
}

impl MoeNBits {
    /// The same operator over weights that are not packed.
    fn dense(&self) -> Moe {
        let (k, act, gating, normalize) = (self.k, self.act, self.gating, self.normalize);
        Moe { k, act, gating, normalize, alpha: self.alpha, beta: self.beta, limit: self.limit }
    }
}

/// One layer of every expert.
pub(super) struct Layer<'a> {
    pub experts: usize,
    pub n: usize,
    /// Inputs.
    pub width: usize,
    bits: usize,
    codes: &'a [u8],
    scales: Vec<f64>,
    zeros: Vec<f64>,
    bias: Option<Vec<f64>>,
}

impl<'a> Layer<'a> {
    /// Reads codes, scales, zero points and bias, in this order from operand `at` on.
    pub fn read(operands: &[&'a Datum], at: usize, bits: usize) -> Result<Layer<'a>, EvalError> {
        let (w, scales) = (tensor(MoeNBits::NAME, operands, at)?, tensor(MoeNBits::NAME, operands, at + 1)?);
        let (&[experts, n, bytes], &[se, sn, blocks]) = (w.dims(), scales.dims()) else {
            return Err(EvalError::Invalid("packed expert weights and their scales have rank 3".into()));
        };
        let width = bytes * 8 / bits;
        ensure([se, sn] == [experts, n] && blocks > 0 && width.is_multiple_of(blocks), || {
            format!("scales {:?} for packed weights {:?}", scales.dims(), w.dims())
        })?;
        let row = (blocks * bits).div_ceil(8);
        let zeros = match optional(operands, at + 2) {
            None => vec![f64::from(1u32 << (bits - 1)); experts * n * blocks],
            Some(z) if z.dtype().is_float() => z.to_f64()?,
            Some(z) => {
                ensure(z.bytes().len() == experts * n * row, || "the packed zero points have the wrong size".into())?;
                let rows = z.bytes().chunks_exact(row.max(1));
                rows.flat_map(|r| (0..blocks).map(move |i| code(r, i, bits))).collect()
            }
        };
        ensure(zeros.len() == experts * n * blocks, || "one zero point per block is needed".into())?;
        let bias = floats(operands, at + 3)?;
        ensure(bias.as_ref().is_none_or(|b| b.len() == experts * n), || "a bias has the wrong size".into())?;
        Ok(Layer { experts, n, width, bits, codes: w.bytes(), scales: scales.to_f64()?, zeros, bias })
    }

    /// The weight of an expert, `[n, width]`.
    pub fn dequantize(&self, expert: usize) -> Vec<f64> {
        let bytes = self.width * self.bits / 8;
        let blocks = self.scales.len() / (self.experts * self.n).max(1);
        let block = self.width / blocks;
        let row = |r: usize| {
            let codes = &self.codes[r * bytes..][..bytes];
            (0..self.width).map(move |i| {
                let at = r * blocks + i / block;
                (code(codes, i, self.bits) - self.zeros[at]) * self.scales[at]
            })
        };
        (expert * self.n..(expert + 1) * self.n).flat_map(row).collect()
    }

    /// One row through the weight of an expert.
    pub fn apply(&self, weight: &[f64], expert: usize, x: &[f64]) -> Vec<f64> {
        let mut y = super::recurrent::product(weight, x);
        if let Some(bias) = &self.bias {
            y.iter_mut().zip(&bias[expert * self.n..]).for_each(|(y, b)| *y += b);
        }
        y
    }
}

/// Code `i` of a row, low bits first.
fn code(bytes: &[u8], i: usize, bits: usize) -> f64 {
    f64::from((bytes[i * bits / 8] >> (i * bits % 8)) as u32 & ((1u32 << bits) - 1))
}
