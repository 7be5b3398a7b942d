use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::attention::Heads;
use crate::ops::reading::{self, invalid, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `linear_attention(q, k, v, state?, decay?, beta?) {q_heads, kv_heads, scale}`: ONNX LinearAttention: attention by a state
    /// instead of scores, token after token: `S = exp(g) S + k (x) u`, `o = scale q S`.
    ///
    /// `q[B, T, Hq * D]`, `k[B, T, H * D]`, `v[B, T, H * Dv]`, the state `[B, H, D, Dv]`, 0 where absent; query head h reads state
    /// `h H / Hq`. `decay[B, T, H * D]` or `[B, T, H]` is g, 0 where absent. With `beta[B, T, H]` or `[B, T, 1]` the state learns
    /// what it does not know yet, `u = beta (v - k S)` with the decayed S, else `u = v`. Results: `[B, T, Hq * Dv]` and the state
    /// behind the last token. `scale` is `1 / sqrt(D)` where absent.
    pub struct LinearAttention { q_heads: i64, kv_heads: i64, scale: Option<f32> }
}

impl OpSpec for LinearAttention {
    const NAME: &'static str = "linear_attention";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%q: f32[B, T, 16], %k: f32[B, T, 8], %v: f32[B, T, 6]) { %y, %s = linear_attention(%q, %k, %v) {q_heads = 4, kv_heads = 2} return %y, %s }",
        "graph @g(%q: f32[B, T, 8], %k: f32[B, T, 8], %v: f32[B, T, 6], %p: f32[B, 2, 4, 3], %d: f32[B, T, 2], %b: f32[B, T, 1]) { %c = const [0.1] : f32[] %e = mul(%d, %c) %f = mul(%b, %c) %y, %s = linear_attention(%q, %k, %v, %p, %e, %f) {q_heads = 2, kv_heads = 2, scale = 0.5} return %y, %s }",
        "graph @g(%q: f16[B, 2, 8], %k: f16[B, 2, 8], %v: f16[B, 2, 6], %d: f16[B, 2, 8]) { %y, %s = linear_attention(%q, %k, %v, _, %d) {q_heads = 2, kv_heads = 2} return %y, %s }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 6)?;
        let q = operands.tensor(0)?;
        for i in [1, 2, 4, 5].into_iter().filter(|i| operands.has(*i)) {
            reading::same_dtype(operands, 0, i)?;
        }
        if !q.dtype.is_float() || self.kv_heads < 1 || self.q_heads < 1 || self.q_heads % self.kv_heads != 0 {
            let reason = format!("{} query heads do not share {} states", self.q_heads, self.kv_heads);
            return Err(operands.wrong(0, reason));
        }
        let state = if operands.has(3) { operands.dtype(3)? } else { q.dtype };
        let heads = |i: usize, heads: i64| match operands.dims(i)? {
            Some([b, t, width]) => {
                let d = width.exact_div(&Dim::constant(heads));
                let d = d.ok_or_else(|| operands.wrong(i, format!("{width} does not split into {heads} heads")))?;
                Ok(Some((b.clone(), t.clone(), d)))
            }
            Some(_) => Err(operands.wrong(i, "it has not rank 3")),
            None => Ok(None),
        };
        let (Some((b, t, d)), Some((kb, kt, kd)), Some((vb, vt, dv))) =
            (heads(0, self.q_heads)?, heads(1, self.kv_heads)?, heads(2, self.kv_heads)?)
        else {
            return Ok(vec![TensorType::unranked(q.dtype).into(), TensorType::unranked(state).into()]);
        };
        [(&b, &kb), (&b, &vb), (&t, &kt), (&t, &vt), (&d, &kd)].into_iter().try_for_each(|(x, y)| operands.assume_same(x, y))?;
        let y = TensorType::new(q.dtype, [b.clone(), t, &dv * self.q_heads]);
        Ok(vec![y.into(), TensorType::new(state, [b, Dim::constant(self.kv_heads), d, dv]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let heads = |i: usize, n: i64| Heads::read(tensor(operands, i)?, Some(n));
        let (q, k, v) = (heads(0, self.q_heads)?, heads(1, self.kv_heads)?, heads(2, self.kv_heads)?);
        let ([b, hq, t, d], [kb, h, kt, kd], [vb, vh, vt, dv]) = (q.dims, k.dims, v.dims);
        if [kb, kt, kd] != [b, t, d] || [vb, vh, vt] != [b, h, t] || h == 0 || hq % h != 0 {
            return Err(invalid(format!("queries {:?}, keys {:?} and values {:?} do not fit", q.dims, k.dims, v.dims)));
        }
        let past = reading::optional(operands, 3)?;
        if past.is_some_and(|p| p.dims() != [b, h, d, dv]) {
            return Err(invalid(format!("the state is not [{b}, {h}, {d}, {dv}]")));
        }
        let mut state = match past {
            Some(past) => past.to_f64()?,
            None => vec![0.0; b * h * d * dv],
        };
        let decay = PerHead::read(reading::optional(operands, 4)?, [b, t, h, d])?;
        let beta = PerHead::read(reading::optional(operands, 5)?, [b, t, h, 1])?;
        let scale = self.scale.map_or(1.0 / (d as f64).sqrt(), f64::from);
        let mut y = vec![0.0; b * t * hq * dv];
        for (head, i) in (0..b * h).flat_map(|head| (0..t).map(move |i| (head, i))) {
            let (bi, hi) = (head / h, head % h);
            let state = &mut state[head * d * dv..][..d * dv];
            let key = &k.data[(head * t + i) * d..][..d];
            let mut update = v.data[(head * t + i) * dv..][..dv].to_vec();
            if let Some(decay) = &decay {
                (0..d * dv).for_each(|at| state[at] *= decay.at(bi, i, hi, at / dv).exp());
            }
            if let Some(beta) = &beta {
                let known = |m: usize| (0..d).map(|j| state[j * dv + m] * key[j]).sum::<f64>();
                let rate = beta.at(bi, i, hi, 0);
                update.iter_mut().enumerate().for_each(|(m, u)| *u = rate * (*u - known(m)));
            }
            (0..d * dv).for_each(|at| state[at] += key[at / dv] * update[at % dv]);
            for reader in hi * (hq / h)..(hi + 1) * (hq / h) {
                let query = &q.data[((bi * hq + reader) * t + i) * d..][..d];
                for m in 0..dv {
                    let read: f64 = (0..d).map(|j| query[j] * state[j * dv + m]).sum();
                    y[((bi * t + i) * hq + reader) * dv + m] = scale * read;
                }
            }
        }
        let dtype = tensor(operands, 0)?.dtype();
        let y = Tensor::from_f64(dtype, &[b, t, hq * dv], &y)?;
        let state = Tensor::from_f64(past.map_or(dtype, Tensor::dtype), &[b, h, d, dv], &state)?;
        Ok(vec![y.into(), state.into()])
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        // Update and reading take two operations each for every element of the state and token.
        let tokens = operands.first().and_then(|t| Some(t.as_tensor()?.dims()?.get(1)?.clone()));
        let state = results[1].as_tensor().and_then(|t| t.shape.elements()).unwrap_or(Dim::constant(0));
        state * tokens.unwrap_or(Dim::constant(1)) * 4
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}

/// A number for each token and head, or each row of the head's state.
struct PerHead {
    data: Vec<f64>,
    heads: usize,
    tokens: usize,
    width: usize,
}

impl PerHead {
    /// `[B, T, H * D]`, `[B, T, H]`, or `[B, T, 1]` when D is 1.
    fn read(t: Option<&Tensor>, [b, tokens, h, d]: [usize; 4]) -> Result<Option<PerHead>, EvalError> {
        let Some(t) = t else { return Ok(None) };
        let (heads, width) = match *t.dims() {
            [n, m, w] if [n, m] == [b, tokens] && w == h => (h, 1),
            [n, m, w] if [n, m] == [b, tokens] && w == h * d => (h, d),
            [n, m, 1] if [n, m] == [b, tokens] && d == 1 => (1, 1),
            _ => return Err(invalid(format!("{:?} holds nothing for {h} heads of {tokens} tokens", t.dims()))),
        };
        Ok(Some(PerHead { data: t.to_f64()?, heads, tokens, width }))
    }

    fn at(&self, b: usize, token: usize, head: usize, row: usize) -> f64 {
        let head = if self.heads == 1 { 0 } else { head };
        let row = if self.width == 1 { 0 } else { row };
        self.data[((b * self.tokens + token) * self.heads + head) * self.width + row]
    }
}
