use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, tensor};
use crate::ops::strides as row_major;
use crate::ops::window::Window;
use crate::tensor::{Tensor, count};
use crate::types::{Shape, TensorType};

op! {
    /// `deform_conv(x, w, offsets, bias?, mask?) {strides, pads, dilations, group, offset_group}`: ONNX DeformConv: `conv` of
    /// `x[N, C, spatial...]` with `w[M, C / group, kernel...]`, each window element displaced by its own offset, between elements
    /// linearly interpolated, 0 outside, and times the mask.
    ///
    /// `offsets[N, offset_group * prod(kernel) * r, out...]` holds the r coordinates of a window element side by side, the first
    /// dimension's first; `mask[N, offset_group * prod(kernel), out...]`. The channels are split among the offset groups.
    pub struct DeformConv { strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, group: i64, offset_group: i64 }
}

impl DeformConv {
    fn window(&self, kernel: &[Dim]) -> Window<'_> {
        let kernel = kernel.to_vec();
        let (strides, dilations, pads) = (&self.strides, &self.dilations, &self.pads);
        Window { kernel, strides, dilations, pads, same: None, ceil: false }
    }
}

impl OpSpec for DeformConv {
    const NAME: &'static str = "deform_conv";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 4, 5, 6], %w: f32[6, 2, 2, 3], %o: f32[N, 24, 3, 3], %b: f32[6], %m: f32[N, 12, 3, 3]) { %y = deform_conv(%x, %w, %o, %b, %m) {strides = [2, 2], pads = [1, 0, 0, 1], dilations = [1, 1], group = 2, offset_group = 2} return %y }",
        "graph @g(%x: f32[N, 1, 5], %w: f32[2, 1, 3], %o: f32[N, 3, 3]) { %y = deform_conv(%x, %w, %o) {strides = [1], pads = [0, 0], dilations = [1], group = 1, offset_group = 1} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 5)?;
        let x = operands.tensor(0)?;
        (1..operands.len()).filter(|i| operands.has(*i)).try_for_each(|i| reading::same_dtype(operands, 0, i))?;
        if !x.dtype.is_float() || self.group < 1 || self.offset_group < 1 {
            return Err(operands.wrong(0, format!("{x} has no windows in {} groups", self.group)));
        }
        let (Some(dims), Some(w)) = (x.dims(), operands.dims(1)?) else {
            return Ok(vec![TensorType::unranked(x.dtype).into()]);
        };
        let ([n, c, spatial @ ..], [m, c_group, kernel @ ..]) = (dims, w) else {
            return Err(operands.wrong(0, format!("{x} has no channels")));
        };
        operands.assume_same(c, &(c_group * self.group))?;
        if kernel.len() != spatial.len() || spatial.is_empty() {
            return Err(operands.wrong(1, format!("the weight has {} spatial dimensions", kernel.len())));
        }
        let out = self.window(kernel).outputs(spatial)?;
        let shape = Shape::Ranked([&[n.clone(), m.clone()], &out[..]].concat());
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, w, offsets) = (tensor(operands, 0)?, tensor(operands, 1)?, tensor(operands, 2)?);
        let (bias, mask) = (reading::optional(operands, 3)?, reading::optional(operands, 4)?);
        let ([n, c, spatial @ ..], [m, c_group, kernel @ ..]) = (x.dims(), w.dims()) else {
            return Err(invalid("a convolution takes channels"));
        };
        let kernel_dims: Vec<Dim> = kernel.iter().map(|k| Dim::from(*k)).collect();
        let axes = self.window(&kernel_dims).axes(spatial)?;
        let (r, out) = (spatial.len(), axes.iter().map(|a| a.output).collect::<Vec<_>>());
        let (elements, places, plane) = (count(kernel)?, count(&out)?, count(spatial)?);
        let (group, sets) = (self.group.max(1) as usize, self.offset_group.max(1) as usize);
        let per_place = |count: usize| [&[*n, count], &out[..]].concat();
        let fits = *c == c_group * group
            && m % group == 0
            && c % sets == 0
            && kernel.len() == r
            && offsets.dims() == per_place(sets * elements * r)
            && mask.is_none_or(|t| t.dims() == per_place(sets * elements))
            && bias.is_none_or(|t| t.dims() == [*m]);
        if !fits {
            return Err(invalid(format!("offsets of {:?} do not fit {} windows", offsets.dims(), places)));
        }
        let (v, w, offsets) = (x.to_f64()?, w.to_f64()?, offsets.to_f64()?);
        let bias = bias.map(Tensor::to_f64).transpose()?;
        let mask = mask.map(Tensor::to_f64).transpose()?;
        let (kernel_strides, out_strides, image_strides) = (row_major(kernel), row_major(&out), row_major(spatial));
        let mut y = vec![0.0; n * m * places];
        let mut columns = vec![0.0; c * elements];
        for (b, p) in (0..*n).flat_map(|b| (0..places).map(move |p| (b, p))) {
            for (set, e) in (0..sets).flat_map(|s| (0..elements).map(move |e| (s, e))) {
                let at: Vec<f64> = (0..r)
                    .map(|i| {
                        let (k, o) = (e / kernel_strides[i] % kernel[i], p / out_strides[i] % out[i]);
                        let fixed = (o * axes[i].stride + k * axes[i].dilation) as f64 - axes[i].before as f64;
                        fixed + offsets[(((b * sets + set) * elements + e) * r + i) * places + p]
                    })
                    .collect();
                let near = neighbours(&at, spatial, &image_strides);
                let scale = mask.as_ref().map_or(1.0, |m| m[((b * sets + set) * elements + e) * places + p]);
                for channel in set * (c / sets)..(set + 1) * (c / sets) {
                    let image = &v[(b * c + channel) * plane..][..plane];
                    let value: f64 = near.iter().map(|(i, weight)| image[*i] * weight).sum();
                    columns[channel * elements + e] = value * scale;
                }
            }
            for o in 0..*m {
                let first = o / (m / group) * c_group;
                let row = &w[o * c_group * elements..][..c_group * elements];
                let column = &columns[first * elements..][..c_group * elements];
                let sum: f64 = row.iter().zip(column).map(|(a, b)| a * b).sum();
                y[(b * m + o) * places + p] = sum + bias.as_ref().map_or(0.0, |b| b[o]);
            }
        }
        let dims = [&[*n, *m], &out[..]].concat();
        Ok(vec![Tensor::from_f64(x.dtype(), &dims, &y)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        let dims = |t: &ValueType| Some(t.as_tensor()?.dims()?.to_vec());
        let row = operands.get(1).and_then(|w| dims(w)).map(|w| w[1..].iter().cloned().product::<Dim>());
        let y: Dim = results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum();
        y * row.unwrap_or(Dim::constant(1)) * 2
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 64.0)
    }
}

/// The elements around a place with their weights; those outside are left out.
fn neighbours(at: &[f64], dims: &[usize], strides: &[usize]) -> Vec<(usize, f64)> {
    let mut near = vec![(0, 1.0)];
    for ((t, n), stride) in at.iter().zip(dims).zip(strides) {
        let first = t.floor();
        let line = [(first, 1.0 - (t - first)), (first + 1.0, t - first)];
        let inside = line.into_iter().filter(|(i, _)| *i >= 0.0 && *i < *n as f64 || i.is_nan());
        let line: Vec<(usize, f64)> = inside.map(|(i, w)| (i as usize * stride, w)).collect();
        near = near.iter().flat_map(|(i, w)| line.iter().map(move |(j, v)| (i + j, w * v))).collect();
    }
    near
}
