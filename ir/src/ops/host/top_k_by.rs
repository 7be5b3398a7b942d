use super::{DType, Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, Tolerance, TypeError, ValueType};
use crate::op;
use crate::ops::TopK;
use crate::ops::reading::{self, tensor};
use crate::types::{Shape, TensorType};
use smallvec::smallvec;

op! {
    /// `top_k_by(x, k) {axis, largest, sorted}`: ONNX TopK with its count as an operand; shape folding turns it into
    /// `top_k`.
    pub struct TopKBy { axis: i64, largest: bool, sorted: bool }
}

impl TopKBy {
    fn core(&self, k: Dim) -> TopK {
        TopK { k, axis: self.axis, largest: self.largest, sorted: self.sorted }
    }
}

impl OpSpec for TopKBy {
    const NAME: &'static str = "top_k_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 9], %k: i64[1]) { %v, %i = top_k_by(%x, %k) {axis = -1, largest = true} return %v, %i }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        if let Some((op, kept)) = self.fold_shape(operands) {
            return operands.infer_with(&op, &kept);
        }
        let x = operands.tensor(0)?;
        let mut shape = x.shape.clone();
        if let Shape::Ranked(dims) = &mut shape {
            let at = crate::ops::axis(self.axis, dims.len())?;
            dims[at] = operands.late_dim();
        }
        let indices = TensorType { dtype: DType::I64, shape: shape.clone() };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into(), indices.into()])
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        Some((self.core(reading::known_number(operands, 1)?).into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        self.core(Dim::constant(reading::number(tensor(operands, 1)?)?)).eval(&operands[..1])
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
