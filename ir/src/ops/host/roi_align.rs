use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, tensor};
use crate::tensor::{Tensor, count};
use crate::types::TensorType;

op! {
    /// `roi_align(x, rois, images) {max, height, width, samples, scale, half_pixel}`: ONNX RoiAlign: each of `rois[R, 4]` (x1, y1,
    /// x2, y2, times `scale`) of the image `images[r]` of `x[N, C, H, W]` cut into `height` by `width` bins:
    /// `[R, C, height, width]`.
    ///
    /// A bin is the mean of `samples` by `samples` bilinearly interpolated places (as many as elements fit, when `samples` is 0);
    /// places more than one element outside are 0. With `max` it is the largest of the four weighted neighbours of all places.
    /// `half_pixel` moves regions by half an element; without it they are at least one element large.
    pub struct RoiAlign { max: bool, height: i64, width: i64, samples: i64, scale: f32, half_pixel: bool }
}

impl OpSpec for RoiAlign {
    const NAME: &'static str = "roi_align";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[3, C, 5, 6], %r: f32[N, 4], %i: i64[N]) { %a = roi_align(%x, %r, %i) {height = 2, width = 3, samples = 2, scale = 2.0, half_pixel = true} %b = roi_align(%x, %r, %i) {max = true, height = 2, width = 2, samples = 0, scale = 1.0} return %a, %b }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 3)?;
        reading::same_dtype(operands, 0, 1)?;
        reading::takes_indices(operands, 2)?;
        let x = operands.tensor(0)?;
        let c = match x.dims() {
            Some([_, c, _, _]) if x.dtype.is_float() => c.clone(),
            None => operands.late_dim(),
            Some(_) => return Err(operands.wrong(0, format!("{x} holds no images of floats"))),
        };
        if self.height < 1 || self.width < 1 || self.samples < 0 {
            return Err(TypeError::Invalid(format!("{} by {} bins", self.height, self.width)));
        }
        let regions = match (operands.dims(1)?, operands.dims(2)?) {
            (Some([n, four]), _) => {
                operands.assume_same(four, &Dim::constant(4))?;
                n.clone()
            }
            (None, Some([n])) => n.clone(),
            (None, None) => operands.late_dim(),
            _ => return Err(operands.wrong(1, "regions are rows of four numbers")),
        };
        let dims = [regions, c, Dim::constant(self.height), Dim::constant(self.width)];
        Ok(vec![TensorType::new(x.dtype, dims).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, rois, images) = (tensor(operands, 0)?, tensor(operands, 1)?, tensor(operands, 2)?);
        let [n, c, h, w] = *x.dims() else { return Err(invalid("images have rank 4")) };
        let images = crate::ops::indices(images, n)?;
        if rois.dims() != [images.len(), 4] || h * w == 0 && !images.is_empty() {
            return Err(invalid(format!("{:?} holds no regions of {:?}", rois.dims(), x.dims())));
        }
        let (height, width) = (self.height.max(1) as usize, self.width.max(1) as usize);
        let (v, rois) = (x.to_f64()?, rois.to_f64()?);
        let dims = [images.len(), c, height, width];
        let mut y = vec![0.0; count(&dims)?];
        for (r, image) in images.iter().enumerate() {
            let bound = |i: usize| rois[r * 4 + i] * f64::from(self.scale) - if self.half_pixel { 0.5 } else { 0.0 };
            let across = self.places(bound(0), bound(2), width, w)?;
            let down = self.places(bound(1), bound(3), height, h)?;
            for (bin, channel) in (0..height * width).flat_map(|b| (0..c).map(move |c| (b, c))) {
                let plane = &v[(image * c + channel) * h * w..][..h * w];
                let (rows, columns) = (&down[bin / width], &across[bin % width]);
                let weighted = rows.iter().flat_map(|row| columns.iter().map(move |column| four(plane, w, row, column)));
                y[(r * c + channel) * height * width + bin] = match self.max {
                    true => weighted.flatten().reduce(f64::max).unwrap_or(0.0),
                    false => weighted.flatten().sum::<f64>() / (rows.len() * columns.len()).max(1) as f64,
                };
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &dims, &y)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        let places = self.samples.max(1) * self.samples.max(1);
        results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * (places * 8)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 32.0)
    }
}

/// A place along one dimension: its two neighbours and their weights.
type Place = [(usize, f64); 2];

/// More places than this in a bin are a mistake in the region.
const MOST_SAMPLES: f64 = 65536.0;

impl RoiAlign {
    /// The places in each of `bins` bins between `begin` and `end`, in a dimension of `n` elements.
    fn places(&self, begin: f64, end: f64, bins: usize, n: usize) -> Result<Vec<Vec<Place>>, EvalError> {
        let extent = if self.half_pixel { end - begin } else { (end - begin).max(1.0) };
        let bin = extent / bins as f64;
        let samples = if self.samples > 0 { self.samples as f64 } else { bin.ceil().max(0.0) };
        if !extent.is_finite() || samples > MOST_SAMPLES {
            return Err(invalid(format!("a region from {begin} to {end}")));
        }
        let place = |i: usize, s: usize| {
            let at = begin + i as f64 * bin + (s as f64 + 0.5) * bin / samples;
            if at < -1.0 || at > n as f64 {
                return [(0, 0.0), (0, 0.0)];
            }
            let at = at.clamp(0.0, n as f64 - 1.0);
            let low = at.floor();
            [(low as usize, 1.0 - (at - low)), ((low as usize + 1).min(n - 1), at - low)]
        };
        Ok((0..bins).map(|i| (0..samples as usize).map(|s| place(i, s)).collect()).collect())
    }
}

/// The four neighbours of a place, weighted.
fn four(plane: &[f64], width: usize, row: &Place, column: &Place) -> [f64; 4] {
    let one = |(i, u): (usize, f64), (j, v): (usize, f64)| {
        let weight = u * v;
        plane[i * width + j] * weight
    };
    [one(row[0], column[0]), one(row[0], column[1]), one(row[1], column[0]), one(row[1], column[1])]
}
