use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `transpose(x) {perm}`: dimension `i` of the result is dimension `perm[i]` of `x`.
    pub struct Transpose { perm: Vec<i64> }
}

impl OpSpec for Transpose {
    const NAME: &'static str = "transpose";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[B, S, 4, 8]) { %y = transpose(%x) {perm = [0, 2, 1, 3]} %z = transpose(%x) {perm = [3, 1, 0, 2]} return %y, %z }",
        "graph @g(%x: i64[N, M]) { %y = transpose(%x) {perm = [1, 0]} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if sorted.iter().enumerate().any(|(i, p)| *p != i as i64) {
            return Err(TypeError::Invalid(format!("perm {:?} is not a permutation", self.perm)));
        }
        if x.dims().is_some_and(|d| d.len() != self.perm.len()) {
            return Err(operands.wrong(0, format!("{x} does not have the rank of perm {:?}", self.perm)));
        }
        let shape = match x.dims() {
            Some(dims) => Shape::Ranked(self.perm.iter().map(|p| dims[*p as usize].clone()).collect()),
            None => Shape::Ranked(self.perm.iter().map(|_| operands.late_dim()).collect()),
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        (self.perm.len() <= 1).then(|| operands.elements(0).map(<[Dim]>::to_vec))?
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x)] = operands else { return Err(super::not_tensors(Self::NAME)) };
        let strides = super::strides(x.dims());
        let dims: Vec<usize> = self.perm.iter().map(|p| x.dims()[*p as usize]).collect();
        let mut from = vec![0usize];
        for (p, n) in self.perm.iter().zip(&dims) {
            let stride = strides[*p as usize];
            from = from.iter().flat_map(|base| (0..*n).map(move |i| base + i * stride)).collect();
        }
        Ok(vec![x.pick(&dims, &from)?.into()])
    }

    fn flops(&self, _: &[&ValueType], _: &[ValueType]) -> Dim {
        Dim::constant(0)
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
