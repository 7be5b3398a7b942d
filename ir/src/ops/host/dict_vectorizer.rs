use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `dict_vectorizer(map, keys)`: one row with the map's value for each of the keys; 0, or an empty text, where it has none.
    pub struct DictVectorizer {}
}

impl OpSpec for DictVectorizer {
    const NAME: &'static str = "dict_vectorizer";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3]) { %k = const [4, 0, 1] : i64[3] %l = zip_map(%x, %k) %zero = const [0] : i64[] %m = sequence_at(%l, %zero) %wanted = const [1, 7, 4] : i64[3] %y = dict_vectorizer(%m, %wanted) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (key, dtype) = match operands.ty(0)? {
            ValueType::Map { key, value } => (*key, value.as_tensor().map(|t| t.dtype)),
            other => return Err(operands.wrong(0, format!("{other} is not a map"))),
        };
        let keys = operands.tensor(1)?;
        match (dtype, keys.dims()) {
            (Some(dtype), Some([n])) if keys.dtype == key => {
                Ok(vec![TensorType::new(dtype, [Dim::constant(1), n.clone()]).into()])
            }
            _ => Err(operands.wrong(1, format!("{keys} lists no keys of {key}"))),
        }
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let Some(Datum::Map(entries)) = operands.first() else { return Err(invalid("operand 0 is not a map")) };
        let keys = tensor(operands, 1)?;
        let mut row = vec![];
        for i in 0..keys.len() {
            let key = keys.pick(&[], &[i])?;
            let found = entries.iter().find(|(k, _)| k.len() == 1 && k.reshaped(&[]).is_ok_and(|k| k == key));
            row.push(found.and_then(|(_, value)| value.as_tensor()));
        }
        let dims = [1, keys.len()];
        let dtype = entries.iter().find_map(|(_, value)| Some(value.as_tensor()?.dtype())).unwrap_or(DType::F32);
        let y = match dtype {
            DType::Str => {
                let texts = row.into_iter().map(|v| v.map_or(Ok(String::new()), |v| Ok(v.strings()?.concat())));
                Tensor::from_strings(&dims, texts.collect::<Result<_, EvalError>>()?)?
            }
            dtype => {
                let zero = Tensor::zeros(dtype, &[1])?;
                let parts: Vec<Tensor> =
                    row.into_iter().map(|v| v.unwrap_or(&zero).reshaped(&[1])).collect::<Result<_, _>>()?;
                crate::ops::concat::join(&parts.iter().collect::<Vec<_>>(), 0)?.reshaped(&dims)?
            }
        };
        Ok(vec![y.into()])
    }

    moves_data! {}
}
