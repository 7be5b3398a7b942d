use super::operand::tensor;
use super::reading::moves_data;
use super::{Datum, EvalError, OpSpec, Operands, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `expert_index(ids) {experts}`: the pairs of token and expert sorted by expert, as `moe_gemm` reads them.
    ///
    /// `ids` holds one expert per pair, in any shape of `P` elements; a negative one counts from the end. `rows i32[P]` are the
    /// positions of the pairs in `ids`, those of expert 0 first, each expert's in order; those of expert `e` are
    /// `rows[offsets[e]..offsets[e + 1]]`, with `offsets i32[experts + 1]`. Fails on an id outside the experts.
    pub struct ExpertIndex { experts: i64 }
}

impl OpSpec for ExpertIndex {
    const NAME: &'static str = "expert_index";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%i: i32[T, 3]) { %r, %o = expert_index(%i) {experts = 4} return %r, %o }",
        "graph @g(%i: i64[P]) { %r, %o = expert_index(%i) {experts = 3} return %r, %o }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        super::reading::takes_indices(operands, 0)?;
        let ids = operands.tensor(0)?;
        let Some(pairs) = ids.shape.elements() else {
            return Err(operands.wrong(0, "the number of pairs is not known"));
        };
        if self.experts < 1 {
            return Err(TypeError::Invalid(format!("{} experts", self.experts)));
        }
        let offsets = TensorType::new(DType::I32, [Dim::constant(self.experts + 1)]);
        Ok(vec![TensorType::new(DType::I32, [pairs]).into(), offsets.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let ids = super::indices(tensor(Self::NAME, operands, 0)?, self.experts as usize)?;
        let experts = self.experts as usize;
        let mut offsets = vec![0i32; experts + 1];
        ids.iter().for_each(|e| offsets[e + 1] += 1);
        (0..experts).for_each(|e| offsets[e + 1] += offsets[e]);
        let mut next = offsets.clone();
        let mut rows = vec![0i32; ids.len()];
        for (pair, e) in ids.iter().enumerate() {
            rows[next[*e] as usize] = pair as i32;
            next[*e] += 1;
        }
        Ok(vec![Tensor::from_slice(&[ids.len()], &rows)?.into(), Tensor::from_slice(&[experts + 1], &offsets)?.into()])
    }

    moves_data!();
}
