use super::operand::{floats, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, axis, broadcast};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::ValueType;

op! {
    /// `layer_norm(x, scale?, bias?) {axis, eps}`: over the dimensions from `axis` on, mean 0 and variance 1, then
    /// `* scale + bias`, which broadcast to `x`: `(x - mean) / sqrt(variance + eps)`.
    pub struct LayerNorm { axis: i64, eps: f32 }
}

impl OpSpec for LayerNorm {
    const NAME: &'static str = "layer_norm";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[B, S, 33], %s: f32[33], %b: f32[33]) { %y = layer_norm(%x, %s, %b) {axis = -1, eps = 1e-5} return %y }",
        "graph @g(%x: f32[B, 4, 8], %s: f32[4, 8]) { %y = layer_norm(%x, %s) {axis = 1, eps = 1e-5} %z = layer_norm(%x) {axis = -1, eps = 1e-12} return %y, %z }",
        "graph @g(%x: f16[B, 16], %s: f16[16], %b: f16[16]) { %y = layer_norm(%x, %s, %b) {axis = 1, eps = 1e-5} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 3)?;
        infer_normalised(operands, self.axis, &[1, 2])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let at = axis(self.axis, x.rank()).map_err(super::operand::invalid)?;
        let n: usize = x.dims()[at..].iter().product();
        let mut v = x.to_f64()?;
        for row in v.chunks_exact_mut(n.max(1)) {
            let mean = row.iter().sum::<f64>() / n as f64;
            let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
            let inverse = 1.0 / (variance + self.eps as f64).sqrt();
            row.iter_mut().for_each(|v| *v = (*v - mean) * inverse);
        }
        scale_and_shift(&mut v, x.dims(), operands, 1, 2)?;
        Ok(vec![Tensor::from_f64(x.dtype(), x.dims(), &v)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 8
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}

/// A float tensor keeps its type; `parameters` are floats that broadcast to it.
pub(crate) fn infer_normalised(
    operands: &Operands<'_>,
    at: i64,
    parameters: &[usize],
) -> Result<Vec<ValueType>, TypeError> {
    let x = operands.tensor(0)?;
    if !x.dtype.is_float() {
        return Err(operands.wrong(0, format!("normalisation takes floats, not {}", x.dtype)));
    }
    if let Some(dims) = x.dims() {
        axis(at, dims.len())?;
    }
    for i in parameters.iter().copied().filter(|i| operands.has(*i)) {
        let p = operands.tensor(i)?;
        let (Some(xd), Some(pd)) = (x.dims(), p.dims()) else { continue };
        if !p.dtype.is_float() || pd.len() > xd.len() {
            return Err(operands.wrong(i, format!("{p} does not broadcast to {x}")));
        }
        for (a, b) in pd.iter().rev().zip(xd.iter().rev()).filter(|(a, _)| a.as_const() != Some(1)) {
            operands.assume_same(a, b)?;
        }
    }
    Ok(vec![x.clone().into()])
}

/// `v * scale + shift` with the operands at these positions, where they are given.
pub(crate) fn scale_and_shift(
    v: &mut [f64],
    dims: &[usize],
    operands: &[&Datum],
    scale: usize,
    shift: usize,
) -> Result<(), EvalError> {
    for (i, multiply) in [(scale, true), (shift, false)] {
        let (Some(p), Some(values)) = (super::operand::optional(operands, i), floats(operands, i)?) else { continue };
        let fits = broadcast::shape(&[p.dims(), dims]).is_ok_and(|out| out[..] == *dims);
        super::operand::ensure(fits, || format!("{:?} does not broadcast to {dims:?}", p.dims()))?;
        for (v, at) in v.iter_mut().zip(broadcast::indices(p.dims(), dims)) {
            if multiply { *v *= values[at] } else { *v += values[at] }
        }
    }
    Ok(())
}
