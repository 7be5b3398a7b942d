use super::operand::{ensure, optional, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::ValueType;

op! {
    /// `rope(x, cos, sin, positions?) {heads, rotary, interleaved}`: rotates pairs of the first `rotary` elements of each head
    /// (all, where absent): `(a cos - b sin, a sin + b cos)`. <https://arxiv.org/abs/2104.09864>
    ///
    /// `x[B, H, S, D]`, or `[B, S, heads D]`. A pair is element i of the first and of the second half, or with `interleaved`
    /// neighbours. `cos` and `sin` are `[B, S, rotary/2]`, or tables `[rows, rotary/2]` read at `positions[B, S]`; `positions`
    /// of one element is the position of the first step.
    pub struct Rope { heads: Option<i64>, rotary: Option<i64>, interleaved: bool }
}

/// The batch entry and the step that a head-sized row belongs to.
type BatchAndStep = Box<dyn Fn(usize) -> (usize, usize)>;

impl OpSpec for Rope {
    const NAME: &'static str = "rope";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[B, 3, S, 8], %c: f32[50, 4], %s: f32[50, 4], %p: i64[B, S]) { %y = rope(%x, %c, %s, %p) {} return %y }",
        "graph @g(%x: f32[B, S, 24], %c: f32[B, S, 2], %s: f32[B, S, 2]) { %y = rope(%x, %c, %s) {heads = 3, rotary = 4, interleaved = true} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 4)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() || !operands.dtype(1)?.is_float() || !operands.dtype(2)?.is_float() {
            return Err(operands.wrong(0, format!("{} cannot be rotated", x.dtype)));
        }
        let width = match x.dims() {
            Some([_, _, _, d]) => Some(d.clone()),
            Some([_, _, w]) => {
                let heads =
                    self.heads.filter(|h| *h > 0).ok_or_else(|| operands.wrong(0, "rank 3 needs a number of heads"))?;
                Some(
                    w.exact_div(&Dim::constant(heads))
                        .ok_or_else(|| operands.wrong(0, format!("{w} is not {heads} heads")))?,
                )
            }
            Some(_) => return Err(operands.wrong(0, "it has neither rank 3 nor 4")),
            None => None,
        };
        let table = if operands.has(3) { 2 } else { 3 };
        for i in [1, 2] {
            let Some(dims) = operands.dims(i)? else { continue };
            if dims.len() != table {
                return Err(operands.wrong(i, format!("its rank is {}, not {table}", dims.len())));
            }
            let rotary = self.rotary.map(Dim::constant).or(width.clone());
            if let Some(rotary) = rotary {
                operands.assume_same(&(&dims[table - 1] * 2), &rotary)?;
            }
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let (cos, sin) = (tensor(Self::NAME, operands, 1)?, tensor(Self::NAME, operands, 2)?);
        // Row r of head-sized rows belongs to batch b and step s.
        let (rows, batch, steps, d): (BatchAndStep, _, _, _) = match (x.dims(), self.heads) {
            (&[b, h, s, d], _) => (Box::new(move |r| (r / s / h, r % s)), b, s, d),
            (&[b, s, w], Some(h)) if h > 0 && w % h as usize == 0 => {
                let h = h as usize;
                (Box::new(move |r| (r / h / s, r / h % s)), b, s, w / h)
            }
            (dims, _) => return Err(EvalError::Invalid(format!("{dims:?} does not split into heads"))),
        };
        let rotary = self.rotary.map_or(d, |r| r as usize);
        let half = rotary / 2;
        let fits = rotary <= d && cos.dims() == sin.dims() && cos.dims().last() == Some(&half);
        ensure(fits, || format!("tables of {:?} and {:?} do not rotate {rotary} of {d}", cos.dims(), sin.dims()))?;
        let table_rows = cos.dims()[..cos.rank() - 1].iter().product::<usize>();
        let at: Vec<usize> = match optional(operands, 3) {
            Some(p) if p.len() == 1 => {
                let first = p.to_i64()?[0].max(0) as usize;
                (0..batch * steps).map(|i| first + i % steps).collect()
            }
            Some(p) => super::indices(p, table_rows)?,
            None => (0..batch * steps).collect(),
        };
        let inside = at.len() == batch * steps && at.iter().all(|i| *i < table_rows);
        ensure(inside, || format!("a position is outside the table of {table_rows} rows"))?;
        let (mut v, cos, sin) = (x.to_f64()?, cos.to_f64()?, sin.to_f64()?);
        for (r, row) in v.chunks_exact_mut(d.max(1)).enumerate() {
            let (b, s) = rows(r);
            let base = at[b * steps + s] * half;
            for i in 0..half {
                let (first, second) = if self.interleaved { (2 * i, 2 * i + 1) } else { (i, half + i) };
                let (a, b, cos, sin) = (row[first], row[second], cos[base + i], sin[base + i]);
                (row[first], row[second]) = (a * cos - b * sin, a * sin + b * cos);
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), x.dims(), &v)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 3
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 8.0)
    }
}
