use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::ops::reading::{invalid, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;
use crate::{attr_enum, op};

attr_enum! {
    /// A function of two vectors.
    pub enum SvmFn {
        /// `x . v`.
        Linear = "linear",
        /// `(gamma x . v + offset)^degree`.
        Poly = "poly",
        /// `exp(-gamma |x - v|^2)`.
        Rbf = "rbf",
        /// `tanh(gamma x . v + offset)`.
        Sigmoid = "sigmoid",
    }
}

op! {
    /// `svm_kernel(x, vectors) {f, gamma, offset, degree}`: the kernel function of every row of `x[rows, k]` (or of a vector)
    /// and every row of `vectors[n, k]`: f32 `[rows, n]`.
    pub struct SvmKernel { f: SvmFn, gamma: f32, offset: f32, degree: f32 }
}

impl OpSpec for SvmKernel {
    const NAME: &'static str = "svm_kernel";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3], %v: f32[5, 3]) { %a = svm_kernel(%x, %v) {f = linear, gamma = 0, offset = 0, degree = 0} %b = svm_kernel(%x, %v) {f = rbf, gamma = 0.5, offset = 0, degree = 3} %c = svm_kernel(%x, %v) {f = poly, gamma = 0.5, offset = 1, degree = 2} %d = svm_kernel(%x, %v) {f = sigmoid, gamma = 0.5, offset = 1, degree = 2} return %a, %b, %c, %d }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (x, vectors) = (operands.tensor(0)?, operands.tensor(1)?);
        let Some([n, k]) = vectors.dims() else { return Err(operands.wrong(1, format!("{vectors} is not a matrix"))) };
        if x.dtype == DType::Str || !vectors.dtype.is_float() {
            return Err(operands.wrong(0, format!("{x} beside {vectors}")));
        }
        let (rows, columns) = match x.dims() {
            Some([columns]) => (Dim::constant(1), Some(columns)),
            Some([rows, columns]) => (rows.clone(), Some(columns)),
            None => (operands.late_dim(), None),
            Some(_) => return Err(operands.wrong(0, format!("{x} holds no rows"))),
        };
        columns.map_or(Ok(()), |columns| operands.assume_same(columns, k))?;
        Ok(vec![TensorType::new(DType::F32, [rows, n.clone()]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, vectors) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let &[n, k] = vectors.dims() else { return Err(invalid("the vectors are no matrix")) };
        let rows = if x.rank() == 1 { 1 } else { x.dims()[0] };
        if x.dims().last() != Some(&k) {
            return Err(invalid(format!("rows of {:?} beside vectors of {k}", x.dims())));
        }
        let (xs, vs) = (x.to_f64()?, vectors.to_f64()?);
        let (gamma, offset, degree) = (f64::from(self.gamma), f64::from(self.offset), f64::from(self.degree));
        let mut y = Vec::with_capacity(crate::tensor::count(&[rows, n])?);
        for (r, v) in (0..rows).flat_map(|r| (0..n).map(move |v| (r, v))) {
            let (x, v) = (&xs[r * k..][..k], &vs[v * k..][..k]);
            let sum = |f: fn(f64, f64) -> f64| x.iter().zip(v).map(|(a, b)| f(*a, *b)).sum::<f64>();
            y.push(match self.f {
                SvmFn::Linear => sum(|a, b| a * b),
                SvmFn::Poly => (gamma * sum(|a, b| a * b) + offset).powf(degree),
                SvmFn::Rbf => (-gamma * sum(|a, b| (a - b) * (a - b))).exp(),
                SvmFn::Sigmoid => (gamma * sum(|a, b| a * b) + offset).tanh(),
            });
        }
        Ok(vec![Tensor::from_f64(DType::F32, &[rows, n], &y)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        let k = operands.get(1).and_then(|t| t.as_tensor()?.dims()?.last().cloned());
        let out = results[0].as_tensor().and_then(|t| t.shape.elements());
        k.zip(out).map_or(Dim::constant(0), |(k, out)| out * k * 2)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}
