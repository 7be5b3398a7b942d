use super::{Datum, EvalError, OpSpec, Operands, TypeError, broadcast};
use crate::attr::{AttrError, Attrs};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::scalar::BinaryFn;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `add(a, b)`, `mul(a, b)`, `min(a, b)` ...: one function of two broadcast tensors; printed by the function's name.
    ///
    /// Both operands and the result have one element type; `pow` alone takes an exponent of another type. Integers wrap;
    /// integer division truncates and division by zero is an error.
    pub struct Binary { f: BinaryFn }
}

impl OpSpec for Binary {
    const NAME: &'static str = "binary";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%a: f32[N, 5], %b: f32[5]) { %y = add(%a, %b) %z = mul(%y, %a) %w = sub(%b, %z) return %z, %w }",
        "graph @g(%a: f32[N, 1], %b: f32[1, M]) { %y = div(%a, %b) %m = max(%a, %b) %n = min(%y, %m) return %y, %n }",
        "graph @g(%a: i64[N], %b: i64[]) { %y = add(%a, %b) %z = mul(%y, %y) return %z }",
        "graph @g(%a: f16[N, 4], %b: f16[N, 4]) { %y = mul(%a, %b) return %y }",
        "graph @g(%a: bool[N, 4], %b: bool[4]) { %y = and(%a, %b) %z = xor(%y, %a) return %z }",
        "graph @g(%a: f32[N]) { %c = const [2.0] : f32[1] %y = pow(%a, %c) return %y }",
    ];

    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn text_attrs(&self) -> Attrs {
        Attrs::new()
    }

    fn parse(name: &str, attrs: &Attrs) -> Option<Result<Binary, AttrError>> {
        let f = BinaryFn::from_name(name)?;
        let unknown = attrs.keys().next().map(|k| AttrError::Unknown(k.clone()));
        Some(unknown.map_or(Ok(Binary { f }), Err))
    }

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (a, b) = (operands.tensor(0)?, operands.tensor(1)?);
        if a.dtype != b.dtype && self.f != BinaryFn::Pow {
            return Err(operands.wrong(1, format!("its element type {} is not {}", b.dtype, a.dtype)));
        }
        if !self.f.takes(a.dtype.class()) {
            return Err(operands.wrong(0, format!("`{}` does not take {}", self.f.name(), a.dtype)));
        }
        let shape = operands.broadcast(&[&a.shape, &b.shape])?;
        Ok(vec![TensorType { dtype: a.dtype, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let (a, b) = (operands.elements(0)?, operands.elements(1)?);
        let n = if a.len() == 1 { b.len() } else { a.len() };
        if a.len() != 1 && b.len() != 1 && a.len() != b.len() {
            return None;
        }
        let rank = |i| operands.dims(i).ok().flatten().map_or(2, <[Dim]>::len);
        if rank(0) > 1 || rank(1) > 1 {
            return None;
        }
        let at = |e: &[Dim], i: usize| e[if e.len() == 1 { 0 } else { i }].clone();
        (0..n).map(|i| dim_binary(self.f, &at(a, i), &at(b, i))).collect()
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(a), Datum::Tensor(b)] = operands else { return Err(super::not_tensors(self.name())) };
        let dims = broadcast::shape(&[a.dims(), b.dims()])?;
        let (ia, ib) = (broadcast::indices(a.dims(), &dims), broadcast::indices(b.dims(), &dims));
        let pairs = ia.iter().zip(&ib);
        let y = if a.dtype().is_float() || b.dtype().is_float() {
            let (x, y) = (a.to_f64()?, b.to_f64()?);
            let z: Vec<f64> = pairs.map(|(i, j)| self.f.float(x[*i], y[*j])).collect();
            Tensor::from_f64(a.dtype(), &dims, &z)?
        } else {
            let (x, y, bits) = (a.to_ints()?, b.to_ints()?, a.dtype().bits() as u32);
            let z: Option<Vec<i128>> = pairs.map(|(i, j)| self.f.int(x[*i], y[*j], bits)).collect();
            let z = z.ok_or_else(|| EvalError::Invalid(format!("integer `{}` by zero", self.f.name())))?;
            Tensor::from_ints(a.dtype(), &dims, &z)?
        };
        Ok(vec![y.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        let dtype = results.first().and_then(|t| t.as_tensor()).map(|t| t.dtype);
        let count = results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>();
        if dtype == Some(DType::Bool) { Dim::constant(0) } else { count }
    }
}

/// The function of two symbolic integers, where expressions can say it.
fn dim_binary(f: BinaryFn, a: &Dim, b: &Dim) -> Option<Dim> {
    let positive = |d: &Dim| d.at_least(1) == crate::dim::Truth::Yes;
    let natural = |d: &Dim| d.at_least(0) == crate::dim::Truth::Yes;
    Some(match f {
        BinaryFn::Add => a + b,
        BinaryFn::Sub => a - b,
        BinaryFn::Mul => a * b,
        BinaryFn::Min => a.min(b),
        BinaryFn::Max => a.max(b),
        // Truncation and flooring agree on natural numbers; an exact quotient is right for any sign.
        BinaryFn::Div => match a.exact_div(b) {
            Some(q) if b.as_const() != Some(0) => q,
            _ if positive(b) && natural(a) => a.floor_div(b),
            _ => return None,
        },
        BinaryFn::Mod if positive(b) => a - &(&a.floor_div(b) * b),
        BinaryFn::And if [a, b].iter().any(|d| d.as_const() == Some(0)) => Dim::constant(0),
        BinaryFn::Or if [a, b].iter().any(|d| d.as_const() == Some(1)) => Dim::constant(1),
        BinaryFn::And | BinaryFn::Or | BinaryFn::Xor => {
            Dim::constant(f.int(a.as_const()?.into(), b.as_const()?.into(), 8)? as i64)
        }
        _ => return None,
    })
}
