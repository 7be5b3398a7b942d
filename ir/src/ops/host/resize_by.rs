use super::{DType, Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, Tolerance, TypeError, ValueType};
use crate::attr_enum;
use crate::op;
use crate::ops::operand::{floats, invalid, optional, tensor};
use crate::ops::{Coordinates, Resize, ResizeMode, Rounding, axis};
use crate::types::{Shape, TensorType};

attr_enum! {
    /// Whether sizes may change the proportions.
    pub enum AspectRatio { Stretch = "stretch", NotLarger = "not_larger", NotSmaller = "not_smaller" }
}

op! {
    /// `resize_by(x, roi?, scales?, sizes?) {axes, aspect, ..}`: `resize` with its geometry as operands: `scales` or `sizes` of
    /// `axes` (all, where empty). With an `aspect` other than stretch one scale, the smallest or largest, serves all axes.
    /// Shape folding turns it into `resize` when the operands are known.
    pub struct ResizeBy {
        axes: Vec<i64>, aspect: AspectRatio, mode: ResizeMode, coordinates: Coordinates, rounding: Option<Rounding>,
        cubic_a: Option<f32>, extrapolation: Option<f32>, exclude_outside: bool, antialias: bool,
    }
}

impl ResizeBy {
    /// The core operator for an input of dimensions `x`; `None` when a size cannot be written as an expression.
    pub fn target(
        &self,
        x: &[Dim],
        roi: Option<&[f64]>,
        scales: Option<&[f64]>,
        sizes: Option<&[Dim]>,
    ) -> Result<Option<Resize>, TypeError> {
        let axes: Vec<usize> = match self.axes.is_empty() {
            true => (0..x.len()).collect(),
            false => self.axes.iter().map(|a| axis(*a, x.len())).collect::<Result<_, _>>()?,
        };
        let wrong = |what: &str, n: usize| TypeError::Invalid(format!("{n} {what} for {} axes", axes.len()));
        let mut out = Resize {
            sizes: x.to_vec(),
            scales: vec![],
            roi: vec![],
            mode: self.mode,
            coordinates: self.coordinates,
            rounding: self.rounding,
            cubic_a: self.cubic_a,
            extrapolation: self.extrapolation,
            exclude_outside: self.exclude_outside,
            antialias: self.antialias,
        };
        if let Some(roi) = roi.filter(|_| self.coordinates == Coordinates::CropAndResize) {
            if roi.len() != 2 * axes.len() {
                return Err(wrong("bounds of the region", roi.len()));
            }
            out.roi = [vec![0.0; x.len()], vec![1.0; x.len()]].concat();
            for (i, at) in axes.iter().enumerate() {
                (out.roi[*at], out.roi[x.len() + at]) = (roi[i] as f32, roi[axes.len() + i] as f32);
            }
        }
        match (scales, sizes) {
            (Some(scales), _) if scales.len() == axes.len() => {
                out.scales = vec![1.0; x.len()];
                for (at, scale) in axes.iter().zip(scales) {
                    if scale.is_nan() || *scale <= 0.0 {
                        return Err(TypeError::Invalid(format!("{scale} is not a scale")));
                    }
                    let Some(size) = scaled(&x[*at], *scale) else { return Ok(None) };
                    (out.sizes[*at], out.scales[*at]) = (size, *scale as f32);
                }
            }
            (None, Some(sizes)) if sizes.len() == axes.len() => {
                axes.iter().zip(sizes).for_each(|(at, size)| out.sizes[*at] = size.clone());
                if self.aspect != AspectRatio::Stretch {
                    let quotient = |at: &usize| Some(out.sizes[*at].as_const()? as f64 / x[*at].as_const()? as f64);
                    let all: Option<Vec<f64>> = axes.iter().map(quotient).collect();
                    let pick = if self.aspect == AspectRatio::NotLarger { f64::min } else { f64::max };
                    let Some(scale) = all.and_then(|all| all.into_iter().reduce(pick)) else { return Ok(None) };
                    out.scales = vec![1.0; x.len()];
                    for at in axes {
                        let n = x[at].as_const().unwrap_or(0) as f64;
                        out.sizes[at] = Dim::constant((scale * n + 0.5).floor() as i64);
                        out.scales[at] = scale as f32;
                    }
                }
            }
            (Some(scales), _) => return Err(wrong("scales", scales.len())),
            (None, Some(sizes)) => return Err(wrong("sizes", sizes.len())),
            (None, None) => return Ok(None),
        }
        Ok(Some(out))
    }

