use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::ops::reading::{cartesian, invalid, tensor};
use crate::ops::strides;
use crate::tensor::{Tensor, count};
use crate::types::{Shape, TensorType};
use crate::{attr_enum, op};

attr_enum! {
    /// How a value between elements is made.
    pub enum SampleMode {
        /// The nearest element, of two the even one.
        Nearest = "nearest",
        /// Between the two neighbours along each dimension.
        Linear = "linear",
        /// Keys' cubic convolution with a = -0.75 of the four neighbours along each dimension.
        Cubic = "cubic",
    }
}

attr_enum! {
    /// What lies outside.
    pub enum SamplePadding { Zeros = "zeros", Border = "border", Reflection = "reflection" }
}

op! {
    /// `grid_sample(x, grid) {mode, padding, align_corners}`: ONNX GridSample: the elements of `x[N, C, spatial...]` at the places
    /// `grid[N, out..., r]`, r the number of spatial dimensions, the last one's coordinate first: `[N, C, out...]`.
    ///
    /// Along each dimension -1 and 1 are the centres of the first and last element with `align_corners`, else the outer edges.
    pub struct GridSample { mode: SampleMode, padding: SamplePadding, align_corners: bool }
}

impl OpSpec for GridSample {
    const NAME: &'static str = "grid_sample";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 2, 4, 5], %i: f32[N, 3, M, 2]) { %a = grid_sample(%x, %i) {mode = linear, padding = zeros} %b = grid_sample(%x, %i) {mode = cubic, padding = border, align_corners = true} %c = grid_sample(%x, %i) {mode = nearest, padding = reflection} return %a, %b, %c }",
        "graph @g(%x: f64[2, N, 3, 2, 4], %i: f32[2, 2, 2, M, 3]) { %a = grid_sample(%x, %i) {mode = linear, padding = reflection, align_corners = true} return %a }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (x, grid) = (operands.tensor(0)?, operands.tensor(1)?);
        if !x.dtype.is_float() && !x.dtype.is_int() {
            return Err(operands.wrong(0, format!("nothing lies between elements of {}", x.dtype)));
        }
        if !grid.dtype.is_float() {
            return Err(operands.wrong(1, "places are floats"));
        }
        let (Some(dims), Some(places)) = (x.dims(), grid.dims()) else {
            return Ok(vec![TensorType::unranked(x.dtype).into()]);
        };
        let ([n, c, spatial @ ..], [m, out @ .., r]) = (dims, places) else {
            return Err(operands.wrong(1, format!("{grid} holds no places in {x}")));
        };
        if spatial.is_empty() || out.len() != spatial.len() {
            return Err(operands.wrong(1, format!("{grid} holds no places in {x}")));
        }
        operands.assume_same(n, m)?;
        operands.assume_same(r, &Dim::from(spatial.len()))?;
        let shape = Shape::Ranked([&[n.clone(), c.clone()], out].concat());
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, grid) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let misfit = || invalid(format!("{:?} holds no places in {:?}", grid.dims(), x.dims()));
        let ([n, c, spatial @ ..], [m, out @ .., r]) = (x.dims(), grid.dims()) else { return Err(misfit()) };
        if n != m || *r != spatial.len() || out.len() != *r || *r == 0 {
            return Err(misfit());
        }
        let dims = [&[*n, *c], out].concat();
        let (total, places, plane, steps) = (count(&dims)?, count(out)?, count(spatial)?, strides(spatial));
        if total > 0 && plane == 0 {
            return Err(invalid("there is nothing to take elements from"));
        }
        let (v, at) = (x.to_f64()?, grid.to_f64()?);
        let mut y = vec![0.0; total];
        for (b, p) in (0..*n).flat_map(|b| (0..places).map(move |p| (b, p))) {
            let place = &at[(b * places + p) * r..][..*r];
            let lines: Vec<(Vec<usize>, Vec<f64>)> = (spatial.iter().zip(&steps).zip(place.iter().rev()))
                .map(|((n, step), t)| {
                    let line = self.neighbours(*t, *n);
                    line.into_iter().map(|(i, w)| (i.map_or(usize::MAX, |i| i * step), w)).unzip()
                })
                .collect();
            let (from, weights): (Vec<Vec<usize>>, Vec<Vec<f64>>) = lines.into_iter().unzip();
            let (from, weights) = (cartesian(&from), products(&weights));
            for channel in 0..*c {
                let image = &v[(b * c + channel) * plane..][..plane];
                let element = |i: &usize| image.get(*i).copied().unwrap_or(0.0);
                y[(b * c + channel) * places + p] = from.iter().zip(&weights).map(|(i, w)| element(i) * w).sum();
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &dims, &y)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 16
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 32.0)
    }
}

/// Every product of one number from each list, the last list running fastest.
fn products(lists: &[Vec<f64>]) -> Vec<f64> {
    let times = |all: Vec<f64>, list: &Vec<f64>| all.iter().flat_map(|a| list.iter().map(move |b| a * b)).collect();
    lists.iter().fold(vec![1.0], times)
}

/// Places farther out are as good as this far out.
const FAR: f64 = 1e9;

impl GridSample {
    /// The elements of a line of `n` that make the value at `t`, with their weights; `None` is 0.
    fn neighbours(&self, t: f64, n: usize) -> Vec<(Option<usize>, f64)> {
        let length = n as f64;
        let (at, low, high) = match self.align_corners {
            true => ((t + 1.0) / 2.0 * (length - 1.0), 0.0, length - 1.0),
            false => (((t + 1.0) * length - 1.0) / 2.0, -0.5, length - 0.5),
        };
        let mut at = at.clamp(-FAR, FAR);
        if self.mode == SampleMode::Nearest {
            at = at.round_ties_even();
        }
        if at < low || at > high {
            at = match self.padding {
                SamplePadding::Zeros => at,
                SamplePadding::Border => at.clamp(0.0, length - 1.0),
                SamplePadding::Reflection => reflect(at, low, high),
            };
        }
        let first = at.floor();
        let fraction = at - first;
        let element = |offset: i64| {
            let i = first as i64 + offset;
            match self.padding {
                SamplePadding::Zeros => usize::try_from(i).ok().filter(|i| *i < n),
                SamplePadding::Border => Some(i.clamp(0, n as i64 - 1) as usize),
                SamplePadding::Reflection => Some(reflect(i as f64, low, high).clamp(0.0, length - 1.0) as usize),
            }
        };
        match self.mode {
            SampleMode::Nearest => vec![(element(0), if at.is_nan() { at } else { 1.0 })],
            SampleMode::Linear => vec![(element(0), 1.0 - fraction), (element(1), fraction)],
            SampleMode::Cubic => (-1..3).map(|i| (element(i), cubic((fraction - i as f64).abs()))).collect(),
        }
    }
}

/// `at` reflected at the borders until it lies between them.
fn reflect(at: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 || (low..=high).contains(&at) {
        return at.clamp(low, high);
    }
    let (near, beyond) = if at < low { (low, low - at) } else { (high, at - high) };
    let far = low + high - near;
    let (times, rest) = ((beyond / range).floor(), beyond % range);
    let from = if times % 2.0 == 0.0 { near } else { far };
    if from == low { low + rest } else { high - rest }
}

/// The weight of an element at a distance below 2; <https://doi.org/10.1109/TASSP.1981.1163711>.
fn cubic(d: f64) -> f64 {
    const A: f64 = -0.75;
    match d <= 1.0 {
        true => ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0,
        false => ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A,
    }
}
