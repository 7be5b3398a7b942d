use super::random::Philox;
use super::{DType, Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, optional, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `dropout(x, ratio?, training?) {seed}`: ONNX Dropout: in training each element becomes 0 with the probability `ratio` (0.5
    /// where absent), the others are divided by `1 - ratio`; else `x` itself. The second result says which elements stayed.
    pub struct Dropout { seed: i64 }
}

impl OpSpec for Dropout {
    const NAME: &'static str = "dropout";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3], %t: bool[]) { %r = const [0.25] : f32[] %y, %m = dropout(%x, %r, %t) {seed = 7} return %y, %m }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 3)?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() {
            return Err(operands.wrong(0, format!("it holds {}, not floats", x.dtype)));
        }
        if operands.has(2) && operands.dtype(2)? != DType::Bool {
            return Err(operands.wrong(2, "whether this is training is bool"));
        }
        let mask = TensorType { dtype: DType::Bool, shape: x.shape.clone() };
        Ok(vec![x.clone().into(), mask.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let training = optional(operands, 2)?.map(Tensor::to_bools).transpose()?;
        let ratio = match (optional(operands, 1)?.map(Tensor::to_f64).transpose()?.as_deref(), training.as_deref()) {
            (_, None | Some([false])) => 0.0,
            (None, Some([true])) => 0.5,
            (Some([ratio]), Some([true])) if (0.0..1.0).contains(ratio) => *ratio,
            _ => return Err(invalid("the ratio is one number from 0 to below 1, and training one truth value")),
        };
        if ratio == 0.0 {
            return Ok(vec![x.clone().into(), Tensor::from_bools(x.dims(), &vec![true; x.len()])?.into()]);
        }
        let mut source = Philox::new(self.seed);
        let stays: Vec<bool> = (0..x.len()).map(|_| source.uniform() >= ratio).collect();
        let scaled = x.to_f64()?.into_iter().zip(&stays).map(|(v, stays)| if *stays { v / (1.0 - ratio) } else { 0.0 });
        let y = Tensor::from_f64(x.dtype(), x.dims(), &scaled.collect::<Vec<_>>())?;
        Ok(vec![y.into(), Tensor::from_bools(x.dims(), &stays)?.into()])
    }
}
