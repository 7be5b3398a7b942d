use super::activation::ActivationFn;
use super::operand::tensor;
use super::recurrent::{self, Direction, Layer};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::ValueType;

op! {
    /// `gru(x, w, r, bias?, lengths?, h0?) {direction, activations}`: ONNX GRU. `x[S, B, I]`, `w[D, 3H, I]`, `r[D, 3H, H]` with
    /// gates in the order z, r, h; `bias[D, 6H]`, `lengths[B]`, `h0[D, B, H]` -> all outputs `[S, D, B, H]`, the last `[D, B, H]`.
    ///
    /// `z = f(Wz x + Rz h + b)`, `r` likewise, `n = g(Wh x + wb + Rh (r h) + rb)`, or with `linear_before_reset`
    /// `n = g(Wh x + wb + r (Rh h + rb))`; `h' = (1 - z) n + z h`; `activations` are f, g per direction.
    pub struct Gru {
        direction: Direction, activations: Vec<ActivationFn>, alphas: Vec<f32>, betas: Vec<f32>, clip: Option<f32>,
        linear_before_reset: bool, batch_first: bool,
    }
}

impl OpSpec for Gru {
    const NAME: &'static str = "gru";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[S, B, 5], %w: f32[2, 9, 5], %wr: f32[2, 9, 3], %b: f32[2, 18]) { %y, %h = gru(%x, %w, %wr, %b) {direction = bidirectional, activations = [sigmoid, tanh, sigmoid, tanh], alphas = [], betas = [], linear_before_reset = true} return %y, %h }",
        "graph @g(%x: f32[B, S, 5], %w: f32[1, 9, 5], %wr: f32[1, 9, 3], %n: i32[B], %h0: f32[B, 1, 3]) { %y, %h = gru(%x, %w, %wr, _, %n, %h0) {direction = forward, activations = [sigmoid, tanh], alphas = [], betas = [], batch_first = true} return %y, %h }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 6)?;
        recurrent::infer(operands, 3, self.direction, (&self.activations, 2), self.batch_first, 1)
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let layer = Layer::read(Self::NAME, operands, 3, self.direction.count(), self.batch_first)?;
        let states = vec![layer.state(operands, 5)?];
        let n = layer.hidden;
        let activations = recurrent::activations(&self.activations, &self.alphas, &self.betas);
        let out = layer.run(self.direction, states, |d, b, t, states| {
            let h = &mut states[0];
            let x = layer.input_product(d, t, b, 3 * n);
            let state = layer.state_product(d, 3 * n, 0, 2 * n, h);
            let bias = &layer.bias[d * 6 * n..][..6 * n];
            let (f, g) = (activations[d * 2], activations[d * 2 + 1]);
            let gate = |i: usize| f.apply(x[i] + state[i] + bias[i] + bias[3 * n + i], self.clip);
            let reset: Vec<f64> = (n..2 * n).map(gate).collect();
            let new = match self.linear_before_reset {
                true => {
                    let new = layer.state_product(d, 3 * n, 2 * n, n, h);
                    new.iter().enumerate().map(|(j, v)| reset[j] * (v + bias[5 * n + j])).collect::<Vec<_>>()
                }
                false => {
                    let scaled: Vec<f64> = h.iter().zip(&reset).map(|(h, r)| h * r).collect();
                    let new = layer.state_product(d, 3 * n, 2 * n, n, &scaled);
                    new.iter().enumerate().map(|(j, v)| v + bias[5 * n + j]).collect()
                }
            };
            for j in 0..n {
                let update = gate(j);
                h[j] = (1.0 - update) * g.apply(x[2 * n + j] + bias[2 * n + j] + new[j], self.clip) + update * h[j];
            }
        });
        layer.finish(out, tensor(Self::NAME, operands, 0)?)
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        recurrent::flops(operands)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}
