use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, moves_data};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `cast_map(map) {to, columns}`: the values of a map with integer keys as one row of `to`: in key order, or with
    /// `columns` each at the column that its key names, 0 (as text `0.f`) in all others.
    ///
    /// Floats become text with six decimals, and integers by dropping the fraction.
    pub struct CastMap { to: DType, columns: Option<i64> }
}

impl OpSpec for CastMap {
    const NAME: &'static str = "cast_map";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3]) { %k = const [4, 0, 1] : i64[3] %l = zip_map(%x, %k) %zero = const [0] : i64[] %m = sequence_at(%l, %zero) %a = cast_map(%m) {to = f32} %b = cast_map(%m) {to = i64, columns = 6} %c = cast_map(%m) {to = string} return %a, %b, %c }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        match operands.ty(0)? {
            ValueType::Map { key: DType::I64, .. } => {}
            other => return Err(operands.wrong(0, format!("{other} has no integer keys"))),
        }
        if !matches!(self.to, DType::F32 | DType::I64 | DType::Str) || self.columns.is_some_and(|n| n < 1) {
            return Err(TypeError::Invalid(format!("a row of {} {}", self.columns.unwrap_or(0), self.to)));
        }
        let columns = self.columns.map_or_else(|| operands.late_dim(), Dim::constant);
        Ok(vec![TensorType::new(self.to, [Dim::constant(1), columns]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let Some(Datum::Map(entries)) = operands.first() else { return Err(invalid("operand 0 is not a map")) };
        let mut ordered = vec![];
        for (key, value) in entries {
            let value = value.as_tensor().ok_or_else(|| invalid("a value of the map is not a tensor"))?;
            ordered.push((crate::ops::reading::number(key)?, value));
        }
        ordered.sort_by_key(|(key, _)| *key);
        let n = self.columns.map_or(ordered.len(), |n| n as usize);
        let mut row: Vec<Option<&Tensor>> = vec![None; n];
        for (i, (key, value)) in ordered.into_iter().enumerate() {
            let at = if self.columns.is_some() { usize::try_from(key).unwrap_or(n) } else { i };
            *row.get_mut(at).ok_or_else(|| invalid(format!("key {key} is outside a row of {n}")))? = Some(value);
        }
        let dims = [1, n];
        let y = match self.to {
            DType::Str => {
                let texts = row.into_iter().map(|v| v.map_or(Ok("0.f".into()), text));
                Tensor::from_strings(&dims, texts.collect::<Result<_, _>>()?)?
            }
            to => {
                let numbers: Vec<f64> =
                    row.into_iter().map(|v| v.map_or(Ok(0.0), number)).collect::<Result<_, EvalError>>()?;
                match to {
                    DType::I64 => {
                        let whole: Vec<i64> = numbers.into_iter().map(|v| v as i64).collect();
                        Tensor::from_slice(&dims, &whole)?
                    }
                    to => Tensor::from_f64(to, &dims, &numbers)?,
                }
            }
        };
        Ok(vec![y.into()])
    }

    moves_data! {}
}

fn text(value: &Tensor) -> Result<String, EvalError> {
    if let Ok([text]) = value.strings() {
        return Ok(text.clone());
    }
    Ok(format!("{:.6}", number(value)?))
}

fn number(value: &Tensor) -> Result<f64, EvalError> {
    if let Ok([text]) = value.strings() {
        return text.trim().parse().map_err(|_| invalid(format!("the text {text:?} is not a number")));
    }
    value.to_f64()?.first().copied().ok_or_else(|| invalid("a value of the map is empty"))
}
