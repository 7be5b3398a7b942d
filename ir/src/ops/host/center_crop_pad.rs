use super::{Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, axis, cartesian, invalid, moves_data, tensor};
use crate::ops::strides;
use crate::types::{Shape, TensorType};

op! {
    /// `center_crop_pad(x, shape) {axes}`: ONNX CenterCropPad: the dimensions `axes` (all where absent) get the sizes `shape`,
    /// the middle staying in the middle: cut where they are larger, filled with 0 (or empty text) where they are smaller. Of an
    /// odd difference the extra element goes behind.
    pub struct CenterCropPad { axes: Option<Vec<i64>> }
}

impl OpSpec for CenterCropPad {
    const NAME: &'static str = "center_crop_pad";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 5, M]) { %s = const [4, 8] : i64[2] %y = center_crop_pad(%x, %s) {axes = [1, -1]} return %y }",
        "graph @g(%x: i8[3, N], %s: i64[2]) { %y = center_crop_pad(%x, %s) {} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        reading::takes_indices(operands, 1)?;
        let x = operands.tensor(0)?;
        let Some(dims) = x.dims() else { return Ok(vec![TensorType::unranked(x.dtype).into()]) };
        let all: Vec<i64> = (0..dims.len() as i64).collect();
        let axes = self.axes.as_deref().unwrap_or(&all);
        if operands.elements(1).is_some_and(|s| s.len() != axes.len()) {
            return Err(operands.wrong(1, format!("there is not one size for each of {} axes", axes.len())));
        }
        let mut dims = dims.to_vec();
        for (i, a) in axes.iter().enumerate() {
            let at = crate::ops::axis(*a, dims.len())?;
            dims[at] = operands.elements(1).map_or_else(|| operands.late_dim(), |s| s[i].clone());
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: Shape::Ranked(dims) }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, shape) = (tensor(operands, 0)?, tensor(operands, 1)?.to_i64()?);
        let all: Vec<i64> = (0..x.rank() as i64).collect();
        let axes = self.axes.as_deref().unwrap_or(&all);
        if shape.len() != axes.len() {
            return Err(invalid(format!("{} sizes for {} axes", shape.len(), axes.len())));
        }
        let mut dims = x.dims().to_vec();
        for (a, size) in axes.iter().zip(&shape) {
            dims[axis(*a, x.rank())?] = usize::try_from(*size).map_err(|_| invalid(format!("a size of {size}")))?;
        }
        crate::tensor::count(&dims)?;
        let steps: Vec<Vec<usize>> = (dims.iter().zip(x.dims()).zip(strides(x.dims())))
            .map(|((new, old), stride)| {
                let (skipped, filled) = (old.saturating_sub(*new) / 2, new.saturating_sub(*old) / 2);
                let at = |i: usize| i.checked_sub(filled).filter(|i| *i < *old).map(|i| (i + skipped) * stride);
                (0..*new).map(|i| at(i).unwrap_or(usize::MAX)).collect()
            })
            .collect();
        Ok(vec![reading::pick_or_zero(x, &dims, &cartesian(&steps))?.into()])
    }

    moves_data! {}
}
