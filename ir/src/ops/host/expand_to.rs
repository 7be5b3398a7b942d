use super::{Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::op;
use crate::ops::Expand;
use crate::ops::reading::{self, moves_data, tensor};
use smallvec::smallvec;

op! {
    /// `expand_to(x, shape)`: ONNX Expand with its shape as an operand; shape folding turns it into `expand`.
    pub struct ExpandTo {}
}

impl OpSpec for ExpandTo {
    const NAME: &'static str = "expand_to";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 1], %like: f32[N, M]) { %s = shape_of(%like) %y = expand_to(%x, %s) return %y }",
        "graph @g(%x: f32[N, 1], %s: i64[3]) { %y = expand_to(%x, %s) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        if let Some((op, kept)) = self.fold_shape(operands) {
            return operands.infer_with(&op, &kept);
        }
        let lengths = operands.dims(0)?.map(<[Dim]>::len).zip(reading::known_length(operands, 1));
        Ok(vec![reading::late_tensor(operands, operands.dtype(0)?, lengths.map(|(a, b)| a.max(b)))])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        operands.elements_with(self.fold_shape(operands)?)
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        Some((Expand { shape: operands.elements(1)?.to_vec() }.into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        Expand { shape: reading::dims_of(tensor(operands, 1)?)? }.eval(&operands[..1])
    }

    moves_data! {}
}
