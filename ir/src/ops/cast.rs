use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::{Dim, Truth};
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `cast(x) {to}`: every element converted. Floats truncate towards zero into integers, integers wrap, anything but 0 is
    /// true; text is read and written as ONNX says. `wrap` turns off the saturation of 8-bit floats.
    pub struct Cast { to: DType, wrap: bool }
}

impl OpSpec for Cast {
    const NAME: &'static str = "cast";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3]) { %y = cast(%x) {to = f16} %z = cast(%y) {to = f32} %b = cast(%x) {to = bf16} return %z, %b }",
        "graph @g(%x: i64[N]) { %y = cast(%x) {to = f32} %z = cast(%x) {to = i32} %b = cast(%x) {to = bool} return %y, %z, %b }",
        "graph @g(%x: bool[N]) { %y = cast(%x) {to = f32} %z = cast(%x) {to = i64} return %y, %z }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        Ok(vec![TensorType { dtype: self.to, shape: x.shape.clone() }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let x = operands.elements(0)?;
        match self.to {
            DType::I64 | DType::I32 => Some(x.to_vec()),
            DType::Bool => {
                let zero = Dim::constant(0);
                let decided = x.iter().map(|d| match d.same(&zero) {
                    Truth::Yes => Some(Dim::constant(0)),
                    Truth::No => Some(Dim::constant(1)),
                    Truth::Unknown => None,
                });
                decided.collect()
            }
            _ => None,
        }
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x)] = operands else { return Err(super::not_tensors(Self::NAME)) };
        Ok(vec![convert(x, self.to, !self.wrap)?.into()])
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}

/// Converts every element to another type; `saturate` matters for 8-bit floats only.
pub fn convert(x: &Tensor, to: DType, saturate: bool) -> Result<Tensor, EvalError> {
    if x.dtype() == to {
        return Ok(x.clone());
    }
    if x.dtype() == DType::Str {
        return parse_text(x, to);
    }
    if to == DType::Str {
        let texts = match x.dtype().is_float() {
            true => x.to_f64()?.into_iter().map(float_text).collect(),
            false => x.to_ints()?.into_iter().map(|v| v.to_string()).collect(),
        };
        return Ok(Tensor::from_strings(x.dims(), texts)?);
    }
    if !x.dtype().is_float() {
        return Ok(Tensor::from_ints(to, x.dims(), &x.to_ints()?)?);
    }
    let values = x.to_f64()?;
    if to.is_float() && to.is_storage_only() {
        return Ok(Tensor::build(to, x.dims(), |out| {
            values.iter().enumerate().for_each(|(i, v)| crate::minifloat::store(to, out, i, *v, saturate))
        })?);
    }
    if to.is_int() {
        // Out of range is undefined in ONNX; saturating is what vector units and `as` do. Types below 8 bits wrap, as
        // ONNX's own tests expect.
        let (low, high) = match to.bits() < 8 {
            true => (i128::MIN, i128::MAX),
            false => to.int_range().expect("an integer type"),
        };
        let ints: Vec<i128> = values.iter().map(|v| (*v as i128).clamp(low, high)).collect();
        return Ok(Tensor::from_ints(to, x.dims(), &ints)?);
    }
    Ok(Tensor::from_f64(to, x.dims(), &values)?)
}

fn float_text(v: f64) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "INF".into() } else { "-INF".into() };
    }
    // ONNX asks for eight significant digits in plain or scientific notation.
    let short = format!("{}", v as f32);
    if short.parse::<f32>() == Ok(v as f32) { short } else { format!("{v}") }
}

fn parse_text(x: &Tensor, to: DType) -> Result<Tensor, EvalError> {
    let bad = |s: &str| EvalError::Invalid(format!("the text {s:?} is not a number of type {to}"));
    let texts = x.strings()?;
    if to.is_float() {
        let parsed = texts.iter().map(|s| s.trim().to_ascii_lowercase().parse::<f64>().map_err(|_| bad(s)));
        return Ok(Tensor::from_f64(to, x.dims(), &parsed.collect::<Result<Vec<_>, _>>()?)?);
    }
    let parsed = texts.iter().map(|s| {
        let t = s.trim();
        t.parse::<i128>().ok().or_else(|| t.parse::<f64>().ok().map(|v| v as i128)).ok_or_else(|| bad(s))
    });
    Ok(Tensor::from_ints(to, x.dims(), &parsed.collect::<Result<Vec<_>, _>>()?)?)
}
