use super::{Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::op;
use crate::ops::Trilu;
use crate::ops::reading::{self, moves_data, tensor};
use smallvec::smallvec;

op! {
    /// `trilu_by(x, diagonal) {upper}`: ONNX Trilu with its diagonal as an operand; shape folding turns it into `trilu`.
    pub struct TriluBy { upper: bool }
}

impl OpSpec for TriluBy {
    const NAME: &'static str = "trilu_by";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: f32[N, 3], %k: i64[]) { %y = trilu_by(%x, %k) {upper = true} return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        operands.infer_with(&Trilu { upper: self.upper, diagonal: Dim::constant(0) }.into(), &[0])
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        let diagonal = reading::known_number(operands, 1)?;
        Some((Trilu { upper: self.upper, diagonal }.into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let diagonal = Dim::constant(reading::number(tensor(operands, 1)?)?);
        Trilu { upper: self.upper, diagonal }.eval(&operands[..1])
    }

    moves_data! {}
}
