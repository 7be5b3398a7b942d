use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::ops::reading::{self, invalid, tensor};
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};
use crate::{attr_enum, op};
use std::collections::HashMap;

attr_enum! {
    /// What is written for an n-gram.
    pub enum TfIdfMode {
        /// How often it occurs.
        Tf = "tf",
        /// Its weight, if it occurs.
        Idf = "idf",
        /// Its weight times how often it occurs.
        TfIdf = "tf_idf",
    }
}

op! {
    /// `tf_idf(x, pool, weights?) {starts, positions, shortest, longest, skips, mode, columns}`: how often n-grams of the
    /// pool occur in every row of `x` (ONNX TfIdfVectorizer). `starts[n - 1]` is where the n-grams of length n begin in the
    /// pool, `positions[i]` the result column of n-gram i. Up to `skips` elements may lie between those of an n-gram.
    pub struct TfIdf {
        starts: Vec<i64>,
        positions: Vec<i64>,
        shortest: i64,
        longest: i64,
        skips: i64,
        mode: TfIdfMode,
        columns: i64,
    }
}

impl OpSpec for TfIdf {
    const NAME: &'static str = "tf_idf";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: i64[N, 6]) { %p = const [0, 1, 0, 1] : i64[4] %y = tf_idf(%x, %p) {starts = [0, 2], positions = [0, 1, 2], shortest = 1, longest = 2, skips = 1, mode = tf, columns = 3} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 3)?;
        let columns = Dim::constant(self.columns);
        let shape = match operands.dims(0)? {
            Some([rows, _]) => Shape::Ranked(vec![rows.clone(), columns]),
            Some([_]) => Shape::Ranked(vec![columns]),
            None => Shape::Unranked,
            Some(_) => return Err(operands.wrong(0, "expected a vector or rows")),
        };
        if !(1..1 << 31).contains(&self.columns) || self.starts.is_empty() {
            return Err(TypeError::Invalid(format!("{} result columns", self.columns)));
        }
        Ok(vec![TensorType { dtype: DType::F32, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, pool) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let weights = reading::optional(operands, 2)?.map(|w| w.to_f64()).transpose()?;
        let (width, lead) = x.dims().split_last().ok_or_else(|| invalid("expected a vector or rows"))?;
        let rows: usize = lead.iter().product();
        let y = match pool.dtype() {
            DType::Str => self.count(x.strings()?, rows, *width, pool.strings()?, weights.as_deref())?,
            _ => self.count(&x.to_i64()?, rows, *width, &pool.to_i64()?, weights.as_deref())?,
        };
        Ok(vec![Tensor::from_f64(DType::F32, &[lead, &[self.columns as usize]].concat(), &y)?.into()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 4.0)
    }
}

impl TfIdf {
    fn count<T: std::hash::Hash + Eq>(
        &self,
        x: &[T],
        rows: usize,
        width: usize,
        pool: &[T],
        weights: Option<&[f64]>,
    ) -> Result<Vec<f64>, EvalError> {
        let columns = self.columns as usize;
        let known = self.grams(pool)?;
        let mut y = vec![0.0; rows * columns];
        for r in 0..rows {
            let row = &x[r * width..(r + 1) * width];
            let out = &mut y[r * columns..(r + 1) * columns];
            for n in self.shortest.max(1) as usize..=self.longest.max(0) as usize {
                // Single elements have nothing between them.
                let skips = if n == 1 { 0 } else { self.skips.max(0) as usize };
                for step in 1..=skips + 1 {
                    let reach = (n - 1).saturating_mul(step);
                    for start in 0..width.saturating_sub(reach) {
                        let gram: Vec<&T> = (0..n).map(|i| &row[start + i * step]).collect();
                        if let Some(id) = known.get(&gram) {
                            let column = self.positions.get(*id).and_then(|p| usize::try_from(*p).ok());
                            let column =
                                column.filter(|c| *c < columns).ok_or_else(|| invalid("an n-gram has no column"))?;
                            let weight = weights.and_then(|w| w.get(*id)).copied().unwrap_or(1.0);
                            match self.mode {
                                TfIdfMode::Tf => out[column] += 1.0,
                                TfIdfMode::Idf => out[column] = weight,
                                TfIdfMode::TfIdf => out[column] += weight,
                            }
                        }
                    }
                }
            }
        }
        Ok(y)
    }

    /// The n-grams of the pool, numbered in order.
    fn grams<'a, T: std::hash::Hash + Eq>(&self, pool: &'a [T]) -> Result<HashMap<Vec<&'a T>, usize>, EvalError> {
        let (mut known, mut id) = (HashMap::new(), 0);
        for (i, start) in self.starts.iter().enumerate() {
            let end = self.starts.get(i + 1).copied().unwrap_or(pool.len() as i64);
            let part = usize::try_from(*start).ok().zip(usize::try_from(end).ok());
            let part = part.and_then(|(a, b)| pool.get(a..b));
            let part = part.ok_or_else(|| invalid("the lists of n-grams lie outside the pool"))?;
            for gram in part.chunks_exact(i + 1) {
                known.insert(gram.iter().collect(), id);
                id += 1;
            }
        }
        Ok(known)
    }
}
