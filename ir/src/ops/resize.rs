use super::operand::{ensure, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::attr_enum;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

attr_enum! {
    /// How elements between samples are found.
    pub enum ResizeMode { Nearest = "nearest", Linear = "linear", Cubic = "cubic" }
}

attr_enum! {
    /// Which input coordinate an output coordinate stands for (ONNX `coordinate_transformation_mode`).
    pub enum Coordinates {
        HalfPixel = "half_pixel", HalfPixelSymmetric = "half_pixel_symmetric", PytorchHalfPixel = "pytorch_half_pixel",
        AlignCorners = "align_corners", Asymmetric = "asymmetric", CropAndResize = "crop_and_resize",
        /// `(i + 0.5) / scale`, rounded down when nearest: `tf_half_pixel_for_nn`.
        HalfPixelFloor = "half_pixel_floor",
    }
}

attr_enum! {
    /// How a coordinate is rounded for the nearest sample.
    pub enum Rounding { HalfDown = "half_down", HalfUp = "half_up", Floor = "floor", Ceil = "ceil" }
}

op! {
    /// `resize(x) {sizes, scales, mode, coordinates, rounding}`: ONNX Resize to known `sizes`, one axis after the other.
    ///
    /// `scales` relates coordinates where it is not the quotient of the sizes; empty means it is. `roi` (all starts, then all
    /// ends, normalised) is read by `crop_and_resize`, which gives `extrapolation` outside. `cubic_a` is the cubic
    /// coefficient; `exclude_outside` and `antialias` are ONNX's.
    pub struct Resize {
        sizes: Vec<Dim>, scales: Vec<f32>, roi: Vec<f32>, mode: ResizeMode, coordinates: Coordinates, rounding: Option<Rounding>,
        cubic_a: Option<f32>, extrapolation: Option<f32>, exclude_outside: bool, antialias: bool,
    }
}

impl OpSpec for Resize {
    const NAME: &'static str = "resize";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3, H, 4]) { %y = resize(%x) {sizes = [N, 3, 2*H, 8], scales = [1.0, 1.0, 2.0, 2.0], roi = [], mode = nearest, coordinates = asymmetric, rounding = floor} return %y }",
        "graph @g(%x: f32[N, 3, 4, 5]) { %y = resize(%x) {sizes = [N, 3, 7, 9], scales = [], roi = [], mode = linear, coordinates = half_pixel} %z = resize(%x) {sizes = [N, 3, 7, 9], scales = [], roi = [], mode = cubic, coordinates = align_corners, cubic_a = -0.75} return %y, %z }",
        "graph @g(%x: f16[N, 2, 4, 5]) { %y = resize(%x) {sizes = [N, 2, 7, 3], scales = [], roi = [], mode = linear, coordinates = half_pixel, antialias = true} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        let rank = self.sizes.len();
        let lengths = [(self.scales.len(), rank), (self.roi.len(), 2 * rank)];
        if x.dims().is_some_and(|d| d.len() != rank) || lengths.iter().any(|(n, full)| *n != 0 && n != full) {
            return Err(operands.wrong(0, format!("{x} does not fit {rank} sizes")));
        }
        if matches!(x.dtype, DType::Str | DType::Bool) && self.mode != ResizeMode::Nearest {
            return Err(operands.wrong(0, format!("{} has no value between two", x.dtype)));
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: Shape::Ranked(self.sizes.clone()) }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let sizes = super::sizes(&self.sizes)?;
        ensure(sizes.len() == x.rank(), || format!("{:?} does not fit {} sizes", x.dims(), sizes.len()))?;
        ensure(!x.is_empty() || sizes.contains(&0), || "nothing to take samples from".into())?;
        if self.mode == ResizeMode::Nearest && self.coordinates != Coordinates::CropAndResize {
            return Ok(vec![self.pick_nearest(x, &sizes)?.into()]);
        }
        let (mut v, mut dims) = (x.to_f64()?, x.dims().to_vec());
        for at in 0..x.rank() {
            let taps = self.taps(at, dims[at], sizes[at]);
            if let Some(taps) = taps {
                (v, dims) = apply(&v, &dims, at, &taps, self.extrapolation.unwrap_or(0.0) as f64);
            }
        }
        if let Some((low, high)) = x.dtype().int_range() {
            v.iter_mut().for_each(|v| *v = v.trunc().clamp(low as f64, high as f64));
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &sizes, &v)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        let taps = match self.mode {
            ResizeMode::Nearest => 0,
            ResizeMode::Linear => 6,
            ResizeMode::Cubic => 32,
        };
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * taps
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        match self.mode {
            ResizeMode::Nearest => Tolerance::EXACT,
            _ => Tolerance::roundings(dtype, 64.0),
        }
    }
}

/// The samples that one output element is made of with their weights; `None` is the extrapolation value.
pub type Taps = Option<Vec<(usize, f64)>>;

