use super::operand::{ensure, floats, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `conv_transpose(x, w, bias?) {strides, pads, dilations, output_padding, group}`: the gradient of `conv` over 1 to 3
    /// spatial dimensions: `x[N, C, ..]`, `w[C, M/group, ..]`, `bias[M]` -> `[N, M, ..]`.
    ///
    /// A dimension of n gives `stride (n - 1) + output_padding + dilation (kernel - 1) + 1 - pads`. `pads` lists all
    /// beginnings, then all ends; they may depend on symbols, which is how a model that names its output size is written.
    pub struct ConvTranspose { strides: Vec<i64>, pads: Vec<Dim>, dilations: Vec<i64>, output_padding: Vec<i64>, group: i64 }
}

impl ConvTranspose {
    /// Sizes of the result from those of the input and of the window.
    pub fn outputs(&self, input: &[Dim], kernel: &[Dim]) -> Result<Vec<Dim>, TypeError> {
        let n = input.len();
        let lengths = [kernel.len(), self.strides.len(), self.dilations.len(), self.output_padding.len()];
        if lengths.iter().any(|l| *l != n) || self.pads.len() != 2 * n {
            return Err(TypeError::Invalid(format!("{n} spatial dimensions do not fit the attributes")));
        }
        if let Some(k) = kernel.iter().find(|k| k.as_const().is_some_and(|k| k < 1)) {
            return Err(TypeError::Invalid(format!("a window of {k} elements; it has at least 1")));
        }
        let one = |i: usize| {
            let extent = (&kernel[i] - 1) * self.dilations[i] + 1;
            (&input[i] - 1) * self.strides[i] + self.output_padding[i] + extent - &self.pads[i] - &self.pads[n + i]
        };
        Ok((0..n).map(one).collect())
    }
}

impl OpSpec for ConvTranspose {
    const NAME: &'static str = "conv_transpose";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 4, H, 5], %w: f32[4, 3, 2, 2], %b: f32[3]) { %y = conv_transpose(%x, %w, %b) {strides = [2, 2], pads = [0, 0, 0, 0], dilations = [1, 1], output_padding = [0, 0], group = 1} return %y }",
        "graph @g(%x: f32[N, 4, 7], %w: f32[4, 2, 3]) { %y = conv_transpose(%x, %w) {strides = [3], pads = [1, 1], dilations = [2], output_padding = [1], group = 2} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 3)?;
        let (x, w) = (operands.tensor(0)?, operands.tensor(1)?);
        if !x.dtype.is_float() || !w.dtype.is_float() || self.group < 1 {
            return Err(operands.wrong(0, format!("{} with {} is not a float convolution", x.dtype, w.dtype)));
        }
        let (Some(xd), Some(wd)) = (x.dims(), w.dims()) else {
            return Ok(vec![TensorType::unranked(x.dtype).into()]);
        };
        if xd.len() != wd.len() || xd.len() < 3 {
            return Err(operands.wrong(1, format!("{w} is not a window over {x}")));
        }
        operands.assume_same(&xd[1], &wd[0])?;
        let outputs = self.outputs(&xd[2..], &wd[2..])?;
        let channels = &wd[1] * self.group;
        if operands.has(2) {
            match operands.dims(2)? {
                Some([b]) => operands.assume_same(b, &channels)?,
                Some(_) => return Err(operands.wrong(2, format!("it is not [{channels}]"))),
                None => {}
            }
        }
        let shape = Shape::Ranked([&[xd[0].clone(), channels], &outputs[..]].concat());
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, w) = (tensor(Self::NAME, operands, 0)?, tensor(Self::NAME, operands, 1)?);
        let (xd, wd, group) = (x.dims(), w.dims(), self.group as usize);
        let fits = xd.len() == wd.len() && (3..=5).contains(&xd.len()) && xd[1] == wd[0] && wd[0] % group == 0;
        ensure(fits, || format!("a weight of {wd:?} in {group} groups does not fit an input of {xd:?}"))?;
        let dims = |d: &[usize]| d.iter().map(|n| Dim::from(*n)).collect::<Vec<_>>();
        let outputs = self.outputs(&dims(&xd[2..]), &dims(&wd[2..])).map_err(super::operand::invalid)?;
        let out = super::sizes(&outputs)?;
        let before = super::numbers(&self.pads[..out.len()])?;
        let (n, c, per_group) = (xd[0], xd[1], wd[1]);
        let m = per_group * group;
        // Leading dimensions of 1 make every case three-dimensional.
        let lead = 3 - out.len();
        let pad = |d: &[usize], fill: usize| [&vec![fill; lead][..], d].concat();
        let (input, kernel, size) = (pad(&xd[2..], 1), pad(&wd[2..], 1), pad(&out, 1));
        let of = |list: &[i64], i: usize, otherwise: i64| if i < lead { otherwise } else { list[i - lead] };
        let place = |axis: usize, i: usize, k: usize| {
            let at =
                i as i64 * of(&self.strides, axis, 1) + k as i64 * of(&self.dilations, axis, 1) - of(&before, axis, 0);
            usize::try_from(at).ok().filter(|at| *at < size[axis])
        };
        let (image, window, plane) =
            (input.iter().product::<usize>(), kernel.iter().product::<usize>(), size.iter().product::<usize>());
        let (xs, ws) = (x.to_f64()?, w.to_f64()?);
        let mut y = vec![0.0; n * m * plane];
        for (b, ci) in (0..n).flat_map(|b| (0..c).map(move |ci| (b, ci))) {
            let first = ci / (c / group) * per_group;
            for (o, k) in (0..per_group).flat_map(|o| (0..window).map(move |k| (o, k))) {
                let weight = ws[(ci * per_group + o) * window + k];
                let k = [k / kernel[2] / kernel[1], k / kernel[2] % kernel[1], k % kernel[2]];
                for i in 0..image {
                    let at = [i / input[2] / input[1], i / input[2] % input[1], i % input[2]];
                    let Some(d) = place(0, at[0], k[0]) else { continue };
                    let Some(h) = place(1, at[1], k[1]) else { continue };
                    let Some(v) = place(2, at[2], k[2]) else { continue };
                    let to = (b * m + first + o) * plane + (d * size[1] + h) * size[2] + v;
                    y[to] += weight * xs[(b * c + ci) * image + i];
                }
            }
        }
        if let Some(bias) = floats(operands, 2)? {
            ensure(bias.len() == m, || format!("{} biases for {m} channels", bias.len()))?;
            y.chunks_exact_mut(plane.max(1))
                .enumerate()
                .for_each(|(i, p)| p.iter_mut().for_each(|v| *v += bias[i % m]));
        }
        Ok(vec![Tensor::from_f64(x.dtype(), &[&[n, m], &out[..]].concat(), &y)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        let weight =
            operands[1].as_tensor().and_then(|t| t.dims()?.get(1..).map(|d| d.iter().cloned().product::<Dim>()));
        let input = operands[0].as_tensor().and_then(|t| t.shape.elements());
        weight.zip(input).map_or(Dim::constant(0), |(w, n)| n * w * 2)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}
