use super::activation::ActivationFn;
use super::operand::{floats, tensor};
use super::recurrent::{self, Direction, Layer};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::ValueType;

op! {
    /// `lstm(x, w, r, bias?, lengths?, h0?, c0?, peepholes?) {direction, activations}`: ONNX LSTM. `x[S, B, I]`,
    /// `w[D, 4H, I]`, `r[D, 4H, H]` with gates in the order i, o, f, c; `bias[D, 8H]`, `lengths[B]`, states `[D, B, H]`,
    /// `peepholes[D, 3H]` (i, o, f) -> all outputs `[S, D, B, H]`, last output and last cell `[D, B, H]`.
    ///
    /// `i = f(Wi x + Ri h + b + Pi c)`, `f` likewise, `c' = f c + i g(Wc x + Rc h + b)`, `o = f(.. + Po c')`, `h' = o h(c')`;
    /// `activations` are f, g, h per direction. With `batch_first` the batch leads everywhere. `input_forget` makes
    /// `f = 1 - i`; `clip` bounds what enters an activation. Outputs past a sequence's length are 0.
    pub struct Lstm {
        direction: Direction, activations: Vec<ActivationFn>, alphas: Vec<f32>, betas: Vec<f32>, clip: Option<f32>,
        input_forget: bool, batch_first: bool,
    }
}

impl OpSpec for Lstm {
    const NAME: &'static str = "lstm";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[S, B, 5], %w: f32[1, 12, 5], %wr: f32[1, 12, 3], %b: f32[1, 24]) { %y, %h, %c = lstm(%x, %w, %wr, %b) {direction = forward, activations = [sigmoid, tanh, tanh], alphas = [], betas = []} return %y, %h, %c }",
        "graph @g(%x: f32[S, B, 5], %w: f32[2, 12, 5], %wr: f32[2, 12, 3], %b: f32[2, 24], %h0: f32[2, B, 3], %c0: f32[2, B, 3], %p: f32[2, 9]) { %y, %h, %c = lstm(%x, %w, %wr, %b, _, %h0, %c0, %p) {direction = bidirectional, activations = [sigmoid, tanh, tanh, sigmoid, tanh, tanh], alphas = [], betas = [], clip = 3.0} return %y, %h, %c }",
        "graph @g(%x: f32[B, S, 4], %w: f32[1, 8, 4], %wr: f32[1, 8, 2], %n: i32[B]) { %y, %h, %c = lstm(%x, %w, %wr, _, %n) {direction = reverse, activations = [hard_sigmoid, softsign, tanh], alphas = [], betas = [], batch_first = true} return %y, %h, %c }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 8)?;
        recurrent::infer(operands, 4, self.direction, (&self.activations, 3), self.batch_first, 2)
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let directions = self.direction.count();
        let layer = Layer::read(Self::NAME, operands, 4, directions, self.batch_first)?;
        let states = vec![layer.state(operands, 5)?, layer.state(operands, 6)?];
        let hidden = layer.hidden;
        let peepholes = floats(operands, 7)?.unwrap_or_else(|| vec![0.0; directions * 3 * hidden]);
        super::operand::ensure(peepholes.len() == directions * 3 * hidden, || "peepholes are [D, 3H]".into())?;
        let cell = Cell {
            op: self,
            hidden,
            activations: recurrent::activations(&self.activations, &self.alphas, &self.betas),
        };
        let out = layer.run(self.direction, states, |d, b, t, states| {
            let mut sums = layer.input_product(d, t, b, 4 * hidden);
            let from_state = layer.state_product(d, 4 * hidden, 0, 4 * hidden, &states[0]);
            let bias = &layer.bias[d * 8 * hidden..][..8 * hidden];
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += from_state[i] + bias[i] + bias[4 * hidden + i];
            }
            cell.step(d, &sums, &peepholes[d * 3 * hidden..][..3 * hidden], states);
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

/// The gates of one step.
pub(crate) struct Cell<'a> {
    pub op: &'a Lstm,
    pub hidden: usize,
    pub activations: Vec<recurrent::Activation>,
}

impl Cell<'_> {
    /// Replaces h and c, given the four weighted sums of direction `d`.
    pub fn step(&self, d: usize, sums: &[f64], peepholes: &[f64], states: &mut [Vec<f64>]) {
        let n = self.hidden;
        let [f, g, h] = [0, 1, 2].map(|i| self.activations[d * 3 + i]);
        for j in 0..n {
            let c = states[1][j];
            let input = f.apply(sums[j] + peepholes[j] * c, self.op.clip);
            let forget = match self.op.input_forget {
                true => 1.0 - input,
                false => f.apply(sums[2 * n + j] + peepholes[2 * n + j] * c, self.op.clip),
            };
            let c = forget * c + input * g.apply(sums[3 * n + j], self.op.clip);
            let output = f.apply(sums[n + j] + peepholes[n + j] * c, self.op.clip);
            states[1][j] = c;
            states[0][j] = output * h.apply(c, None);
        }
    }
}
