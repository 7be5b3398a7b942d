use super::conv::{axes, convolve, flops, result_shape};
use super::operand::{ensure, floats, tensor};
use super::window::{SamePadding, Window, three};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `conv_integer(x, w, x_zero?, w_zero?) {strides, pads, dilations, group}`: `conv` of 8-bit integers to i32, zero points
    /// subtracted first: a scalar for `x`, a scalar or one per output channel for `w`. Padding stands for the zero point.
    pub struct ConvInteger { strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, group: i64, same: Option<SamePadding> }
}

impl ConvInteger {
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

impl OpSpec for ConvInteger {
    const NAME: &'static str = "conv_integer";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: u8[N, 4, H, 9], %w: i8[6, 4, 3, 3]) { %z = const [7] : u8[] %y = conv_integer(%x, %w, %z) {strides = [1, 2], pads = [1, 1, 1, 1], dilations = [1, 1], group = 1} return %y }",
        "graph @g(%x: i8[N, 4, L], %w: u8[6, 2, 5], %z: i8[]) { %v = const [1, 0, 2, 255, 128, 7] : u8[6] %y = conv_integer(%x, %w, %z, %v) {strides = [1], pads = [4, 0], dilations = [1], group = 2} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 4)?;
        for i in [0, 1] {
            if !matches!(operands.dtype(i)?, DType::I8 | DType::U8) {
                return Err(operands.wrong(i, format!("{} is not an 8-bit integer", operands.dtype(i)?)));
            }
            if operands.has(2 + i) && operands.dtype(2 + i)? != operands.dtype(i)? {
                let found = format!("a zero point of {} for {}", operands.dtype(2 + i)?, operands.dtype(i)?);
                return Err(operands.wrong(2 + i, found));
            }
        }
        let shape = result_shape(operands, self.group, |w| self.window(w))?;
        Ok(vec![TensorType { dtype: DType::I32, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, w) = (tensor(Self::NAME, operands, 0)?, tensor(Self::NAME, operands, 1)?);
        let axes = axes(x, w, self.group, |w| self.window(w))?;
        let zeros = |i: usize| Ok::<_, EvalError>(floats(operands, i)?.unwrap_or_else(|| vec![0.0]));
        let (x_zero, w_zero) = (zeros(2)?, zeros(3)?);
        let channels = w.dims()[0];
        ensure(x_zero.len() == 1 && (w_zero.len() == 1 || w_zero.len() == channels), || {
            "zero points do not fit".into()
        })?;
        let (mut xs, mut ws) = (x.to_f64()?, w.to_f64()?);
        xs.iter_mut().for_each(|v| *v -= x_zero[0]);
        let window = ws.len() / channels.max(1);
        ws.iter_mut().enumerate().for_each(|(i, v)| *v -= w_zero[i / window % w_zero.len()]);
        let y = convolve(&xs, x.dims(), &ws, w.dims(), &three(&axes)?, self.group as usize);
        let y: Vec<i128> = y.into_iter().map(|v| v as i128).collect();
        let dims = [&[x.dims()[0], channels], &axes.iter().map(|a| a.output).collect::<Vec<_>>()[..]].concat();
        Ok(vec![Tensor::from_ints(DType::I32, &dims, &y)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        flops(operands, results)
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
