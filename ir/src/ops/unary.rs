use super::{Datum, EvalError, OpSpec, Operands, TypeError};
use crate::attr::{AttrError, Attrs};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::scalar::UnaryFn;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `exp(x)`, `neg(x)`, `sigmoid(x)` ...: one function of every element; printed by the function's name.
    ///
    /// `is_nan` and `is_inf` give bool; every other function keeps the element type.
    pub struct Unary { f: UnaryFn }
}

impl OpSpec for Unary {
    const NAME: &'static str = "unary";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 7]) { %y = exp(%x) %z = erf(%y) %s = silu(%x) %t = tanh(%x) return %y, %z, %s, %t }",
        "graph @g(%x: i64[N]) { %y = neg(%x) %z = abs(%y) return %z }",
        "graph @g(%x: f16[N, 3]) { %y = sigmoid(%x) %z = sqrt(%y) return %z }",
        "graph @g(%x: bool[N]) { %y = not(%x) return %y }",
        "graph @g(%x: f32[N]) { %y = is_nan(%x) %r = round(%x) %f = floor(%x) return %y, %r, %f }",
    ];

    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn text_attrs(&self) -> Attrs {
        Attrs::new()
    }

    fn parse(name: &str, attrs: &Attrs) -> Option<Result<Unary, AttrError>> {
        let f = UnaryFn::from_name(name)?;
        let unknown = attrs.keys().next().map(|k| AttrError::Unknown(k.clone()));
        Some(unknown.map_or(Ok(Unary { f }), Err))
    }

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        let fits = match x.dtype {
            DType::Str => false,
            d if d.is_float() => self.f != UnaryFn::BitNot && self.f != UnaryFn::Not,
            _ => self.f.int(0).is_some(),
        };
        if !fits {
            return Err(operands.wrong(0, format!("`{}` does not take {}", self.f.name(), x.dtype)));
        }
        let dtype = if self.f.is_predicate() { DType::Bool } else { x.dtype };
        Ok(vec![TensorType { dtype, shape: x.shape.clone() }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let x = operands.elements(0)?;
        match self.f {
            UnaryFn::Neg => Some(x.iter().map(|d| -d).collect()),
            UnaryFn::Not => x.iter().map(|d| Some(Dim::constant((d.as_const()? == 0).into()))).collect(),
            _ => None,
        }
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x)] = operands else { return Err(super::not_tensors(self.name())) };
        let y = if x.dtype().is_float() {
            let y: Vec<f64> = x.to_f64()?.into_iter().map(|v| self.f.float(v)).collect();
            let dtype = if self.f.is_predicate() { DType::Bool } else { x.dtype() };
            Tensor::from_f64(dtype, x.dims(), &y)?
        } else {
            let y: Option<Vec<i128>> = x.to_ints()?.into_iter().map(|v| self.f.int(v)).collect();
            Tensor::from_ints(x.dtype(), x.dims(), &y.ok_or_else(|| super::not_tensors(self.name()))?)?
        };
        Ok(vec![y.into()])
    }
}
