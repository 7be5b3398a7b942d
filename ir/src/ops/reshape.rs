use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::{Dim, Truth};
use crate::dtype::DType;
use crate::op;
use crate::types::{TensorType, ValueType};

op! {
    /// `reshape(x) {shape}`: the same elements under other dimensions; every one is given (no -1).
    ///
    /// Squeeze, unsqueeze and flatten are reshapes too. In a plan it is a view, not a step.
    pub struct Reshape { shape: Vec<Dim> }
}

impl OpSpec for Reshape {
    const NAME: &'static str = "reshape";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 6]) { %y = reshape(%x) {shape = [2*N, 3]} %z = neg(%y) return %z }",
        "graph @g(%x: i64[N]) { %y = reshape(%x) {shape = [1, N, 1]} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if let Some(count) = x.shape.elements() {
            let asked: Dim = self.shape.iter().cloned().product();
            if count.same(&asked) == Truth::No {
                return Err(operands.wrong(0, format!("{x} has {count} elements, the new shape has {asked}")));
            }
            operands.assume_same(&count, &asked)?;
        }
        Ok(vec![TensorType::new(x.dtype, self.shape.iter().cloned()).into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        operands.elements(0).map(<[Dim]>::to_vec)
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x)] = operands else { return Err(super::not_tensors(Self::NAME)) };
        Ok(vec![x.reshaped(&super::sizes(&self.shape)?)?.into()])
    }

    fn flops(&self, _: &[&ValueType], _: &[ValueType]) -> Dim {
        Dim::constant(0)
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}

#[cfg(test)]
mod tests {
    use crate::{Tensor, eval, text};

    fn constraints(text: &str) -> Vec<String> {
        text::parse(text).unwrap().constraints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_half_makes_the_whole_even() {
        let text = "graph @g(%x: f32[S]) { %y = reshape(%x) {shape = [2, floordiv(S, 2)]} return %y }";
        assert_eq!(constraints(text), ["S = 2*floordiv(S, 2)"]);
        let g = text::parse(text).unwrap();
        let run = |n: usize| eval::run(&g, &[Tensor::from_slice(&[n], &vec![1f32; n]).unwrap().into()]);
        assert!(run(6).is_ok() && run(0).is_ok() && run(5).is_err());
    }

    /// Of one row the slice has 63 elements: the shape says so before anything runs.
    #[test]
    fn what_a_slice_may_lack_is_a_condition() {
        let text = "graph @g(%x: f32[64*N]) { %s = slice(%x) {axes = [0], ends = [65], starts = [1], steps = [1]} \
                    %y = reshape(%s) {shape = [1, 64]} return %y }";
        assert_eq!(constraints(text).len(), 1);
        let known = "graph @g(%x: f32[N, 6]) { %y = reshape(%x) {shape = [2*N, 3]} return %y }";
        assert!(constraints(known).is_empty());
    }
}
