use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, broadcast};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `matmul(a, b)`: numpy's product: `[.., m, k] x [.., k, n] -> [.., m, n]`, leading dimensions broadcast; a vector
    /// operand loses its dimension. Accumulates in f32 or wider; integers wrap.
    pub struct MatMul {}
}

impl OpSpec for MatMul {
    const NAME: &'static str = "matmul";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%a: f32[B, M, 9], %b: f32[9, 4]) { %y = matmul(%a, %b) return %y }",
        "graph @g(%a: f32[B, 3, M, K], %b: f32[B, 3, K, 4]) { %y = matmul(%a, %b) return %y }",
        "graph @g(%a: f32[K], %b: f32[B, K, 4]) { %y = matmul(%a, %b) return %y }",
        "graph @g(%a: f16[M, 8], %b: f16[8, 5]) { %y = matmul(%a, %b) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (a, b) = (operands.tensor(0)?, operands.tensor(1)?);
        if a.dtype != b.dtype || matches!(a.dtype, DType::Bool | DType::Str) {
            return Err(operands.wrong(1, format!("{} times {} is not defined", a.dtype, b.dtype)));
        }
        Ok(vec![TensorType { dtype: a.dtype, shape: product_shape(operands)? }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(a), Datum::Tensor(b)] = operands else { return Err(super::not_tensors(Self::NAME)) };
        let da = if a.rank() == 1 { [&[1], a.dims()].concat() } else { a.dims().to_vec() };
        let db = if b.rank() == 1 { [b.dims(), &[1]].concat() } else { b.dims().to_vec() };
        let ([la @ .., m, k], [lb @ .., kb, n]) = (&da[..], &db[..]) else { return Err(super::not_tensors(Self::NAME)) };
        if k != kb {
            return Err(EvalError::Invalid(format!("{:?} times {:?}: inner dimensions differ", a.dims(), b.dims())));
        }
        let lead = broadcast::shape(&[la, lb])?;
        let (ia, ib) = (broadcast::indices(la, &lead), broadcast::indices(lb, &lead));
        let mut dims = lead.to_vec();
        dims.extend((a.rank() > 1).then_some(*m));
        dims.extend((b.rank() > 1).then_some(*n));
        let y = if a.dtype().is_float() {
            let out = products(&a.to_f64()?, &b.to_f64()?, &ia, &ib, (*m, *k, *n), |s, x, y| s + x * y);
            Tensor::from_f64(a.dtype(), &dims, &out)?
        } else {
            let out = products(&a.to_ints()?, &b.to_ints()?, &ia, &ib, (*m, *k, *n), |s, x, y| s.wrapping_add(x.wrapping_mul(y)));
            Tensor::from_ints(a.dtype(), &dims, &out)?
        };
        Ok(vec![y.into()])
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        let k = operands[0].as_tensor().and_then(|t| t.dims()?.last().cloned());
        let out = results[0].as_tensor().and_then(|t| t.shape.elements());
        k.zip(out).map_or(Dim::constant(0), |(k, out)| out * k * 2)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}

/// Dimensions of the product of operands 0 and 1.
pub(super) fn product_shape(operands: &Operands<'_>) -> Result<Shape, TypeError> {
    let (Some(da), Some(db)) = (operands.dims(0)?, operands.dims(1)?) else {
        return Ok(Shape::Unranked);
    };
    if da.is_empty() || db.is_empty() {
        return Err(operands.wrong(usize::from(!da.is_empty()), "a scalar cannot be multiplied as a matrix"));
    }
    let k = if db.len() == 1 { &db[0] } else { &db[db.len() - 2] };
    operands.assume_same(&da[da.len() - 1], k)?;
    let lead = |d: &[Dim]| Shape::Ranked(d[..d.len().saturating_sub(2)].to_vec());
    let Shape::Ranked(mut out) = operands.broadcast(&[&lead(da), &lead(db)])? else {
        return Ok(Shape::Unranked);
    };
    out.extend(da.len().checked_sub(2).map(|i| da[i].clone()));
    out.extend((db.len() > 1).then(|| db[db.len() - 1].clone()));
    Ok(Shape::Ranked(out))
}

/// The product of each pair of matrices; `ia` and `ib` say which.
pub(super) fn products<T: Copy + Default>(
    a: &[T],
    b: &[T],
    ia: &[usize],
    ib: &[usize],
    (m, k, n): (usize, usize, usize),
    fma: impl Fn(T, T, T) -> T,
) -> Vec<T> {
    let mut out = vec![T::default(); ia.len() * m * n];
    for (at, (i, j)) in ia.iter().zip(ib).enumerate() {
        let (a, b) = (&a[i * m * k..(i + 1) * m * k], &b[j * k * n..(j + 1) * k * n]);
        let out = &mut out[at * m * n..(at + 1) * m * n];
        for r in 0..m {
            for p in 0..k {
                let x = a[r * k + p];
                let row = &mut out[r * n..(r + 1) * n];
                row.iter_mut().zip(&b[p * n..(p + 1) * n]).for_each(|(o, y)| *o = fma(*o, x, *y));
            }
        }
    }
    out
}
