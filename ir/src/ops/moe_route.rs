use super::operand::{ensure, floats, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::attr_enum;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

attr_enum! {
    /// What a router makes of its logits.
    pub enum RouterScore {
        /// The softmax over all experts.
        Softmax = "softmax",
        /// The sigmoid of each.
        Sigmoid = "sigmoid",
        /// The logits choose, and the weights are the softmax over the chosen ones.
        Chosen = "chosen",
    }
}

op! {
    /// `moe_route(logits, bias?) {k, score, renormalise, eps, scale}`: the `k` experts of each row of `logits[T, E]` and their
    /// weights: `ids i32[T, k]` and `weights[T, k]`.
    ///
    /// Scores are rounded to the type of the logits. The experts with the largest `score + bias[E]` are chosen, in that
    /// order; of equal ones the lower number comes first, NaN counts as greater than every number. Their scores without
    /// bias are the weights: with `renormalise` divided by their sum plus `eps`, then times `scale`.
    pub struct MoeRoute { k: i64, score: RouterScore, renormalise: bool, eps: f32, scale: f32 }
}

impl OpSpec for MoeRoute {
    const NAME: &'static str = "moe_route";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[T, 8]) { %i, %y = moe_route(%x) {k = 2, score = softmax, renormalise = true, eps = 0.0, scale = 1.0} return %i, %y }",
        "graph @g(%x: f32[T, 33]) { %i, %y = moe_route(%x) {k = 5, score = softmax, renormalise = false, eps = 0.0, scale = 1.0} return %i, %y }",
        "graph @g(%x: f32[T, 6], %b: f32[6]) { %i, %y = moe_route(%x, %b) {k = 3, score = sigmoid, renormalise = true, eps = 1e-9, scale = 2.5} return %i, %y }",
        "graph @g(%x: f32[T, 4]) { %i, %y = moe_route(%x) {k = 4, score = chosen, renormalise = false, eps = 0.0, scale = 1.0} return %i, %y }",
        "graph @g(%x: f16[T, 8]) { %i, %y = moe_route(%x) {k = 1, score = softmax, renormalise = false, eps = 0.0, scale = 1.0} return %i, %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 2)?;
        let logits = operands.tensor(0)?;
        if !logits.dtype.is_float() {
            return Err(operands.wrong(0, format!("logits are floats, not {}", logits.dtype)));
        }
        let Some([rows, experts]) = logits.dims() else {
            return Err(operands.wrong(0, format!("{logits} is not [rows, experts]")));
        };
        if self.k < 1 || experts.as_const().is_some_and(|e| self.k > e) {
            return Err(TypeError::Invalid(format!("the {} best of {experts} experts", self.k)));
        }
        if operands.has(1) {
            match operands.dims(1)? {
                Some([n]) => operands.assume_same(n, experts)?,
                _ => return Err(operands.wrong(1, format!("{} is not [{experts}]", operands.tensor(1)?))),
            }
        }
        let dims = [rows.clone(), Dim::constant(self.k)];
        Ok(vec![TensorType::new(DType::I32, dims.clone()).into(), TensorType::new(logits.dtype, dims).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let &[rows, experts] = x.dims() else {
            return Err(EvalError::Invalid(format!("logits {:?} are not [rows, experts]", x.dims())));
        };
        let k = self.k as usize;
        ensure((1..=experts).contains(&k), || format!("the {k} best of {experts} experts"))?;
        let logits = x.to_f64()?;
        let bias = floats(operands, 1)?.unwrap_or_else(|| vec![0.0; experts]);
        ensure(bias.len() == experts, || format!("{} biases for {experts} experts", bias.len()))?;
        let scores: Vec<f64> = logits.chunks_exact(experts).flat_map(|row| self.scores(row)).collect();
        let scores = Tensor::from_f64(x.dtype(), x.dims(), &scores)?.to_f64()?;
        let (mut ids, mut weights) = (vec![], vec![]);
        for row in scores.chunks_exact(experts) {
            let chosen = choose(row, &bias, k);
            weights.extend(self.weights(chosen.iter().map(|e| row[*e]).collect()));
            ids.extend(chosen.into_iter().map(|e| e as i32));
        }
        Ok(vec![
            Tensor::from_slice(&[rows, k], &ids)?.into(),
            Tensor::from_f64(x.dtype(), &[rows, k], &weights)?.into(),
        ])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        operands[0].as_tensor().and_then(|t| t.shape.elements()).unwrap_or(Dim::constant(0)) * 8
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}

impl MoeRoute {
    fn scores(&self, logits: &[f64]) -> Vec<f64> {
        match self.score {
            RouterScore::Softmax => super::attention::softmax(logits),
            RouterScore::Sigmoid => logits.iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect(),
            RouterScore::Chosen => logits.to_vec(),
        }
    }

    fn weights(&self, chosen: Vec<f64>) -> Vec<f64> {
        let mut weights = match self.score {
            RouterScore::Chosen => super::attention::softmax(&chosen),
            RouterScore::Softmax | RouterScore::Sigmoid => chosen,
        };
        if self.renormalise {
            let sum = weights.iter().sum::<f64>() + self.eps as f64;
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        weights.iter_mut().for_each(|w| *w *= self.scale as f64);
        weights
    }
}

/// The `k` positions with the largest `score + bias`.
fn choose(scores: &[f64], bias: &[f64], k: usize) -> Vec<usize> {
    let key = |e: usize| scores[e] + bias[e];
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| {
        let (x, y) = (key(*a), key(*b));
        y.partial_cmp(&x).unwrap_or_else(|| y.is_nan().cmp(&x.is_nan()))
    });
    order.truncate(k);
    order
}
