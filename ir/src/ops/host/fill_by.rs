use super::{Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::op;
use crate::ops::Fill;
use crate::ops::reading::{self, moves_data, tensor};
use smallvec::smallvec;

op! {
    /// `fill_by(value, shape)`: ONNX ConstantOfShape with its shape as an operand; shape folding turns it into `fill`.
    pub struct FillBy {}
}

impl OpSpec for FillBy {
    const NAME: &'static str = "fill_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%like: f32[N, M]) { %v = const [1.5] : f32[1] %s = shape_of(%like) %y = fill_by(%v, %s) return %y }",
        "graph @g(%s: i64[3]) { %v = const [7] : i64[1] %y = fill_by(%v, %s) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        if let Some((op, kept)) = self.fold_shape(operands) {
            return operands.infer_with(&op, &kept);
        }
        Ok(vec![reading::late_tensor(operands, operands.dtype(0)?, reading::known_length(operands, 1))])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        operands.elements_with(self.fold_shape(operands)?)
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        Some((Fill { shape: operands.elements(1)?.to_vec() }.into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        Fill { shape: reading::dims_of(tensor(operands, 1)?)? }.eval(&operands[..1])
    }

    moves_data! {}
}
