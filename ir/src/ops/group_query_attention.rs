use super::attention::{Heads, softmax, swap_heads};
use super::operand::{ensure, floats, optional, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `group_query_attention(q, k?, v?, past_k?, past_v?, last, total, cos?, sin?, positions?, bias?, sinks?)`: causal attention
    /// over a cache, as com.microsoft's GroupQueryAttention: rotates, appends to the cache, attends.
    ///
    /// `q[B, S, heads D]` with `k`, `v[B, S, kv_heads D]`; without them `q` is `[B, S, (heads + 2 kv_heads) D]`, all three side by
    /// side. `past_k`, `past_v[B, kv_heads, P, D]`; `last[B]` (or `[B, 1]`) is the index of each sequence's last key after this
    /// step; `total` is the longest length. Results: y `[B, S, heads D]` and the keys and values `[B, kv_heads, max(P, total), D]`.
    ///
    /// A prompt (S = total) starts at position 0 and is padded at its end; otherwise the new rows go behind `last + 1 - S` old ones.
    /// `rotary` rotates q and k at their positions with tables `[rows, R/2]`. `window` w keeps the last w keys; `softcap` c
    /// replaces a score s by `c tanh(s / c)`; `bias` broadcasts to the scores; `sinks[heads]` join the softmax's sum, as does 0 with
    /// `smooth`. With `both_ways` a row attends to all keys up to `last`, not only to those up to its own.
    pub struct GroupQueryAttention {
        heads: i64, kv_heads: i64, scale: Option<f32>, softcap: Option<f32>, window: Option<i64>, rotary: bool, interleaved: bool,
        smooth: bool, both_ways: bool,
    }
}

