//! Reductions over any set of axes, and the index of the largest or smallest element of an axis.
//!
//! Axes are first merged: a mean over the last two of `[8, 64, 7, 7]` is a fold of 49 neighbours, 512 times. Where the
//! last kept dimension is the innermost, whole rows are folded into the output row instead.

use super::dims::{Dims, Walk, dense_strides, merge};
use super::lanes;
use super::math;
use super::vectorise::vectorise;

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum ReduceFn {
    Sum,
    Mean,
    Prod,
    /// NaN if any element is; minus infinity of nothing.
    Max,
    /// NaN if any element is; infinity of nothing.
    Min,
    /// The sum of absolute values.
    L1,
    /// The square root of the sum of squares.
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// Runs up to which lanes would mostly idle.
const SHORT: usize = 16;

/// A reduction of tensors of one shape.
#[derive(Clone, Debug)]
pub struct Reduction {
    kept: Dims,
    kept_strides: Dims,
    reduced: Dims,
    reduced_strides: Dims,
    count: usize,
}

impl Reduction {
    /// Over `axes` (each below the rank, any order) of a dense tensor of shape `dims`.
    pub fn new(dims: &[usize], axes: &[usize]) -> Reduction {
        let strides = dense_strides(dims);
        let part = |reduced: bool| {
            let keep = |i: &usize| axes.contains(i) == reduced;
            let d: Dims = (0..dims.len()).filter(keep).map(|i| dims[i]).collect();
            let s: Dims = (0..dims.len()).filter(keep).map(|i| strides[i]).collect();
            let (d, [s]) = merge(&d, [&s]);
            (d, s)
        };
        let (kept, kept_strides) = part(false);
        let (reduced, reduced_strides) = part(true);
        let count = reduced.iter().product();
        Reduction { kept, kept_strides, reduced, reduced_strides, count }
    }

    /// Elements of the output.
    pub fn outputs(&self) -> usize {
        self.kept.iter().product()
    }

    /// Elements that each output folds.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether output elements are neighbours in the input too, so that rows are folded rather than runs.
    fn folds_rows(&self) -> bool {
        self.kept_strides.last() == Some(&1) && self.kept.last().is_some_and(|&n| n > 1)
    }

    /// Output elements `start ..` of the reduction of `x`, as many as `y` holds. Ranges may run on several threads.
    pub fn run(&self, f: ReduceFn, x: &[f32], y: &mut [f32], start: usize) {
        if self.folds_rows() {
            self.run_rows(f, x, y, start);
        } else {
            self.run_runs(f, x, y, start);
        }
        finish(f, self.count, y);
    }

    fn run_runs(&self, f: ReduceFn, x: &[f32], y: &mut [f32], start: usize) {
        let run = *self.reduced.last().expect("merged shapes are not empty");
        let run_stride = *self.reduced_strides.last().expect("merged shapes are not empty");
        if run <= SHORT && run_stride == 1 && self.reduced.len() == 1 && self.is_dense(run) && f != ReduceFn::LogSumExp
        {
            return fold_short(f, run, &x[start * run..][..y.len() * run], y);
        }
        let mut out = Walk::new(&self.kept, [&self.kept_strides], start);
        for y in y {
            let largest = if f == ReduceFn::LogSumExp {
                self.fold_runs(ReduceFn::Max, 0.0, out.offsets[0], x, run, run_stride)
            } else {
                0.0
            };
            let shift = if largest.is_finite() { largest } else { 0.0 };
            *y = self.fold_runs(f, shift, out.offsets[0], x, run, run_stride);
            if f == ReduceFn::LogSumExp {
                *y = shift + y.ln();
            }
            out.step();
        }
    }

    /// Whether runs of `run` elements follow each other without gaps.
    fn is_dense(&self, run: usize) -> bool {
        run > 0 && self.kept.len() <= 1 && self.kept_strides.last().is_none_or(|s| *s == run)
    }

    fn fold_runs(&self, f: ReduceFn, shift: f32, base: usize, x: &[f32], run: usize, stride: usize) -> f32 {
        if self.count == 0 {
            return identity(f);
        }
        let outer = self.reduced.len() - 1;
        let mut walk = Walk::new(&self.reduced[..outer], [&self.reduced_strides[..outer]], 0);
        let mut total = identity(f);
        for _ in 0..self.count / run {
            let first = base + walk.offsets[0];
            let part = match stride {
                0 | 1 => fold_run(f, shift, &x[first..first + run]),
                _ => fold_strided(f, shift, &x[first..], run, stride),
            };
            total = join(f, total, part);
            walk.step();
        }
        total
    }

    fn run_rows(&self, f: ReduceFn, x: &[f32], y: &mut [f32], start: usize) {
        let mut out = Walk::new(&self.kept, [&self.kept_strides], start);
        let mut done = 0;
        while done < y.len() {
            let count = out.inner_left().min(y.len() - done);
            let base = out.offsets[0];
            let row = &mut y[done..done + count];
            if f == ReduceFn::LogSumExp {
                self.log_sum_exp_rows(x, base, row);
            } else {
                row.fill(identity(f));
                let mut walk = Walk::new(&self.reduced, [&self.reduced_strides], 0);
                for _ in 0..self.count {
                    fold_row(f, &x[base + walk.offsets[0]..][..count], row);
                    walk.step();
                }
            }
            out.skip_inner(count);
            done += count;
        }
    }

    /// One element at a time: the shift differs for each.
    fn log_sum_exp_rows(&self, x: &[f32], base: usize, row: &mut [f32]) {
        for (i, y) in row.iter_mut().enumerate() {
            let each = |f: &mut dyn FnMut(f32)| {
                let mut walk = Walk::new(&self.reduced, [&self.reduced_strides], 0);
                for _ in 0..self.count {
                    f(x[base + i + walk.offsets[0]]);
                    walk.step();
                }
            };
            let mut largest = f32::NEG_INFINITY;
            each(&mut |x| largest = math::max(largest, x));
            let shift = if largest.is_finite() { largest } else { 0.0 };
            let mut total = 0.0;
            each(&mut |x| total += math::exp::<false>(x - shift));
            *y = shift + total.ln();
        }
    }

    /// As [`Reduction::run`] for other element types, one element at a time: `fold` joins an element to the output,
    /// which starts at `identity`.
    pub fn run_with<T: Copy, A: Copy>(
        &self,
        x: &[T],
        y: &mut [A],
        start: usize,
        identity: A,
        fold: impl Fn(A, T) -> A,
    ) {
        let mut out = Walk::new(&self.kept, [&self.kept_strides], start);
        for y in y {
            *y = identity;
            let mut walk = Walk::new(&self.reduced, [&self.reduced_strides], 0);
            for _ in 0..self.count {
                *y = fold(*y, x[out.offsets[0] + walk.offsets[0]]);
                walk.step();
            }
            out.step();
        }
    }
}

fn identity(f: ReduceFn) -> f32 {
    match f {
        ReduceFn::Prod => 1.0,
        ReduceFn::Max => f32::NEG_INFINITY,
        ReduceFn::Min => f32::INFINITY,
        _ => 0.0,
    }
}

#[inline(always)]
fn join(f: ReduceFn, a: f32, b: f32) -> f32 {
    match f {
        ReduceFn::Prod => a * b,
        ReduceFn::Max => math::max(a, b),
        ReduceFn::Min => math::min(a, b),
        _ => a + b,
    }
}

vectorise! {
    fn fold_run<FMA>(f: ReduceFn, shift: f32, x: &[f32]) -> f32 {
        match f {
            ReduceFn::Sum | ReduceFn::Mean | ReduceFn::LogSum => lanes::sum(x, |x| x),
            ReduceFn::Prod => lanes::fold(x, 1.0, |a, x| a * x, |a, b| a * b),
            ReduceFn::Max => lanes::fold(x, f32::NEG_INFINITY, math::max, math::max),
            ReduceFn::Min => lanes::fold(x, f32::INFINITY, math::min, math::min),
            ReduceFn::L1 => lanes::sum(x, f32::abs),
            ReduceFn::L2 | ReduceFn::SumSquare => lanes::sum(x, |x| x * x),
            ReduceFn::LogSumExp => lanes::sum(x, |x| math::exp::<FMA>(x - shift)),
        }
    }

    /// Folds each run of `run` elements, too few for lanes.
    fn fold_short<FMA>(f: ReduceFn, run: usize, x: &[f32], y: &mut [f32]) {
        let rows = y.iter_mut().zip(x.chunks_exact(run));
        match f {
            ReduceFn::Prod => rows.for_each(|(y, x)| *y = x.iter().fold(1.0, |a, x| a * x)),
            ReduceFn::Max => rows.for_each(|(y, x)| *y = x.iter().fold(f32::NEG_INFINITY, |a, &x| math::max(a, x))),
            ReduceFn::Min => rows.for_each(|(y, x)| *y = x.iter().fold(f32::INFINITY, |a, &x| math::min(a, x))),
            ReduceFn::L1 => rows.for_each(|(y, x)| *y = x.iter().fold(0.0, |a, x| a + x.abs())),
            ReduceFn::L2 | ReduceFn::SumSquare => rows.for_each(|(y, x)| *y = x.iter().fold(0.0, |a, x| a + x * x)),
            ReduceFn::Sum | ReduceFn::Mean | ReduceFn::LogSum | ReduceFn::LogSumExp => {
                rows.for_each(|(y, x)| *y = x.iter().fold(0.0, |a, x| a + x));
            }
        }
    }

    fn fold_row<FMA>(f: ReduceFn, x: &[f32], y: &mut [f32]) {
        let pairs = y.iter_mut().zip(x);
        match f {
            ReduceFn::Prod => pairs.for_each(|(y, &x)| *y *= x),
            ReduceFn::Max => pairs.for_each(|(y, &x)| *y = math::max(*y, x)),
            ReduceFn::Min => pairs.for_each(|(y, &x)| *y = math::min(*y, x)),
            ReduceFn::L1 => pairs.for_each(|(y, &x)| *y += x.abs()),
            ReduceFn::L2 | ReduceFn::SumSquare => pairs.for_each(|(y, &x)| *y += x * x),
            ReduceFn::Sum | ReduceFn::Mean | ReduceFn::LogSum | ReduceFn::LogSumExp => pairs.for_each(|(y, &x)| *y += x),
        }
    }
}

fn fold_strided(f: ReduceFn, shift: f32, x: &[f32], count: usize, stride: usize) -> f32 {
    x.iter().step_by(stride).take(count).fold(identity(f), |a, &x| {
        let x = match f {
            ReduceFn::L1 => x.abs(),
            ReduceFn::L2 | ReduceFn::SumSquare => x * x,
            ReduceFn::LogSumExp => math::exp::<false>(x - shift),
            _ => x,
        };
        join(f, a, x)
    })
}

fn finish(f: ReduceFn, count: usize, y: &mut [f32]) {
    match f {
        ReduceFn::Mean => y.iter_mut().for_each(|y| *y /= count as f32),
        ReduceFn::L2 => y.iter_mut().for_each(|y| *y = y.sqrt()),
        ReduceFn::LogSum => y.iter_mut().for_each(|y| *y = y.ln()),
        _ => {}
    }
}

/// Which element [`arg_extreme`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum Extreme {
    Max,
    Min,
}

