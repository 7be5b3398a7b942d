use super::{Datum, Dim, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::Slice;
use crate::ops::reading::{self, invalid, moves_data, tensor};
use crate::types::{Shape, TensorType};

op! {
    /// `split_by(x, sizes?) {axis, count}`: `x` cut along `axis` into `count` parts whose sizes are an operand; without it into
    /// equal parts, the last one smaller (ONNX Split; with known sizes the importer writes slices).
    pub struct SplitBy { axis: i64, count: i64 }
}

impl OpSpec for SplitBy {
    const NAME: &'static str = "split_by";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3]) { %s = const [1, 2] : i64[2] %y, %z = split_by(%x, %s) {axis = 1, count = 2} return %y, %z }",
        "graph @g(%x: f32[N, 5]) { %y, %z = split_by(%x) {axis = 1, count = 2} return %y, %z }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 2)?;
        let x = operands.tensor(0)?;
        let count = usize::try_from(self.count).ok().filter(|n| (1..=4096).contains(n));
        let count = count.ok_or_else(|| TypeError::Invalid(format!("a split into {} parts", self.count)))?;
        let sizes = operands.elements(1);
        if sizes.is_some_and(|s| s.len() != count) {
            return Err(operands.wrong(1, format!("it does not hold {count} sizes")));
        }
        let part = |i: usize| {
            let mut shape = x.shape.clone();
            if let Shape::Ranked(dims) = &mut shape {
                let at = crate::ops::axis(self.axis, dims.len())?;
                dims[at] = sizes.map_or_else(|| operands.late_dim(), |s| s[i].clone());
            }
            Ok(TensorType { dtype: x.dtype, shape }.into())
        };
        (0..count).map(part).collect()
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let at = reading::axis(self.axis, x.rank())?;
        let sizes = match reading::optional(operands, 1)? {
            Some(sizes) => sizes.to_i64()?,
            None => {
                let (n, count) = (x.dims()[at] as i64, self.count.max(1));
                let size = n.div_euclid(count) + i64::from(n % count != 0);
                (0..count).map(|i| (n - i * size).clamp(0, size)).collect()
            }
        };
        if sizes.iter().any(|n| *n < 0) || sizes.iter().sum::<i64>() != x.dims()[at] as i64 {
            return Err(invalid(format!("sizes {sizes:?} do not cut a dimension of {}", x.dims()[at])));
        }
        let mut from = 0;
        let part = |n: i64| {
            let (starts, ends) = (vec![Dim::constant(from)], vec![Dim::constant(from + n)]);
            from += n;
            Slice { axes: vec![at as i64], starts, ends, steps: vec![1] }.eval(&operands[..1])
        };
        let parts: Vec<Vec<Datum>> = sizes.into_iter().map(part).collect::<Result<_, _>>()?;
        Ok(parts.concat())
    }

    moves_data! {}
}
