use super::{Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid, moves_data, tensor};

op! {
    /// `reverse_sequence(x, lengths) {batch_axis, time_axis}`: the first `lengths[b]` elements along `time_axis` in reverse
    /// order, for every `b` along `batch_axis` (ONNX ReverseSequence).
    pub struct ReverseSequence { batch_axis: i64, time_axis: i64 }
}

impl OpSpec for ReverseSequence {
    const NAME: &'static str = "reverse_sequence";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[4, 2, M]) { %n = const [3, 1] : i64[2] %y = reverse_sequence(%x, %n) {batch_axis = 1, time_axis = 0} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let x = operands.tensor(0)?;
        if let (Some(dims), Some([n])) = (x.dims(), operands.dims(1)?) {
            let batch = crate::ops::axis(self.batch_axis, dims.len())?;
            crate::ops::axis(self.time_axis, dims.len())?;
            operands.assume_same(&dims[batch], n)?;
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, lengths) = (tensor(operands, 0)?, tensor(operands, 1)?.to_i64()?);
        let (batch, time) = (reading::axis(self.batch_axis, x.rank())?, reading::axis(self.time_axis, x.rank())?);
        let steps = x.dims()[time];
        if lengths.len() != x.dims()[batch] || lengths.iter().any(|n| !(0..=steps as i64).contains(n)) {
            return Err(invalid(format!("lengths {lengths:?} do not fit {:?}", x.dims())));
        }
        let strides = crate::ops::strides(x.dims());
        let source = |i: usize| {
            let (b, t) = (i / strides[batch] % x.dims()[batch], i / strides[time] % steps);
            let n = lengths[b] as usize;
            if t < n { i - t * strides[time] + (n - 1 - t) * strides[time] } else { i }
        };
        let from: Vec<usize> = (0..x.len()).map(source).collect();
        Ok(vec![x.pick(x.dims(), &from)?.into()])
    }

    moves_data! {}
}
