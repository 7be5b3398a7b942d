use super::operand::{ensure, floats, optional, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, broadcast};
use crate::attr_enum;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

attr_enum! {
    /// Which stage of the scores is a further result.
    pub enum Scores {
        /// After the scaled product.
        Raw = "raw",
        /// After the soft cap.
        Capped = "capped",
        /// After mask and causal bias.
        Masked = "masked",
        /// After the softmax.
        Softmax = "softmax",
    }
}

attr_enum! {
    /// What a row of queries gives that sees no key.
    pub enum Unseen {
        /// Nothing: 0.
        Zero = "zero",
        /// The mean of all values: what is left when masked scores are the lowest finite number.
        Mean = "mean",
        /// NaN: what a softmax of minus infinities is.
        Nan = "nan",
    }
}

op! {
    /// `attention(q, k, v, mask?, past_k?, past_v?, kv_lengths?)`: ONNX Attention: `softmax(cap(q k^T scale) + mask) v`.
    ///
    /// `q[B, Hq, S, D]`, `k[B, Hkv, T, D]`, `v[B, Hkv, T, Dv]`, or rank 3 with heads inside the last dimension (`q_heads`,
    /// `kv_heads`); Hq is a multiple of Hkv, query head h reads key head `h Hkv / Hq`. Results: y like `q` with Dv; with
    /// `present` the keys and values behind their pasts `[B, Hkv, P+T, ..]`; with `scores` a stage of `[B, Hq, S, P+T]`.
    ///
    /// `mask` broadcasts to the scores; bool keeps where true, a float is added; missing columns are masked. Query i stands at
    /// position p = `i + offset`, an expression over the symbols; without `offset` at `i + P`, or `i + kv_lengths[b] - S`, or
    /// i. `causal` keeps keys up to p (behind keys of the past that are part of `k` already, `offset` is their number), `left`
    /// and `right` keep keys from `p - left` to `p + right`; keys at `kv_lengths[b]` and beyond are masked. `scale` is
    /// `1 / sqrt(D)` where absent; `softcap` c replaces a score s by `c tanh(s / c)`.
    ///
    /// With `total` the past is a buffer, of which sequence b has filled `kv_lengths[b] - S` rows, none where `total` is S (a
    /// prompt, which may be padded at its end). The new rows go behind these and query i stands where row i is written; `present`
    /// has `max(P, total)` rows, zeros behind the last. A sequence shorter than S, or that does not fit, is an error.
    ///
    /// A masked key adds nothing, even if its value is not finite. `unseen` says what a row gives that sees no key, 0 where
    /// absent; with `guard` a row whose weights are not numbers gives 0 too.
    pub struct Attention {
        causal: bool, offset: Option<Dim>, scale: Option<f32>, softcap: Option<f32>, q_heads: Option<i64>,
        kv_heads: Option<i64>, left: Option<i64>, right: Option<i64>, present: bool, scores: Option<Scores>,
        unseen: Option<Unseen>, guard: bool, total: Option<Dim>,
    }
}

impl Attention {
    /// Rows of the present: those of the past and the new ones, or with `total` as many as the longest sequence needs.
    fn present_rows(&self, past: &Dim, new: &Dim) -> Dim {
        match &self.total {
            Some(total) if *total != past + new => Dim::max(past, total),
            _ => past + new,
        }
    }

    /// `[B, H, S, D]` of a rank 3 or 4 operand.
    fn split(&self, operands: &Operands<'_>, i: usize, heads: Option<i64>) -> Result<Option<[Dim; 4]>, TypeError> {
        match operands.dims(i)? {
            Some([b, h, s, d]) => Ok(Some([b, h, s, d].map(Dim::clone))),
            Some([b, s, width]) => {
                let heads =
                    heads.filter(|h| *h > 0).ok_or_else(|| operands.wrong(i, "rank 3 needs a number of heads"))?;
                let d = width.exact_div(&Dim::constant(heads));
                let d = d.ok_or_else(|| operands.wrong(i, format!("{width} does not split into {heads} heads")))?;
                Ok(Some([b.clone(), Dim::constant(heads), s.clone(), d]))
            }
            Some(_) => Err(operands.wrong(i, "attention takes rank 3 or 4")),
            None => Ok(None),
        }
    }
}

