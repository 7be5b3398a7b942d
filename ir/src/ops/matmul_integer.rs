use super::matmul::{MatMul, product_shape};
use super::operand::{optional, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, broadcast};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `matmul_integer(a, b, a_zero?, b_zero?)`: `matmul` of 8-bit integers to i32, zero points subtracted first: a scalar, or
    /// one per row of `a`, or one per column of `b`, or of a shape that broadcasts.
    pub struct MatMulInteger {}
}

impl OpSpec for MatMulInteger {
    const NAME: &'static str = "matmul_integer";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%a: u8[B, M, 9], %b: i8[9, 4]) { %z = const [7] : u8[] %w = const [1, 2, 3, 4] : i8[4] %y = matmul_integer(%a, %b, %z, %w) return %y }",
        "graph @g(%a: i8[M, 9], %b: i8[9, 4]) { %y = matmul_integer(%a, %b) return %y }",
        "graph @g(%a: u8[B, M, 9], %w: u8[9, 40], %z: u8[], %wz: u8[40]) { %y = matmul_integer(%a, %w, %z, %wz) return %y }",
        "graph @g(%a: i8[M, 9], %w: i8[9, 70], %z: i8[M]) { %y = matmul_integer(%a, %w, %z) return %y }",
        "graph @g(%a: i8[M, 9], %w: u8[9, 40]) { %y = matmul_integer(%a, %w) %t = transpose(%w) {perm = [1, 0]} return %y, %t }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 4)?;
        for i in [0, 1] {
            if !matches!(operands.dtype(i)?, DType::I8 | DType::U8) {
                return Err(operands.wrong(i, format!("{} is not an 8-bit integer", operands.dtype(i)?)));
            }
        }
        Ok(vec![TensorType { dtype: DType::I32, shape: product_shape(operands)? }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let shifted = |i: usize| -> Result<Datum, EvalError> {
            let t = tensor(Self::NAME, operands, i)?;
            let mut values = t.to_ints()?;
            if let Some(zero) = optional(operands, 2 + i) {
                let mut dims = zero.dims().to_vec();
                if i == 0 && dims.len() == 1 && dims[0] != 1 {
                    dims.push(1); // A vector for `a` has one element per row.
                }
                if broadcast::shape(&[&dims, t.dims()])?[..] != *t.dims() && zero.len() != 1 {
                    return Err(EvalError::Invalid(format!("zero points of {dims:?} do not fit {:?}", t.dims())));
                }
                let zeros = zero.to_ints()?;
                let at = if zero.len() == 1 { vec![0; values.len()] } else { broadcast::indices(&dims, t.dims()) };
                values.iter_mut().zip(at).for_each(|(v, i)| *v -= zeros[i]);
            }
            Ok(Tensor::from_ints(DType::I32, t.dims(), &values)?.into())
        };
        MatMul {}.eval(&[&shifted(0)?, &shifted(1)?])
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        MatMul {}.flops(operands, results)
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
