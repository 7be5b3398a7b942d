use super::{DType, Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, tensor};
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};

op! {
    /// `det(x)`: determinants of the square matrices in the last two dimensions.
    pub struct Det {}
}

impl OpSpec for Det {
    const NAME: &'static str = "det";
    const SAMPLES: &'static [&'static str] = &["graph @g(%x: f32[N, 3, 3]) { %y = det(%x) return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        let shape = match x.dims() {
            Some([lead @ .., a, b]) if x.dtype.is_float() => {
                operands.assume_same(a, b)?;
                Shape::Ranked(lead.to_vec())
            }
            None => Shape::Unranked,
            Some(_) => return Err(operands.wrong(0, format!("{x} holds no square matrices"))),
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let [lead @ .., n, columns] = x.dims() else { return Err(invalid("det takes matrices")) };
        if n != columns {
            return Err(invalid(format!("a matrix of {n} by {columns} has no determinant")));
        }
        let count: usize = lead.iter().product();
        let v = x.to_f64()?;
        let dets: Vec<f64> = (0..count).map(|i| det(v[i * n * n..(i + 1) * n * n].to_vec(), *n)).collect();
        Ok(vec![Tensor::from_f64(x.dtype(), lead, &dets)?.into()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}

/// Gaussian elimination with partial pivoting.
fn det(mut m: Vec<f64>, n: usize) -> f64 {
    let mut product = 1.0;
    for c in 0..n {
        let pivot = (c..n).max_by(|a, b| m[a * n + c].abs().total_cmp(&m[b * n + c].abs())).unwrap_or(c);
        if m[pivot * n + c] == 0.0 {
            return 0.0;
        }
        if pivot != c {
            (0..n).for_each(|j| m.swap(c * n + j, pivot * n + j));
            product = -product;
        }
        product *= m[c * n + c];
        for r in c + 1..n {
            let factor = m[r * n + c] / m[c * n + c];
            for j in c..n {
                m[r * n + j] -= factor * m[c * n + j];
            }
        }
    }
    product
}
