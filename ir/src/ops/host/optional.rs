use super::{DType, Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, moves_data};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `optional(value?) {of}`: a value that may be absent; `of` is the type of an absent one.
    pub struct Optional { of: Option<ValueType> }
}

op! {
    /// `optional_get(optional)`: the value inside; one that is not optional is itself. None there is an error.
    pub struct OptionalGet {}
}

op! {
    /// `optional_has(optional?)`: whether there is a value.
    pub struct OptionalHas {}
}

impl OpSpec for Optional {
    const NAME: &'static str = "optional";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N]) { %o = optional(%x) %h = optional_has(%o) %y = optional_get(%o) %e = optional() {of = f32[]} %n = optional_has(%e) return %h, %y, %n }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(0, 1)?;
        let of = match operands.has(0) {
            true => Some(operands.ty(0)?.clone()),
            false => self.of.clone(),
        };
        let of = of.ok_or_else(|| TypeError::Invalid("an absent value needs a type".into()))?;
        Ok(vec![ValueType::Optional(Box::new(of))])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let present = operands.first().filter(|d| !matches!(d, Datum::Absent));
        Ok(vec![Datum::Optional(present.map(|d| Box::new((*d).clone())))])
    }

    moves_data! {}
}

impl OpSpec for OptionalGet {
    const NAME: &'static str = "optional_get";

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        Ok(vec![match operands.ty(0)? {
            ValueType::Optional(of) => of.map_dims(&|d| if d.is_late() { operands.late_dim() } else { d.clone() }),
            other => other.clone(),
        }])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        match operands {
            [Datum::Optional(Some(inner))] => Ok(vec![(**inner).clone()]),
            [Datum::Optional(None) | Datum::Absent] => Err(invalid("the optional value is absent")),
            [value] => Ok(vec![(*value).clone()]),
            _ => Err(invalid("expected one operand")),
        }
    }

    moves_data! {}
}

impl OpSpec for OptionalHas {
    const NAME: &'static str = "optional_has";

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(0, 1)?;
        Ok(vec![TensorType::new(DType::Bool, [0i64; 0]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let there = !matches!(operands, [] | [Datum::Absent] | [Datum::Optional(None)]);
        Ok(vec![Tensor::from_bools(&[], &[there])?.into()])
    }

    moves_data! {}
}
