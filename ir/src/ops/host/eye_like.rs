use super::{DType, Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `eye_like(x) {diagonal, dtype}`: a matrix of the shape of `x` with ones on a diagonal and zeros elsewhere (ONNX
    /// EyeLike); positive diagonals lie above the main one.
    pub struct EyeLike { diagonal: i64, dtype: DType }
}

impl OpSpec for EyeLike {
    const NAME: &'static str = "eye_like";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: f32[N, M]) { %y = eye_like(%x) {diagonal = 1, dtype = i32} return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if x.dims().is_some_and(|d| d.len() != 2) || self.dtype == DType::Str {
            return Err(operands.wrong(0, format!("{x} is not a matrix of numbers")));
        }
        Ok(vec![TensorType { dtype: self.dtype, shape: x.shape.clone() }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let [rows, columns] = *x.dims() else { return Err(invalid("eye_like takes a matrix")) };
        let mut v = vec![0.0; x.len()];
        for i in 0..rows {
            let column = (i as i64).saturating_add(self.diagonal);
            if (0..columns as i64).contains(&column) {
                v[i * columns + column as usize] = 1.0;
            }
        }
        Ok(vec![Tensor::from_f64(self.dtype, x.dims(), &v)?.into()])
    }

    moves_data! {}
}
