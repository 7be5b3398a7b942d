use super::activation::{ActivationFn, parameters};
use super::operand::{ensure, floats, tensor};
use super::window::{Axis, SamePadding, Window, three};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `conv(x, w, bias?, residual?) {strides, pads, dilations, group}`: cross-correlation over 1 to 3 spatial dimensions:
    /// `x[N, C, ..]`, `w[M, C/group, ..]`, `bias[M]` -> `[N, M, ..]`.
    ///
    /// `pads` lists all beginnings, then all ends; `same` computes them instead. `residual`, of the result's shape, is added,
    /// then `act` (with `alpha`, `beta`) is applied. `w` may be of another float type than `x`.
    pub struct Conv {
        strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, group: i64, same: Option<SamePadding>,
        act: Option<ActivationFn>, alpha: Option<f32>, beta: Option<f32>,
    }
}

impl Conv {
    /// The windows of this convolution, given the dimensions of the weight.
    pub fn window(&self, w: &[Dim]) -> Window<'_> {
        Window {
            kernel: w.get(2..).unwrap_or_default().to_vec(),
            strides: &self.strides,
            dilations: &self.dilations,
            pads: &self.pads,
            same: self.same,
            ceil: false,
        }
    }
}

impl OpSpec for Conv {
    const NAME: &'static str = "conv";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 4, H, 9], %w: f32[6, 4, 3, 3], %b: f32[6]) { %y = conv(%x, %w, %b) {strides = [1, 2], pads = [1, 1, 1, 1], dilations = [1, 1], group = 1} return %y }",
        "graph @g(%x: f32[N, 4, 9, 8], %w: f32[4, 1, 3, 3], %b: f32[4]) { %y = conv(%x, %w, %b) {strides = [2, 2], pads = [], dilations = [1, 1], group = 4, same = upper, act = relu} return %y }",
        "graph @g(%x: f32[N, 4, H, 1], %w: f32[4, 1, 5, 1], %b: f32[4]) { %y = conv(%x, %w, %b) {strides = [1, 1], pads = [3, 0, 1, 0], dilations = [1, 1], group = 4} return %y }",
        "graph @g(%x: f32[N, 4, 9, 1], %w: f32[6, 4, 3, 1]) { %y = conv(%x, %w) {strides = [2, 1], pads = [0, 0, 1, 0], dilations = [2, 1], group = 1} return %y }",
        "graph @g(%x: f32[N, 4, 16], %w: f32[8, 2, 5]) { %y = conv(%x, %w) {strides = [1], pads = [4, 0], dilations = [2], group = 2} return %y }",
        "graph @g(%x: f32[1, 2, 4, 5, 6], %w: f32[3, 2, 1, 2, 3]) { %y = conv(%x, %w) {strides = [1, 1, 1], pads = [0, 0, 0, 0, 1, 1], dilations = [1, 1, 1], group = 1} return %y }",
        "graph @g(%x: f32[N, 8, 6, 6], %w: f32[16, 8, 1, 1], %b: f32[16], %r: f32[N, 16, 6, 6]) { %y = conv(%x, %w, %b, %r) {strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1], group = 1, act = clip, alpha = 0.0, beta = 6.0} return %y }",
        "graph @g(%x: f16[N, 4, 6, 5], %w: f16[6, 4, 3, 3], %b: f16[6]) { %y = conv(%x, %w, %b) {strides = [1, 1], pads = [1, 1, 1, 1], dilations = [1, 1], group = 1} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 4)?;
        let (x, w) = (operands.tensor(0)?, operands.tensor(1)?);
        if !x.dtype.is_float() || !w.dtype.is_float() {
            return Err(operands.wrong(0, format!("{} with {} is not a float convolution", x.dtype, w.dtype)));
        }
        let shape = result_shape(operands, self.group, |w| self.window(w))?;
        if let (Some(dims), true) = (shape.dims(), operands.has(2)) {
            match operands.dims(2)? {
                Some([b]) => operands.assume_same(b, &dims[1])?,
                Some(_) => return Err(operands.wrong(2, format!("{} is not [{}]", operands.tensor(2)?, dims[1]))),
                None => {}
            }
        }
        if let (Some(dims), true) = (shape.dims(), operands.has(3)) {
            let residual = operands.dims(3)?.unwrap_or(dims);
            if residual.len() != dims.len() {
                return Err(operands.wrong(3, "the residual is not of the result's shape"));
            }
            residual.iter().zip(dims).try_for_each(|(a, b)| operands.assume_same(a, b))?;
        }
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, w) = (tensor(Self::NAME, operands, 0)?, tensor(Self::NAME, operands, 1)?);
        let axes = axes(x, w, self.group, |w| self.window(w))?;
        let mut y = convolve(&x.to_f64()?, x.dims(), &w.to_f64()?, w.dims(), &three(&axes)?, self.group as usize);
        let dims = [&[x.dims()[0], w.dims()[0]], &axes.iter().map(|a| a.output).collect::<Vec<_>>()[..]].concat();
        if let Some(bias) = floats(operands, 2)? {
            let plane: usize = dims[2..].iter().product();
            y.chunks_exact_mut(plane.max(1))
                .enumerate()
                .for_each(|(i, p)| p.iter_mut().for_each(|v| *v += bias[i % bias.len()]));
        }
        if let Some(residual) = floats(operands, 3)? {
            ensure(residual.len() == y.len(), || "the residual is not of the result's shape".into())?;
            y.iter_mut().zip(residual).for_each(|(v, r)| *v += r);
        }
        if let Some(f) = self.act {
            let (alpha, beta) = parameters(f, self.alpha, self.beta);
            y.iter_mut().for_each(|v| *v = f.float(*v, alpha, beta));
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &dims, &y)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        flops(operands, results)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}

