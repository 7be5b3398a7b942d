use super::activation::ActivationFn;
use super::attention::softmax;
use super::operand::{ensure, floats, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::attr_enum;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::ValueType;

attr_enum! {
    /// How the first layer of an expert is gated.
    pub enum Gating {
        /// `act(fc1)`, times `fc3` where given.
        None = "none",
        /// SwiGLU; rows of `fc1` alternate: gate, linear.
        Interleaved = "interleaved",
        /// SwiGLU; the first half of `fc1` is the gate.
        Halves = "halves",
    }
}

op! {
    /// `moe(x, logits, fc1, fc1_bias?, fc2, fc2_bias?, fc3?, fc3_bias?) {k, act, gating}`: mixture of experts, as com.microsoft's
    /// MoE: each row of `x[.., H]` goes through the `k` experts with the largest of its `logits[rows, E]`, weighted by their softmax.
    ///
    /// `fc1[E, I, H]` (2I rows when gated), `fc2[E, H, I]`, `fc3[E, I, H]`. An expert is `fc2 act(fc1 x)`, `fc2 (act(fc1 x) * fc3 x)`, or
    /// gated `fc2 (g sigmoid(alpha g) (l + beta))` with g and l limited to `limit` and `+-limit`. The softmax is over all
    /// experts, or with `normalize` over the chosen.
    pub struct Moe {
        k: i64, act: ActivationFn, gating: Gating, normalize: bool, alpha: Option<f32>, beta: Option<f32>, limit: Option<f32>,
    }
}

impl OpSpec for Moe {
    const NAME: &'static str = "moe";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[T, 8], %l: f32[T, 4], %a: f32[4, 12, 8], %b: f32[4, 8, 6]) { %y = moe(%x, %l, %a, _, %b) {k = 2, act = silu, gating = interleaved, normalize = true} return %y }",
        "graph @g(%x: f32[B, S, 8], %l: f32[B*S, 4], %a: f32[4, 6, 8], %ab: f32[4, 6], %b: f32[4, 8, 6], %bb: f32[4, 8], %c: f32[4, 6, 8]) { %y = moe(%x, %l, %a, %ab, %b, %bb, %c) {k = 1, act = gelu, gating = none} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(5, 8)?;
        let x = operands.tensor(0)?;
        for i in [0, 1, 2, 4] {
            if !operands.dtype(i)?.is_float() {
                return Err(operands.wrong(i, "experts take floats"));
            }
        }
        let (Some(xd), Some(logits), Some(fc1), Some(fc2)) =
            (x.dims(), operands.dims(1)?, operands.dims(2)?, operands.dims(4)?)
        else {
            return Ok(vec![x.clone().into()]);
        };
        let (Some((h, lead)), [rows, experts], [e1, rows1, h1], [e2, h2, inner]) = (xd.split_last(), logits, fc1, fc2)
        else {
            return Err(operands.wrong(2, "expert weights have rank 3 and router logits rank 2"));
        };
        let gate = if self.gating == Gating::None { 1 } else { 2 };
        let count: Dim = lead.iter().cloned().product();
        let pairs = [(rows, &count), (e1, experts), (e2, experts), (h1, h), (h2, h), (rows1, &(inner * gate))];
        pairs.into_iter().try_for_each(|(a, b)| operands.assume_same(a, b))?;
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let dims = |i: usize| Ok::<_, EvalError>(tensor(Self::NAME, operands, i)?.dims());
        let (&[rows, experts], &[_, rows1, h], &[_, out, inner]) = (dims(1)?, dims(2)?, dims(4)?) else {
            return Err(EvalError::Invalid("expert weights have rank 3 and router logits rank 2".into()));
        };
        let gate = if self.gating == Gating::None { 1 } else { 2 };
        let k = self.k as usize;
        let fits = x.len() == rows * h && out == h && rows1 == gate * inner && (1..=experts).contains(&k);
        ensure(fits, || format!("{k} experts of {:?} and {:?} do not fit {:?}", dims(2), dims(4), x.dims()))?;
        let read = |i: usize| floats(operands, i);
        let (fc1, fc2) = (Layer::new(read(2)?, read(3)?, rows1, h), Layer::new(read(4)?, read(5)?, h, inner));
        let fc3 = read(6)?.map(|w| Ok::<_, EvalError>(Layer::new(Some(w), read(7)?, inner, h))).transpose()?;
        let (xs, logits) = (x.to_f64()?, tensor(Self::NAME, operands, 1)?.to_f64()?);
        let mut y = vec![0.0; rows * h];
        for r in 0..rows {
            let row = &xs[r * h..][..h];
            for (expert, weight) in self.route(&logits[r * experts..][..experts]) {
                let first = fc1.apply(expert, row);
                let hidden = self.hidden(&first, fc3.as_ref().map(|l| l.apply(expert, row)), inner);
                let second = fc2.apply(expert, &hidden);
                y[r * h..][..h].iter_mut().zip(second).for_each(|(y, v)| *y += weight * v);
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), x.dims(), &y)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        // Each row passes k experts' two or three layers.
        let dims = |i: usize| operands.get(i).and_then(|t| t.as_tensor()?.dims());
        let layer = |i: usize| dims(i).map_or(Dim::constant(0), |d| d[1..].iter().cloned().product());
        let rows = dims(1).map_or(Dim::constant(0), |d| d[0].clone());
        rows * (layer(2) + layer(4) + layer(6)) * (2 * self.k)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 32.0)
    }
}