impl OpSpec for GroupQueryAttention {
    const NAME: &'static str = "group_query_attention";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%q: f32[1, S, 32], %k: f32[1, S, 16], %v: f32[1, S, 16], %pk: f32[1, 2, P, 8], %pv: f32[1, 2, P, 8], %c: f32[64, 4], %s: f32[64, 4]) { %t = dims() {elements = [P + S]} %one = const [1] : i64[1] %l = sub(%t, %one) %l32 = cast(%l) {to = i32} %t32 = cast(%t) {to = i32} %y, %nk, %nv = group_query_attention(%q, %k, %v, %pk, %pv, %l32, %t32, %c, %s) {heads = 4, kv_heads = 2, rotary = true} return %y, %nk, %nv }",
        "graph @g(%q: f32[1, S, 64]) { %t = dims() {elements = [S]} %one = const [1] : i64[1] %l = sub(%t, %one) %l32 = cast(%l) {to = i32} %t32 = cast(%t) {to = i32} %y, %nk, %nv = group_query_attention(%q, _, _, _, _, %l32, %t32) {heads = 4, kv_heads = 2, softcap = 3.0, window = 4} return %y, %nk, %nv }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(7, 12)?;
        let dtype = operands.dtype(0)?;
        if !dtype.is_float() || self.heads < 1 || self.kv_heads < 1 || self.heads % self.kv_heads != 0 {
            let found = format!("{} query and {} key heads of {dtype}", self.heads, self.kv_heads);
            return Err(operands.wrong(0, format!("{found} do not attend")));
        }
        if operands.has(1) != operands.has(2) || operands.has(3) != operands.has(4) {
            return Err(operands.wrong(2, "keys and values come together"));
        }
        let packed = !operands.has(1);
        let (b, s, width) = match operands.dims(0)? {
            Some([b, s, width]) => (b, s, width),
            Some(_) => return Err(operands.wrong(0, "the queries have rank 3")),
            None => return Ok(vec![TensorType::unranked(dtype).into(); 3]),
        };
        let parts = if packed { self.heads + 2 * self.kv_heads } else { self.heads };
        let d = width.exact_div(&Dim::constant(parts));
        let d = d.ok_or_else(|| operands.wrong(0, format!("{width} does not split into {parts} heads")))?;
        for i in [1, 2].into_iter().filter(|_| !packed) {
            if let Some([kb, ks, kw]) = operands.dims(i)? {
                let pairs = [(kb, b), (ks, s), (kw, &(&d * self.kv_heads))];
                pairs.into_iter().try_for_each(|(x, y)| operands.assume_same(x, y))?;
            }
        }
        if operands.has(3)
            && let (Some([kb, kh, kp, kd]), Some([vb, vh, vp, vd])) = (operands.dims(3)?, operands.dims(4)?)
        {
            let heads = Dim::constant(self.kv_heads);
            let pairs = [(kb, b), (kh, &heads), (kd, &d), (vb, b), (vh, &heads), (vd, &d), (kp, vp)];
            pairs.into_iter().try_for_each(|(x, y)| operands.assume_same(x, y))?;
        }
        let total = match operands.elements(6) {
            Some([total]) => Some(total.clone()),
            _ => None,
        };
        let length = match (operands.has(3), total) {
            (false, Some(total)) => total,
            (true, Some(total)) => match operands.dims(3)? {
                Some([_, _, p, _]) if total == p + s => total,
                Some([_, _, p, _]) => Dim::max(p, &total),
                _ => operands.late_dim(),
            },
            _ => operands.late_dim(),
        };
        let present =
            ValueType::from(TensorType::new(dtype, [b.clone(), Dim::constant(self.kv_heads), length, d.clone()]));
        let y = TensorType::new(dtype, [b.clone(), s.clone(), &d * self.heads]).into();
        Ok(vec![y, present.clone(), present])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let (hq, hk) = (self.heads as usize, self.kv_heads as usize);
        let (mut q, mut k, v) = self.split(operands)?;
        let [b, _, s, d] = q.dims;
        let last = tensor(Self::NAME, operands, 5)?.to_i64()?;
        let total = tensor(Self::NAME, operands, 6)?.to_i64()?;
        ensure(last.len() == b && total.len() == 1, || format!("{} lengths for a batch of {b}", last.len()))?;
        let total = total[0].max(0) as usize;
        let past = match (optional(operands, 3), optional(operands, 4)) {
            (Some(k), Some(v)) => Some((Heads::read(k, None)?, Heads::read(v, None)?)),
            _ => None,
        };
        let p = past.as_ref().map_or(0, |(k, _)| k.dims[2]);
        let length = p.max(total);
        let prompt = s == total;
        // Rows that each sequence has before this step.
        let before = |b: usize| if prompt { Some(0) } else { usize::try_from(last[b] + 1 - s as i64).ok() };
        let starts: Option<Vec<usize>> = (0..b).map(before).collect();
        let starts =
            starts.ok_or_else(|| EvalError::Invalid("a sequence is shorter than what is appended to it".into()))?;
        let fits = starts.iter().all(|n| *n <= p && n + s <= length) || prompt && s <= length;
        ensure(fits, || format!("{s} rows do not fit behind {starts:?} in a cache of {length}"))?;
        if self.rotary {
            let positions = match optional(operands, 9) {
                Some(t) => t.to_i64()?,
                None => (0..b * s).map(|i| (starts[i / s] + i % s) as i64).collect(),
            };
            self.rotate(operands, &mut q, &positions)?;
            self.rotate(operands, &mut k, &positions)?;
        }
        let mut cache = [vec![0.0; b * hk * length * d], vec![0.0; b * hk * length * d]];
        for (which, new) in [&k, &v].into_iter().enumerate() {
            for (row, start) in (0..b * hk).map(|row| (row, starts[row / hk])) {
                let out = &mut cache[which][row * length * d..][..length * d];
                if let Some((k, v)) = &past {
                    let old = if which == 0 { k } else { v };
                    ensure(old.dims == [b, hk, p, d], || format!("a past of {:?} does not fit", old.dims))?;
                    out[..start * d].copy_from_slice(&old.data[row * p * d..][..start * d]);
                }
                out[start * d..(start + s) * d].copy_from_slice(&new.data[row * s * d..][..s * d]);
            }
        }
        let bias = match (optional(operands, 10), floats(operands, 10)?) {
            (Some(t), Some(v)) if t.rank() == 4 => Some((t.dims().to_vec(), v)),
            (None, _) => None,
            _ => return Err(EvalError::Invalid("the bias has rank 4".into())),
        };
        let sinks = floats(operands, 11)?;
        let scale = self.scale.filter(|s| *s != 0.0).map_or(1.0 / (d as f64).sqrt(), |s| s as f64);
        let mut y = vec![0.0; b * hq * s * d];
        for row in 0..b * hq * s {
            let (bi, h, i) = (row / s / hq, row / s % hq, row % s);
            let kv = (bi * hk + h * hk / hq) * length;
            let end = match self.both_ways {
                true => usize::try_from(last[bi] + 1).unwrap_or(0).min(length),
                false => starts[bi] + i + 1,
            };
            let begin = self.window.filter(|w| *w > 0).map_or(0, |w| end.saturating_sub(w as usize));
            let score = |j: usize| {
                let (q, k) = (&q.data[row * d..][..d], &cache[0][(kv + j) * d..][..d]);
                let dot = q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() * scale;
                let capped = self.softcap.filter(|c| *c > 0.0).map_or(dot, |c| c as f64 * (dot / c as f64).tanh());
                let at = |dims: &[usize], of: [usize; 4]| {
                    of.iter().zip(dims).fold(0, |at, (i, n)| at * n + if *n == 1 { 0 } else { *i })
                };
                capped + bias.as_ref().map_or(0.0, |(dims, v)| v.get(at(dims, [bi, h, i, j])).copied().unwrap_or(0.0))
            };
            let mut scores: Vec<f64> = (begin..end).map(score).collect();
            let sink = sinks.as_ref().map(|v| v[h % v.len().max(1)]).or(self.smooth.then_some(0.0));
            scores.extend(sink);
            let weights = softmax(&scores);
            for (j, w) in (begin..end).zip(&weights) {
                let value = &cache[1][(kv + j) * d..][..d];
                y[row * d..][..d].iter_mut().zip(value).for_each(|(y, v)| *y += w * v);
            }
        }
        let y = Tensor::from_f64(x.dtype(), &[b, s, hq * d], &swap_heads(&y, [b, hq, s, d]))?;
        let [keys, values] = cache.map(|c| Tensor::from_f64(x.dtype(), &[b, hk, length, d], &c));
        Ok(vec![y.into(), keys?.into(), values?.into()])
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        let length = results.get(1).and_then(|t| t.as_tensor()?.dims()?.get(2).cloned());
        let y = results[0].as_tensor().and_then(|t| t.shape.elements());
        let _ = operands;
        length.zip(y).map_or(Dim::constant(0), |(t, y)| t * y * 4)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 32.0)
    }
}

