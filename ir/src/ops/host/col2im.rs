use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, tensor};
use crate::ops::strides as row_major;
use crate::tensor::{Tensor, count};
use crate::types::{Shape, TensorType};

op! {
    /// `col2im(x, image, block) {dilations, pads, strides}`: ONNX Col2Im: the columns of `x[N, C * prod(block), L]` laid back
    /// where a window of shape `block` took them from, and summed: `[N, C, image...]`. Empty lists mean 1, and 0 for `pads`.
    pub struct Col2Im { dilations: Vec<i64>, pads: Vec<i64>, strides: Vec<i64> }
}

/// One dimension: sizes of image and block, dilation, padding before, stride, and how many places the window has.
struct Axis {
    image: usize,
    block: usize,
    dilation: i64,
    before: i64,
    stride: i64,
    places: usize,
}

impl Col2Im {
    fn axes(&self, image: &[i64], block: &[i64]) -> Result<Vec<Axis>, EvalError> {
        let n = image.len();
        let or = |list: &[i64], n: usize, value: i64| if list.is_empty() { vec![value; n] } else { list.to_vec() };
        let (dilations, strides, pads) = (or(&self.dilations, n, 1), or(&self.strides, n, 1), or(&self.pads, 2 * n, 0));
        let lengths = [block.len(), dilations.len(), strides.len()];
        if n == 0 || lengths != [n; 3] || pads.len() != 2 * n || strides.iter().chain(&dilations).any(|s| *s < 1) {
            return Err(invalid(format!("the attributes do not fit an image of {image:?} and a block of {block:?}")));
        }
        (0..n)
            .map(|i| {
                let extent = (block[i] - 1).saturating_mul(dilations[i]).saturating_add(1);
                let room = image[i].saturating_add(pads[i]).saturating_add(pads[n + i]).saturating_sub(extent);
                if image[i] < 0 || block[i] < 1 || room < 0 {
                    return Err(invalid(format!("a block of {block:?} does not fit an image of {image:?}")));
                }
                Ok(Axis {
                    image: image[i] as usize,
                    block: block[i] as usize,
                    dilation: dilations[i],
                    before: pads[i],
                    stride: strides[i],
                    places: (room / strides[i] + 1) as usize,
                })
            })
            .collect()
    }
}

impl OpSpec for Col2Im {
    const NAME: &'static str = "col2im";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 12, 12]) { %i = const [4, 5] : i64[2] %b = const [2, 2] : i64[2] %y = col2im(%x, %i, %b) {dilations = [], pads = [], strides = []} return %y }",
        "graph @g(%x: f32[N, 4, 12]) { %i = const [4, 6] : i64[2] %b = const [2, 2] : i64[2] %y = col2im(%x, %i, %b) {dilations = [1, 3], pads = [2, 0, 1, 1], strides = [2, 1]} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 3)?;
        reading::takes_indices(operands, 1)?;
        reading::takes_indices(operands, 2)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() && !x.dtype.is_int() {
            return Err(operands.wrong(0, format!("sums do not take {}", x.dtype)));
        }
        let (n, rows) = match x.dims() {
            Some([n, rows, _]) => (n.clone(), Some(rows)),
            Some(_) => return Err(operands.wrong(0, "columns have rank 3")),
            None => (operands.late_dim(), None),
        };
        let block = operands.elements(2).map(|b| b.iter().cloned().product::<Dim>());
        let channels = rows.zip(block).and_then(|(rows, block)| rows.exact_div(&block));
        let channels = channels.unwrap_or_else(|| operands.late_dim());
        let rank = reading::known_length(operands, 1).or_else(|| reading::known_length(operands, 2));
        let shape = match (operands.elements(1), rank) {
            (Some(image), _) => Shape::Ranked([&[n, channels], image].concat()),
            (None, Some(rank)) => {
                Shape::Ranked([n, channels].into_iter().chain((0..rank).map(|_| operands.late_dim())).collect())
            }
            (None, None) => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, image, block) = (tensor(operands, 0)?, tensor(operands, 1)?.to_i64()?, tensor(operands, 2)?.to_i64()?);
        let axes = self.axes(&image, &block)?;
        let [n, rows, columns] = *x.dims() else { return Err(invalid("columns have rank 3")) };
        let (blocks, places): (Vec<usize>, Vec<usize>) = axes.iter().map(|a| (a.block, a.places)).unzip();
        let (in_block, in_places) = (count(&blocks)?, count(&places)?);
        if rows % in_block != 0 || columns != in_places {
            return Err(invalid(format!("{rows} rows of {columns} do not come from {in_places} places of {blocks:?}")));
        }
        let channels = rows / in_block;
        let sizes: Vec<usize> = axes.iter().map(|a| a.image).collect();
        let (dims, plane) = ([&[n, channels], &sizes[..]].concat(), count(&sizes)?);
        let (v, to_image) = (x.to_f64()?, row_major(&sizes));
        let mut y = vec![0.0; count(&dims)?];
        for (e, p) in (0..in_block).flat_map(|e| (0..in_places).map(move |p| (e, p))) {
            let Some(at) = place(&axes, &to_image, e, p) else { continue };
            for c in 0..n * channels {
                y[c * plane + at] += v[(c * in_block + e) * columns + p];
            }
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &dims, &y)?.into()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}

/// The image's element that element `e` of the block covers at place `p`; `None` in the padding.
fn place(axes: &[Axis], strides: &[usize], mut e: usize, mut p: usize) -> Option<usize> {
    let mut at = 0;
    for (a, stride) in axes.iter().zip(strides).rev() {
        let i = (p % a.places) as i64 * a.stride - a.before + (e % a.block) as i64 * a.dilation;
        at += usize::try_from(i).ok().filter(|i| *i < a.image)? * stride;
        (e, p) = (e / a.block, p / a.places);
    }
    Some(at)
}
