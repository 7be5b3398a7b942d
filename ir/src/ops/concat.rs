use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, axis};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `concat(a, b, ...) {axis}`: tensors one after the other along an axis.
    pub struct Concat { axis: i64 }
}

impl OpSpec for Concat {
    const NAME: &'static str = "concat";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%a: f32[N, 5], %b: f32[N, M]) { %y = concat(%a, %b) {axis = -1} return %y }",
        "graph @g(%a: i64[N, 2], %b: i64[3, 2], %c: i64[M, 2]) { %y = concat(%a, %b, %c) {axis = 0} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, usize::MAX)?;
        let dtype = operands.dtype(0)?;
        let mut result: Option<Vec<Dim>> = None;
        let mut ranked = true;
        for i in 0..operands.len() {
            if operands.dtype(i)? != dtype {
                return Err(operands.wrong(i, format!("its element type {} is not {dtype}", operands.dtype(i)?)));
            }
            let Some(dims) = operands.dims(i)? else {
                ranked = false;
                continue;
            };
            let at = axis(self.axis, dims.len())?;
            let Some(result) = &mut result else {
                result = Some(dims.to_vec());
                continue;
            };
            if result.len() != dims.len() {
                return Err(operands.wrong(i, format!("its rank {} is not {}", dims.len(), result.len())));
            }
            for (j, d) in dims.iter().enumerate() {
                match j == at {
                    true => result[j] = &result[j] + d,
                    false => operands.assume_same(&result[j], d)?,
                }
            }
        }
        let shape = result.filter(|_| ranked).map_or(Shape::Unranked, Shape::Ranked);
        Ok(vec![TensorType { dtype, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let all: Option<Vec<_>> = (0..operands.len()).map(|i| operands.elements(i)).collect();
        let flat = (0..operands.len()).all(|i| operands.dims(i).ok().flatten().is_some_and(|d| d.len() == 1));
        flat.then(|| all.map(|e| e.concat()))?
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let tensors: Option<Vec<&Tensor>> = operands.iter().map(|d| d.as_tensor()).collect();
        let tensors = tensors.ok_or_else(|| super::not_tensors(Self::NAME))?;
        Ok(vec![join(&tensors, self.axis)?.into()])
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}

/// The tensors one after the other along `along`.
pub fn join(tensors: &[&Tensor], along: i64) -> Result<Tensor, EvalError> {
    let first = tensors[0];
    let at = axis(along, first.rank()).map_err(|e| EvalError::Invalid(e.to_string()))?;
    let fits = |t: &&Tensor| t.rank() == first.rank() && (0..t.rank()).all(|i| i == at || t.dims()[i] == first.dims()[i]);
    if let Some(odd) = tensors.iter().find(|t| !fits(t)) {
        return Err(EvalError::Invalid(format!("cannot join {:?} and {:?} along axis {at}", first.dims(), odd.dims())));
    }
    let mut dims = first.dims().to_vec();
    dims[at] = tensors.iter().map(|t| t.dims()[at]).sum();
    let outer: usize = dims[..at].iter().product();
    if first.dtype() == DType::Str {
        let mut texts = vec![];
        for o in 0..outer {
            for t in tensors {
                let n: usize = t.dims()[at..].iter().product();
                texts.extend_from_slice(&t.strings()?[o * n..(o + 1) * n]);
            }
        }
        return Ok(Tensor::from_strings(&dims, texts)?);
    }
    if first.dtype().bits() < 8 {
        let mut values = vec![];
        let all: Vec<Vec<f64>> = tensors.iter().map(|t| t.to_f64()).collect::<Result<_, _>>()?;
        for o in 0..outer {
            for (t, v) in tensors.iter().zip(&all) {
                let n: usize = t.dims()[at..].iter().product();
                values.extend_from_slice(&v[o * n..(o + 1) * n]);
            }
        }
        return Ok(Tensor::from_f64(first.dtype(), &dims, &values)?);
    }
    Ok(Tensor::build(first.dtype(), &dims, |out| {
        let mut to = 0;
        for o in 0..outer {
            for t in tensors {
                let n = t.dtype().bytes(t.dims()[at..].iter().product());
                out[to..to + n].copy_from_slice(&t.bytes()[o * n..(o + 1) * n]);
                to += n;
            }
        }
    })?)
}
