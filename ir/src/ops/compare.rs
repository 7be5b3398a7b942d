use super::{Datum, EvalError, OpSpec, Operands, TypeError, broadcast};
use crate::attr::{AttrError, Attrs};
use crate::dim::{Dim, Truth};
use crate::dtype::DType;
use crate::op;
use crate::scalar::CompareFn;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `eq(a, b)`, `lt(a, b)` ...: a comparison of two broadcast tensors of one element type, as bool.
    pub struct Compare { f: CompareFn }
}

impl Compare {
    /// The answer when it is the same for every binding of the symbols.
    fn decided(&self, a: &Dim, b: &Dim) -> Option<bool> {
        let known = |t: Truth| match t {
            Truth::Yes => Some(true),
            Truth::No => Some(false),
            Truth::Unknown => None,
        };
        let less = |a: &Dim, b: &Dim| known((b - a).at_least(1));
        match self.f {
            CompareFn::Eq => known(a.same(b)),
            CompareFn::Ne => known(a.same(b)).map(|same| !same),
            CompareFn::Lt => less(a, b),
            CompareFn::Gt => less(b, a),
            CompareFn::Le => less(b, a).map(|more| !more),
            CompareFn::Ge => less(a, b).map(|less| !less),
        }
    }
}

impl OpSpec for Compare {
    const NAME: &'static str = "compare";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%a: f32[N, 5], %b: f32[5]) { %y = lt(%a, %b) %z = eq(%a, %a) return %y, %z }",
        "graph @g(%a: i64[N, 1], %b: i64[M]) { %y = ge(%a, %b) %z = ne(%a, %b) return %y, %z }",
    ];

    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn text_attrs(&self) -> Attrs {
        Attrs::new()
    }

    fn parse(name: &str, attrs: &Attrs) -> Option<Result<Compare, AttrError>> {
        let f = CompareFn::from_name(name)?;
        let unknown = attrs.keys().next().map(|k| AttrError::Unknown(k.clone()));
        Some(unknown.map_or(Ok(Compare { f }), Err))
    }

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(2, 2)?;
        let (a, b) = (operands.tensor(0)?, operands.tensor(1)?);
        if a.dtype != b.dtype {
            return Err(operands.wrong(1, format!("its element type {} is not {}", b.dtype, a.dtype)));
        }
        let shape = operands.broadcast(&[&a.shape, &b.shape])?;
        Ok(vec![TensorType { dtype: DType::Bool, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let (a, b) = (operands.elements(0)?, operands.elements(1)?);
        let flat = (0..2).all(|i| operands.dims(i).ok().flatten().is_some_and(|d| d.len() <= 1));
        let n = if a.len() == 1 { b.len() } else { a.len() };
        if !flat || (a.len() != 1 && b.len() != 1 && a.len() != b.len()) {
            return None;
        }
        let at = |e: &[Dim], i: usize| e[if e.len() == 1 { 0 } else { i }].clone();
        (0..n).map(|i| self.decided(&at(a, i), &at(b, i)).map(|holds| Dim::constant(holds.into()))).collect()
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(a), Datum::Tensor(b)] = operands else { return Err(super::not_tensors(self.name())) };
        let dims = broadcast::shape(&[a.dims(), b.dims()])?;
        let (ia, ib) = (broadcast::indices(a.dims(), &dims), broadcast::indices(b.dims(), &dims));
        fn all<T: PartialOrd>(f: CompareFn, a: &[T], b: &[T], ia: &[usize], ib: &[usize]) -> Vec<bool> {
            ia.iter().zip(ib).map(|(i, j)| f.holds(&a[*i], &b[*j])).collect()
        }
        let y = match a.dtype() {
            DType::Str => all(self.f, a.strings()?, b.strings()?, &ia, &ib),
            d if d.is_float() => all(self.f, &a.to_f64()?, &b.to_f64()?, &ia, &ib),
            _ => all(self.f, &a.to_ints()?, &b.to_ints()?, &ia, &ib),
        };
        Ok(vec![Tensor::from_bools(&dims, &y)?.into()])
    }
}
