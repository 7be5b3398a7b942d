use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `linear(x, w, bias?)`: `x[.., k] * w[n, k]^T + bias[n] -> [.., n]`; with `kn` the weight is stored `[k, n]`.
    ///
    /// `w` may be of a narrower float type than `x`; it is widened as it is read. Accumulates in f32 or wider.
    pub struct Linear { kn: bool }
}

impl OpSpec for Linear {
    const NAME: &'static str = "linear";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[B, S, 9], %w: f32[20, 9], %b: f32[20]) { %y = linear(%x, %w, %b) return %y }",
        "graph @g(%x: f32[B, 9], %w: f32[9, 33]) { %y = linear(%x, %w) {kn = true} return %y }",
        "graph @g(%x: f32[B, 32], %w: f16[17, 32]) { %y = linear(%x, %w) return %y }",
        "graph @g(%x: f32[B, 32], %w: bf16[17, 32]) { %y = linear(%x, %w) return %y }",
        "graph @g(%x: f16[B, 32], %w: f16[17, 32], %b: f16[17]) { %y = linear(%x, %w, %b) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 3)?;
        let (x, w) = (operands.tensor(0)?, operands.tensor(1)?);
        if !x.dtype.is_float() || !w.dtype.is_float() {
            return Err(operands.wrong(0, format!("{} times {} is not a float product", x.dtype, w.dtype)));
        }
        let Some([rows, columns]) = w.dims() else {
            return Err(operands.wrong(1, format!("{w} is not a matrix")));
        };
        let (n, k) = if self.kn { (columns, rows) } else { (rows, columns) };
        if operands.has(2) {
            let bias = operands.tensor(2)?;
            match bias.dims() {
                Some([b]) => operands.assume_same(b, n)?,
                _ => return Err(operands.wrong(2, format!("{bias} is not [{n}]"))),
            }
        }
        let shape = match x.dims() {
            Some([lead @ .., last]) => {
                operands.assume_same(last, k)?;
                Shape::Ranked([lead, std::slice::from_ref(n)].concat())
            }
            Some([]) => return Err(operands.wrong(0, "a scalar has no rows")),
            None => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, w) = match operands {
            [Datum::Tensor(x), Datum::Tensor(w), ..] => (x, w),
            _ => return Err(super::not_tensors(Self::NAME)),
        };
        let (n, y) = product(x, w, operands.get(2).and_then(|d| d.as_tensor()), self.kn)?;
        let dims = [&x.dims()[..x.rank() - 1], &[n]].concat();
        Ok(vec![Tensor::from_f64(x.dtype(), &dims, &y)?.into()])
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

/// Outputs of a layer, and `x[.., k] * w[n, k]^T + bias[n]` (`w[k, n]` with `kn`) before it is rounded.
pub(super) fn product(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    kn: bool,
) -> Result<(usize, Vec<f64>), EvalError> {
    let (n, k) = match w.dims() {
        [k, n] if kn => (*n, *k),
        [n, k] => (*n, *k),
        _ => return Err(EvalError::Invalid(format!("{:?} is not a matrix", w.dims()))),
    };
    let bias = bias.map(Tensor::to_f64).transpose()?;
    if x.dims().last() != Some(&k) || bias.as_ref().is_some_and(|b| b.len() != n) {
        return Err(EvalError::Invalid(format!("rows of {:?} are not {k} long, or biases not {n}", x.dims())));
    }
    let (xs, ws) = (x.to_f64()?, w.to_f64()?);
    let rows: usize = x.dims()[..x.rank() - 1].iter().product();
    let mut y = vec![0.0; rows * n];
    for r in 0..rows {
        for j in 0..n {
            let at = |p: usize| if kn { ws[p * n + j] } else { ws[j * k + p] };
            let sum: f64 = (0..k).map(|p| xs[r * k + p] * at(p)).sum();
            y[r * n + j] = sum + bias.as_ref().map_or(0.0, |b| b[j]);
        }
    }
    Ok((n, y))
}
