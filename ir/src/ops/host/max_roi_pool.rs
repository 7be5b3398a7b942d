use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `max_roi_pool(x, rois) {height, width, scale}`: `[regions, C, height, width]`, the largest elements of the cells of
    /// regions of `x[N, C, H, W]`.
    ///
    /// A row of `rois` is the image and the corners x1, y1, x2, y2 (inclusive), which `scale` turns into pixels and which are
    /// rounded, halves away from 0. Cells outside the image are 0.
    pub struct MaxRoiPool { height: i64, width: i64, scale: f32 }
}

impl OpSpec for MaxRoiPool {
    const NAME: &'static str = "max_roi_pool";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 2, 5, 6]) { %r = const [0, 0, 0, 5, 4, 0, 1, 1, 3, 2] : f32[2, 5] %y = max_roi_pool(%x, %r) {height = 2, width = 3, scale = 1.0} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (x, rois) = (operands.tensor(0)?, operands.tensor(1)?);
        if !x.dtype.is_float() || !rois.dtype.is_float() || self.height < 1 || self.width < 1 {
            return Err(operands.wrong(0, format!("{}x{} cells of {x} at {rois}", self.height, self.width)));
        }
        let channels = match x.dims() {
            Some([_, c, _, _]) => c.clone(),
            None => operands.late_dim(),
            Some(_) => return Err(operands.wrong(0, format!("{x} holds no images"))),
        };
        let regions = match rois.dims() {
            Some([regions, five]) => {
                operands.assume_same(five, &Dim::constant(5))?;
                regions.clone()
            }
            None => operands.late_dim(),
            Some(_) => return Err(operands.wrong(1, format!("{rois} holds no rows of five numbers"))),
        };
        let dims = [regions, channels, Dim::constant(self.height), Dim::constant(self.width)];
        Ok(vec![TensorType::new(x.dtype, dims).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, rois) = (tensor(operands, 0)?, tensor(operands, 1)?);
        let (&[n, c, h, w], &[regions, 5]) = (x.dims(), rois.dims()) else {
            return Err(invalid("images have rank 4, and regions are rows of five numbers"));
        };
        let (xs, rois) = (x.to_f64()?, rois.to_f64()?);
        let mut y = Vec::with_capacity(crate::tensor::count(&[regions, c, self.height as usize, self.width as usize])?);
        for roi in rois.chunks_exact(5) {
            let image = roi[0] as i64;
            let image = usize::try_from(image).ok().filter(|i| *i < n);
            let image = image.ok_or_else(|| invalid(format!("a region of image {}, there are {n}", roi[0])))?;
            let corner = |i: usize| (roi[i] * f64::from(self.scale)).round();
            let rows = cells(corner(2), corner(4), self.height, h);
            let columns = cells(corner(1), corner(3), self.width, w);
            for channel in 0..c {
                let plane = &xs[(image * c + channel) * h * w..][..h * w];
                for (r, k) in rows.iter().flat_map(|r| columns.iter().map(move |k| (r, k))) {
                    let inside = r.clone().flat_map(|i| plane[i * w..][..w][k.clone()].iter().copied());
                    y.push(inside.reduce(f64::max).unwrap_or(0.0));
                }
            }
        }
        let dims = [regions, c, self.height as usize, self.width as usize];
        Ok(vec![Tensor::from_f64(x.dtype(), &dims, &y)?.into()])
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}

/// The pixels of every cell of a region from `start` to `end`, inclusive, within `size` pixels.
fn cells(start: f64, end: f64, count: i64, size: usize) -> Vec<std::ops::Range<usize>> {
    let length = (end - start + 1.0).max(1.0) / count as f64;
    let clip = |v: f64| (v + start).clamp(0.0, size as f64) as usize;
    let cell = |i: i64| {
        let (from, to) = (clip((i as f64 * length).floor()), clip(((i + 1) as f64 * length).ceil()));
        from..to.max(from)
    };
    (0..count).map(cell).collect()
}
