use super::{Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, TypeError, ValueType};
use crate::op;
use crate::ops::Reshape;
use crate::ops::reading::{self, invalid, moves_data, tensor};
use crate::types::{Shape, TensorType};
use smallvec::smallvec;

op! {
    /// `squeeze_by(x, axes?)`: `x` without the dimensions of 1 that `axes` names, or without any (ONNX Squeeze). Shape
    /// folding turns it into `reshape`; the rank is unknown until it is known which dimensions are 1.
    pub struct SqueezeBy {}
}

/// The dimensions that stay; `None` when it cannot be said yet.
fn kept(dims: &[Dim], axes: Option<&[i64]>) -> Result<Option<Vec<Dim>>, TypeError> {
    let Some(axes) = axes else {
        let known = dims.iter().all(|d| d.as_const().is_some());
        return Ok(known.then(|| dims.iter().filter(|d| d.as_const() != Some(1)).cloned().collect()));
    };
    let mut gone = vec![false; dims.len()];
    for a in axes {
        let at = crate::ops::axis(*a, dims.len())?;
        if dims[at].as_const().is_some_and(|n| n != 1) {
            return Err(TypeError::Invalid(format!("dimension {at} of {} cannot be squeezed", dims[at])));
        }
        gone[at] = true;
    }
    Ok(Some(dims.iter().zip(gone).filter(|(_, gone)| !gone).map(|(d, _)| d.clone()).collect()))
}

fn known(operands: &Operands<'_>) -> Result<Option<Vec<Dim>>, TypeError> {
    let axes = if operands.has(1) { reading::known_numbers(operands, 1) } else { None };
    match operands.dims(0)? {
        Some(dims) if axes.is_some() || !operands.has(1) => kept(dims, axes.as_deref()),
        _ => Ok(None),
    }
}

impl OpSpec for SqueezeBy {
    const NAME: &'static str = "squeeze_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 1, M, 1]) { %y = squeeze_by(%x) return %y }",
        "graph @g(%x: f32[N, 1, M, 1]) { %a = const [-1] : i64[1] %y = squeeze_by(%x, %a) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 2)?;
        let shape = match known(operands)? {
            Some(dims) => Shape::Ranked(dims),
            None => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: operands.dtype(0)?, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        operands.elements(0).map(<[Dim]>::to_vec)
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        Some((Reshape { shape: known(operands).ok()?? }.into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let axes = reading::optional(operands, 1)?.map(|t| t.to_i64()).transpose()?;
        let dims: Vec<Dim> = x.dims().iter().map(|d| Dim::from(*d)).collect();
        let kept = kept(&dims, axes.as_deref()).map_err(invalid)?.expect("every dimension is a number");
        Ok(vec![x.reshaped(&crate::ops::sizes(&kept)?)?.into()])
    }

    moves_data! {}
}
