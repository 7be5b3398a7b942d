use super::reading::{self, invalid, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tensor, Tolerance, TypeError, axis};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::types::{Shape, TensorType, ValueType};
use crate::{attr_enum, op};

attr_enum! {
    /// Which element is looked for.
    pub enum ArgFn { Max = "max", Min = "min" }
}

op! {
    /// `arg_reduce(x) {f, axis, keep, select_last}`: the i64 position of the largest (or smallest) element along `axis`;
    /// of equal ones the first, or the last with `select_last`. A NaN is what is looked for.
    pub struct ArgReduce { f: ArgFn, axis: i64, keep: bool, select_last: bool }
}

impl OpSpec for ArgReduce {
    const NAME: &'static str = "arg_reduce";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 9]) { %y = arg_reduce(%x) {f = max, axis = -1} %z = arg_reduce(%x) {f = min, axis = 1, keep = true} return %y, %z }",
        "graph @g(%x: i64[4, M]) { %y = arg_reduce(%x) {f = max, axis = 0, select_last = true} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if matches!(x.dtype, DType::Str | DType::Bool) {
            return Err(operands.wrong(0, format!("arg_reduce does not order {}", x.dtype)));
        }
        let shape = match x.dims() {
            Some(dims) => {
                let (mut dims, at) = (dims.to_vec(), axis(self.axis, dims.len())?);
                match self.keep {
                    true => dims[at] = Dim::constant(1),
                    false => drop(dims.remove(at)),
                }
                Shape::Ranked(dims)
            }
            None => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: DType::I64, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let at = reading::axis(self.axis, x.rank())?;
        let mut dims = x.dims().to_vec();
        match self.keep {
            true => dims[at] = 1,
            false => drop(dims.remove(at)),
        }
        if x.dims()[at] == 0 && !dims.contains(&0) {
            return Err(invalid("there is no element to find"));
        }
        let found = match x.dtype().is_float() {
            true => self.positions(&x.to_f64()?, x.dims(), at),
            false => self.positions(&x.to_ints()?, x.dims(), at),
        };
        Ok(vec![Tensor::from_slice(&dims, &found)?.into()])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        operands[0].as_tensor().and_then(|t| t.shape.elements()).unwrap_or(Dim::constant(0))
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}

impl ArgReduce {
    fn positions<T: PartialOrd + Copy>(&self, v: &[T], dims: &[usize], at: usize) -> Vec<i64> {
        let inner: usize = dims[at + 1..].iter().product();
        let is_nan = |x: &T| x.partial_cmp(x).is_none();
        let beats = |new: &T, old: &T| match (is_nan(new), is_nan(old)) {
            (true, true) => self.select_last,
            (true, false) => true,
            (false, true) => false,
            _ if new == old => self.select_last,
            _ => (new > old) == (self.f == ArgFn::Max),
        };
        let lanes = super::lanes(dims, at);
        let find = |start: &usize| {
            let mut best = 0;
            for i in 1..dims[at] {
                if beats(&v[start + i * inner], &v[start + best * inner]) {
                    best = i;
                }
            }
            best as i64
        };
        lanes.iter().map(find).collect()
    }
}
