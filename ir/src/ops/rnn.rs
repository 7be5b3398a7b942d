use super::activation::ActivationFn;
use super::operand::tensor;
use super::recurrent::{self, Direction, Layer};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::ValueType;

op! {
    /// `rnn(x, w, r, bias?, lengths?, h0?) {direction, activations}`: ONNX RNN. `x[S, B, I]`, `w[D, H, I]`, `r[D, H, H]`,
    /// `bias[D, 2H]`, `lengths[B]`, `h0[D, B, H]` -> all outputs `[S, D, B, H]`, the last `[D, B, H]`; `h' = f(W x + R h + b)`.
    pub struct Rnn {
        direction: Direction, activations: Vec<ActivationFn>, alphas: Vec<f32>, betas: Vec<f32>, clip: Option<f32>,
        batch_first: bool,
    }
}

impl OpSpec for Rnn {
    const NAME: &'static str = "rnn";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[S, B, 5], %w: f32[1, 3, 5], %r: f32[1, 3, 3], %b: f32[1, 6]) { %y, %h = rnn(%x, %w, %r, %b) {direction = reverse, activations = [tanh], alphas = [], betas = []} return %y, %h }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 6)?;
        recurrent::infer(operands, 1, self.direction, (&self.activations, 1), self.batch_first, 1)
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let layer = Layer::read(Self::NAME, operands, 1, self.direction.count(), self.batch_first)?;
        let states = vec![layer.state(operands, 5)?];
        let n = layer.hidden;
        let activations = recurrent::activations(&self.activations, &self.alphas, &self.betas);
        let out = layer.run(self.direction, states, |d, b, t, states| {
            let x = layer.input_product(d, t, b, n);
            let state = layer.state_product(d, n, 0, n, &states[0]);
            let bias = &layer.bias[d * 2 * n..][..2 * n];
            for j in 0..n {
                states[0][j] = activations[d].apply(x[j] + state[j] + bias[j] + bias[n + j], self.clip);
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