impl OpSpec for Attention {
    const NAME: &'static str = "attention";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%q: f32[B, 4, S, 8], %k: f32[B, 2, T, 8], %v: f32[B, 2, T, 8], %m: bool[B, 1, S, P + T], %pk: f32[B, 2, P, 8], %pv: f32[B, 2, P, 8]) { %y, %nk, %nv = attention(%q, %k, %v, %m, %pk, %pv) {present = true} return %y, %nk, %nv }",
        "graph @g(%q: f32[B, S, 32], %k: f32[B, S, 16], %v: f32[B, S, 16]) { %y = attention(%q, %k, %v) {causal = true, q_heads = 4, kv_heads = 2, scale = 0.25, softcap = 5.0} return %y }",
        "graph @g(%q: f32[B, 3, S, 8], %k: f32[B, 3, T, 8], %v: f32[B, 3, T, 4], %m: f32[S, T]) { %y, %w = attention(%q, %k, %v, %m) {scores = softmax} return %y, %w }",
        "graph @g(%q: f32[B, 4, S, 8], %k: f32[B, 2, T, 8], %v: f32[B, 2, T, 8], %m: bool[B, 1, 1, T]) { %y = attention(%q, %k, %v, %m) {causal = true, offset = T - S, unseen = mean} return %y }",
        "graph @g(%q: f32[B, 2, S, 8], %k: f32[B, 2, T, 8], %v: f32[B, 2, T, 8], %m: bool[B, 1, S, T]) { %y = attention(%q, %k, %v, %m) {unseen = nan} %z = attention(%q, %k, %v, %m) {guard = true, unseen = nan} return %y, %z }",
        "graph @g(%q: f32[B, 2, 1, 8], %k: f32[B, 2, 9, 8], %v: f32[B, 2, 9, 8], %n: i64[B]) { %y = attention(%q, %k, %v, _, _, _, %n) {causal = true, left = 3} return %y }",
        "graph @g(%q: f32[3, 2, 32], %k: f32[3, 2, 16], %v: f32[3, 2, 16], %pk: f32[3, 2, P, 8], %pv: f32[3, 2, P, 8]) { %n = const [2, 3, 2] : i64[3] %y, %nk, %nv = attention(%q, %k, %v, _, %pk, %pv, %n) {causal = true, kv_heads = 2, present = true, q_heads = 4, total = 5} %z = attention(%q, %k, %v, _, %pk, %pv, %n) {causal = true, kv_heads = 2, q_heads = 4, total = 5} return %y, %nk, %nv, %z }",
        "graph @g(%q: f32[2, S, 32], %k: f32[2, S, 16], %v: f32[2, S, 16], %pk: f32[2, 2, P, 8], %pv: f32[2, 2, P, 8]) { %n = const [1, 2] : i64[2] %y, %nk, %nv = attention(%q, %k, %v, _, %pk, %pv, %n) {causal = true, kv_heads = 2, left = 1, present = true, q_heads = 4, total = S} return %y, %nk, %nv }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 7)?;
        let dtype = operands.dtype(0)?;
        if !dtype.is_float() || operands.dtype(1)? != dtype {
            return Err(operands.wrong(1, format!("{} does not attend to {}", dtype, operands.dtype(1)?)));
        }
        if operands.has(4) != operands.has(5) {
            return Err(operands.wrong(5, "past keys and past values come together"));
        }
        if self.total.is_some() && !operands.has(6) {
            return Err(operands.wrong(6, "with `total` the length of each sequence is needed"));
        }
        let results = 1 + if self.present { 2 } else { 0 } + usize::from(self.scores.is_some());
        let heads = [self.q_heads, self.kv_heads, self.kv_heads];
        let split = |i: usize| self.split(operands, i, heads[i]);
        let (Some([b, hq, s, d]), Some([kb, hk, t, kd]), Some([_, hv, vt, dv])) = (split(0)?, split(1)?, split(2)?)
        else {
            return Ok(vec![TensorType::unranked(dtype).into(); results]);
        };
        [(&b, &kb), (&d, &kd), (&t, &vt), (&hk, &hv)].into_iter().try_for_each(|(x, y)| operands.assume_same(x, y))?;
        if let (Some(q), Some(k)) = (hq.as_const(), hk.as_const())
            && (k < 1 || q % k != 0) {
                return Err(operands.wrong(1, format!("{q} query heads do not share {k} key heads")));
            }
        if self.total.is_some() {
            operands.assume_same(&s, &t)?;
        }
        let mut total = self.present_rows(&Dim::constant(0), &t);
        if operands.has(4) {
            match (operands.dims(4)?, operands.dims(5)?) {
                (Some([pb, ph, p, pd]), Some([_, _, pvt, pdv])) => {
                    let pairs = [(pb, &b), (ph, &hk), (pd, &d), (p, pvt), (pdv, &dv)];
                    pairs.into_iter().try_for_each(|(x, y)| operands.assume_same(x, y))?;
                    total = self.present_rows(p, &t);
                }
                (None, _) | (_, None) => total = operands.late_dim(),
                _ => return Err(operands.wrong(4, "the past has rank 4")),
            }
        }
        if operands.has(3) {
            let mask = operands.tensor(3)?;
            if mask.dtype != DType::Bool && !mask.dtype.is_float() {
                return Err(operands.wrong(3, format!("a mask is bool or float, not {}", mask.dtype)));
            }
        }
        let ty = |dims: [&Dim; 4]| ValueType::from(TensorType::new(dtype, dims.map(Dim::clone)));
        let mut types = vec![match operands.dims(0)? {
            Some([_, _, _]) => TensorType { dtype, shape: Shape::Ranked(vec![b.clone(), s.clone(), &hq * &dv]) }.into(),
            _ => ty([&b, &hq, &s, &dv]),
        }];
        if self.present {
            types.extend([ty([&b, &hk, &total, &d]), ty([&b, &hk, &total, &dv])]);
        }
        if self.scores.is_some() {
            types.push(ty([&b, &hq, &s, &total]));
        }
        Ok(types)
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let q = tensor(Self::NAME, operands, 0)?;
        let dtype = q.dtype();
        let heads = |i: usize, heads: Option<i64>| Heads::read(tensor(Self::NAME, operands, i)?, heads);
        let (query, mut keys, mut values) =
            (heads(0, self.q_heads)?, heads(1, self.kv_heads)?, heads(2, self.kv_heads)?);
        let mut lengths = optional(operands, 6).map(Tensor::to_i64).transpose()?;
        let total = self.total.as_ref().map(|t| super::numbers(std::slice::from_ref(t))).transpose()?.map(|n| n[0]);
        if total == Some(query.dims[2] as i64) {
            lengths.iter_mut().flatten().for_each(|l| *l = query.dims[2] as i64);
        }
        let past = match (total.zip(lengths.as_deref()), optional(operands, 4), optional(operands, 5)) {
            (Some((total, lengths)), k, v) => {
                let old = |t: Option<&Tensor>| t.map(|t| Heads::read(t, None)).transpose();
                (keys, values) = (keys.buffered(old(k)?, lengths, total)?, values.buffered(old(v)?, lengths, total)?);
                None
            }
            (None, Some(k), Some(v)) => {
                let (k, v) = (Heads::read(k, None)?, Heads::read(v, None)?);
                let n = k.dims[2];
                (keys, values) = (k.then(&keys)?, v.then(&values)?);
                Some(n)
            }
            _ => None,
        };
        let ([b, hq, s, d], [kb, hk, t, kd], [vb, hv, vt, dv]) = (query.dims, keys.dims, values.dims);
        let fits = b == kb && b == vb && d == kd && hk == hv && t == vt && hk > 0 && hq % hk == 0;
        ensure(fits, || {
            format!("queries {:?}, keys {:?} and values {:?} do not fit", query.dims, keys.dims, values.dims)
        })?;
        ensure(lengths.as_ref().is_none_or(|l| l.len() == b), || format!("{b} lengths are needed"))?;
        let first = self.offset.as_ref().map(|o| super::numbers(std::slice::from_ref(o))).transpose()?.map(|n| n[0]);
        let mask = Mask::read(operands, [b, hq, s, t])?;
        let scale = self.scale.map_or(1.0 / (d as f64).sqrt(), |s| s as f64);
        let cap = self.softcap.filter(|c| *c > 0.0).map(|c| c as f64);
        let mut y = vec![0.0; b * hq * s * dv];
        let mut shown = vec![0.0; if self.scores.is_some() { b * hq * s * t } else { 0 }];
        for (at, row) in (0..b * hq * s).enumerate() {
            let (bi, h, i) = (row / s / hq, row / s % hq, row % s);
            let kv = bi * hk + h * hk / hq;
            let raw = |j: usize| {
                let (q, k) = (&query.data[row * d..][..d], &keys.data[(kv * t + j) * d..][..d]);
                q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() * scale
            };
            let offset = match (first, past, &lengths) {
                (Some(first), ..) => first,
                (None, Some(p), _) => p as i64,
                (None, None, Some(l)) => l[bi] - s as i64,
                (None, None, None) => 0,
            };
            let position = i as i64 + offset;
            let seen = |j: usize| {
                let j = j as i64;
                !(self.causal && j > position
                    || self.left.is_some_and(|l| j < position - l)
                    || self.right.is_some_and(|r| j > position + r)
                    || lengths.as_ref().is_some_and(|l| j >= l[bi]))
            };
            let bias: Vec<f64> = (0..t).map(|j| if seen(j) { mask.at(row, j) } else { f64::NEG_INFINITY }).collect();
            let first: Vec<f64> = (0..t).map(raw).collect();
            let capped: Vec<f64> = first.iter().map(|v| cap.map_or(*v, |c| c * (v / c).tanh())).collect();
            let masked: Vec<f64> = capped.iter().zip(&bias).map(|(v, b)| v + b).collect();
            let empty = bias.iter().all(|v| *v == f64::NEG_INFINITY);
            let mut weights = match self.unseen.unwrap_or(Unseen::Zero) {
                _ if !empty => softmax(&masked),
                Unseen::Zero => vec![0.0; t],
                Unseen::Mean => vec![1.0 / t as f64; t],
                Unseen::Nan => vec![f64::NAN; t],
            };
            if self.guard && weights.iter().any(|w| w.is_nan()) {
                weights.fill(0.0);
            }
            if let Some(stage) = self.scores {
                shown[at * t..][..t].copy_from_slice(match stage {
                    Scores::Raw => &first,
                    Scores::Capped => &capped,
                    Scores::Masked => &masked,
                    Scores::Softmax => &weights,
                });
            }
            let out = &mut y[row * dv..][..dv];
            for (j, w) in weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                let value = &values.data[(kv * t + j) * dv..][..dv];
                out.iter_mut().zip(value).for_each(|(y, v)| *y += w * v);
            }
        }
        let mut results = vec![match q.rank() {
            3 => Tensor::from_f64(dtype, &[b, s, hq * dv], &swap_heads(&y, [b, hq, s, dv]))?,
            _ => Tensor::from_f64(dtype, &[b, hq, s, dv], &y)?,
        }];
        if self.present {
            results.push(Tensor::from_f64(dtype, &keys.dims, &keys.data)?);
            results.push(Tensor::from_f64(dtype, &values.dims, &values.data)?);
        }
        if self.scores.is_some() {
            results.push(Tensor::from_f64(dtype, &[b, hq, s, t], &shown)?);
        }
        Ok(results.into_iter().map(Datum::from).collect())
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        // Two products of S x T for every element of y; T is the past and the new keys.
        let dims = |i: usize| operands.get(i).and_then(|t| t.as_tensor()?.dims());
        let length = |i: usize| dims(i).map(|d| d[d.len() - 2].clone());
        let total = length(1).unwrap_or(Dim::constant(0)) + length(4).unwrap_or(Dim::constant(0));
        let y = results[0].as_tensor().and_then(|t| t.shape.elements()).unwrap_or(Dim::constant(0));
        y * total * 4
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 32.0)
    }
}

