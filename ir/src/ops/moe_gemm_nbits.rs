use super::activation::ActivationFn;
use super::moe::Gating;
use super::moe_gemm::MoeGemm;
use super::moe_nbits::Layer;
use super::operand::{ensure, floats, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `moe_gemm_nbits(x, rows, offsets, w, scales, zeros?, bias?, v?, v_scales?, v_zeros?, v_bias?, weights?) {bits, repeat, gating}`:
    /// `moe_gemm` over packed weights, which stay as they are.
    ///
    /// `w` is u8 `[E, n, k bits[0] / 8]`, low bits first, with float scales `[E, n, blocks]`: an element is `(code - zero) * scale`, zero
    /// `2^(bits-1)`, or from `zeros`: floats like the scales, or u8 packed like the weight, each row beginning at a byte. `v` the same
    /// with `bits[1]`. Everything else is as in `moe_gemm`: the result is `[P, n]`, with `weights[T, P / T]` `[T, n]`.
    pub struct MoeGemmNBits {
        bits: Vec<i64>, repeat: i64, gating: Gating, act: Option<ActivationFn>, alpha: Option<f32>, beta: Option<f32>,
        limit: Option<f32>,
    }
}

/// Position of a weight's first operand, of the weights of the pairs after them.
const FIRST: [usize; 2] = [3, 7];
const WEIGHTS: usize = 11;

