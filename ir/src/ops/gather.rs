use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, axis};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `gather(x, indices) {axis}`: slices of `x` along `axis` in the order of `indices` (i32 or i64; negative counts from
    /// the end; out of range is an error that names the index).
    pub struct Gather { axis: i64 }
}

impl OpSpec for Gather {
    const NAME: &'static str = "gather";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 5]) { %i = const [1, -1, 0] : i64[3] %y = gather(%x, %i) {axis = 1} return %y }",
        "graph @g(%x: f16[7, M]) { %i = const [6, 0] : i32[2] %y = gather(%x, %i) {axis = 0} return %y }",
        "graph @g(%x: f32[B, 9], %w: f32[20, 9]) { %i = const [17, -1, 0] : i64[3] %r = gather(%w, %i) {axis = 0} %y = linear(%x, %w) return %r, %y }",
        "graph @g(%x: f16[B, 9], %w: f16[9, 20]) { %i = const [8, -1] : i32[2] %r = gather(%w, %i) {axis = 0} %y = linear(%x, %w) {kn = true} return %r, %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (x, i) = (operands.tensor(0)?, operands.tensor(1)?);
        if !matches!(i.dtype, DType::I64 | DType::I32) {
            return Err(operands.wrong(1, format!("indices are i32 or i64, not {}", i.dtype)));
        }
        let shape = match (x.dims(), i.dims()) {
            (Some(x), Some(i)) => {
                let at = axis(self.axis, x.len())?;
                Shape::Ranked([&x[..at], i, &x[at + 1..]].concat())
            }
            _ => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let x = operands.elements(0)?;
        if operands.dims(0).ok()??.len() != 1 {
            return None;
        }
        let n = x.len() as i64;
        operands.elements(1)?.iter().map(|i| {
            let i = i.as_const()?;
            x.get(usize::try_from(if i < 0 { i + n } else { i }).ok()?).cloned()
        }).collect()
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x), Datum::Tensor(indices)] = operands else { return Err(super::not_tensors(Self::NAME)) };
        let at = axis(self.axis, x.rank()).map_err(|e| EvalError::Invalid(e.to_string()))?;
        let n = x.dims()[at];
        let outer: usize = x.dims()[..at].iter().product();
        let inner: usize = x.dims()[at + 1..].iter().product();
        let rows = super::indices(indices, n)?;
        let mut from = Vec::with_capacity(outer * rows.len() * inner);
        for o in 0..outer {
            for i in &rows {
                from.extend((0..inner).map(|j| (o * n + i) * inner + j));
            }
        }
        let dims = [&x.dims()[..at], indices.dims(), &x.dims()[at + 1..]].concat();
        Ok(vec![x.pick(&dims, &from)?.into()])
    }

    fn flops(&self, _: &[&ValueType], _: &[ValueType]) -> Dim {
        Dim::constant(0)
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
