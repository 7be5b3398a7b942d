use super::operand::tensor;
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `dynamic_quantize_linear(x)`: `x` as u8 with the scale and zero point that cover its range, 0 included. Results: y, scale
    /// (f32), zero point (u8). Computed in f32, every quotient rounded once, ties to even.
    pub struct DynamicQuantizeLinear {}
}

impl OpSpec for DynamicQuantizeLinear {
    const NAME: &'static str = "dynamic_quantize_linear";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: f32[N, 6]) { %y, %s, %z = dynamic_quantize_linear(%x) return %y, %s, %z }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() {
            return Err(operands.wrong(0, format!("{} has no range of floats", x.dtype)));
        }
        let scalar = |dtype| ValueType::from(TensorType::new(dtype, Vec::<Dim>::new()));
        Ok(vec![TensorType { dtype: DType::U8, shape: x.shape.clone() }.into(), scalar(DType::F32), scalar(DType::U8)])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let v: Vec<f32> = x.to_f64()?.into_iter().map(|v| v as f32).collect();
        let (y, scale, zero) = quantize(&v);
        Ok(vec![Tensor::from_slice(x.dims(), &y)?.into(), Tensor::scalar(scale).into(), Tensor::scalar(zero).into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 5
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}

/// The elements as u8, their scale and zero point. All zeros have scale 1.
pub(crate) fn quantize(v: &[f32]) -> (Vec<u8>, f32, u8) {
    let low = v.iter().copied().fold(0f32, f32::min);
    let high = v.iter().copied().fold(0f32, f32::max);
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    let one = |v: &f32| ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8;
    (v.iter().map(one).collect(), scale, zero as u8)
}
