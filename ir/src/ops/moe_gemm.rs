use super::activation::{ActivationFn, parameters};
use super::operand::{ensure, floats, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

use super::moe::Gating;

op! {
    /// `moe_gemm(x, rows, offsets, w, bias?, v?, v_bias?, weights?) {repeat, kn, gating, act, alpha, beta, limit}`: one layer of every
    /// expert for the pairs of token and expert that chose it.
    ///
    /// `rows i32[P]` and `offsets i32[E + 1]` come from `expert_index`. Pair `p` reads row `p / repeat` of `x[.., k]` in place: nothing
    /// is permuted. Its expert gives `w[E, n, k] x + bias[E, n]`; with `kn` weights are stored `[E, k, n]`, and they may be
    /// narrower floats than `x`. `gating` says what that is:
    ///
    /// - `none`: the result, through `act` where given; or, with `v` (and `v_bias`), `act(g) * (u + beta)` of two products.
    /// - `interleaved`, `halves`: `w` has `2 n` outputs, `g` and `u` alternating or one after the other.
    ///
    /// With `limit`, `g` is at most `limit` and `u` within `+-limit`. `silu` is `g * sigmoid(alpha g)`.
    ///
    /// Without `weights` the result is `[P, n]`, in the order of the pairs. With `weights[T, P / T]` each pair's result is
    /// multiplied by its weight and those of a token are summed, in the order of the experts: `[T, n]`.
    pub struct MoeGemm {
        repeat: i64, kn: bool, gating: Gating, act: Option<ActivationFn>, alpha: Option<f32>, beta: Option<f32>, limit: Option<f32>,
    }
}

impl OpSpec for MoeGemm {
    const NAME: &'static str = "moe_gemm";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[T, 9], %i: i32[T, 2], %w: f32[3, 40, 9]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm(%x, %r, %o, %w) {repeat = 2, gating = none} return %y }",
        "graph @g(%x: f32[T, 20], %i: i32[T, 2], %w: f32[3, 72, 20]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm(%x, %r, %o, %w) {repeat = 2, gating = halves, act = silu} return %y }",
        "graph @g(%x: f32[T, 20], %i: i32[T, 2], %w: f32[3, 20, 72], %wb: f32[3, 72]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm(%x, %r, %o, %w, %wb) {repeat = 2, kn = true, gating = interleaved, act = silu, alpha = 1.702, beta = 1.0, limit = 1.5} return %y }",
        "graph @g(%x: f32[T, 20], %i: i32[T, 3], %w: f32[4, 24, 20], %wu: f32[4, 24, 20]) { %r, %o = expert_index(%i) {experts = 4} %y = moe_gemm(%x, %r, %o, %w, _, %wu) {repeat = 3, gating = none, act = gelu} return %y }",
        "graph @g(%x: f32[T, 20], %i: i32[T, 3], %w: f32[4, 24, 20], %wu: f32[4, 24, 20]) { %r, %o = expert_index(%i) {experts = 4} %y = moe_gemm(%x, %r, %o, %w, _, %wu) {repeat = 3, gating = none, act = gelu_tanh} return %y }",
        "graph @g(%x: f32[2*T, 24], %i: i32[T, 2], %w: f32[3, 36, 24], %wb: f32[3, 36], %s: f32[T, 2]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm(%x, %r, %o, %w, %wb, _, _, %s) {repeat = 1, gating = none} return %y }",
        "graph @g(%x: f32[T, 16], %i: i32[T, 1], %w: f16[3, 16, 16], %wu: f16[3, 16, 16]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm(%x, %r, %o, %w, _, %wu) {repeat = 1, gating = none, act = silu} return %y }",
        "graph @g(%x: f16[2*T, 16], %i: i64[T, 2], %w: f16[3, 16, 16], %s: f32[T, 2]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm(%x, %r, %o, %w, _, _, _, %s) {repeat = 1, gating = none} return %y }",
        "graph @g(%x: f32[T, 12], %i: i32[T, 2], %w: bf16[3, 12, 34], %wu: bf16[3, 12, 34], %wb: f32[3, 34], %wv: f32[3, 34]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_gemm(%x, %r, %o, %w, %wb, %wu, %wv) {repeat = 2, kn = true, gating = none, act = relu} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(4, 8)?;
        let x = operands.tensor(0)?;
        for i in [0, 3, 4, 5, 6, 7] {
            if operands.has(i) && !operands.dtype(i)?.is_float() {
                return Err(operands.wrong(i, "experts take floats"));
            }
        }
        for i in [1, 2] {
            if operands.dtype(i)? != DType::I32 {
                return Err(operands.wrong(i, "the pairs are what expert_index gives"));
            }
        }
        let matrix = |i: usize| match operands.dims(i)? {
            Some([e, a, b]) => Ok((e, if self.kn { b } else { a }, if self.kn { a } else { b })),
            _ => Err(operands.wrong(i, format!("{} is not one matrix per expert", operands.tensor(i)?))),
        };
        let (experts, outputs, k) = matrix(3)?;
        let (Some([lead @ .., last]), Some([pairs]), Some([ends])) =
            (x.dims(), operands.dims(1)?, operands.dims(2)?)
        else {
            return Err(operands.wrong(0, "x has rows, and the pairs are vectors"));
        };
        operands.assume_same(last, k)?;
        operands.assume_same(ends, &(experts.clone() + Dim::constant(1)))?;
        operands.assume_same(&(lead.iter().cloned().product::<Dim>() * self.repeat), pairs)?;
        let n = match self.gating {
            Gating::None => outputs.clone(),
            Gating::Interleaved | Gating::Halves => outputs.floor_div(&Dim::constant(2)),
        };
        if operands.has(5) {
            let (e, m, l) = matrix(5)?;
            if self.gating != Gating::None || operands.dtype(5)? != operands.dtype(3)? {
                return Err(operands.wrong(5, "a second weight is for gates of their own, of the same type"));
            }
            [(e, experts), (m, &n), (l, k)].into_iter().try_for_each(|(a, b)| operands.assume_same(a, b))?;
        }
        for (i, n) in [(4, outputs), (6, &n)] {
            if !operands.has(i) {
                continue;
            }
            let Some([e, m]) = operands.dims(i)? else {
                return Err(operands.wrong(i, format!("{} is not [{experts}, {n}]", operands.tensor(i)?)));
            };
            operands.assume_same(e, experts)?;
            operands.assume_same(m, n)?;
        }
        if !operands.has(7) {
            return Ok(vec![TensorType::new(x.dtype, [pairs.clone(), n]).into()]);
        }
        let Some([tokens, each]) = operands.dims(7)? else {
            return Err(operands.wrong(7, "weights are one per token and expert"));
        };
        operands.assume_same(&(tokens.clone() * each.clone()), pairs)?;
        Ok(vec![TensorType::new(x.dtype, [tokens.clone(), n]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let at = |i: usize| tensor(Self::NAME, operands, i);
        let (x, w) = (at(0)?, at(3)?);
        let (&[experts, a, b], [lead @ .., last]) = (w.dims(), x.dims()) else {
            return Err(EvalError::Invalid("experts multiply rows by matrices".into()));
        };
        let (outputs, k) = if self.kn { (b, a) } else { (a, b) };
        let rows = at(1)?.to_i64()?;
        let offsets = super::indices(at(2)?, rows.len() + 1)?;
        let pairs = rows.len();
        let repeat = self.repeat.max(1) as usize;
        let fits = *last == k && lead.iter().product::<usize>() * repeat == pairs && offsets.len() == experts + 1;
        ensure(fits, || format!("{pairs} pairs and {experts} experts of {k} inputs do not fit {:?}", x.dims()))?;
        let layer = |w: usize, bias: usize, n: usize| -> Result<Option<Layer>, EvalError> {
            let Some(w) = floats(operands, w)? else { return Ok(None) };
            Ok(Some(Layer { w, bias: floats(operands, bias)?, n, k, kn: self.kn }))
        };
        let first = layer(3, 4, outputs)?.expect("w is there");
        let n = if self.gating == Gating::None { outputs } else { outputs / 2 };
        let second = layer(5, 6, n)?;
        let xs = x.to_f64()?;
        let weights = floats(operands, 7)?;
        let tokens = match weights {
            Some(_) => at(7)?.dims()[0],
            None => pairs,
        };
        let each = pairs.checked_div(tokens).unwrap_or(1).max(1);
        let mut y = vec![0.0; tokens * n];
        for e in 0..experts {
            for pair in rows.get(offsets[e]..offsets[e + 1]).unwrap_or_default() {
                let pair = usize::try_from(*pair).ok().filter(|p| *p < pairs);
                let pair = pair.ok_or_else(|| EvalError::Invalid(format!("a pair outside {pairs}")))?;
                let row = &xs[pair / repeat * k..][..k];
                let out = self.finish(&first.apply(e, row), second.as_ref().map(|l| l.apply(e, row)), n);
                let weight = weights.as_ref().map_or(1.0, |w| w[pair]);
                y[pair / each * n..][..n].iter_mut().zip(out).for_each(|(y, v)| *y += weight * v);
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &[tokens, n], &y)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        let dims = |i: usize| operands.get(i).and_then(|t| t.as_tensor()?.dims());
        let matrix = |i: usize| dims(i).map_or(Dim::constant(0), |d| d[1..].iter().cloned().product());
        dims(1).map_or(Dim::constant(0), |d| d[0].clone()) * (matrix(3) + matrix(5)) * 2
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}

impl MoeGemm {
    /// What becomes of one pair's products.
    pub(super) fn finish(&self, first: &[f64], second: Option<Vec<f64>>, n: usize) -> Vec<f64> {
        match (self.gating, second) {
            (Gating::Interleaved, _) => first.chunks_exact(2).map(|p| self.gated(p[0], p[1])).collect(),
            (Gating::Halves, _) => (0..n).map(|i| self.gated(first[i], first[n + i])).collect(),
            (Gating::None, Some(second)) => first.iter().zip(second).map(|(g, u)| self.gated(*g, u)).collect(),
            (Gating::None, None) => first.iter().map(|v| self.activate(*v)).collect(),
        }
    }

    fn gated(&self, g: f64, u: f64) -> f64 {
        let limit = self.limit.map_or(f64::INFINITY, f64::from);
        // NaN stays NaN, which min and clamp would not promise.
        let g = if g > limit { limit } else { g };
        let u = if u > limit {
            limit
        } else if u < -limit {
            -limit
        } else {
            u
        };
        self.activate(g) * (u + self.beta.map_or(0.0, f64::from))
    }

    fn activate(&self, x: f64) -> f64 {
        match self.act {
            None => x,
            Some(ActivationFn::Silu) => x / (1.0 + (-self.alpha.map_or(1.0, f64::from) * x).exp()),
            Some(f) => {
                let (alpha, beta) = parameters(f, self.alpha, None);
                f.float(x, alpha, beta)
            }
        }
    }
}

/// One layer of every expert.
struct Layer {
    w: Vec<f64>,
    bias: Option<Vec<f64>>,
    n: usize,
    k: usize,
    kn: bool,
}

impl Layer {
    fn apply(&self, expert: usize, x: &[f64]) -> Vec<f64> {
        let (n, k) = (self.n, self.k);
        let w = &self.w[expert * n * k..][..n * k];
        let at = |j: usize, p: usize| if self.kn { w[p * n + j] } else { w[j * k + p] };
        let bias = |j: usize| self.bias.as_ref().map_or(0.0, |b| b[expert * n + j]);
        (0..n).map(|j| (0..k).map(|p| x[p] * at(j, p)).sum::<f64>() + bias(j)).collect()
    }
}
