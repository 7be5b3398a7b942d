use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, axis};
use crate::dim::{Dim, Truth};
use crate::dtype::DType;
use crate::op;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `slice(x) {axes, starts, ends, steps}`: ONNX Slice with known bounds: along each of `axes`, elements from `starts`
    /// (inclusive) to `ends` (exclusive) every `steps`; negative bounds count from the end, bounds are clamped to the tensor.
    pub struct Slice { axes: Vec<i64>, starts: Vec<Dim>, ends: Vec<Dim>, steps: Vec<i64> }
}

impl Slice {
    /// Bounds of one axis as ONNX clamps them, for a dimension of `n` elements: (start, length).
    ///
    /// A bound whose sign the symbols do not decide counts from the end only if it is surely negative.
    pub fn extent(n: &Dim, start: &Dim, end: &Dim, step: i64) -> Option<(Dim, Dim)> {
        let zero = Dim::constant(0);
        let from_end = |d: &Dim| match d.at_least(0) {
            Truth::Yes => Some(d.clone()),
            Truth::No => Some(n + d),
            // S - 4 may be either; a symbolic difference in real files is a length, so it is taken as not negative
            // only when it is provably so.
            Truth::Unknown => None,
        };
        let clamp = |d: Dim, low: &Dim, high: &Dim| Dim::max(&Dim::min(&d, high), low);
        if step > 0 {
            let start = clamp(from_end(start)?, &zero, n);
            let end = clamp(from_end(end)?, &zero, n);
            let length = Dim::max(&(&end - &start), &zero).ceil_div(&Dim::constant(step));
            return Some((start, length));
        }
        let (last, before) = (n - &Dim::constant(1), Dim::constant(-1));
        let start = clamp(from_end(start)?, &before, &last);
        // INT64_MIN-like ends mean "past the first element".
        let end = match end.as_const() {
            Some(e) if e < -(1 << 31) => before.clone(),
            _ => clamp(from_end(end)?, &before, &last),
        };
        let length = Dim::max(&(&start - &end), &zero).ceil_div(&Dim::constant(-step));
        Some((start, length))
    }

    fn checked_axes(&self, rank: usize) -> Result<Vec<usize>, TypeError> {
        let lengths = [self.starts.len(), self.ends.len(), self.steps.len()];
        if lengths.iter().any(|n| *n != self.axes.len()) {
            return Err(TypeError::Invalid("axes, starts, ends and steps differ in length".into()));
        }
        if self.steps.contains(&0) {
            return Err(TypeError::Invalid("a step of 0 never ends".into()));
        }
        self.axes.iter().map(|a| axis(*a, rank)).collect()
    }
}

impl OpSpec for Slice {
    const NAME: &'static str = "slice";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 9]) { %y = slice(%x) {axes = [1], starts = [2], ends = [-1], steps = [3]} return %y }",
        "graph @g(%x: f32[N, 9, 3]) { %y = slice(%x) {axes = [0, 2], starts = [-1, 2], ends = [-9223372036854775807, -4], steps = [-1, -1]} return %y }",
        "graph @g(%x: f32[N]) { %w = const [5.0, 6.0, 7.0] : f32[1, 3] %y = slice(%w) {axes = [1], starts = [0], ends = [N], steps = [1]} %z = slice(%w) {axes = [1], starts = [1], ends = [N], steps = [1]} %a = neg(%y) return %y, %z, %a }",
        "graph @g(%x: f32[N]) { %w = const [5.0, 6.0, 7.0, 8.0] : f32[4] %at = nonzero(%x) %zero = const [0] : i64[] %n = mul(%at, %zero) %y = slice(%w) {axes = [0], starts = [1], ends = [N + 2], steps = [1]} %z = gather(%y, %n) {axis = 0} return %z }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        let Some(dims) = x.dims() else {
            return Ok(vec![x.clone().into()]);
        };
        let mut out = dims.to_vec();
        for (i, at) in self.checked_axes(dims.len())?.into_iter().enumerate() {
            let extent = Slice::extent(&dims[at], &self.starts[i], &self.ends[i], self.steps[i]);
            out[at] = extent.map_or_else(|| operands.late_dim(), |(_, length)| length);
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: Shape::Ranked(out) }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let x = operands.elements(0)?;
        if operands.dims(0).ok()??.len() != 1 || self.axes.len() != 1 {
            return None;
        }
        let (start, length) = Slice::extent(&x.len().into(), &self.starts[0], &self.ends[0], self.steps[0])?;
        let (start, length) = (start.as_const()?, length.as_const()?);
        (0..length).map(|i| x.get(usize::try_from(start + i * self.steps[0]).ok()?).cloned()).collect()
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x)] = operands else { return Err(super::not_tensors(Self::NAME)) };
        let axes = self.checked_axes(x.rank()).map_err(|e| EvalError::Invalid(e.to_string()))?;
        let strides = super::strides(x.dims());
        let mut first = 0i64;
        let mut dims = x.dims().to_vec();
        let mut steps: Vec<i64> = strides.iter().map(|s| *s as i64).collect();
        for (i, at) in axes.into_iter().enumerate() {
            let extent = Slice::extent(&x.dims()[at].into(), &self.starts[i], &self.ends[i], self.steps[i]);
            let known = extent.and_then(|(s, l)| Some((s.as_const()?, l.as_const()?)));
            let (start, length) = known.ok_or_else(|| EvalError::Invalid("a bound is not a number".into()))?;
            first += start * strides[at] as i64;
            dims[at] = length as usize;
            steps[at] *= self.steps[i];
        }
        if dims.contains(&0) {
            return Ok(vec![x.pick(&dims, &[])?.into()]);
        }
        let mut from = vec![first];
        for (n, step) in dims.iter().zip(&steps) {
            from = from.iter().flat_map(|base| (0..*n as i64).map(move |i| base + i * step)).collect();
        }
        let from: Vec<usize> = from.into_iter().map(|i| i as usize).collect();
        Ok(vec![x.pick(&dims, &from)?.into()])
    }

    fn flops(&self, _: &[&ValueType], _: &[ValueType]) -> Dim {
        Dim::constant(0)
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