/// The index along the middle axis of `[outer, n, inner]` of the largest or smallest element, the first such or the
/// `last`; a NaN counts as extreme. `x` and `y` hold whole `outer` blocks.
pub fn arg_extreme<T: Copy + PartialOrd>(which: Extreme, last: bool, n: usize, inner: usize, x: &[T], y: &mut [i64]) {
    if n * inner == 0 {
        return;
    }
    let is_nan = |x: T| x.partial_cmp(&x).is_none();
    for (x, y) in x.chunks_exact(n * inner).zip(y.chunks_exact_mut(inner)) {
        for (i, y) in y.iter_mut().enumerate() {
            let (mut best, mut at) = (x[i], 0);
            for k in 1..n {
                let candidate = x[k * inner + i];
                let beats = match which {
                    Extreme::Max => candidate > best,
                    Extreme::Min => candidate < best,
                } || is_nan(candidate) && !is_nan(best);
                let ties = last && (candidate == best || is_nan(candidate) && is_nan(best));
                if beats || ties {
                    (best, at) = (candidate, k);
                }
            }
            *y = at as i64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [ReduceFn; 10] = [
        ReduceFn::Sum,
        ReduceFn::Mean,
        ReduceFn::Prod,
        ReduceFn::Max,
        ReduceFn::Min,
        ReduceFn::L1,
        ReduceFn::L2,
        ReduceFn::SumSquare,
        ReduceFn::LogSum,
        ReduceFn::LogSumExp,
    ];

    fn naive(f: ReduceFn, x: &[f32]) -> f64 {
        let v: Vec<f64> = x.iter().map(|&x| x as f64).collect();
        let carry = |a: f64, b: f64, larger: bool| match () {
            _ if a.is_nan() || b.is_nan() => f64::NAN,
            _ if larger => a.max(b),
            _ => a.min(b),
        };
        match f {
            ReduceFn::Sum => v.iter().sum(),
            ReduceFn::Mean => v.iter().sum::<f64>() / v.len() as f64,
            ReduceFn::Prod => v.iter().product(),
            ReduceFn::Max => v.iter().fold(f64::NEG_INFINITY, |a, &b| carry(a, b, true)),
            ReduceFn::Min => v.iter().fold(f64::INFINITY, |a, &b| carry(a, b, false)),
            ReduceFn::L1 => v.iter().map(|x| x.abs()).sum(),
            ReduceFn::L2 => v.iter().map(|x| x * x).sum::<f64>().sqrt(),
            ReduceFn::SumSquare => v.iter().map(|x| x * x).sum(),
            ReduceFn::LogSum => v.iter().sum::<f64>().ln(),
            ReduceFn::LogSumExp => v.iter().map(|x| x.exp()).sum::<f64>().ln(),
        }
    }

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![30 => -2f32..2.0, 1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0])]
    }

    proptest! {
        #[test]
        fn every_set_of_axes_agrees_with_f64(
            dims in prop::collection::vec(0usize..6, 1..5), mask in 0usize..16, positive: bool,
            seed in prop::collection::vec(value(), 89),
        ) {
            let axes: Vec<usize> = (0..dims.len()).filter(|i| mask >> i & 1 == 1).collect();
            let total: usize = dims.iter().product();
            let x: Vec<f32> = (0..total).map(|i| seed[i * 7 % 89]).map(|x| if positive { x.abs() } else { x }).collect();
            let strides = dense_strides(&dims);
            let reduction = Reduction::new(&dims, &axes);
            let outputs: usize = (0..dims.len()).filter(|i| !axes.contains(i)).map(|i| dims[i]).product();
            prop_assert_eq!(reduction.outputs(), outputs);
            let mut groups: Vec<Vec<f32>> = vec![Vec::new(); outputs];
            for (at, &x) in x.iter().enumerate() {
                let mut o = 0;
                for i in (0..dims.len()).filter(|i| !axes.contains(i)) {
                    o = o * dims[i] + at / strides[i] % dims[i];
                }
                groups[o].push(x);
            }
            for f in ALL {
                let mut y = vec![9f32; outputs];
                let middle = outputs / 2;
                let (a, b) = y.split_at_mut(middle);
                reduction.run(f, &x, a, 0);
                reduction.run(f, &x, b, middle);
                for (y, group) in y.iter().zip(&groups) {
                    let exact = naive(f, group);
                    // A sum that cancels has no logarithm to speak of.
                    let cancels = f == ReduceFn::LogSum && !positive;
                    let close = (*y as f64 - exact).abs() <= 1e-5 * (1.0 + exact.abs());
                    prop_assert!(cancels || close || *y as f64 == exact || y.is_nan() && exact.is_nan(), "{:?} {} {}", f, y, exact);
                }
            }
        }
    }

    #[test]
    fn integers_fold_one_by_one() {
        let x = [1i64, 2, 3, 4, 5, 6];
        let mut y = [0i64; 3];
        Reduction::new(&[2, 3], &[0]).run_with(&x, &mut y, 0, 0, |a, x| a + x);
        assert_eq!(y, [5, 7, 9]);
    }

    #[test]
    fn the_extreme_is_found_first_or_last() {
        let x = [3.0f32, 7.0, 7.0, 1.0, f32::NAN, 2.0];
        let mut y = [0i64; 1];
        arg_extreme(Extreme::Max, false, 4, 1, &x[..4], &mut y);
        assert_eq!(y, [1]);
        arg_extreme(Extreme::Max, true, 4, 1, &x[..4], &mut y);
        assert_eq!(y, [2]);
        arg_extreme(Extreme::Min, false, 6, 1, &x, &mut y);
        assert_eq!(y, [4]);
        let mut y = [0i64; 2];
        arg_extreme(Extreme::Min, false, 2, 2, &x[..4], &mut y);
        assert_eq!(y, [0, 1]);
    }
}