impl GroupQueryAttention {
    /// Queries, keys and values as heads.
    fn split(&self, operands: &[&Datum]) -> Result<(Heads, Heads, Heads), EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        if let (Some(k), Some(v)) = (optional(operands, 1), optional(operands, 2)) {
            let (q, k, v) = (
                Heads::read(x, Some(self.heads))?,
                Heads::read(k, Some(self.kv_heads))?,
                Heads::read(v, Some(self.kv_heads))?,
            );
            let fits = [q.dims[0], q.dims[2], q.dims[3]] == [k.dims[0], k.dims[2], k.dims[3]] && k.dims == v.dims;
            ensure(fits, || format!("queries {:?}, keys {:?} and values {:?} do not fit", q.dims, k.dims, v.dims))?;
            return Ok((q, k, v));
        }
        let all = Heads::read(x, Some(self.heads + 2 * self.kv_heads))?;
        let [b, h, s, d] = all.dims;
        let part = |from: i64, n: i64| {
            let (from, n) = (from as usize, n as usize);
            let data = (0..b).flat_map(|b| all.data[(b * h + from) * s * d..][..n * s * d].to_vec()).collect();
            Heads { dims: [b, n, s, d], data }
        };
        Ok((part(0, self.heads), part(self.heads, self.kv_heads), part(self.heads + self.kv_heads, self.kv_heads)))
    }

    fn rotate(&self, operands: &[&Datum], x: &mut Heads, positions: &[i64]) -> Result<(), EvalError> {
        let tables = [tensor(Self::NAME, operands, 7)?, tensor(Self::NAME, operands, 8)?];
        let op = super::Rope {
            heads: None,
            rotary: Some(2 * *tables[0].dims().last().unwrap_or(&0) as i64),
            interleaved: self.interleaved,
        };
        let dims = [x.dims[0], x.dims[2]];
        let wide = |t: &Tensor| Ok::<Datum, EvalError>(Tensor::from_f64(DType::F64, t.dims(), &t.to_f64()?)?.into());
        let input = Tensor::from_f64(DType::F64, &x.dims, &x.data)?.into();
        let positions = if positions.len() == 1 && dims != [1, 1] {
            (0..dims[0] * dims[1]).map(|i| positions[0] + (i % dims[1]) as i64).collect()
        } else {
            positions.to_vec()
        };
        let at = Tensor::from_slice(&dims, &positions)?.into();
        let y = op.eval(&[&input, &wide(tables[0])?, &wide(tables[1])?, &at])?;
        x.data = tensor(Self::NAME, &[&y[0]], 0)?.to_f64()?;
        Ok(())
    }
}
