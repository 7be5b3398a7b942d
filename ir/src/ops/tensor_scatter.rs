use super::reading::{self, invalid, moves_data, optional, tensor};
use super::{Datum, EvalError, OpSpec, Operands, TypeError, axis};
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::ValueType;

op! {
    /// `tensor_scatter(cache, update, at?) {axis, circular}`: `cache` with the rows of `update` along `axis` in place of its own
    /// from row `at[b]` on (0 where left out) in each sample b of dimension 0: how a key-value cache of fixed size grows
    /// (ONNX TensorScatter). With `circular` rows beyond the end go to the beginning; otherwise they are an error.
    pub struct TensorScatter { axis: i64, circular: bool }
}

impl OpSpec for TensorScatter {
    const NAME: &'static str = "tensor_scatter";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%c: f32[B, 2, 9, 4], %u: f32[B, 2, 3, 4], %i: i64[B]) { %y = tensor_scatter(%c, %u, %i) {axis = 2} return %y }",
        "graph @g(%c: f32[2, 5, 3], %u: f32[2, 4, 3]) { %i = const [3, 0] : i64[2] %y = tensor_scatter(%c, %u, %i) {axis = -2, circular = true} return %y }",
        "graph @g(%c: f16[B, 5, 3], %u: f16[B, 2, 3]) { %y = tensor_scatter(%c, %u) {axis = 1} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 3)?;
        let (cache, update) = (operands.tensor(0)?, operands.tensor(1)?);
        reading::same_dtype(operands, 0, 1)?;
        if let (Some(c), Some(u)) = (cache.dims(), update.dims()) {
            let at = axis(self.axis, c.len())?;
            if c.len() != u.len() || at == 0 {
                return Err(operands.wrong(1, format!("{update} does not go into {cache} along dimension {at}")));
            }
            for i in (0..c.len()).filter(|i| *i != at) {
                operands.assume_same(&c[i], &u[i])?;
            }
        }
        if operands.has(2) {
            reading::takes_indices(operands, 2)?;
            if let (Some([n]), Some([b, ..])) = (operands.dims(2)?, cache.dims()) {
                operands.assume_same(n, b)?;
            }
        }
        Ok(vec![cache.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (cache, update) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let (c, u) = (cache.dims(), update.dims());
        let along = axis(self.axis, c.len()).map_err(invalid)?;
        let fits = c.len() == u.len() && along > 0 && (0..c.len()).all(|i| i == along || c[i] == u[i]);
        if !fits || cache.dtype() != update.dtype() || cache.dtype() == DType::Str || cache.dtype().bits() < 8 {
            return Err(invalid(format!("{}{u:?} does not go into {}{c:?}", update.dtype(), cache.dtype())));
        }
        let starts = match optional(operands, 2)? {
            Some(t) => t.to_i64()?,
            None => vec![0; c[0]],
        };
        let (rows, new) = (c[along], u[along]);
        let outer: usize = c[1..along].iter().product();
        let row_bytes = cache.dtype().bytes(c[along + 1..].iter().product());
        let mut moves = Vec::with_capacity(c[0] * new);
        for (b, i) in (0..c[0]).flat_map(|b| (0..new).map(move |i| (b, i))) {
            let start = starts.get(b).copied().ok_or_else(|| invalid("a sample has no row to begin at"))?;
            let to = usize::try_from(start).ok().map(|s| s + i);
            let to = if self.circular { to.map(|t| t % rows.max(1)) } else { to };
            let to = to.filter(|t| *t < rows);
            moves.push((b, i, to.ok_or_else(|| invalid(format!("row {start} + {i} is outside a cache of {rows}")))?));
        }
        let y = Tensor::build(cache.dtype(), c, |out| {
            out.copy_from_slice(cache.bytes());
            for (b, i, to) in moves {
                for o in b * outer..(b + 1) * outer {
                    let from = &update.bytes()[(o * new + i) * row_bytes..][..row_bytes];
                    out[(o * rows + to) * row_bytes..][..row_bytes].copy_from_slice(from);
                }
            }
        })?;
        Ok(vec![y.into()])
    }

    moves_data!();
}
