use super::reading::moves_data;
use super::{Datum, EvalError, Fact, OpSpec, Operands, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `range() {start, step, length}`: the i64 vector `start, start + step, ...` of `length` elements.
    pub struct Range { start: Dim, step: Dim, length: Dim }
}

impl OpSpec for Range {
    const NAME: &'static str = "range";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, M]) { %y = range() {start = N, step = 2, length = M + 1} return %y }",
        "graph @g(%x: f32[N]) { %y = range() {start = 5, step = -1, length = 3} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(0, 0)?;
        Ok(vec![TensorType::new(DType::I64, [self.length.clone()]).into()])
    }

    fn elements(&self, _: &Operands<'_>) -> Option<Vec<Dim>> {
        let length = self.length.as_const().filter(|n| *n <= Fact::MAX_ELEMENTS as i64)?;
        Some((0..length).map(|i| &self.start + &self.step * i).collect())
    }

    fn eval(&self, _: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let numbers = super::numbers(&[self.start.clone(), self.step.clone()])?;
        let length = super::sizes(std::slice::from_ref(&self.length))?[0];
        let at = |i: usize| numbers[0].wrapping_add(numbers[1].wrapping_mul(i as i64));
        crate::tensor::count(&[length])?;
        Ok(vec![Tensor::vector_i64(&(0..length).map(at).collect::<Vec<_>>()).into()])
    }

    moves_data! {}
}
