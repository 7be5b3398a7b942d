//! The elementwise halves of LSTM and GRU cells: what follows the matrix products of a time step.
//!
//! Gates are rows `[batch, gates * hidden]` in ONNX's order, biases already added, with the default activations.

use super::math;
use super::vectorise::vectorise;

vectorise! {
    /// One LSTM step. `gates` holds rows of input, output, forget and cell gates; `peephole` is empty or holds the
    /// input, output and forget weights; gates are clamped to `-clip ..= clip` (infinity for none). `c` and `h` are
    /// rows `[batch, hidden]`, the cell state updated in place and the output written.
    pub fn lstm_cell<FMA>(hidden: usize, gates: &[f32], peephole: &[f32], clip: f32, c: &mut [f32], h: &mut [f32]) {
        if hidden == 0 {
            return;
        }
        let limit = |x: f32| math::min(math::max(x, -clip), clip);
        let rows = gates.chunks_exact(4 * hidden).zip(c.chunks_exact_mut(hidden)).zip(h.chunks_exact_mut(hidden));
        for ((gates, c), h) in rows {
            let (i, rest) = gates.split_at(hidden);
            let (o, rest) = rest.split_at(hidden);
            let (f, g) = rest.split_at(hidden);
            if peephole.is_empty() {
                for j in 0..hidden {
                    let kept = math::sigmoid::<FMA>(limit(f[j])) * c[j];
                    c[j] = kept + math::sigmoid::<FMA>(limit(i[j])) * math::tanh::<FMA>(limit(g[j]));
                    h[j] = math::sigmoid::<FMA>(limit(o[j])) * math::tanh::<FMA>(c[j]);
                }
            } else {
                for j in 0..hidden {
                    let kept = math::sigmoid::<FMA>(limit(f[j] + peephole[2 * hidden + j] * c[j])) * c[j];
                    let input = math::sigmoid::<FMA>(limit(i[j] + peephole[j] * c[j]));
                    c[j] = kept + input * math::tanh::<FMA>(limit(g[j]));
                    h[j] = math::sigmoid::<FMA>(limit(o[j] + peephole[hidden + j] * c[j])) * math::tanh::<FMA>(c[j]);
                }
            }
        }
    }

    /// The first half of a GRU step that resets before its last product: `zr` holds rows of update and reset gates,
    /// which become their sigmoids; `reset` becomes the reset state `r * h`.
    pub fn gru_gates<FMA>(hidden: usize, zr: &mut [f32], h: &[f32], reset: &mut [f32]) {
        if hidden == 0 {
            return;
        }
        let rows = zr.chunks_exact_mut(2 * hidden).zip(h.chunks_exact(hidden)).zip(reset.chunks_exact_mut(hidden));
        for ((zr, h), reset) in rows {
            for gate in zr.iter_mut() {
                *gate = math::sigmoid::<FMA>(*gate);
            }
            for ((reset, &r), &h) in reset.iter_mut().zip(&zr[hidden..]).zip(h) {
                *reset = r * h;
            }
        }
    }

    /// The second half: `h = (1 - z) * tanh(candidate) + z * h`, `zr` as [`gru_gates`] left it.
    pub fn gru_update<FMA>(hidden: usize, zr: &[f32], candidate: &[f32], h: &mut [f32]) {
        if hidden == 0 {
            return;
        }
        let rows = zr.chunks_exact(2 * hidden).zip(candidate.chunks_exact(hidden)).zip(h.chunks_exact_mut(hidden));
        for ((zr, candidate), h) in rows {
            for ((h, &z), &n) in h.iter_mut().zip(zr).zip(candidate) {
                let n = math::tanh::<FMA>(n);
                *h = n + z * (*h - n);
            }
        }
    }

    /// A GRU step that resets after its last product (`linear_before_reset`): `x` and `r` are rows of update, reset and
    /// candidate gates from the input and from the state, each with its biases.
    pub fn gru_cell_linear<FMA>(hidden: usize, x: &[f32], r: &[f32], h: &mut [f32]) {
        if hidden == 0 {
            return;
        }
        let rows = x.chunks_exact(3 * hidden).zip(r.chunks_exact(3 * hidden)).zip(h.chunks_exact_mut(hidden));
        for ((x, r), h) in rows {
            for j in 0..hidden {
                let z = math::sigmoid::<FMA>(x[j] + r[j]);
                let reset = math::sigmoid::<FMA>(x[hidden + j] + r[hidden + j]);
                let n = math::tanh::<FMA>(x[2 * hidden + j] + reset * r[2 * hidden + j]);
                h[j] = n + z * (h[j] - n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 31 + seed * 7) % 23) as f32 / 8.0 - 1.4).collect()
    }

    fn sigmoid(x: f32) -> f32 {
        1.0 / (1.0 + (-x).exp())
    }

    fn close(a: &[f32], b: &[f32]) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    }

    #[test]
    fn an_lstm_step_follows_its_formula() {
        let (n, gates, p) = (19, values(2 * 4 * 19, 1), values(3 * 19, 2));
        for (peephole, clip) in [(&[][..], f32::INFINITY), (&p[..], 0.9)] {
            let (mut c, mut h) = (values(2 * n, 3), vec![0.0; 2 * n]);
            let before = c.clone();
            lstm_cell(n, &gates, peephole, clip, &mut c, &mut h);
            let peep = |gate: usize, j: usize| if peephole.is_empty() { 0.0 } else { peephole[gate * n + j] };
            let (mut c2, mut h2) = (before.clone(), vec![0.0; 2 * n]);
            for b in 0..2 {
                for j in 0..n {
                    let (at, gate) = (b * n + j, |g: usize| gates[b * 4 * n + g * n + j]);
                    let limit = |x: f32| x.clamp(-clip, clip);
                    let i = sigmoid(limit(gate(0) + peep(0, j) * before[at]));
                    let f = sigmoid(limit(gate(2) + peep(2, j) * before[at]));
                    c2[at] = f * before[at] + i * limit(gate(3)).tanh();
                    h2[at] = sigmoid(limit(gate(1) + peep(1, j) * c2[at])) * c2[at].tanh();
                }
            }
            close(&c, &c2);
            close(&h, &h2);
        }
    }

    #[test]
    fn both_forms_of_a_gru_step_follow_their_formulas() {
        let n = 17;
        let (x, r, h0) = (values(3 * n, 1), values(3 * n, 2), values(n, 3));
        let mut h = h0.clone();
        gru_cell_linear(n, &x, &r, &mut h);
        let expected: Vec<f32> = (0..n)
            .map(|j| {
                let (z, reset) = (sigmoid(x[j] + r[j]), sigmoid(x[n + j] + r[n + j]));
                (1.0 - z) * (x[2 * n + j] + reset * r[2 * n + j]).tanh() + z * h0[j]
            })
            .collect();
        close(&h, &expected);

        let (mut zr, mut reset, mut h) = (x[..2 * n].to_vec(), vec![0.0; n], h0.clone());
        gru_gates(n, &mut zr, &h0, &mut reset);
        gru_update(n, &zr, &r[..n], &mut h);
        close(&reset, &(0..n).map(|j| sigmoid(x[n + j]) * h0[j]).collect::<Vec<_>>());
        let update = |j: usize| (1.0 - sigmoid(x[j])) * r[j].tanh() + sigmoid(x[j]) * h0[j];
        close(&h, &(0..n).map(update).collect::<Vec<_>>());
    }
}
