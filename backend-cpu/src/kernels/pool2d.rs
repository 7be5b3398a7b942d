//! Max, average and Lp pooling in one to three spatial dimensions, and pooling of whole planes.
//!
//! Rows of a plane are folded into output rows with the window clipped to the input, so that no padding is read.

use super::math;
use super::reduce::{ReduceFn, Reduction};
use super::vectorise::vectorise;

/// What a window becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PoolFn {
    /// The largest element; NaN if any is. Padding does not take part.
    Max,
    /// The mean of the elements inside the input, or, counting padding as zeros, of the window.
    Average {
        /// Whether padding counts. Positions beyond the padding, which rounding sizes up adds, never do.
        count_padding: bool,
    },
    /// The p-th root of the sum of p-th powers of absolute values.
    Lp(f32),
}

/// The geometry of a pooling: windows over planes. Sizes are along depth, height and width, the leading ones 1.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Of the input.
    pub input: [usize; 3],
    /// Of the output.
    pub output: [usize; 3],
    /// Of the window.
    pub kernel: [usize; 3],
    /// Between windows.
    pub stride: [usize; 3],
    /// Between elements of a window.
    pub dilation: [usize; 3],
    /// Padding before and after.
    pub pads: [[usize; 3]; 2],
}

impl Window {
    /// Pools whole planes of `x` into those of `y`.
    pub fn run(&self, f: PoolFn, x: &[f32], y: &mut [f32]) {
        let (from, to) = (self.input.iter().product::<usize>(), self.output.iter().product::<usize>());
        if to == 0 {
            return;
        }
        for (i, y) in y.chunks_exact_mut(to).enumerate() {
            pool_plane(self, f, &x[i * from..][..from], y);
        }
    }

    /// As [`Window::run`] with [`PoolFn::Max`], also writing where each largest element lies: its index in the plane,
    /// plus that of the plane times its size, in row-major order (or with height and width exchanged). `first` is the
    /// number of the first plane.
    pub fn run_max_indices(&self, column_major: bool, first: usize, x: &[f32], y: &mut [f32], indices: &mut [i64]) {
        let (from, to) = (self.input.iter().product::<usize>(), self.output.iter().product::<usize>());
        let [_, in_height, in_width] = self.input;
        let [_, out_height, out_width] = self.output;
        for (at, (y, index)) in y.iter_mut().zip(indices).enumerate() {
            let (plane, o) = (at / to, at % to);
            let x = &x[plane * from..][..from];
            let out = [o / (out_height * out_width), o / out_width % out_height, o % out_width];
            let (mut best, mut place) = (f32::NEG_INFINITY, None);
            for d in self.taps(0, out[0]) {
                for h in self.taps(1, out[1]) {
                    for w in self.taps(2, out[2]) {
                        let x = x[(d * in_height + h) * in_width + w];
                        if place.is_none() || x > best || x.is_nan() && !best.is_nan() {
                            (best, place) = (x, Some([d, h, w]));
                        }
                    }
                }
            }
            let [d, h, w] = place.unwrap_or_default();
            let inside =
                if column_major { (d * in_width + w) * in_height + h } else { (d * in_height + h) * in_width + w };
            *y = best;
            *index = ((first + plane) * from + inside) as i64;
        }
    }

    /// Input positions along `axis` that window `out` shows.
    fn taps(&self, axis: usize, out: usize) -> impl Iterator<Item = usize> + use<> {
        let start = out * self.stride[axis];
        let (pad, size, step) = (self.pads[0][axis], self.input[axis], self.dilation[axis]);
        (0..self.kernel[axis]).filter_map(move |t| (start + t * step).checked_sub(pad).filter(|&at| at < size))
    }

    /// Elements of the window at `out` along `axis` that a mean divides by.
    fn count(&self, axis: usize, out: usize, padding: bool) -> usize {
        if !padding {
            return self.taps(axis, out).count();
        }
        let end = self.pads[0][axis] + self.input[axis] + self.pads[1][axis];
        (0..self.kernel[axis]).filter(|t| out * self.stride[axis] + t * self.dilation[axis] < end).count()
    }