/// Two operations per weight element and output position.
pub(crate) fn flops(operands: &[&ValueType], results: &[ValueType]) -> Dim {
    let weight = operands[1].as_tensor().and_then(|t| t.dims()?.get(1..).map(|d| d.iter().cloned().product::<Dim>()));
    let out = results[0].as_tensor().and_then(|t| t.shape.elements());
    weight.zip(out).map_or(Dim::constant(0), |(w, out)| out * w * 2)
}

/// `[N, M, outputs..]` of operands 0 and 1.
pub(crate) fn result_shape<'a>(
    operands: &Operands<'_>,
    group: i64,
    window: impl FnOnce(&[Dim]) -> Window<'a>,
) -> Result<Shape, TypeError> {
    let Some(w) = operands.dims(1)? else { return Ok(Shape::Unranked) };
    if w.len() < 3 {
        return Err(operands.wrong(1, format!("{} has no window", operands.tensor(1)?)));
    }
    if group < 1 || w[0].as_const().is_some_and(|m| m % group != 0) {
        return Err(operands.wrong(1, format!("{} outputs do not split into {group} groups", w[0])));
    }
    let Some(x) = operands.dims(0)? else { return Ok(Shape::Unranked) };
    if x.len() != w.len() {
        return Err(operands.wrong(1, format!("its rank {} is not {}, the rank of the input", w.len(), x.len())));
    }
    operands.assume_same(&x[1], &(&w[1] * group))?;
    let outputs = window(w).outputs(&x[2..])?;
    Ok(Shape::Ranked([&[x[0].clone(), w[0].clone()], &outputs[..]].concat()))
}

/// The windows over these values, after checking that they fit together.
pub(crate) fn axes<'a>(
    x: &Tensor,
    w: &Tensor,
    group: i64,
    window: impl FnOnce(&[Dim]) -> Window<'a>,
) -> Result<Vec<Axis>, EvalError> {
    let (xd, wd) = (x.dims(), w.dims());
    let fits = xd.len() == wd.len() && xd.len() > 2 && xd[1] == wd[1] * group as usize && wd[0] % group as usize == 0;
    ensure(fits, || format!("a weight of {wd:?} in {group} groups does not fit an input of {xd:?}"))?;
    let kernel: Vec<Dim> = wd.iter().map(|n| Dim::from(*n)).collect();
    window(&kernel).axes(&xd[2..])
}

/// Direct convolution of `x[N, C, ..]` with `w[M, C/group, ..]`.
pub(crate) fn convolve(x: &[f64], xd: &[usize], w: &[f64], wd: &[usize], axes: &[Axis; 3], group: usize) -> Vec<f64> {
    let [d, h, v] = axes;
    let (n, c, m, per_group) = (xd[0], xd[1], wd[0], wd[1]);
    let (image, plane) = (d.input * h.input * v.input, d.output * h.output * v.output);
    let window = d.kernel * h.kernel * v.kernel;
    let mut y = vec![0.0; n * m * plane];
    if y.is_empty() || x.is_empty() {
        return y;
    }
    for (i, out) in y.chunks_exact_mut(plane).enumerate() {
        let (batch, o) = (i / m, i % m);
        let first = o / (m / group) * per_group;
        for p in 0..per_group {
            let image_at = (batch * c + first + p) * image;
            let x = &x[image_at..image_at + image];
            for k in 0..window {
                let weight = w[(o * per_group + p) * window + k];
                let (kd, kh, kv) = (k / v.kernel / h.kernel, k / v.kernel % h.kernel, k % v.kernel);
                for (od, oh) in d.inside(kd).flat_map(|od| h.inside(kh).map(move |oh| (od, oh))) {
                    let (id, ih) = (od * d.stride + kd * d.dilation, oh * h.stride + kh * h.dilation);
                    let (id, ih) = ((id as i64 - d.before) as usize, (ih as i64 - h.before) as usize);
                    let row = &x[(id * h.input + ih) * v.input..][..v.input];
                    let out = &mut out[(od * h.output + oh) * v.output..][..v.output];
                    for ov in v.inside(kv) {
                        let iv = ((ov * v.stride + kv * v.dilation) as i64 - v.before) as usize;
                        out[ov] += weight * row[iv];
                    }
                }
            }
        }
    }
    y
}
