use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::operand::{ensure, tensor};
use crate::ops::pool::{result_shape, visit, window};
use crate::ops::window::{SamePadding, Window, three};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `max_pool_indices(x) {kernel, strides, pads, dilations}`: `pool` with `f = max`, and as a second result the position of
    /// each maximum in the whole of `x`, row-major, or with `column_major` with the spatial dimensions counted first to last.
    pub struct MaxPoolIndices {
        kernel: Vec<i64>, strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, same: Option<SamePadding>, ceil: bool,
        column_major: bool,
    }
}

impl MaxPoolIndices {
    fn window(&self) -> Window<'_> {
        window(&self.kernel, &self.strides, &self.dilations, &self.pads, self.same, self.ceil)
    }
}

impl OpSpec for MaxPoolIndices {
    const NAME: &'static str = "max_pool_indices";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 2, 5, 5]) { %y, %i = max_pool_indices(%x) {kernel = [2, 2], strides = [2, 2], pads = [0, 0, 1, 1], dilations = [1, 1]} return %y, %i }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() && !x.dtype.is_int() {
            return Err(operands.wrong(0, format!("pooling does not take {}", x.dtype)));
        }
        let shape = result_shape(operands, &self.window())?;
        let indices = TensorType { dtype: DType::I64, shape: shape.clone() };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into(), indices.into()])
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
        let mut from = vec![None; outer * plane];
        for i in 0..outer {
            visit(&all, |o, at| {
                let best = &mut from[i * plane + o];
                let at = i * image + at;
                if best.is_none_or(|b: usize| xs[at] > xs[b]) {
                    *best = Some(at);
                }
            });
        }
        let from: Option<Vec<usize>> = from.into_iter().collect();
        let from = from.ok_or_else(|| EvalError::Invalid("a window holds nothing but padding".into()))?;
        let dims = [&x.dims()[..2], &axes.iter().map(|a| a.output).collect::<Vec<_>>()[..]].concat();
        let y = x.pick(&dims, &from)?;
        let column_major = |at: usize| {
            let (mut rest, mut row, mut column, mut to) = (at % image, image, 1, at / image * image);
            for n in &x.dims()[2..] {
                row /= n;
                to += rest / row * column;
                rest %= row;
                column *= n;
            }
            to
        };
        let indices: Vec<i64> =
            from.iter().map(|at| if self.column_major { column_major(*at) } else { *at } as i64).collect();
        Ok(vec![y.into(), Tensor::from_slice(&dims, &indices)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        let out = results[0].as_tensor().and_then(|t| t.shape.elements()).unwrap_or(Dim::constant(0));
        out * self.kernel.iter().product::<i64>()
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
