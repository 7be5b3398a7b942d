//! What `scatter_elements` and `scatter_nd` share: how an update meets the element it falls on.

use super::{EvalError, Tolerance};
use crate::attr_enum;
use crate::dtype::DType;
use crate::tensor::{Element, Tensor};

attr_enum! {
    /// How an update is combined with what is there.
    pub enum Reduction {
        /// The update replaces it; of several updates of one element, the last wins.
        None = "none",
        Add = "add", Mul = "mul", Max = "max", Min = "min",
    }
}

impl Reduction {
    /// What results may differ by: updates of one element may be rounded one by one.
    pub(crate) fn tolerance(self, dtype: DType) -> Tolerance {
        match self {
            Reduction::Add | Reduction::Mul => Tolerance::roundings(dtype, 16.0),
            Reduction::None | Reduction::Max | Reduction::Min => Tolerance::EXACT,
        }
    }

    /// The combination of two floats.
    pub fn float(self, old: f64, new: f64) -> f64 {
        match self {
            Reduction::None => new,
            Reduction::Add => old + new,
            Reduction::Mul => old * new,
            Reduction::Max | Reduction::Min if old.is_nan() || new.is_nan() => f64::NAN,
            Reduction::Max => old.max(new),
            Reduction::Min => old.min(new),
        }
    }

    /// The combination of two i64, wrapping.
    pub fn i64(self, old: i64, new: i64) -> i64 {
        match self {
            Reduction::None => new,
            Reduction::Add => old.wrapping_add(new),
            Reduction::Mul => old.wrapping_mul(new),
            Reduction::Max => old.max(new),
            Reduction::Min => old.min(new),
        }
    }

    fn i128(self, old: i128, new: i128) -> i128 {
        match self {
            Reduction::None => new,
            Reduction::Add => old.wrapping_add(new),
            Reduction::Mul => old.wrapping_mul(new),
            Reduction::Max => old.max(new),
            Reduction::Min => old.min(new),
        }
    }
}

/// `x` with run `i` of `updates` (`run` elements each) combined into the elements from `starts[i]` on, in order.
pub(crate) fn combine(
    x: &Tensor,
    starts: &[usize],
    run: usize,
    updates: &Tensor,
    f: Reduction,
) -> Result<Tensor, EvalError> {
    if x.dtype() == DType::Str {
        let mut texts = x.strings()?.to_vec();
        each(starts, run, |to, from| texts[to].clone_from(&updates.strings().expect("typed alike")[from]));
        return Ok(Tensor::from_strings(x.dims(), texts)?);
    }
    if f == Reduction::None && x.dtype().bits() >= 8 {
        let width = x.dtype().bits() / 8;
        return Ok(Tensor::build(x.dtype(), x.dims(), |out| {
            out.copy_from_slice(x.bytes());
            let runs = updates.bytes().chunks_exact((run * width).max(1));
            for (start, new) in starts.iter().zip(runs) {
                out[start * width..(start + run) * width].copy_from_slice(new);
            }
        })?);
    }
    if x.dtype() == DType::I64 {
        let (mut out, new) = (x.as_slice::<i64>()?.to_vec(), updates.as_slice::<i64>()?);
        each(starts, run, |to, from| out[to] = f.i64(out[to], new[from]));
        return native(x, &out);
    }
    if x.dtype().is_float() {
        let (mut out, new) = (x.to_f64()?, updates.to_f64()?);
        each(starts, run, |to, from| out[to] = f.float(out[to], new[from]));
        return Ok(Tensor::from_f64(x.dtype(), x.dims(), &out)?);
    }
    let (mut out, new) = (x.to_ints()?, updates.to_ints()?);
    each(starts, run, |to, from| out[to] = f.i128(out[to], new[from]));
    Ok(Tensor::from_ints(x.dtype(), x.dims(), &out)?)
}

fn native<T: Element>(x: &Tensor, values: &[T]) -> Result<Tensor, EvalError> {
    Ok(Tensor::from_slice(x.dims(), values)?)
}

fn each(starts: &[usize], run: usize, mut f: impl FnMut(usize, usize)) {
    for (i, start) in starts.iter().enumerate() {
        for j in 0..run {
            f(start + j, i * run + j);
        }
    }
}
