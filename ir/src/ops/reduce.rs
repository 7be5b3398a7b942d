use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, axis};
use crate::attr_enum;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

attr_enum! {
    /// How elements are reduced to one.
    pub enum ReduceFn {
        Sum = "sum", Mean = "mean", Max = "max", Min = "min", Prod = "prod", L1 = "l1", L2 = "l2",
        SumSquare = "sum_square", LogSum = "log_sum", LogSumExp = "log_sum_exp",
    }
}

op! {
    /// `reduce(x) {f, axes, keep}`: all elements along `axes` reduced to one; `keep` leaves dimensions of 1.
    ///
    /// Over no elements: sum 0, prod 1, max the lowest value, min the highest, mean NaN (0 for integers). Integers wrap;
    /// their mean truncates. max and min give NaN when any element is.
    pub struct Reduce { f: ReduceFn, axes: Vec<i64>, keep: bool }
}

impl Reduce {
    /// Which dimensions are reduced.
    pub fn reduced(&self, rank: usize) -> Result<Vec<bool>, TypeError> {
        let mut reduced = vec![false; rank];
        for a in &self.axes {
            reduced[axis(*a, rank)?] = true;
        }
        Ok(reduced)
    }
}

impl OpSpec for Reduce {
    const NAME: &'static str = "reduce";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 9, M]) { %a = reduce(%x) {f = sum, axes = [-1]} %b = reduce(%x) {f = mean, axes = [1], keep = true} %c = reduce(%x) {f = max, axes = [0, 2]} return %a, %b, %c }",
        "graph @g(%x: f32[N, 9]) { %a = reduce(%x) {f = l2, axes = [1], keep = true} %b = reduce(%x) {f = log_sum_exp, axes = [1]} %c = reduce(%x) {f = min, axes = [0, 1]} return %a, %b, %c }",
        "graph @g(%x: i64[N, 4]) { %a = reduce(%x) {f = sum, axes = [1]} %b = reduce(%x) {f = prod, axes = [1]} return %a, %b }",
        "graph @g(%x: i64[N, 4]) { %a = reduce(%x) {f = max, axes = [1]} %b = reduce(%x) {f = l1, axes = [0, 1]} return %a, %b }",
        "graph @g(%x: f16[N, 6]) { %a = reduce(%x) {f = mean, axes = [1], keep = true} return %a }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        let numeric = x.dtype != DType::Str && (x.dtype != DType::Bool || matches!(self.f, ReduceFn::Max | ReduceFn::Min));
        if !numeric {
            return Err(operands.wrong(0, format!("`{}` does not reduce {}", self.f.name(), x.dtype)));
        }
        let shape = match x.dims() {
            Some(dims) => {
                let reduced = self.reduced(dims.len())?;
                let kept = dims.iter().zip(&reduced);
                let one = Dim::constant(1);
                Shape::Ranked(match self.keep {
                    true => kept.map(|(d, r)| if *r { one.clone() } else { d.clone() }).collect(),
                    false => kept.filter(|(_, r)| !**r).map(|(d, _)| d.clone()).collect(),
                })
            }
            None => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn elements(&self, operands: &Operands<'_>) -> Option<Vec<Dim>> {
        let x = operands.elements(0)?;
        if operands.dims(0).ok()??.len() != 1 || self.axes.len() != 1 || x.is_empty() {
            return None;
        }
        let all = x.iter().cloned();
        Some(vec![match self.f {
            ReduceFn::Sum => all.sum(),
            ReduceFn::Prod => all.product(),
            ReduceFn::Max => all.reduce(|a, b| a.max(b))?,
            ReduceFn::Min => all.reduce(|a, b| a.min(b))?,
            _ => return None,
        }])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Tensor(x)] = operands else { return Err(super::not_tensors(Self::NAME)) };
        let reduced = self.reduced(x.rank()).map_err(|e| EvalError::Invalid(e.to_string()))?;
        let kept: Vec<usize> = x.dims().iter().zip(&reduced).map(|(d, r)| if *r { 1 } else { *d }).collect();
        let groups: usize = kept.iter().product();
        let to = super::broadcast::indices(&kept, x.dims());
        let dims: Vec<usize> = match self.keep {
            true => kept,
            false => x.dims().iter().zip(&reduced).filter(|(_, r)| !**r).map(|(d, _)| *d).collect(),
        };
        let y = if x.dtype().is_float() {
            let mut parts = vec![vec![]; groups];
            x.to_f64()?.into_iter().zip(to).for_each(|(v, g)| parts[g].push(v));
            let out: Vec<f64> = parts.iter().map(|p| floats(self.f, p)).collect();
            Tensor::from_f64(x.dtype(), &dims, &out)?
        } else {
            let mut parts = vec![vec![]; groups];
            x.to_ints()?.into_iter().zip(to).for_each(|(v, g)| parts[g].push(v));
            let out: Vec<i128> = parts.iter().map(|p| ints(self.f, p, x.dtype())).collect();
            Tensor::from_ints(x.dtype(), &dims, &out)?
        };
        Ok(vec![y.into()])
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        operands[0].as_tensor().and_then(|t| t.shape.elements()).unwrap_or(Dim::constant(0))
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}

fn floats(f: ReduceFn, x: &[f64]) -> f64 {
    let nan = x.iter().any(|v| v.is_nan());
    let all = x.iter();
    match f {
        ReduceFn::Sum => all.sum::<f64>() + 0.0,
        ReduceFn::Mean => all.sum::<f64>() / x.len() as f64,
        ReduceFn::Max | ReduceFn::Min if nan => f64::NAN,
        ReduceFn::Max => all.copied().fold(f64::NEG_INFINITY, f64::max),
        ReduceFn::Min => all.copied().fold(f64::INFINITY, f64::min),
        ReduceFn::Prod => all.product(),
        ReduceFn::L1 => all.map(|v| v.abs()).sum(),
        ReduceFn::L2 => all.map(|v| v * v).sum::<f64>().sqrt(),
        ReduceFn::SumSquare => all.map(|v| v * v).sum(),
        ReduceFn::LogSum => all.sum::<f64>().ln(),
        ReduceFn::LogSumExp => {
            let largest = all.clone().copied().fold(f64::NEG_INFINITY, f64::max);
            let shift = if largest.is_finite() { largest } else { 0.0 };
            all.map(|v| (v - shift).exp()).sum::<f64>().ln() + shift
        }
    }
}

fn ints(f: ReduceFn, x: &[i128], dtype: DType) -> i128 {
    let all = x.iter().copied();
    let (low, high) = dtype.int_range().unwrap_or((0, 1));
    let squares = |x: &[i128]| x.iter().map(|v| v * v).sum::<i128>();
    match f {
        ReduceFn::Sum => all.sum(),
        ReduceFn::Mean => all.sum::<i128>() / (x.len().max(1) as i128),
        ReduceFn::Max => all.max().unwrap_or(low),
        ReduceFn::Min => all.min().unwrap_or(high),
        ReduceFn::Prod => all.fold(1, i128::wrapping_mul),
        ReduceFn::L1 => all.map(i128::abs).sum(),
        ReduceFn::L2 => (squares(x) as f64).sqrt() as i128,
        ReduceFn::SumSquare => squares(x),
        ReduceFn::LogSum => (all.sum::<i128>() as f64).ln() as i128,
        ReduceFn::LogSumExp => floats(f, &x.iter().map(|v| *v as f64).collect::<Vec<_>>()) as i128,
    }
}
