use super::operand::{ensure, floats, optional, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, axis};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::minifloat;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `quantize_linear(x, scale, zero_point?) {axis, block, to}`: `saturate(round(x / scale) + zero_point)` as `to`; ties round
    /// to even; `to` a small float rounds once, to its nearest value.
    ///
    /// `scale` is a scalar, or a vector along `axis`, or with `block` > 0 of `x`'s rank with one element per `block` along `axis`.
    /// The quotient is rounded to `precision`, the scale's type where absent. `wrap` lets 8-bit floats overflow to infinity or NaN.
    pub struct QuantizeLinear { axis: i64, block: i64, to: DType, precision: Option<DType>, wrap: bool }
}

impl OpSpec for QuantizeLinear {
    const NAME: &'static str = "quantize_linear";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 6]) { %s = const [0.1] : f32[] %z = const [3] : u8[] %y = quantize_linear(%x, %s, %z) {axis = 1, block = 0, to = u8} return %y }",
        "graph @g(%x: f32[N, 3, 4]) { %s = const [0.1, 0.2, 0.3] : f32[3] %y = quantize_linear(%x, %s) {axis = 1, block = 0, to = i8} %z = quantize_linear(%x, %s) {axis = 1, block = 0, to = i4} return %y, %z }",
        "graph @g(%x: f32[2, 4]) { %s = const [0.1, 0.2, 0.3, 0.4] : f32[2, 2] %y = quantize_linear(%x, %s) {axis = 1, block = 2, to = i16} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 3)?;
        let x = operands.tensor(0)?;
        if matches!(x.dtype, DType::Str | DType::Bool) || !operands.dtype(1)?.is_float() {
            return Err(operands.wrong(0, format!("{} with a scale of {}", x.dtype, operands.dtype(1)?)));
        }
        if operands.has(2) && operands.dtype(2)? != self.to {
            return Err(operands.wrong(2, format!("the zero point is {}, not {}", operands.dtype(2)?, self.to)));
        }
        check_granularity(operands, self.axis, self.block)?;
        Ok(vec![TensorType { dtype: self.to, shape: x.shape.clone() }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, scale) = (tensor(Self::NAME, operands, 0)?, tensor(Self::NAME, operands, 1)?);
        let at = granularity(x.dims(), scale.dims(), self.axis, self.block)?;
        let precision = self.precision.unwrap_or(scale.dtype());
        let scales = scale.to_f64()?;
        let zeros = match optional(operands, 2) {
            Some(z) => z.to_f64()?,
            None => vec![0.0; scales.len()],
        };
        ensure(zeros.len() == scales.len(), || "scale and zero point differ in shape".into())?;
        let quotients = x.to_f64()?.into_iter().zip(&at).map(|(v, i)| (round_to(precision, v / scales[*i]), *i));
        if let Some((low, high)) = self.to.int_range() {
            let y: Vec<i128> = quotients
                .map(|(v, i)| (v.round_ties_even() + zeros[i]).clamp(low as f64, high as f64) as i128)
                .collect();
            return Ok(vec![Tensor::from_ints(self.to, x.dims(), &y)?.into()]);
        }
        let y: Vec<f64> = quotients.map(|(v, i)| v + zeros[i]).collect();
        if !self.wrap || !self.to.is_storage_only() {
            return Ok(vec![Tensor::from_f64(self.to, x.dims(), &y)?.into()]);
        }
        let to = self.to;
        let fill = |out: &mut [u8]| y.iter().enumerate().for_each(|(i, v)| minifloat::store(to, out, i, *v, false));
        Ok(vec![Tensor::build(to, x.dims(), fill)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 3
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}

/// `v` as `dtype` holds it.
pub(crate) fn round_to(dtype: DType, v: f64) -> f64 {
    match dtype {
        DType::F32 => v as f32 as f64,
        DType::F16 => half::f16::from_f64(v).to_f64(),
        DType::BF16 => half::bf16::from_f64(v).to_f64(),
        _ => v,
    }
}

/// Fails when a scale (operand 1) surely does not fit operand 0.
pub(crate) fn check_granularity(operands: &Operands<'_>, at: i64, block: i64) -> Result<(), TypeError> {
    let (Some(x), Some(scale)) = (operands.dims(0)?, operands.dims(1)?) else { return Ok(()) };
    match scale {
        [] => Ok(()),
        [n] if n.as_const() == Some(1) && block <= 0 => Ok(()),
        [n] if block <= 0 => operands.assume_same(n, &x[axis(at, x.len())?]),
        _ if block > 0 && scale.len() == x.len() => {
            let at = axis(at, x.len())?;
            let blocks = |i: usize| if i == at { x[i].ceil_div(&Dim::constant(block)) } else { x[i].clone() };
            (0..x.len()).try_for_each(|i| operands.assume_same(&scale[i], &blocks(i)))
        }
        _ => {
            Err(operands.wrong(1, format!("a scale of rank {} does not fit a tensor of rank {}", scale.len(), x.len())))
        }
    }
}

/// For each element of a tensor of dimensions `x` the index of its scale.
pub fn granularity(x: &[usize], scale: &[usize], at: i64, block: i64) -> Result<Vec<usize>, EvalError> {
    let count = x.iter().product();
    if scale.iter().product::<usize>() == 1 {
        return Ok(vec![0; count]);
    }
    let at = axis(at, x.len()).map_err(super::operand::invalid)?;
    let inner: usize = x[at + 1..].iter().product();
    let n = x[at];
    if let ([s], true) = (scale, block <= 0) {
        ensure(*s == n, || format!("{s} scales for a dimension of {n}"))?;
        return Ok((0..count).map(|i| i / inner % n).collect());
    }
    let fits = block > 0 && scale.len() == x.len() && scale[at] == n.div_ceil(block as usize);
    ensure(fits, || format!("scales of {scale:?} do not fit {x:?} in blocks of {block}"))?;
    let blocks = scale[at];
    Ok((0..count).map(|i| (i / inner / n * blocks + i / inner % n / block as usize) * inner + i % inner).collect())
}

/// Scale and zero point of each element of operand 0, from operands 1 and 2.
pub(crate) fn parameters(operands: &[&Datum], x: &[usize], at: i64, block: i64) -> Result<Vec<(f64, f64)>, EvalError> {
    let scale = tensor("dequantize_linear", operands, 1)?;
    let indices = granularity(x, scale.dims(), at, block)?;
    let (scales, zeros) = (scale.to_f64()?, floats(operands, 2)?);
    ensure(zeros.as_ref().is_none_or(|z| z.len() == scales.len()), || "scale and zero point differ in shape".into())?;
    Ok(indices.into_iter().map(|i| (scales[i], zeros.as_ref().map_or(0.0, |z| z[i]))).collect())
}
