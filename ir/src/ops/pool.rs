use super::operand::{ensure, tensor};
use super::window::{Axis, SamePadding, Window, three};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::attr_enum;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

attr_enum! {
    /// How a window becomes one element.
    pub enum PoolFn {
        Max = "max", Average = "average",
        /// `(sum |x|^p)^(1/p)`
        Lp = "lp",
    }
}

op! {
    /// `pool(x) {f, kernel, strides, pads, dilations}`: windows over 1 to 3 spatial dimensions of `x[N, C, ..]`, each reduced to
    /// one element by `f`: the maximum, the average, or the `p`-norm.
    ///
    /// Padding never wins a maximum; the average divides by the elements that are not padding, or with `count_pads` by those
    /// of the padded input. `ceil` keeps a last window that is only partly inside.
    pub struct Pool {
        f: PoolFn, kernel: Vec<i64>, strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, same: Option<SamePadding>,
        ceil: bool, count_pads: bool, p: Option<i64>,
    }
}

impl Pool {
    /// The windows.
    pub fn window(&self) -> Window<'_> {
        window(&self.kernel, &self.strides, &self.dilations, &self.pads, self.same, self.ceil)
    }
}

pub(crate) fn window<'a>(
    kernel: &[i64],
    strides: &'a [i64],
    dilations: &'a [i64],
    pads: &'a [i64],
    same: Option<SamePadding>,
    ceil: bool,
) -> Window<'a> {
    Window { kernel: kernel.iter().map(|k| Dim::constant(*k)).collect(), strides, dilations, pads, same, ceil }
}

/// `[N, C, outputs..]`.
pub(crate) fn result_shape(operands: &Operands<'_>, window: &Window<'_>) -> Result<Shape, TypeError> {
    let Some(dims) = operands.dims(0)? else { return Ok(Shape::Unranked) };
    if dims.len() < 3 {
        return Err(operands.wrong(0, format!("{} has no spatial dimension", operands.tensor(0)?)));
    }
    Ok(Shape::Ranked([&dims[..2], &window.outputs(&dims[2..])?].concat()))
}

/// The elements of each window in order: `visit(output index, input index within the image)`.
pub(crate) fn visit([d, h, v]: &[Axis; 3], mut visit: impl FnMut(usize, usize)) {
    for o in 0..d.output * h.output * v.output {
        let (od, oh, ov) = (o / v.output / h.output, o / v.output % h.output, o % v.output);
        for kd in 0..d.kernel {
            let Some(id) = d.at(od, kd) else { continue };
            for kh in 0..h.kernel {
                let Some(ih) = h.at(oh, kh) else { continue };
                for kv in 0..v.kernel {
                    if let Some(iv) = v.at(ov, kv) {
                        visit(o, (id * h.input + ih) * v.input + iv);
                    }
                }
            }
        }
    }
}

/// How many elements of window `o` lie in the padded input.
fn padded_count(a: &Axis, o: usize) -> usize {
    let end = a.input as i64 + a.before + a.after;
    (0..a.kernel).filter(|k| ((o * a.stride + k * a.dilation) as i64) < end).count()
}

impl OpSpec for Pool {
    const NAME: &'static str = "pool";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3, H, 8]) { %y = pool(%x) {f = max, kernel = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], dilations = [1, 1]} return %y }",
        "graph @g(%x: f32[N, 3, 7, 8]) { %y = pool(%x) {f = average, kernel = [3, 2], strides = [2, 2], pads = [1, 0, 1, 0], dilations = [1, 1], ceil = true} %z = pool(%x) {f = average, kernel = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1], dilations = [1, 1], count_pads = true} return %y, %z }",
        "graph @g(%x: f32[N, 3, 9]) { %y = pool(%x) {f = lp, kernel = [3], strides = [2], pads = [], dilations = [1], same = upper, p = 2} return %y }",
        "graph @g(%x: f32[N, 3, 7, 8]) { %y = pool(%x) {f = average, kernel = [7, 8], strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1]} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        let fits = x.dtype.is_float() || self.f == PoolFn::Max && x.dtype.is_int();
        if !fits {
            return Err(operands.wrong(0, format!("pooling does not take {}", x.dtype)));
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: result_shape(operands, &self.window())? }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        ensure(x.rank() > 2, || format!("{:?} has no spatial dimension", x.dims()))?;
        let axes = self.window().axes(&x.dims()[2..])?;
        let all = three(&axes)?;
        let (image, plane) =
            (all.iter().map(|a| a.input).product::<usize>(), all.iter().map(|a| a.output).product::<usize>());
        let outer: usize = x.dims()[..2].iter().product();
        let xs = x.to_f64()?;
        let p = self.p.unwrap_or(2) as f64;
        let lowest = x.dtype().int_range().map_or(f64::NEG_INFINITY, |(low, _)| low as f64);
        let empty = if self.f == PoolFn::Max { lowest } else { 0.0 };
        let mut y = vec![empty; outer * plane];
        let mut counts = vec![0usize; plane];
        visit(&all, |o, _| counts[o] += 1);
        if self.count_pads {
            let [d, h, v] = &all;
            for (o, count) in counts.iter_mut().enumerate() {
                let (od, oh, ov) = (o / v.output / h.output, o / v.output % h.output, o % v.output);
                *count = padded_count(d, od) * padded_count(h, oh) * padded_count(v, ov);
            }
        }
        for i in 0..outer {
            let (x, y) = (&xs[i * image..][..image], &mut y[i * plane..][..plane]);
            match self.f {
                PoolFn::Max => visit(&all, |o, at| y[o] = if x[at] > y[o] || x[at].is_nan() { x[at] } else { y[o] }),
                PoolFn::Average => visit(&all, |o, at| y[o] += x[at]),
                PoolFn::Lp => visit(&all, |o, at| y[o] += x[at].abs().powf(p)),
            }
            match self.f {
                PoolFn::Max => {}
                PoolFn::Average => y.iter_mut().zip(&counts).for_each(|(v, n)| *v /= *n as f64),
                PoolFn::Lp => y.iter_mut().for_each(|v| *v = v.powf(1.0 / p)),
            }
        }
        let dims = [&x.dims()[..2], &axes.iter().map(|a| a.output).collect::<Vec<_>>()[..]].concat();
        Ok(vec![Tensor::from_f64(x.dtype(), &dims, &y)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        let out: Dim = results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum();
        out * self.kernel.iter().product::<i64>()
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        match self.f {
            PoolFn::Max => Tolerance::EXACT,
            _ => Tolerance::roundings(dtype, 16.0),
        }
    }
}
