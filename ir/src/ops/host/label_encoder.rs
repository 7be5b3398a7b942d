use super::{DType, Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;
use std::collections::HashMap;

op! {
    /// `label_encoder(x, keys, values, default)`: every element that is a key replaced by the value at its position, every
    /// other by the default. NaN is a key too.
    pub struct LabelEncoder {}
}

impl OpSpec for LabelEncoder {
    const NAME: &'static str = "label_encoder";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: i64[N, 2]) { %k = const [0, 1] : i64[2] %v = const [2.5, 3.5] : f32[2] %d = const [-1.0] : f32[] %y = label_encoder(%x, %k, %v, %d) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(4, 4)?;
        reading::same_dtype(operands, 0, 1)?;
        reading::same_dtype(operands, 2, 3)?;
        Ok(vec![TensorType { dtype: operands.dtype(2)?, shape: operands.tensor(0)?.shape.clone() }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, keys, values) = (tensor(operands, 0)?, tensor(operands, 1)?, tensor(operands, 2)?);
        let default = tensor(operands, 3)?;
        if keys.len() != values.len() || default.len() != 1 {
            return Err(invalid(format!("{} keys for {} values", keys.len(), values.len())));
        }
        let other = values.len();
        let from = match x.dtype() {
            DType::Str => find(x.strings()?, keys.strings()?, other, |s| s.clone()),
            d if d.is_float() => {
                let bits = |v: &f64| if v.is_nan() { f64::NAN.to_bits() } else { (*v + 0.0).to_bits() };
                find(&x.to_f64()?, &keys.to_f64()?, other, bits)
            }
            _ => find(&x.to_ints()?, &keys.to_ints()?, other, |v| *v),
        };
        let all = crate::ops::concat::join(&[&values.reshaped(&[other])?, &default.reshaped(&[1])?], 0)?;
        let y: Tensor = all.pick(x.dims(), &from)?;
        Ok(vec![y.into()])
    }

    moves_data! {}
}

fn find<T, K: std::hash::Hash + Eq>(x: &[T], keys: &[T], other: usize, key: impl Fn(&T) -> K) -> Vec<usize> {
    let mut place = HashMap::with_capacity(keys.len());
    keys.iter().enumerate().for_each(|(i, k)| {
        place.entry(key(k)).or_insert(i);
    });
    x.iter().map(|v| place.get(&key(v)).copied().unwrap_or(other)).collect()
}
