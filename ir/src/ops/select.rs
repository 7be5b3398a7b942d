use super::{Datum, EvalError, OpSpec, Operands, TypeError, broadcast};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::{TensorType, ValueType};

op! {
    /// `select(condition, a, b)`: `a` where the condition holds, else `b`; all three broadcast (ONNX Where).
    pub struct Select {}
}

impl OpSpec for Select {
    const NAME: &'static str = "select";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%c: bool[N, 1], %a: f32[N, 5], %b: f32[]) { %y = select(%c, %a, %b) return %y }",
        "graph @g(%c: bool[4], %a: i64[N, 4], %b: i64[N, 1]) { %y = select(%c, %a, %b) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 3)?;
        let (c, a, b) = (operands.tensor(0)?, operands.tensor(1)?, operands.tensor(2)?);
        if c.dtype != DType::Bool {
            return Err(operands.wrong(0, format!("a condition is bool, not {}", c.dtype)));
        }
        if a.dtype != b.dtype {
            return Err(operands.wrong(2, format!("its element type {} is not {}", b.dtype, a.dtype)));
        }
        let shape = operands.broadcast(&[&c.shape, &a.shape, &b.shape])?;
        Ok(vec![TensorType { dtype: a.dtype, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let c: Option<Vec<bool>> = operands.elements(0)?.iter().map(|c| Some(c.as_const()? != 0)).collect();
        let c = c?;
        let (a, b) = (operands.elements(1)?, operands.elements(2)?);
        let n = c.len().max(a.len()).max(b.len());
        let fits = |len: usize| len == 1 || len == n;
        let flat = (0..3).all(|i| operands.dims(i).ok().flatten().is_some_and(|d| d.len() <= 1));
        if !flat || !fits(c.len()) || !fits(a.len()) || !fits(b.len()) {
            return None;
        }
        let at = |len: usize, i: usize| if len == 1 { 0 } else { i };
        Some((0..n).map(|i| if c[at(c.len(), i)] { a[at(a.len(), i)].clone() } else { b[at(b.len(), i)].clone() }).collect())
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(c), Datum::Tensor(a), Datum::Tensor(b)] = operands else {
            return Err(super::not_tensors(Self::NAME));
        };
        let dims = broadcast::shape(&[c.dims(), a.dims(), b.dims()])?;
        let ic = broadcast::indices(c.dims(), &dims);
        let (ia, ib) = (broadcast::indices(a.dims(), &dims), broadcast::indices(b.dims(), &dims));
        // One tensor of both candidates, from which every element is picked.
        let both = super::concat::join(&[&a.reshaped(&[a.len()])?, &b.reshaped(&[b.len()])?], 0)?;
        let c = c.to_bools()?;
        let from: Vec<usize> = (0..ic.len()).map(|i| if c[ic[i]] { ia[i] } else { a.len() + ib[i] }).collect();
        Ok(vec![both.pick(&dims, &from)?.into()])
    }
}