impl Moe {
    /// The chosen experts with their weights; of equal logits the first wins.
    pub(super) fn route(&self, logits: &[f64]) -> Vec<(usize, f64)> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.truncate(self.k as usize);
        let weights = match self.normalize {
            true => softmax(&order.iter().map(|e| logits[*e]).collect::<Vec<_>>()),
            false => {
                let all = softmax(logits);
                order.iter().map(|e| all[*e]).collect()
            }
        };
        order.into_iter().zip(weights).collect()
    }

    pub(super) fn hidden(&self, first: &[f64], third: Option<Vec<f64>>, inner: usize) -> Vec<f64> {
        let (alpha, beta) = (self.alpha.unwrap_or(1.0) as f64, self.beta.unwrap_or(0.0) as f64);
        let limit = self.limit.map_or(f64::INFINITY, |l| l as f64);
        let gated = |g: f64, l: f64| {
            let (g, l) = (g.min(limit), l.clamp(-limit, limit));
            g / (1.0 + (-alpha * g).exp()) * (l + beta)
        };
        match self.gating {
            Gating::Interleaved => first.chunks_exact(2).map(|p| gated(p[0], p[1])).collect(),
            Gating::Halves => (0..inner).map(|i| gated(first[i], first[inner + i])).collect(),
            Gating::None => {
                let (a, b) = self.act.defaults();
                let act = first.iter().map(|v| self.act.float(*v, a as f64, b as f64));
                match third {
                    Some(third) => act.zip(third).map(|(a, b)| a * b).collect(),
                    None => act.collect(),
                }
            }
        }
    }
}

/// One layer of every expert: `w[E, n, k]`, `bias[E, n]`.
struct Layer {
    w: Vec<f64>,
    bias: Option<Vec<f64>>,
    n: usize,
    k: usize,
}

impl Layer {
    fn new(w: Option<Vec<f64>>, bias: Option<Vec<f64>>, n: usize, k: usize) -> Layer {
        Layer { w: w.unwrap_or_default(), bias, n, k }
    }

    fn apply(&self, expert: usize, x: &[f64]) -> Vec<f64> {
        let w = &self.w[expert * self.n * self.k..][..self.n * self.k];
        let mut y = super::recurrent::product(w, x);
        if let Some(bias) = &self.bias {
            y.iter_mut().zip(&bias[expert * self.n..]).for_each(|(y, b)| *y += b);
        }
        y
    }
}