impl Resize {
    /// For every output element along one axis its `Taps`; `None` when the axis stays as it is.
    pub fn taps(&self, at: usize, input: usize, output: usize) -> Option<Vec<Taps>> {
        let crop = self.coordinates == Coordinates::CropAndResize && !self.roi.is_empty();
        let rank = self.sizes.len();
        let (start, end) = if crop { (self.roi[at] as f64, self.roi[rank + at] as f64) } else { (0.0, 1.0) };
        let scale = match self.scales.get(at) {
            Some(s) => *s as f64,
            None => output as f64 / input as f64,
        };
        if input == output && (scale - 1.0).abs() < 1e-9 && start == 0.0 && end == 1.0 {
            return None;
        }
        let (length, last) = (scale * input as f64, input as f64 - 1.0);
        let coordinate = |o: f64| match self.coordinates {
            Coordinates::AlignCorners if length == 1.0 => 0.0,
            Coordinates::AlignCorners => o * last / (length - 1.0),
            Coordinates::Asymmetric => o / scale,
            Coordinates::CropAndResize if length == 1.0 => (start + end) / 2.0 * last,
            Coordinates::CropAndResize => start * last + o * (end - start) * last / (length - 1.0),
            Coordinates::PytorchHalfPixel if length == 1.0 => -0.5,
            Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
            Coordinates::HalfPixelSymmetric => {
                input as f64 / 2.0 * (1.0 - output as f64 / length) + (o + 0.5) / scale - 0.5
            }
            Coordinates::HalfPixelFloor => (o + 0.5) / scale,
        };
        let one = |o: usize| {
            let x = coordinate(o as f64);
            if self.coordinates == Coordinates::CropAndResize && !(0.0..=last).contains(&x) {
                return None;
            }
            Some(self.samples(x, scale, input))
        };
        Some((0..output).map(one).collect())
    }

    fn samples(&self, x: f64, scale: f64, n: usize) -> Vec<(usize, f64)> {
        let inside = |i: f64| i.clamp(0.0, n as f64 - 1.0) as usize;
        let floor = x.floor();
        let rounded = match self.rounding.unwrap_or(Rounding::HalfDown) {
            Rounding::HalfDown => (x - 0.5).ceil(),
            Rounding::HalfUp => (x + 0.5).floor(),
            Rounding::Floor => floor,
            Rounding::Ceil => x.ceil(),
        };
        let shrink = if self.antialias { scale.min(1.0) } else { 1.0 };
        let a = self.cubic_a.unwrap_or(-0.75) as f64;
        let kernel = |d: f64| {
            let d = d.abs();
            match self.mode {
                ResizeMode::Linear => (1.0 - d).max(0.0),
                _ if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
                _ if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
                _ => 0.0,
            }
        };
        let reach = match self.mode {
            ResizeMode::Nearest => return vec![(inside(rounded), 1.0)],
            ResizeMode::Linear => 1.0,
            ResizeMode::Cubic => 2.0,
        } / shrink;
        let mut taps: Vec<(f64, f64)> = vec![];
        let mut i = (x - reach).floor() + 1.0;
        while i < x + reach {
            taps.push((i, kernel((i - x) * shrink)));
            i += 1.0;
        }
        if self.exclude_outside {
            taps.retain(|(i, _)| (0.0..n as f64).contains(i));
        }
        if self.exclude_outside || self.antialias {
            let sum: f64 = taps.iter().map(|(_, w)| w).sum();
            taps.iter_mut().for_each(|(_, w)| *w /= sum);
        }
        taps.into_iter().map(|(i, w)| (inside(i), w)).collect()
    }

    fn pick_nearest(&self, x: &Tensor, sizes: &[usize]) -> Result<Tensor, EvalError> {
        let strides = super::strides(x.dims());
        let mut from = vec![0usize];
        for at in 0..x.rank() {
            let along: Vec<usize> = match self.taps(at, x.dims()[at], sizes[at]) {
                Some(taps) => taps.into_iter().flatten().map(|t| t[0].0).collect(),
                None => (0..sizes[at]).collect(),
            };
            let step = strides[at];
            from = from.iter().flat_map(|base| along.iter().map(move |i| base + i * step)).collect();
        }
        Ok(x.pick(sizes, &from)?)
    }
}

fn apply(x: &[f64], dims: &[usize], at: usize, taps: &[Taps], outside: f64) -> (Vec<f64>, Vec<usize>) {
    let (outer, n, inner) = (dims[..at].iter().product::<usize>(), dims[at], dims[at + 1..].iter().product::<usize>());
    let mut y = vec![0.0; outer * taps.len() * inner];
    for o in 0..outer {
        for (t, tap) in taps.iter().enumerate() {
            let out = &mut y[(o * taps.len() + t) * inner..][..inner];
            let Some(tap) = tap else {
                out.fill(outside);
                continue;
            };
            for (i, weight) in tap {
                let row = &x[(o * n + i) * inner..][..inner];
                out.iter_mut().zip(row).for_each(|(y, x)| *y += weight * x);
            }
        }
    }
    let mut dims = dims.to_vec();
    dims[at] = taps.len();
    (y, dims)
}