/// Exponentials normalised to sum 1; at least one element is not -inf.
pub(crate) fn softmax(v: &[f64]) -> Vec<f64> {
    let largest = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = v.iter().map(|v| (v - largest).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

/// `[B, H, S, D]` with its numbers.
pub(crate) struct Heads {
    pub dims: [usize; 4],
    pub data: Vec<f64>,
}

impl Heads {
    /// Rank 4, or rank 3 with `heads` inside the last dimension.
    pub fn read(t: &Tensor, heads: Option<i64>) -> Result<Heads, EvalError> {
        match (t.dims(), heads) {
            ([b, h, s, d], _) => Ok(Heads { dims: [*b, *h, *s, *d], data: t.to_f64()? }),
            ([b, s, w], Some(h)) if h > 0 && w % h as usize == 0 => {
                let (h, d) = (h as usize, w / h as usize);
                Ok(Heads { dims: [*b, h, *s, d], data: swap_heads(&t.to_f64()?, [*b, *s, h, d]) })
            }
            (dims, _) => Err(EvalError::Invalid(format!("{dims:?} does not split into heads"))),
        }
    }

    /// The rows of `next` behind these.
    pub fn then(&self, next: &Heads) -> Result<Heads, EvalError> {
        let ([b, h, s, d], [nb, nh, n, nd]) = (self.dims, next.dims);
        ensure([b, h, d] == [nb, nh, nd], || format!("a past of {:?} does not precede {:?}", self.dims, next.dims))?;
        let rows = |v: &'_ Heads, i: usize, n: usize| v.data[i * n * d..][..n * d].to_vec();
        let data = (0..b * h).flat_map(|i| [rows(self, i, s), rows(next, i, n)].concat()).collect();
        Ok(Heads { dims: [b, h, s + n, d], data })
    }

    /// These rows behind the first `lengths[b] - S` of a buffer, in one of at least `total` rows.
    fn buffered(&self, old: Option<Heads>, lengths: &[i64], total: i64) -> Result<Heads, EvalError> {
        let [b, h, s, d] = self.dims;
        let old = old.unwrap_or(Heads { dims: [b, h, 0, d], data: vec![] });
        let p = old.dims[2];
        ensure(old.dims == [b, h, p, d], || format!("a past of {:?} does not precede {:?}", old.dims, self.dims))?;
        ensure(lengths.len() == b, || format!("{b} lengths are needed"))?;
        let length = p.max(usize::try_from(total).unwrap_or(0));
        let mut data = vec![0.0; b * h * length * d];
        for row in 0..b * h {
            let start = usize::try_from(lengths[row / h].saturating_sub(s as i64)).ok().filter(|n| *n <= p && n + s <= length);
            let start = start.ok_or_else(|| {
                let found = lengths[row / h];
                EvalError::Invalid(format!("{s} new rows do not end at row {found} of a buffer of {p} that grows to {length}"))
            })?;
            let to = &mut data[row * length * d..][..length * d];
            to[..start * d].copy_from_slice(&old.data[row * p * d..][..start * d]);
            to[start * d..][..s * d].copy_from_slice(&self.data[row * s * d..][..s * d]);
        }
        Ok(Heads { dims: [b, h, length, d], data })
    }
}

/// `[a, b, c, d]` as `[a, c, b, d]`.
pub(crate) fn swap_heads(v: &[f64], [a, b, c, d]: [usize; 4]) -> Vec<f64> {
    let mut out = Vec::with_capacity(v.len());
    for (i, k, j) in (0..a).flat_map(|i| (0..c).flat_map(move |k| (0..b).map(move |j| (i, k, j)))) {
        out.extend_from_slice(&v[((i * b + j) * c + k) * d..][..d]);
    }
    out
}

/// An additive mask read by row and column of the scores.
struct Mask {
    rows: Vec<usize>,
    columns: usize,
    values: Vec<f64>,
}

impl Mask {
    fn read(operands: &[&Datum], [b, h, s, t]: [usize; 4]) -> Result<Mask, EvalError> {
        let (Some(mask), Some(mut values)) = (optional(operands, 3), floats(operands, 3)?) else {
            return Ok(Mask { rows: vec![], columns: 1, values: vec![] });
        };
        if mask.dtype() == DType::Bool {
            values.iter_mut().for_each(|v| *v = if *v != 0.0 { 0.0 } else { f64::NEG_INFINITY });
        }
        let (lead, columns) = match mask.dims() {
            [] => (&[][..], 1),
            [lead @ .., columns] => (lead, *columns),
        };
        let out = [b, h, s];
        let fits = broadcast::shape(&[lead, &out]).is_ok_and(|d| d[..] == out) && columns <= t.max(1);
        ensure(fits, || format!("a mask of {:?} does not fit scores of [{b}, {h}, {s}, {t}]", mask.dims()))?;
        Ok(Mask { rows: broadcast::indices(lead, &out), columns, values })
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        match self.rows.get(row) {
            None => 0.0,
            Some(r) if self.columns == 1 => self.values[*r],
            Some(_) if column >= self.columns => f64::NEG_INFINITY,
            Some(r) => self.values[r * self.columns + column],
        }
    }
}
