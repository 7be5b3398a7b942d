use super::operand::{ensure, floats, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::ValueType;

op! {
    /// `group_norm(x, scale, bias) {groups, eps}`: the channels of `x[N, C, ..]` in `groups` groups, each of mean 0 and
    /// variance 1 within one sample, then `* scale[C] + bias[C]`. With as many groups as channels: instance normalisation.
    pub struct GroupNorm { groups: Dim, eps: f32 }
}

impl OpSpec for GroupNorm {
    const NAME: &'static str = "group_norm";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 6, H, 5], %s: f32[6], %b: f32[6]) { %y = group_norm(%x, %s, %b) {groups = 3, eps = 1e-5} return %y }",
        "graph @g(%x: f32[N, C, 7], %s: f32[C], %b: f32[C]) { %y = group_norm(%x, %s, %b) {groups = C, eps = 1e-5} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 3)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() {
            return Err(operands.wrong(0, format!("normalisation takes floats, not {}", x.dtype)));
        }
        if let Some(dims) = x.dims() {
            let [_, channels, ..] = dims else { return Err(operands.wrong(0, format!("{x} has no channels"))) };
            for i in [1, 2] {
                match operands.dims(i)? {
                    Some([n]) => operands.assume_same(n, channels)?,
                    Some(_) => return Err(operands.wrong(i, format!("it is not [{channels}]"))),
                    None => {}
                }
            }
            if let (Some(c), Some(g)) = (channels.as_const(), self.groups.as_const())
                && (g < 1 || c % g != 0) {
                    return Err(operands.wrong(0, format!("{c} channels do not split into {g} groups")));
                }
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let (scale, bias) = (floats(operands, 1)?.unwrap_or_default(), floats(operands, 2)?.unwrap_or_default());
        let groups = self.groups.eval(&|_| None)?.max(0) as usize;
        ensure(x.rank() > 1 && groups > 0 && x.dims()[1] % groups == 0, || {
            format!("{:?} does not split into {groups} groups of channels", x.dims())
        })?;
        let channels = x.dims()[1];
        ensure(scale.len() == channels && bias.len() == channels, || {
            format!("{channels} channels need as many scales")
        })?;
        let inner: usize = x.dims()[2..].iter().product();
        let n = channels / groups * inner;
        let mut v = x.to_f64()?;
        for group in v.chunks_exact_mut(n.max(1)) {
            let mean = group.iter().sum::<f64>() / n as f64;
            let variance = group.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
            let inverse = 1.0 / (variance + self.eps as f64).sqrt();
            group.iter_mut().for_each(|v| *v = (*v - mean) * inverse);
        }
        for (i, plane) in v.chunks_exact_mut(inner.max(1)).enumerate() {
            plane.iter_mut().for_each(|v| *v = *v * scale[i % channels] + bias[i % channels]);
        }
        Ok(vec![Tensor::from_f64(x.dtype(), x.dims(), &v)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 8
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 32.0)
    }
}
