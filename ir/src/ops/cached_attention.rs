use super::attention::{Heads, softmax, swap_heads};
use super::kv_write::{Places, sequences};
use super::operand::{ensure, floats, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `cached_attention(q, keys, values, slots, lengths, counts, sinks?)`: causal attention of the new rows of every sequence of
    /// a batch over what its slot holds, the new rows included: after `kv_write` with the same places.
    ///
    /// `q[B, Hq, S, D]`, or `[B, S, Hq D]` with `heads`; `keys[slots, Hkv, capacity, D]`, `values[slots, Hkv, capacity, Dv]`; query
    /// head h reads key head `h Hkv / Hq`. Row i of sequence b stands at `lengths[b] + i` and sees the keys of slot `slots[b]` up to
    /// there; with `left` only those from `left` rows before on. Rows at `counts[b]` and beyond give 0. `scale` is `1 / sqrt(D)` where
    /// absent; `softcap` c replaces a score s by `c tanh(s / c)`; `sinks[Hq]` join the softmax's sum, as does 0 with `smooth`.
    pub struct CachedAttention {
        heads: Option<i64>, scale: Option<f32>, softcap: Option<f32>, left: Option<i64>, smooth: bool,
    }
}

impl OpSpec for CachedAttention {
    const NAME: &'static str = "cached_attention";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%q: f32[2, 4, 5, 8], %k: f32[4, 2, 9, 8], %v: f32[4, 2, 9, 6]) { %s = const [2, 0] : i32[2] %l = const [4, 0] : i32[2] %n = const [5, 3] : i32[2] %y = cached_attention(%q, %k, %v, %s, %l, %n) return %y }",
        "graph @g(%q: f32[3, 1, 32], %k: f32[4, 2, 300, 8], %v: f32[4, 2, 300, 8], %b: f32[4]) { %s = const [2, 3, 1] : i32[3] %l = const [299, 0, 7] : i32[3] %n = const [1, 1, 1] : i32[3] %y = cached_attention(%q, %k, %v, %s, %l, %n, %b) {heads = 4, left = 5, scale = 0.25, softcap = 3.0} return %y }",
        "graph @g(%q: f16[2, 3, 32], %k: f16[4, 4, 20, 8], %v: f16[4, 4, 20, 8]) { %s = const [1, 3] : i32[2] %l = const [11, 2] : i32[2] %n = const [3, 2] : i32[2] %y = cached_attention(%q, %k, %v, %s, %l, %n) {heads = 4, smooth = true} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(6, 7)?;
        let q = operands.tensor(0)?;
        let same = (1..3).all(|i| operands.dtype(i).is_ok_and(|d| d == q.dtype));
        if !q.dtype.is_float() || !same {
            return Err(operands.wrong(0, format!("{} does not attend to {}", q.dtype, operands.dtype(1)?)));
        }
        let batch = sequences(operands, 3)?;
        let (Some([ks, kh, kc, d]), Some([vs, vh, vc, dv])) = (operands.dims(1)?, operands.dims(2)?) else {
            return Err(operands.wrong(1, "caches have rank 4"));
        };
        [(ks, vs), (kh, vh), (kc, vc)].into_iter().try_for_each(|(x, y)| operands.assume_same(x, y))?;
        let (b, heads, width, shape) = match q.dims() {
            Some([b, h, s, w]) => (b, h.clone(), w.clone(), vec![b.clone(), h.clone(), s.clone(), dv.clone()]),
            Some([b, s, w]) => {
                let heads = self.heads.filter(|h| *h > 0).map(Dim::constant);
                let heads = heads.ok_or_else(|| operands.wrong(0, "rank 3 needs a number of heads"))?;
                let each = w.exact_div(&heads).ok_or_else(|| operands.wrong(0, format!("{w} is not {heads} heads")))?;
                let shape = vec![b.clone(), s.clone(), &heads * dv];
                (b, heads, each, shape)
            }
            _ => return Err(operands.wrong(0, "queries have rank 3 or 4")),
        };
        operands.assume_same(b, &batch)?;
        operands.assume_same(&width, d)?;
        if let (Some(q), Some(k)) = (heads.as_const(), kh.as_const())
            && (k < 1 || q % k != 0)
        {
            return Err(operands.wrong(1, format!("{q} query heads do not share {k} key heads")));
        }
        Ok(vec![TensorType { dtype: q.dtype, shape: Shape::Ranked(shape) }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let query = Heads::read(x, self.heads)?;
        let cache = |i: usize| Heads::read(tensor(Self::NAME, operands, i)?, None);
        let (keys, values) = (cache(1)?, cache(2)?);
        let places = Places::read(Self::NAME, operands, 3)?;
        let ([b, hq, s, d], [slots, hk, capacity, kd], dv) = (query.dims, keys.dims, values.dims[3]);
        let fits = b == places.len() && d == kd && hk > 0 && hq % hk == 0 && values.dims[..3] == keys.dims[..3];
        ensure(fits, || format!("queries {:?} do not fit caches {:?} and {:?}", query.dims, keys.dims, values.dims))?;
        places.check(slots, capacity, s)?;
        let sinks = floats(operands, 6)?;
        let scale = self.scale.map_or(1.0 / (d as f64).sqrt(), |s| s as f64);
        let cap = self.softcap.filter(|c| *c > 0.0).map(|c| c as f64);
        let mut y = vec![0.0; b * hq * s * dv];
        for row in 0..b * hq * s {
            let (bi, h, i) = (row / s / hq, row / s % hq, row % s);
            let place = places.get(bi);
            if i >= place.count {
                continue;
            }
            let first = (place.slot * hk + h * hk / hq) * capacity;
            let end = place.length + i + 1;
            let begin = self.left.map_or(0, |l| (end - 1).saturating_sub(l.max(0) as usize));
            let score = |j: usize| {
                let (q, k) = (&query.data[row * d..][..d], &keys.data[(first + j) * d..][..d]);
                let s = q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() * scale;
                cap.map_or(s, |c| c * (s / c).tanh())
            };
            let mut scores: Vec<f64> = (begin..end).map(score).collect();
            scores.extend(sinks.as_ref().map(|v| v[h % v.len().max(1)]).or(self.smooth.then_some(0.0)));
            for (j, w) in (begin..end).zip(softmax(&scores)).filter(|(_, w)| *w != 0.0) {
                let value = &values.data[(first + j) * dv..][..dv];
                y[row * dv..][..dv].iter_mut().zip(value).for_each(|(y, v)| *y += w * v);
            }
        }
        let y = match x.rank() {
            3 => Tensor::from_f64(x.dtype(), &[b, s, hq * dv], &swap_heads(&y, [b, hq, s, dv]))?,
            _ => Tensor::from_f64(x.dtype(), &[b, hq, s, dv], &y)?,
        };
        Ok(vec![y.into()])
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        let capacity = operands.get(1).and_then(|t| t.as_tensor()?.dims()?.get(2).cloned());
        let y = results[0].as_tensor().and_then(|t| t.shape.elements());
        capacity.zip(y).map_or(Dim::constant(0), |(c, y)| c * y * 4)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 32.0)
    }
}
