use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `pair_votes(scores, labels)`: the label of every row of `scores[rows, pairs]`. Scores compare the labels pairwise, in the
    /// order 01, 02, .., 12, ..: one above 0 is a vote for the first of a pair, any other for the second; most votes win, the
    /// first of equals.
    pub struct PairVotes {}
}

op! {
    /// `pair_probabilities(scores, a, b) {classes}`: the probability of each class for every row of pairwise scores, as libsvm
    /// couples them: the first of pair p wins with the probability `1 / (1 + exp(a[p] score + b[p]))`.
    ///
    /// Wu, Lin and Weng, "Probability estimates for multi-class classification by pairwise coupling", JMLR 5 (2004), section 4.
    pub struct PairProbabilities { classes: i64 }
}

/// How many pairs there are.
fn pairs(classes: usize) -> usize {
    classes * classes.saturating_sub(1) / 2
}

/// The pairs in order.
fn each_pair(classes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..classes).flat_map(move |i| (i + 1..classes).map(move |j| (i, j)))
}

fn rows(operands: &Operands<'_>, classes: usize) -> Result<Dim, TypeError> {
    let x = operands.tensor(0)?;
    if !x.dtype.is_float() || !(2..1 << 16).contains(&classes) {
        return Err(operands.wrong(0, format!("{x} compares no {classes} classes")));
    }
    match x.dims() {
        Some([rows, columns]) => {
            operands.assume_same(columns, &Dim::constant(pairs(classes) as i64))?;
            Ok(rows.clone())
        }
        None => Ok(operands.late_dim()),
        Some(_) => Err(operands.wrong(0, format!("{x} holds no rows of scores"))),
    }
}

fn scores(operands: &[&Datum], classes: usize) -> Result<(usize, Vec<f64>), EvalError> {
    let x = tensor(operands, 0)?;
    match *x.dims() {
        [rows, columns] if columns == pairs(classes) && classes > 1 => Ok((rows, x.to_f64()?)),
        _ => Err(invalid(format!("scores {:?} of {classes} classes", x.dims()))),
    }
}

impl OpSpec for PairVotes {
    const NAME: &'static str = "pair_votes";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: f32[N, 3]) { %l = const [7, 8, 9] : i64[3] %y = pair_votes(%x, %l) return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let labels = operands.tensor(1)?;
        let count = labels.shape.elements().and_then(|n| usize::try_from(n.as_const()?).ok());
        let count = count.ok_or_else(|| operands.wrong(1, "the number of labels is unknown"))?;
        Ok(vec![TensorType::new(labels.dtype, [rows(operands, count)?]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let labels = tensor(operands, 1)?;
        let (rows, x) = scores(operands, labels.len())?;
        let winner = |row: &[f64]| {
            let mut votes = vec![0; labels.len()];
            for ((i, j), score) in each_pair(labels.len()).zip(row) {
                votes[if *score > 0.0 { i } else { j }] += 1;
            }
            (1..votes.len()).fold(0, |best, i| if votes[i] > votes[best] { i } else { best })
        };
        let chosen: Vec<usize> = x.chunks_exact(pairs(labels.len())).map(winner).collect();
        Ok(vec![labels.pick(&[rows], &chosen)?.into()])
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}

impl OpSpec for PairProbabilities {
    const NAME: &'static str = "pair_probabilities";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3]) { %a = const [-1.0, -0.5, 0.25] : f32[3] %b = const [0.5, 0.0, 0.25] : f32[3] %y = pair_probabilities(%x, %a, %b) {classes = 3} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 3)?;
        let classes = usize::try_from(self.classes).unwrap_or(0);
        let rows = rows(operands, classes)?;
        for i in [1, 2] {
            let n = operands.tensor(i)?.shape.elements();
            n.map_or(Ok(()), |n| operands.assume_same(&n, &Dim::constant(pairs(classes) as i64)))?;
        }
        Ok(vec![TensorType::new(operands.dtype(0)?, [rows, Dim::constant(self.classes)]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let n = usize::try_from(self.classes).unwrap_or(0);
        let (rows, x) = scores(operands, n)?;
        let (a, b) = (tensor(operands, 1)?.to_f64()?, tensor(operands, 2)?.to_f64()?);
        if a.len() != pairs(n) || b.len() != pairs(n) {
            return Err(invalid(format!("{} and {} coefficients for {} pairs", a.len(), b.len(), pairs(n))));
        }
        let mut y = Vec::with_capacity(rows * n);
        for row in x.chunks_exact(pairs(n)) {
            let mut wins = vec![0.0; n * n];
            for (p, (i, j)) in each_pair(n).enumerate() {
                let first = (1.0 / (1.0 + (a[p] * row[p] + b[p]).exp())).clamp(1e-7, 1.0 - 1e-7);
                (wins[i * n + j], wins[j * n + i]) = (first, 1.0 - first);
            }
            y.extend(couple(&wins, n));
        }
        Ok(vec![Tensor::from_f64(tensor(operands, 0)?.dtype(), &[rows, n], &y)?.into()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}

/// Class probabilities p that make `sum (wins[j,i] p[i] - wins[i,j] p[j])^2` least, by the paper's fixed-point iteration.
fn couple(wins: &[f64], n: usize) -> Vec<f64> {
    let mut q = vec![0.0; n * n];
    for i in 0..n {
        for j in (0..n).filter(|j| *j != i) {
            q[i * n + i] += wins[j * n + i] * wins[j * n + i];
            q[i * n + j] = -wins[j * n + i] * wins[i * n + j];
        }
    }
    let mut p = vec![1.0 / n as f64; n];
    for _ in 0..n.max(100) {
        let mut qp: Vec<f64> = (0..n).map(|i| (0..n).map(|j| q[i * n + j] * p[j]).sum()).collect();
        let mut pqp: f64 = p.iter().zip(&qp).map(|(p, q)| p * q).sum();
        let worst = qp.iter().map(|v| (v - pqp).abs()).fold(0.0, f64::max);
        if worst < 0.005 / n as f64 {
            break;
        }
        for i in 0..n {
            let step = (pqp - qp[i]) / q[i * n + i];
            p[i] += step;
            let shrunk = 1.0 + step;
            pqp = (pqp + step * (step * q[i * n + i] + 2.0 * qp[i])) / shrunk / shrunk;
            for j in 0..n {
                qp[j] = (qp[j] + step * q[i * n + j]) / shrunk;
                p[j] /= shrunk;
            }
        }
    }
    p
}
