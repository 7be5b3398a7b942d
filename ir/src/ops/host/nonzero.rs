use super::{DType, Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::TensorType;

op! {
    /// `nonzero(x)`: the positions of the elements that are not 0, in order: i64 [rank, count] (ONNX NonZero). A scalar
    /// counts as a vector of one element.
    pub struct Nonzero {}
}

impl OpSpec for Nonzero {
    const NAME: &'static str = "nonzero";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, M]) { %y = nonzero(%x) return %y }",
        "graph @g(%x: bool[N]) { %y = nonzero(%x) return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let rank = operands.dims(0)?.map(|d| d.len().max(1).into());
        let rank = rank.unwrap_or_else(|| operands.late_dim());
        Ok(vec![TensorType::new(DType::I64, [rank, operands.late_dim()]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let found: Vec<usize> = match x.dtype() {
            DType::Bool => positions(x.bytes(), |b| *b != 0),
            DType::I64 => positions(x.as_slice::<i64>()?, |v| *v != 0),
            DType::Str => positions(x.strings()?, |s| !s.is_empty()),
            _ => positions(&x.to_f64()?, |v| *v != 0.0),
        };
        let dims: &[usize] = if x.rank() == 0 { &[1] } else { x.dims() };
        let strides = crate::ops::strides(dims);
        let mut out = Vec::with_capacity(found.len() * dims.len());
        for (n, stride) in dims.iter().zip(strides) {
            out.extend(found.iter().map(|i| (i / stride % n) as i64));
        }
        Ok(vec![Tensor::from_slice(&[dims.len(), found.len()], &out)?.into()])
    }

    moves_data! {}
}

fn positions<T>(v: &[T], keep: impl Fn(&T) -> bool) -> Vec<usize> {
    v.iter().enumerate().filter(|(_, v)| keep(v)).map(|(i, _)| i).collect()
}