    /// The outputs along the width whose tap number `tap` lies inside the input, and what the first of them reads.
    fn visible(&self, tap: usize) -> (std::ops::Range<usize>, usize) {
        let (stride, pad, offset) = (self.stride[2], self.pads[0][2], tap * self.dilation[2]);
        let low = pad.saturating_sub(offset).div_ceil(stride);
        let high = (self.input[2] + pad).saturating_sub(offset).div_ceil(stride).min(self.output[2]);
        (low..high.max(low), (low * stride + offset).saturating_sub(pad))
    }
}

vectorise! {
    fn pool_plane<FMA>(window: &Window, f: PoolFn, x: &[f32], y: &mut [f32]) {
        let [_, in_height, in_width] = window.input;
        let [_, out_height, out_width] = window.output;
        for (row, y) in y.chunks_exact_mut(out_width).enumerate() {
            let (depth, height) = (row / out_height, row % out_height);
            y.fill(if f == PoolFn::Max { f32::NEG_INFINITY } else { 0.0 });
            for d in window.taps(0, depth) {
                for h in window.taps(1, height) {
                    let x = &x[(d * in_height + h) * in_width..][..in_width];
                    for tap in 0..window.kernel[2] {
                        let (outs, first) = window.visible(tap);
                        if !outs.is_empty() {
                            fold_row(f, &x[first..], window.stride[2], &mut y[outs]);
                        }
                    }
                }
            }
            match f {
                PoolFn::Max => {}
                PoolFn::Average { count_padding } => {
                    let rows = window.count(0, depth, count_padding) * window.count(1, height, count_padding);
                    for (col, y) in y.iter_mut().enumerate() {
                        *y /= (rows * window.count(2, col, count_padding)) as f32;
                    }
                }
                PoolFn::Lp(p) => y.iter_mut().for_each(|y| *y = y.powf(1.0 / p)),
            }
        }
    }
}

/// Joins every `stride`-th element of `x` to `y`.
#[inline(always)]
fn fold_row(f: PoolFn, x: &[f32], stride: usize, y: &mut [f32]) {
    match (f, stride) {
        (PoolFn::Max, 1) => y.iter_mut().zip(x).for_each(|(y, &x)| *y = math::max(*y, x)),
        (PoolFn::Max, 2) => {
            let count = y.len() - 1;
            let (head, last) = y.split_at_mut(count);
            head.iter_mut().zip(x.as_chunks::<2>().0).for_each(|(y, x)| *y = math::max(*y, x[0]));
            last[0] = math::max(last[0], x[2 * count]);
        }
        (PoolFn::Max, _) => y.iter_mut().zip(x.iter().step_by(stride)).for_each(|(y, &x)| *y = math::max(*y, x)),
        (PoolFn::Average { .. }, 1) => y.iter_mut().zip(x).for_each(|(y, &x)| *y += x),
        (PoolFn::Average { .. }, _) => y.iter_mut().zip(x.iter().step_by(stride)).for_each(|(y, &x)| *y += x),
        (PoolFn::Lp(p), _) => y.iter_mut().zip(x.iter().step_by(stride)).for_each(|(y, &x)| *y += x.abs().powf(p)),
    }
}

