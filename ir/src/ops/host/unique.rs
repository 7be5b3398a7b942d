use super::{DType, Datum, EvalError, OpSpec, Operands, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, moves_data, tensor};
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};
use std::cmp::Ordering;
use std::collections::HashMap;

op! {
    /// `unique(x) {axis, sorted}`: the different slices of `x` along `axis` (elements, without one), the position of the
    /// first of each, for every slice which one it is, and how often each occurs (ONNX Unique). Not `sorted`, they come in
    /// the order of their first occurrence. NaN equals NaN and comes last.
    pub struct Unique { axis: Option<i64>, sorted: bool }
}

impl OpSpec for Unique {
    const NAME: &'static str = "unique";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, M]) { %y, %i, %j, %n = unique(%x) {sorted = true} return %y, %i, %j, %n }",
        "graph @g(%x: i64[N, M]) { %y, %i, %j, %n = unique(%x) {axis = 0} return %y, %i, %j, %n }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let x = operands.tensor(0)?;
        let count = operands.late_dim();
        let (shape, all) = match (self.axis, x.dims()) {
            (None, _) => (Shape::Ranked(vec![count.clone()]), x.shape.elements()),
            (Some(_), None) => (Shape::Unranked, None),
            (Some(axis), Some(dims)) => {
                let (mut dims, at) = (dims.to_vec(), crate::ops::axis(axis, dims.len())?);
                let all = std::mem::replace(&mut dims[at], count.clone());
                (Shape::Ranked(dims), Some(all))
            }
        };
        let vector = |n| TensorType::new(DType::I64, [n]).into();
        let all = all.unwrap_or_else(|| operands.late_dim());
        Ok(vec![TensorType { dtype: x.dtype, shape }.into(), vector(count.clone()), vector(all), vector(count)])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let mut x = tensor(operands, 0)?.clone();
        if self.axis.is_none() {
            x = x.reshaped(&[x.len()])?;
        }
        let at = reading::axis(self.axis.unwrap_or(0), x.rank())?;
        let (n, run) = (x.dims()[at], x.dims()[at + 1..].iter().product::<usize>());
        let outer: usize = x.dims()[..at].iter().product();
        // Equal elements have equal ranks, so slices are compared and hashed as lists of ranks.
        let rank = ranks(&x)?;
        let slice = |i: usize| (0..outer).flat_map(move |o| (0..run).map(move |j| (o * n + i) * run + j));
        let keys: Vec<Vec<u32>> = (0..n).map(|i| slice(i).map(|e| rank[e]).collect()).collect();
        let mut known: HashMap<&[u32], usize> = HashMap::new();
        let (mut first, mut counts, mut which) = (vec![], vec![], Vec::with_capacity(n));
        for (i, key) in keys.iter().enumerate() {
            let group = *known.entry(key).or_insert(first.len());
            if group == first.len() {
                first.push(i);
                counts.push(0i64);
            }
            counts[group] += 1;
            which.push(group);
        }
        let mut order: Vec<usize> = (0..first.len()).collect();
        if self.sorted {
            order.sort_by_key(|g| &keys[first[*g]]);
        }
        let mut place = vec![0i64; order.len()];
        order.iter().enumerate().for_each(|(p, g)| place[*g] = p as i64);
        let mut dims = x.dims().to_vec();
        dims[at] = order.len();
        let rows = || order.iter().map(|g| first[*g]);
        let starts: Vec<usize> = (0..outer).flat_map(|o| rows().map(move |i| (o * n + i) * run)).collect();
        let first: Vec<i64> = rows().map(|i| i as i64).collect();
        let which: Vec<i64> = which.into_iter().map(|g| place[g]).collect();
        let counts: Vec<i64> = order.iter().map(|g| counts[*g]).collect();
        let y = reading::copy_runs(&x, &dims, run, &starts)?;
        let vector = |v: Vec<i64>| Datum::from(Tensor::vector_i64(&v));
        Ok(vec![y.into(), vector(first), vector(which), vector(counts)])
    }

    moves_data! {}
}

/// For every element how many different ones are smaller.
fn ranks(x: &Tensor) -> Result<Vec<u32>, EvalError> {
    fn of<T>(v: &[T], order: impl Fn(&T, &T) -> Ordering) -> Vec<u32> {
        let mut by_value: Vec<usize> = (0..v.len()).collect();
        by_value.sort_unstable_by(|a, b| order(&v[*a], &v[*b]));
        let (mut ranks, mut rank) = (vec![0; v.len()], 0);
        for (i, e) in by_value.iter().enumerate() {
            rank += u32::from(i > 0 && order(&v[by_value[i - 1]], &v[*e]) != Ordering::Equal);
            ranks[*e] = rank;
        }
        ranks
    }
    Ok(match x.dtype() {
        DType::Str => of(x.strings()?, String::cmp),
        d if d.is_float() => of(&x.to_f64()?, |a, b| a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))),
        _ => of(&x.to_ints()?, i128::cmp),
    })
}
