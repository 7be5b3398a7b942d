use super::{DType, Datum, EvalError, Op, OpSpec, Operands, SmallVec, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, tensor};
use crate::ops::{Cumulate, CumulateFn};
use smallvec::smallvec;

op! {
    /// `cumulate_by(x, axis) {f, exclusive, reverse}`: ONNX CumSum and CumProd with their axis as an operand; shape folding
    /// turns it into `cum_sum` or `cum_prod`.
    pub struct CumulateBy { f: CumulateFn, exclusive: bool, reverse: bool }
}

impl CumulateBy {
    fn core(&self, axis: i64) -> Cumulate {
        Cumulate { f: self.f, axis, exclusive: self.exclusive, reverse: self.reverse }
    }
}

impl OpSpec for CumulateBy {
    const NAME: &'static str = "cumulate_by";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: f32[N, 3], %a: i64[]) { %y = cumulate_by(%x, %a) {f = cum_prod, reverse = true} return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        reading::takes_indices(operands, 1)?;
        Ok(vec![operands.tensor(0)?.clone().into()])
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        Some((self.core(reading::known_number(operands, 1)?.as_const()?).into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        self.core(reading::number(tensor(operands, 1)?)?).eval(&operands[..1])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}
