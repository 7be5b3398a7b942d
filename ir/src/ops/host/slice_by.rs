use super::{Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::op;
use crate::ops::Slice;
use crate::ops::reading::{self, moves_data, tensor};
use crate::types::{Shape, TensorType};
use smallvec::smallvec;

op! {
    /// `slice_by(x, starts, ends, axes?, steps?)`: ONNX Slice with its bounds as operands; shape folding turns it into
    /// `slice`.
    pub struct SliceBy {}
}

impl SliceBy {
    fn axes(operands: &Operands<'_>) -> Option<Vec<i64>> {
        match operands.has(3) {
            true => reading::known_numbers(operands, 3),
            false => Some((0..reading::known_length(operands, 1)? as i64).collect()),
        }
    }
}

impl OpSpec for SliceBy {
    const NAME: &'static str = "slice_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 9], %a: i64[1], %b: i64[1]) { %y = slice_by(%x, %a, %b) return %y }",
        "graph @g(%x: f32[N, 9], %a: i64[1]) { %b = const [9] : i64[1] %c = const [1] : i64[1] %d = const [2] : i64[1] %y = slice_by(%x, %a, %b, %c, %d) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 5)?;
        if let Some((op, kept)) = self.fold_shape(operands) {
            return operands.infer_with(&op, &kept);
        }
        let x = operands.tensor(0)?;
        let mut shape = x.shape.clone();
        if let Shape::Ranked(dims) = &mut shape {
            let all = (0..dims.len() as i64).collect();
            for a in SliceBy::axes(operands).unwrap_or(all) {
                let at = crate::ops::axis(a, dims.len())?;
                dims[at] = operands.late_dim();
            }
        }
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        operands.elements_with(self.fold_shape(operands)?)
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        let (starts, ends) = (operands.elements(1)?.to_vec(), operands.elements(2)?.to_vec());
        let axes = SliceBy::axes(operands)?;
        let steps = if operands.has(4) { reading::known_numbers(operands, 4)? } else { vec![1; axes.len()] };
        Some((Slice { axes, starts, ends, steps }.into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (starts, ends) = (reading::dims_of(tensor(operands, 1)?)?, reading::dims_of(tensor(operands, 2)?)?);
        let numbers = |i: usize| match reading::optional(operands, i)? {
            Some(t) => Ok::<_, EvalError>(Some(t.to_i64()?)),
            None => Ok(None),
        };
        let axes = numbers(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = numbers(4)?.unwrap_or_else(|| vec![1; axes.len()]);
        Slice { axes, starts, ends, steps }.eval(&operands[..1])
    }

    moves_data! {}
}
