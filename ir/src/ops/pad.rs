use super::reading::{self, invalid, moves_data, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tensor, TypeError, axis};
use crate::dim::Dim;
use crate::types::{Shape, TensorType, ValueType};
use crate::{attr_enum, op};

attr_enum! {
    /// What padding is made of.
    pub enum PadMode {
        /// The `value` operand, or 0.
        Constant = "constant",
        /// The tensor mirrored at its first and last element.
        Reflect = "reflect",
        /// The nearest element.
        Edge = "edge",
        /// The tensor again.
        Wrap = "wrap",
    }
}

op! {
    /// `pad(x, value?) {mode, pads, axes}`: elements added before and after along `axes`; `pads` holds all the counts
    /// before, then all those after, and a negative one removes elements (ONNX Pad).
    pub struct Pad { mode: PadMode, pads: Vec<Dim>, axes: Vec<i64> }
}

impl Pad {
    fn checked_axes(&self, rank: usize) -> Result<Vec<usize>, TypeError> {
        if self.pads.len() != 2 * self.axes.len() {
            return Err(TypeError::Invalid(format!("{} pads for {} axes", self.pads.len(), self.axes.len())));
        }
        self.axes.iter().map(|a| axis(*a, rank)).collect()
    }
}

impl OpSpec for Pad {
    const NAME: &'static str = "pad";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 5]) { %y = pad(%x) {mode = constant, pads = [2, N], axes = [1]} return %y }",
        "graph @g(%x: f32[N, 5]) { %v = const [1.5] : f32[] %y = pad(%x, %v) {mode = constant, pads = [1, -1, 0, 2], axes = [0, 1]} return %y }",
        "graph @g(%x: f32[N, 5, 4]) { %y = pad(%x) {mode = reflect, pads = [2, 3, 4, 1], axes = [1, 2]} %z = pad(%x) {mode = edge, pads = [2, 3], axes = [-1]} return %y, %z }",
        "graph @g(%x: f32[N, 5]) { %y = pad(%x) {mode = wrap, pads = [2, 3], axes = [1]} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 2)?;
        let x = operands.tensor(0)?;
        if operands.has(1) {
            reading::same_dtype(operands, 0, 1)?;
        }
        let shape = match x.dims() {
            Some(dims) => {
                let mut out = dims.to_vec();
                for (i, at) in self.checked_axes(dims.len())?.into_iter().enumerate() {
                    out[at] = &out[at] + &self.pads[i] + &self.pads[self.axes.len() + i];
                }
                Shape::Ranked(out)
            }
            None => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let value = match reading::optional(operands, 1)? {
            Some(v) => v.reshaped(&[1])?,
            None => Tensor::zeros(x.dtype(), &[1])?,
        };
        let pads = super::numbers(&self.pads)?;
        let strides = super::strides(x.dims());
        let mut steps: Vec<Vec<usize>> =
            (0..x.rank()).map(|j| (0..x.dims()[j]).map(|i| i * strides[j]).collect()).collect();
        for (i, at) in self.checked_axes(x.rank()).map_err(invalid)?.into_iter().enumerate() {
            let sources = sources(self.mode, x.dims()[at], pads[i], pads[self.axes.len() + i])?;
            steps[at] = sources.into_iter().map(|s| s.map_or(usize::MAX, |s| s * strides[at])).collect();
        }
        let dims: Vec<usize> = steps.iter().map(Vec::len).collect();
        crate::tensor::count(&dims)?;
        let mut from = reading::cartesian(&steps);
        // Padding is picked from behind the last element.
        from.iter_mut().for_each(|i| *i = (*i).min(x.len()));
        let both = super::concat::join(&[&x.reshaped(&[x.len()])?, &value], 0)?;
        Ok(vec![both.pick(&dims, &from)?.into()])
    }

    moves_data! {}
}

/// Which of `n` elements each one of the padded dimension shows; `None` is padding by a value.
fn sources(mode: PadMode, n: usize, before: i64, after: i64) -> Result<Vec<Option<usize>>, EvalError> {
    let (first, last) = (before.min(0).saturating_neg(), (n as i64).saturating_add(after.min(0)));
    let kept = last.saturating_sub(first);
    let total = (n as i64).saturating_add(before).saturating_add(after);
    crate::tensor::count(&[usize::try_from(total).map_err(|_| invalid(format!("{n} elements padded to {total}")))?])?;
    if kept <= 0 && mode != PadMode::Constant && total > 0 {
        return Err(invalid("there is no element to pad with"));
    }
    let period = 2 * (kept - 1).max(1);
    let source = |i: i64| {
        let at = i - before.max(0);
        let within = match mode {
            PadMode::Constant => (0..kept).contains(&at).then_some(at)?,
            PadMode::Edge => at.clamp(0, kept - 1),
            PadMode::Wrap => at.rem_euclid(kept),
            PadMode::Reflect if kept == 1 => 0,
            PadMode::Reflect => {
                let at = at.rem_euclid(period);
                at.min(period - at)
            }
        };
        Some((first + within) as usize)
    };
    Ok((0..total).map(source).collect())
}
