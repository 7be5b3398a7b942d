use super::{Datum, Dim, EvalError, Op, OpSpec, Operands, SmallVec, Tolerance, TypeError, ValueType, DType};
use crate::op;
use crate::ops::Reshape;
use crate::types::{Shape, TensorType};
use smallvec::smallvec;

op! {
    /// `reshape_to(x, shape) {allow_zero}`: ONNX Reshape with its shape as an operand: one -1 is computed, 0 copies the
    /// dimension of `x` unless `allow_zero`. Shape folding turns it into `reshape` when the operand is known.
    pub struct ReshapeTo { allow_zero: bool }
}

impl ReshapeTo {
    /// The dimensions asked for, from those of `x` and the elements of the shape operand.
    pub fn target(&self, x: &[Dim], shape: &[Dim]) -> Result<Vec<Dim>, TypeError> {
        let (mut out, mut open) = (Vec::with_capacity(shape.len()), None);
        for (i, d) in shape.iter().enumerate() {
            match d.as_const() {
                Some(-1) if open.is_some() => return Err(TypeError::Invalid("the shape has more than one -1".into())),
                Some(-1) => {
                    open = Some(i);
                    out.push(Dim::constant(1));
                }
                Some(0) if !self.allow_zero => out.push(x.get(i).cloned().ok_or_else(|| {
                    TypeError::Invalid(format!("0 at position {i} of the shape copies a dimension that is not there"))
                })?),
                Some(n) if n < -1 => return Err(TypeError::Invalid(format!("{n} is not a dimension"))),
                _ => out.push(d.clone()),
            }
        }
        if let Some(i) = open {
            let all: Dim = x.iter().cloned().product();
            let others: Dim = out.iter().cloned().product();
            out[i] = match all.exact_div(&others) {
                Some(q) => q,
                None if others.as_const() == Some(0) => {
                    return Err(TypeError::Invalid("-1 beside a dimension of 0 has no answer".into()));
                }
                None => all.floor_div(&others),
            };
        }
        Ok(out)
    }
}

impl OpSpec for ReshapeTo {
    const NAME: &'static str = "reshape_to";

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let x = operands.tensor(0)?;
        let shape = match (x.dims(), operands.elements(1), operands.dims(1)?) {
            (Some(dims), Some(shape), _) => Shape::Ranked(self.target(dims, shape)?),
            (_, _, Some([n])) if n.as_const().is_some_and(|n| (0..=64).contains(&n)) => {
                let rank = n.as_const().expect("just asked");
                Shape::Ranked((0..rank).map(|_| operands.late_dim()).collect())
            }
            _ => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        operands.elements(0).map(<[Dim]>::to_vec)
    }

    fn fold_shape(&self, operands: &Operands<'_>) -> Option<(Op, SmallVec<[usize; 4]>)> {
        let shape = self.target(operands.dims(0).ok()??, operands.elements(1)?).ok()?;
        Some((Reshape { shape }.into(), smallvec![0]))
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x), Datum::Tensor(shape)] = operands else { return Err(super::super::not_tensors(Self::NAME)) };
        let dims: Vec<Dim> = x.dims().iter().map(|d| Dim::from(*d)).collect();
        let asked: Vec<Dim> = shape.to_i64()?.into_iter().map(Dim::constant).collect();
        let target = self.target(&dims, &asked).map_err(|e| EvalError::Invalid(e.to_string()))?;
        Ok(vec![x.reshaped(&super::super::sizes(&target)?)?.into()])
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