/// Pools each plane of `plane` elements of `x` to one element of `y`.
pub fn pool_planes(f: PoolFn, plane: usize, x: &[f32], y: &mut [f32]) {
    let reduction = Reduction::new(&[y.len(), plane], &[1]);
    match f {
        PoolFn::Max => reduction.run(ReduceFn::Max, x, y, 0),
        PoolFn::Average { .. } => reduction.run(ReduceFn::Mean, x, y, 0),
        PoolFn::Lp(p) => {
            for (i, y) in y.iter_mut().enumerate() {
                *y = x[i * plane..][..plane].iter().map(|x| x.abs().powf(p)).sum::<f32>().powf(1.0 / p);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(w: &Window, f: PoolFn, x: &[f32]) -> Vec<f32> {
        let [od, oh, ow] = w.output;
        (0..od * oh * ow)
            .map(|o| {
                let out = [o / (oh * ow), o / ow % oh, o % ow];
                let (mut seen, mut padded) = (Vec::new(), 0usize);
                for t in 0..w.kernel.iter().product::<usize>() {
                    let tap = [t / (w.kernel[1] * w.kernel[2]), t / w.kernel[2] % w.kernel[1], t % w.kernel[2]];
                    let at: Vec<isize> = (0..3)
                        .map(|i| (out[i] * w.stride[i] + tap[i] * w.dilation[i]) as isize - w.pads[0][i] as isize)
                        .collect();
                    if (0..3).all(|i| (0..w.input[i] as isize).contains(&at[i])) {
                        seen.push(x[(at[0] as usize * w.input[1] + at[1] as usize) * w.input[2] + at[2] as usize]);
                    }
                    padded += (0..3).all(|i| at[i] < (w.input[i] + w.pads[1][i]) as isize) as usize;
                }
                match f {
                    PoolFn::Max => seen.iter().fold(f32::NEG_INFINITY, |a, &b| math::max(a, b)),
                    PoolFn::Average { count_padding } => {
                        seen.iter().sum::<f32>() / if count_padding { padded } else { seen.len() } as f32
                    }
                    PoolFn::Lp(p) => seen.iter().map(|x| x.abs().powf(p)).sum::<f32>().powf(1.0 / p),
                }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_window_agrees_with_the_naive_loop(
            sizes in prop::collection::vec((1usize..12, 1usize..5, 1usize..4, 1usize..3, 0usize..3, 0usize..3, 0usize..2), 3),
            seed in prop::collection::vec(prop_oneof![20 => -5f32..5.0, 1 => Just(f32::NAN), 1 => Just(f32::NEG_INFINITY)], 61),
        ) {
            type Sizes = (usize, usize, usize, usize, usize, usize, usize);
            let list = |f: fn(&Sizes) -> usize| -> [usize; 3] { std::array::from_fn(|i| f(&sizes[i])) };
            let mut w = Window {
                input: list(|s| s.0), output: [0; 3], kernel: list(|s| s.1), stride: list(|s| s.2), dilation: list(|s| s.3),
                pads: [list(|s| s.4), list(|s| s.5)],
            };
            for (i, sizes) in sizes.iter().enumerate() {
                let field = w.dilation[i] * (w.kernel[i] - 1) + 1;
                let padded = w.input[i] + w.pads[0][i] + w.pads[1][i];
                prop_assume!(padded >= field);
                // Sometimes sized up, as ceil_mode does.
                w.output[i] = (padded - field) / w.stride[i] + 1 + sizes.6 * usize::from(!(padded - field).is_multiple_of(w.stride[i]));
            }
            let from: usize = w.input.iter().product();
            let to: usize = w.output.iter().product();
            let x: Vec<f32> = (0..2 * from).map(|i| seed[i * 11 % 61]).collect();
            for f in [PoolFn::Max, PoolFn::Average { count_padding: true }, PoolFn::Average { count_padding: false }, PoolFn::Lp(2.0)] {
                let mut y = vec![0f32; 2 * to];
                w.run(f, &x, &mut y);
                let expected: Vec<f32> = x.chunks(from).flat_map(|x| naive(&w, f, x)).collect();
                for (a, b) in y.iter().zip(&expected) {
                    prop_assert!(a == b || a.is_nan() && b.is_nan() || (a - b).abs() < 1e-4 * (1.0 + b.abs()), "{:?} {} {}", f, a, b);
                }
                if f == PoolFn::Max {
                    let (mut again, mut indices) = (vec![0f32; 2 * to], vec![0i64; 2 * to]);
                    w.run_max_indices(false, 0, &x, &mut again, &mut indices);
                    for (i, (&v, &at)) in again.iter().zip(&indices).enumerate() {
                        prop_assert!(v == y[i] || v.is_nan() && y[i].is_nan());
                        let found = x[at as usize];
                        prop_assert!(v == found || v.is_nan() && found.is_nan() || v == f32::NEG_INFINITY);
                    }
                }
            }
        }
    }

    #[test]
    fn whole_planes_become_one_element() {
        let x = [1.0, 2.0, 6.0, -1.0, -4.0, -1.0];
        let mut y = [0.0; 2];
        pool_planes(PoolFn::Average { count_padding: false }, 3, &x, &mut y);
        assert_eq!(y, [3.0, -2.0]);
        pool_planes(PoolFn::Max, 3, &x, &mut y);
        assert_eq!(y, [6.0, -1.0]);
    }
}
