use super::{Datum, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::dtype::DType;
use crate::op;
use crate::ops::reading::{self, optional, tensor};
use crate::ops::{Reduce, ReduceFn, Tolerance};
use smallvec::smallvec;

op! {
    /// `reduce_by(x, axes?) {f, keep, none}`: `reduce` along the axes that the operand lists. An empty or absent list means
    /// all axes, with `none` no axis. Shape folding turns it into `reduce`.
    pub struct ReduceBy { f: ReduceFn, keep: bool, none: bool }
}

impl ReduceBy {
    fn reduce(&self, axes: Vec<i64>, rank: usize) -> Reduce {
        let axes = if axes.is_empty() && !self.none { (0..rank as i64).collect() } else { axes };
        Reduce { f: self.f, axes, keep: self.keep }
    }

    fn known(&self, operands: &Operands<'_>) -> Option<Reduce> {
        let axes = if operands.has(1) { reading::known_numbers(operands, 1)? } else { vec![] };
        Some(self.reduce(axes, operands.dims(0).ok()??.len()))
    }

    /// The rank of the result, when it does not depend on which axes are listed.
    fn rank(&self, operands: &Operands<'_>) -> Option<usize> {
        let rank = operands.dims(0).ok()??.len();
        match reading::known_length(operands, 1) {
            _ if self.keep => Some(rank),
            Some(0) => Some(if self.none { rank } else { 0 }),
            Some(listed) => rank.checked_sub(listed),
            None => None,
        }
    }
}

impl OpSpec for ReduceBy {
    const NAME: &'static str = "reduce_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 9]) { %a = const [-1] : i64[1] %y = reduce_by(%x, %a) {f = sum, keep = true} return %y }",
        "graph @g(%x: f32[N, 9]) { %y = reduce_by(%x, _) {f = max} %z = reduce_by(%x, _) {f = l2, none = true} return %y, %z }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 2)?;
        match self.known(operands) {
            Some(reduce) => operands.infer_with(&reduce.into(), &[0]),
            None => Ok(vec![reading::late_tensor(operands, operands.dtype(0)?, self.rank(operands))]),
        }
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        Some((self.known(operands)?.into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let rank = tensor(operands, 0)?.rank();
        let axes = optional(operands, 1)?.map_or_else(|| Ok(vec![]), |axes| axes.to_i64())?;
        self.reduce(axes, rank).eval(&operands[..1])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}
