use super::{Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::op;
use crate::ops::Reshape;
use crate::ops::reading::{self, invalid, moves_data, tensor};
use smallvec::smallvec;

op! {
    /// `unsqueeze_by(x, axes)`: `x` with dimensions of 1 that stand at `axes` in the result (ONNX Unsqueeze). Shape folding
    /// turns it into `reshape`.
    pub struct UnsqueezeBy {}
}

fn widened(dims: &[Dim], axes: &[i64]) -> Result<Vec<Dim>, TypeError> {
    let rank = dims.len() + axes.len();
    let mut new = vec![false; rank];
    for a in axes {
        let at = crate::ops::axis(*a, rank)?;
        if std::mem::replace(&mut new[at], true) {
            return Err(TypeError::Invalid(format!("axis {at} is named twice")));
        }
    }
    let mut old = dims.iter();
    let next = |new| if new { Dim::constant(1) } else { old.next().expect("counted above").clone() };
    Ok(new.into_iter().map(next).collect())
}

impl OpSpec for UnsqueezeBy {
    const NAME: &'static str = "unsqueeze_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, M]) { %a = const [-1, 0] : i64[2] %y = unsqueeze_by(%x, %a) return %y }",
        "graph @g(%x: f32[N, M], %a: i64[1]) { %y = unsqueeze_by(%x, %a) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        if let (Some(dims), Some(axes)) = (operands.dims(0)?, reading::known_numbers(operands, 1)) {
            let op: Op = Reshape { shape: widened(dims, &axes)? }.into();
            return operands.infer_with(&op, &[0]);
        }
        let lengths = operands.dims(0)?.map(<[Dim]>::len).zip(reading::known_length(operands, 1));
        Ok(vec![reading::late_tensor(operands, operands.dtype(0)?, lengths.map(|(a, b)| a + b))])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        operands.elements(0).map(<[Dim]>::to_vec)
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        let shape = widened(operands.dims(0).ok()??, &reading::known_numbers(operands, 1)?).ok()?;
        Some((Reshape { shape }.into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let dims: Vec<Dim> = x.dims().iter().map(|d| Dim::from(*d)).collect();
        let shape = widened(&dims, &tensor(operands, 1)?.to_i64()?).map_err(invalid)?;
        Ok(vec![x.reshaped(&crate::ops::sizes(&shape)?)?.into()])
    }

    moves_data! {}
}
