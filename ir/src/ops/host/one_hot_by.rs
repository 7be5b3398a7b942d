use super::{Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::op;
use crate::ops::OneHot;
use crate::ops::reading::{self, moves_data, tensor};
use crate::types::{Shape, TensorType};
use smallvec::smallvec;

op! {
    /// `one_hot_by(indices, depth, values) {axis}`: ONNX OneHot with its depth as an operand; shape folding turns it into
    /// `one_hot`.
    pub struct OneHotBy { axis: i64 }
}

impl OpSpec for OneHotBy {
    const NAME: &'static str = "one_hot_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%i: i64[N], %d: i64[]) { %v = const [0.0, 1.0] : f32[2] %y = one_hot_by(%i, %d, %v) {axis = -1} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 3)?;
        if let Some((op, kept)) = self.fold_shape(operands) {
            return operands.infer_with(&op, &kept);
        }
        let mut shape = operands.tensor(0)?.shape.clone();
        if let Shape::Ranked(dims) = &mut shape {
            let at = crate::ops::axis(self.axis, dims.len() + 1)?;
            dims.insert(at, operands.late_dim());
        }
        Ok(vec![TensorType { dtype: operands.dtype(2)?, shape }.into()])
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        let depth = reading::known_number(operands, 1)?;
        Some((OneHot { depth, axis: self.axis }.into(), smallvec![0, 2]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let depth = tensor(operands, 1)?;
        let depth = match depth.dtype().is_float() {
            true => depth.to_f64()?.first().copied().unwrap_or(0.0) as i64,
            false => reading::number(depth)?,
        };
        OneHot { depth: Dim::constant(depth), axis: self.axis }.eval(&[operands[0], operands[2]])
    }

    moves_data! {}
}
