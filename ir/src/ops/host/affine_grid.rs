use super::{Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::dtype::DType;
use crate::op;
use crate::ops::reading::{self, invalid, tensor};
use crate::tensor::{Tensor, count};
use crate::types::{Shape, TensorType};

op! {
    /// `affine_grid(theta, size) {align_corners}`: ONNX AffineGrid: where each pixel of an image of `size` (`[N, C, H, W]`, or
    /// `[N, C, D, H, W]`) lies after the affine maps `theta[N, r, r + 1]`: `[N, H, W, 2]` with x before y, or `[N, D, H, W, 3]`.
    ///
    /// Along each dimension the image reaches from -1 to 1: from the first to the last pixel's centre with `align_corners`,
    /// else from outer edge to outer edge.
    pub struct AffineGrid { align_corners: bool }
}

impl OpSpec for AffineGrid {
    const NAME: &'static str = "affine_grid";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%t: f32[N, 2, 3], %l: f32[W]) { %s = dims() {elements = [N, 1, 4, W]} %y = affine_grid(%t, %s) {} return %y }",
        "graph @g(%t: f64[2, 3, 4]) { %s = const [2, 1, 2, 3, 4] : i64[5] %y = affine_grid(%t, %s) {align_corners = true} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        reading::takes_indices(operands, 1)?;
        let theta = operands.tensor(0)?;
        let Some(dims) = theta.dims() else { return Ok(vec![TensorType::unranked(theta.dtype).into()]) };
        let [n, rows, columns] = dims else {
            return Err(operands.wrong(0, format!("{theta} holds no affine maps")));
        };
        operands.assume_same(&(rows + 1), columns)?;
        let rank = rows.as_const().or_else(|| Some(operands.dims(1).ok()??.first()?.as_const()? - 2));
        let shape = match (rank, operands.elements(1)) {
            (_, Some([images, _, sizes @ ..])) => {
                operands.assume_same(n, images)?;
                Shape::Ranked([std::slice::from_ref(n), sizes, std::slice::from_ref(rows)].concat())
            }
            (Some(rank @ 1..=8), _) => {
                let sizes = (0..rank).map(|_| operands.late_dim());
                Shape::Ranked(std::iter::once(n.clone()).chain(sizes).chain([Dim::constant(rank)]).collect())
            }
            _ => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: theta.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (theta, size) = (tensor(operands, 0)?, tensor(operands, 1)?.to_i64()?);
        let [n, rows, columns] = *theta.dims() else { return Err(invalid("affine maps have rank 3")) };
        let sizes: Option<Vec<usize>> = size.iter().map(|d| usize::try_from(*d).ok()).collect();
        let sizes = sizes.filter(|s| s.len() == rows + 2 && s[0] == n && columns == rows + 1);
        let Some([_, _, image @ ..]) = sizes.as_deref() else {
            return Err(invalid(format!("the size {size:?} does not fit maps of {:?}", theta.dims())));
        };
        let dims = [&[n], image, &[rows]].concat();
        let (maps, pixels) = (theta.to_f64()?, count(image)?);
        let mut grid = Vec::with_capacity(count(&dims)?);
        for (map, pixel) in (0..n).flat_map(|m| (0..pixels).map(move |p| (m, p))) {
            // The last dimension is x, the first coordinate.
            let mut rest = pixel;
            let mut at: Vec<f64> = vec![];
            for extent in image.iter().rev() {
                at.push(self.coordinate(rest % extent, *extent));
                rest /= extent;
            }
            at.push(1.0);
            let rows = maps[map * rows * columns..][..rows * columns].chunks_exact(columns);
            grid.extend(rows.map(|row| row.iter().zip(&at).map(|(m, x)| m * x).sum::<f64>()));
        }
        Ok(vec![Tensor::from_f64(theta.dtype(), &dims, &grid)?.into()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 8.0)
    }
}

impl AffineGrid {
    /// Where pixel `i` of `n` lies between -1 and 1.
    fn coordinate(&self, i: usize, n: usize) -> f64 {
        match self.align_corners {
            true if n > 1 => 2.0 * i as f64 / (n as f64 - 1.0) - 1.0,
            true => -1.0,
            false => (2.0 * i as f64 + 1.0) / n as f64 - 1.0,
        }
    }
}