    fn known(&self, operands: &Operands<'_>) -> Result<Option<Resize>, TypeError> {
        let Some(dims) = operands.dims(0)? else { return Ok(None) };
        let numbers = |i: usize| operands.constant(i).and_then(|t| t.to_f64().ok());
        let given = |i: usize| operands.has(i) && numbers(i).is_none_or(|v| !v.is_empty());
        let (roi, scales) = (numbers(1), numbers(2).filter(|v| !v.is_empty()));
        let unknown =
            given(2) && scales.is_none() || given(1) && roi.is_none() && self.coordinates == Coordinates::CropAndResize;
        if unknown {
            return Ok(None);
        }
        let sizes = operands.elements(3).filter(|s| !s.is_empty());
        self.target(dims, roi.as_deref(), scales.as_deref(), sizes)
    }
}

/// `floor(n * scale)`, when the scale is a simple fraction or the size is known.
fn scaled(n: &Dim, scale: f64) -> Option<Dim> {
    if let Some(n) = n.as_const() {
        return Some(Dim::constant((n as f64 * scale).floor() as i64));
    }
    let fraction = (1..=16).map(|q| (scale * q as f64, q)).find(|(p, _)| (p - p.round()).abs() < 1e-9);
    fraction.map(|(p, q)| (n * p.round() as i64).floor_div(&Dim::constant(q)))
}

impl OpSpec for ResizeBy {
    const NAME: &'static str = "resize_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3, H, 4]) { %s = const [1.0, 1.0, 2.0, 1.5] : f32[4] %y = resize_by(%x, _, %s) {axes = [], aspect = stretch, mode = linear, coordinates = half_pixel} return %y }",
        "graph @g(%x: f32[N, 3, H, 4]) { %s = dims() {elements = [2*H, 7]} %y = resize_by(%x, _, _, %s) {axes = [2, 3], aspect = stretch, mode = nearest, coordinates = asymmetric} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 4)?;
        let x = operands.tensor(0)?;
        let shape = match (self.known(operands)?, x.dims()) {
            (Some(core), _) => Shape::Ranked(core.sizes),
            (None, Some(dims)) if self.axes.is_empty() => {
                Shape::Ranked(dims.iter().map(|_| operands.late_dim()).collect())
            }
            (None, Some(dims)) => {
                let mut dims = dims.to_vec();
                for a in &self.axes {
                    let at = axis(*a, dims.len())?;
                    dims[at] = operands.late_dim();
                }
                Shape::Ranked(dims)
            }
            (None, None) => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        let core = self.known(operands).ok()??;
        Some((core.into(), SmallVec::from_slice(&[0])))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let dims: Vec<Dim> = x.dims().iter().map(|d| Dim::from(*d)).collect();
        let given = |i: usize| Ok::<_, EvalError>(floats(operands, i)?.filter(|v| !v.is_empty()));
        let (roi, scales) = (given(1)?, given(2)?);
        let sizes = optional(operands, 3).filter(|t| !t.is_empty()).map(|t| t.to_i64()).transpose()?;
        let sizes: Option<Vec<Dim>> = sizes.map(|s| s.into_iter().map(Dim::constant).collect());
        let core = self.target(&dims, roi.as_deref(), scales.as_deref(), sizes.as_deref()).map_err(invalid)?;
        let core = core.ok_or_else(|| EvalError::Invalid("neither scales nor sizes are given".into()))?;
        core.eval(&operands[..1])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 8
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}