impl OpSpec for MoeGemmNBits {
    const NAME: &'static str = "moe_gemm_nbits";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[T, 32], %i: i32[T, 2], %w: u8[3, 24, 16], %ws: f32[3, 24, 2]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm_nbits(%x, %r, %o, %w, %ws) {bits = [4], repeat = 2, gating = halves, act = silu} return %y }",
        "graph @g(%x: f32[T, 16], %i: i32[T, 3], %w: u8[4, 12, 4], %ws: f32[4, 12, 1], %wz: u8[4, 12, 1], %wb: f32[4, 12], %wv: u8[4, 12, 16], %wvs: f32[4, 12, 4], %wvz: f32[4, 12, 4], %wvb: f32[4, 12]) { %r, %o = expert_index(%i) {experts = 4} %y = moe_gemm_nbits(%x, %r, %o, %w, %ws, %wz, %wb, %wv, %wvs, %wvz, %wvb) {bits = [2, 8], repeat = 3, gating = none, act = gelu} return %y }",
        "graph @g(%x: f32[2*T, 48], %i: i32[T, 2], %w: u8[3, 20, 24], %ws: f32[3, 20, 3], %wz: u8[3, 20, 2], %wb: f32[3, 20], %p: f32[T, 2]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm_nbits(%x, %r, %o, %w, %ws, %wz, %wb, _, _, _, _, %p) {bits = [4], repeat = 1, gating = none} return %y }",
        "graph @g(%x: f32[T, 12], %i: i32[T, 2], %w: u8[3, 8, 12], %ws: f32[3, 8, 3]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm_nbits(%x, %r, %o, %w, %ws) {bits = [8], repeat = 2, gating = interleaved, act = silu, alpha = 1.702, beta = 1.0, limit = 1.5} return %y }",
        "graph @g(%x: f16[T, 16], %i: i32[T, 2], %w: u8[3, 8, 8], %ws: f16[3, 8, 2]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm_nbits(%x, %r, %o, %w, %ws) {bits = [4], repeat = 2, gating = none} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(5, 12)?;
        let x = operands.tensor(0)?;
        let layers = if operands.has(FIRST[1]) { 2 } else { 1 };
        if self.bits.len() != layers || !self.bits.iter().all(|b| matches!(b, 2 | 4 | 8)) {
            return Err(TypeError::Invalid(format!("{layers} weights of {:?} bits", self.bits)));
        }
        for i in [0, 6, 10, WEIGHTS] {
            if operands.has(i) && !operands.dtype(i)?.is_float() {
                return Err(operands.wrong(i, "experts take floats"));
            }
        }
        for i in [1, 2] {
            if operands.dtype(i)? != DType::I32 {
                return Err(operands.wrong(i, "the pairs are what expert_index gives"));
            }
        }
        let (Some([lead @ .., k]), Some([pairs]), Some([ends]), Some([experts, outputs, _])) =
            (x.dims(), operands.dims(1)?, operands.dims(2)?, operands.dims(FIRST[0])?)
        else {
            return Err(operands.wrong(0, "x has rows, the pairs are vectors, and weights have rank 3"));
        };
        operands.assume_same(ends, &(experts + &Dim::constant(1)))?;
        operands.assume_same(&(lead.iter().cloned().product::<Dim>() * self.repeat), pairs)?;
        let n = match self.gating {
            Gating::None => outputs.clone(),
            Gating::Interleaved | Gating::Halves => outputs.floor_div(&Dim::constant(2)),
        };
        if layers == 2 && self.gating != Gating::None {
            return Err(operands.wrong(FIRST[1], "a second weight is for gates of their own"));
        }
        for (at, bits) in FIRST.into_iter().zip(&self.bits) {
            let (Some([e, rows, bytes]), Some([se, sn, _])) = (operands.dims(at)?, operands.dims(at + 1)?) else {
                return Err(operands.wrong(at, "packed weights and their scales have rank 3"));
            };
            if operands.dtype(at)? != DType::U8 || !operands.dtype(at + 1)?.is_float() {
                return Err(operands.wrong(at, "packed weights are u8 with float scales"));
            }
            let (bits, wide) = (Dim::constant(*bits), bytes * 8);
            for (a, b) in [(e, experts), (se, experts), (rows, outputs), (sn, outputs), (&wide, &(k * &bits))] {
                operands.assume_same(a, b)?;
            }
            if operands.has(at + 3) {
                let Some([e, m]) = operands.dims(at + 3)? else {
                    return Err(operands.wrong(at + 3, format!("{} is not [{experts}, {outputs}]", operands.tensor(at + 3)?)));
                };
                operands.assume_same(e, experts)?;
                operands.assume_same(m, outputs)?;
            }
        }
        if !operands.has(WEIGHTS) {
            return Ok(vec![TensorType::new(x.dtype, [pairs.clone(), n]).into()]);
        }
        let Some([tokens, each]) = operands.dims(WEIGHTS)? else {
            return Err(operands.wrong(WEIGHTS, "weights are one per token and expert"));
        };
        operands.assume_same(&(tokens * each), pairs)?;
        Ok(vec![TensorType::new(x.dtype, [tokens.clone(), n]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let at = |i: usize| tensor(Self::NAME, operands, i);
        let x = at(0)?;
        let rows = at(1)?.to_i64()?;
        let offsets = super::indices(at(2)?, rows.len() + 1)?;
        let layers = FIRST.into_iter().zip(&self.bits).map(|(at, bits)| Layer::read(operands, at, *bits as usize));
        let layers: Vec<Layer<'_>> = layers.collect::<Result<_, _>>()?;
        let first = layers.first().ok_or_else(|| EvalError::Invalid("there is no weight".into()))?;
        let (pairs, k, experts) = (rows.len(), first.width, first.experts);
        let repeat = self.repeat.max(1) as usize;
        let fits = x.dims().last() == Some(&k) && x.len() / k.max(1) * repeat == pairs && offsets.len() == experts + 1;
        let alike = layers.iter().all(|l| [l.experts, l.n, l.width] == [experts, first.n, k]);
        ensure(fits && alike, || format!("{pairs} pairs and {experts} experts of {k} inputs do not fit {:?}", x.dims()))?;
        let n = if self.gating == Gating::None { first.n } else { first.n / 2 };
        let (xs, weights) = (x.to_f64()?, floats(operands, WEIGHTS)?);
        let tokens = if weights.is_some() { at(WEIGHTS)?.dims()[0] } else { pairs };
        let each = pairs.checked_div(tokens).unwrap_or(1).max(1);
        let op = self.over_floats();
        let mut y = vec![0.0; tokens * n];
        for e in 0..experts {
            let chosen = rows.get(offsets[e]..offsets[e + 1]).unwrap_or_default();
            if chosen.is_empty() {
                continue;
            }
            let matrices: Vec<Vec<f64>> = layers.iter().map(|l| l.dequantize(e)).collect();
            for pair in chosen {
                let pair = usize::try_from(*pair).ok().filter(|p| *p < pairs);
                let pair = pair.ok_or_else(|| EvalError::Invalid(format!("a pair outside {pairs}")))?;
                let row = &xs[pair / repeat * k..][..k];
                let second = layers.get(1).map(|l| l.apply(&matrices[1], e, row));
                let out = op.finish(&first.apply(&matrices[0], e, row), second, n);
                let weight = weights.as_ref().map_or(1.0, |w| w[pair]);
                y[pair / each * n..][..n].iter_mut().zip(out).for_each(|(y, v)| *y += weight * v);
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &[tokens, n], &y)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        let dims = |i: usize| operands.get(i).and_then(|t| t.as_tensor()?.dims());
        let elements = |(at, bits): (usize, &i64)| {
            let bytes = dims(at).map_or(Dim::constant(0), |d| d[1..].iter().cloned().product());
            (bytes * 8).floor_div(&Dim::constant(*bits))
        };
        let each: Dim = FIRST.into_iter().zip(&self.bits).map(elements).sum();
        dims(1).map_or(Dim::constant(0), |d| d[0].clone()) * each * 2
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}

impl MoeGemmNBits {
    /// The same operator over floats.
    fn over_floats(&self) -> MoeGemm {
        let MoeGemmNBits { repeat, gating, act, alpha, beta, limit, .. } = *self;
        MoeGemm { repeat, kn: false, gating, act, alpha, beta, limit }
    }
}
