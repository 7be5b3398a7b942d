use super::reading::{self, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tensor, Tolerance, TypeError, axis};
use crate::attr::{AttrError, Attrs};
use crate::dtype::DType;
use crate::ops::OpAttrs;
use crate::types::ValueType;
use crate::{attr_enum, op};

attr_enum! {
    /// What is carried along.
    pub enum CumulateFn { Sum = "cum_sum", Prod = "cum_prod" }
}

op! {
    /// `cum_sum(x) {axis, exclusive, reverse}`, `cum_prod(x) {...}`: sums (products) of the elements up to each one along
    /// `axis`; `exclusive` leaves the element itself out, `reverse` starts at the end. Integers wrap.
    pub struct Cumulate { f: CumulateFn, axis: i64, exclusive: bool, reverse: bool }
}

impl OpSpec for Cumulate {
    const NAME: &'static str = "cumulate";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 9]) { %y = cum_sum(%x) {axis = 1} %z = cum_sum(%x) {axis = -1, exclusive = true, reverse = true} return %y, %z }",
        "graph @g(%x: i64[4, M]) { %y = cum_sum(%x) {axis = 0, reverse = true} %z = cum_prod(%x) {axis = 0, exclusive = true} return %y, %z }",
    ];

    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn text_attrs(&self) -> Attrs {
        let mut attrs = self.attrs();
        attrs.remove("f");
        attrs
    }

    fn parse(name: &str, attrs: &Attrs) -> Option<Result<Cumulate, AttrError>> {
        let f = CumulateFn::from_name(name)?;
        let mut attrs = attrs.clone();
        attrs.extend(crate::attr::AttrValue::to_attr(&f).map(|a| ("f".to_string(), a)));
        Some(Cumulate::from_attrs(&attrs))
    }

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        if matches!(x.dtype, DType::Str | DType::Bool) {
            return Err(operands.wrong(0, format!("`{}` does not take {}", self.f.name(), x.dtype)));
        }
        if let Some(dims) = x.dims() {
            axis(self.axis, dims.len())?;
        }
        Ok(vec![x.clone().into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let at = reading::axis(self.axis, x.rank())?;
        let y = match (x.dtype().is_float(), self.f) {
            (true, CumulateFn::Sum) => self.along(x.to_f64()?, x.dims(), at, 0.0, |a, b| a + b),
            (true, CumulateFn::Prod) => self.along(x.to_f64()?, x.dims(), at, 1.0, |a, b| a * b),
            (false, f) => {
                let y = match f {
                    CumulateFn::Sum => self.along(x.to_ints()?, x.dims(), at, 0, i128::wrapping_add),
                    CumulateFn::Prod => self.along(x.to_ints()?, x.dims(), at, 1, i128::wrapping_mul),
                };
                return Ok(vec![Tensor::from_ints(x.dtype(), x.dims(), &y)?.into()]);
            }
        };
        Ok(vec![Tensor::from_f64(x.dtype(), x.dims(), &y)?.into()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}

impl Cumulate {
    fn along<T: Copy>(&self, mut v: Vec<T>, dims: &[usize], at: usize, unit: T, f: impl Fn(T, T) -> T) -> Vec<T> {
        let (n, inner) = (dims[at], dims[at + 1..].iter().product::<usize>());
        for start in super::lanes(dims, at) {
            let mut so_far = unit;
            for i in 0..n {
                let here = start + if self.reverse { n - 1 - i } else { i } * inner;
                let next = f(so_far, v[here]);
                v[here] = if self.exclusive { so_far } else { next };
                so_far = next;
            }
        }
        v
    }
}
