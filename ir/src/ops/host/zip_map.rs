use super::{Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, moves_data, tensor};
use crate::types::TensorType;

op! {
    /// `zip_map(x, keys)`: for every row of `x` (a vector is one row) the map from the keys to its elements.
    pub struct ZipMap {}
}

impl OpSpec for ZipMap {
    const NAME: &'static str = "zip_map";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3]) { %k = const [4, 0, 1] : i64[3] %l = zip_map(%x, %k) return %l }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (x, keys) = (operands.tensor(0)?, operands.tensor(1)?);
        let Some([n]) = keys.dims() else { return Err(operands.wrong(1, format!("{keys} lists no keys"))) };
        match x.dims() {
            Some([columns] | [_, columns]) => operands.assume_same(columns, n)?,
            None => {}
            Some(_) => return Err(operands.wrong(0, format!("{x} holds no rows"))),
        }
        let value = Box::new(TensorType::new(x.dtype, [0i64; 0]).into());
        Ok(vec![ValueType::Sequence(Box::new(ValueType::Map { key: keys.dtype, value }))])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, keys) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let (rows, columns) = match *x.dims() {
            [columns] => (1, columns),
            [rows, columns] => (rows, columns),
            _ => return Err(invalid(format!("{:?} holds no rows", x.dims()))),
        };
        if columns != keys.len() {
            return Err(invalid(format!("{} keys for rows of {columns}", keys.len())));
        }
        let entry = |at: usize| Ok((keys.pick(&[], &[at % columns])?, x.pick(&[], &[at])?.into()));
        let row = |r: usize| -> Result<Datum, EvalError> {
            let mut entries: Vec<_> = (r * columns..(r + 1) * columns).map(entry).collect::<Result<_, EvalError>>()?;
            // Maps are in key order.
            match keys.strings() {
                Ok(_) => entries.sort_by(|(a, _), (b, _)| a.strings().ok().cmp(&b.strings().ok())),
                Err(_) => entries.sort_by_key(|(key, _)| key.to_i64().ok()),
            }
            Ok(Datum::Map(entries))
        };
        Ok(vec![Datum::Sequence((0..rows).map(row).collect::<Result<_, _>>()?)])
    }

    moves_data! {}
}
