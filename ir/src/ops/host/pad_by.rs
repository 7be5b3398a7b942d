use super::{Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, moves_data, tensor};
use crate::ops::{Pad, PadMode};
use smallvec::smallvec;

op! {
    /// `pad_by(x, pads, value?, axes?) {mode}`: ONNX Pad with its counts as an operand; shape folding turns it into `pad`.
    pub struct PadBy { mode: PadMode }
}

impl OpSpec for PadBy {
    const NAME: &'static str = "pad_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3], %like: f32[N, M]) { %s = shape_of(%like) %a = const [1] : i64[1] %y = pad_by(%x, %s, _, %a) {mode = edge} return %y }",
        "graph @g(%x: f32[N, 3], %p: i64[4]) { %v = const [1.5] : f32[] %y = pad_by(%x, %p, %v) {mode = constant} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 4)?;
        if let Some((op, kept)) = self.fold_shape(operands) {
            return operands.infer_with(&op, &kept);
        }
        Ok(vec![reading::late_tensor(operands, operands.dtype(0)?, operands.dims(0)?.map(<[Dim]>::len))])
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        let axes = match operands.has(3) {
            true => reading::known_numbers(operands, 3)?,
            false => (0..operands.dims(0).ok()??.len() as i64).collect(),
        };
        let op = Pad { mode: self.mode, pads: operands.elements(1)?.to_vec(), axes };
        Some((op.into(), if operands.has(2) { smallvec![0, 2] } else { smallvec![0] }))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let axes = match reading::optional(operands, 3)? {
            Some(axes) => axes.to_i64()?,
            None => (0..tensor(operands, 0)?.rank() as i64).collect(),
        };
        let op = Pad { mode: self.mode, pads: reading::dims_of(tensor(operands, 1)?)?, axes };
        match reading::optional(operands, 2)? {
            Some(_) => op.eval(&[operands[0], operands[2]]),
            None => op.eval(&operands[..1]),
        }
    }

    moves_data! {}
}
