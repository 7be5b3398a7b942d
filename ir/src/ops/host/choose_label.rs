use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::ops::reading::{invalid, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;
use crate::{attr_enum, op};

attr_enum! {
    /// What the scores of a classifier mean.
    pub enum Scores {
        /// One per label: the largest wins, the first of equal ones.
        PerLabel = "per_label",
        /// Probability of the second of two labels.
        Probability = "probability",
        /// Evidence for the second of two labels: it wins above 0.
        Evidence = "evidence",
        /// Evidence for the second of two labels, shown as if it were a probability.
        Shares = "shares",
    }
}

op! {
    /// `choose_label(scores, labels) {f}`: for every row of scores the label that wins, and the scores of all labels: of a
    /// probability (or share) `p` they are `1 - p` and `p`, of evidence `e` they are `-e` and `e`.
    pub struct ChooseLabel { f: Scores }
}

impl OpSpec for ChooseLabel {
    const NAME: &'static str = "choose_label";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3], %p: f32[N, 1]) { %l = const [7, 8, 9] : i64[3] %m = const [0, 1] : i64[2] %a, %s = choose_label(%x, %l) {f = per_label} %b, %t = choose_label(%p, %m) {f = probability} return %a, %s, %b, %t }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (x, labels) = (operands.tensor(0)?, operands.tensor(1)?);
        let count = labels.shape.elements().and_then(|n| n.as_const());
        let (rows, columns) = match x.dims() {
            Some([rows, columns]) => (rows.clone(), columns.as_const()),
            None => (operands.late_dim(), None),
            Some(_) => return Err(operands.wrong(0, format!("{x} holds no rows of scores"))),
        };
        let fits = match self.f {
            Scores::PerLabel => columns.is_none() || columns == count,
            Scores::Probability | Scores::Evidence | Scores::Shares => columns.is_none_or(|n| n == 1) && count == Some(2),
        };
        let count = count.filter(|_| fits && x.dtype.is_float());
        let count = count.ok_or_else(|| operands.wrong(0, format!("{x} scores for {labels}")))?;
        let scores = TensorType::new(x.dtype, [rows.clone(), Dim::constant(count)]);
        Ok(vec![TensorType::new(labels.dtype, [rows]).into(), scores.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, labels) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let [rows, columns] = *x.dims() else { return Err(invalid("scores come in rows")) };
        let v = x.to_f64()?;
        if self.f == Scores::PerLabel {
            if columns != labels.len() || columns == 0 {
                return Err(invalid(format!("{columns} scores for {} labels", labels.len())));
            }
            let best = |row: &[f64]| (1..columns).fold(0, |best, i| if row[i] > row[best] { i } else { best });
            let chosen: Vec<usize> = v.chunks_exact(columns).map(best).collect();
            return Ok(vec![labels.pick(&[rows], &chosen)?.into(), x.clone().into()]);
        }
        if columns != 1 || labels.len() != 2 {
            return Err(invalid(format!("{columns} scores for two labels, found {}", labels.len())));
        }
        let threshold = if self.f == Scores::Probability { 0.5 } else { 0.0 };
        let chosen: Vec<usize> = v.iter().map(|s| usize::from(*s > threshold)).collect();
        let scores: Vec<f64> = v.iter().flat_map(|s| [if self.f == Scores::Evidence { -s } else { 1.0 - s }, *s]).collect();
        let scores = Tensor::from_f64(x.dtype(), &[rows, 2], &scores)?;
        Ok(vec![labels.pick(&[rows], &chosen)?.into(), scores.into()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 2.0)
    }
}
