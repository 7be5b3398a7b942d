//! Normalisation: over rows (layer, RMS), over groups of channels (group, instance), and by fixed factors (batch).
//!
//! Mean and variance are taken in two passes over data that is in the cache by then; both are sums in lanes.

use super::lanes;
use super::math;
use super::vectorise::{fma, vectorise};

vectorise! {
    /// `(x - mean) / sqrt(variance + epsilon) * scale + bias` for each row of `cols` elements. `scale` and `bias` have
    /// `cols` elements; an empty one stands for ones or zeros.
    pub fn layer_norm<FMA>(cols: usize, scale: &[f32], bias: &[f32], epsilon: f32, x: &[f32], y: &mut [f32]) {
        if cols == 0 {
            return;
        }
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let (mean, factor) = moments(x, epsilon);
            match (scale.is_empty(), bias.is_empty()) {
                (true, true) => {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = (x - mean) * factor;
                    }
                }
                (true, false) => {
                    for ((y, &x), &b) in y.iter_mut().zip(x).zip(bias) {
                        *y = fma::<FMA>(x - mean, factor, b);
                    }
                }
                (false, true) => {
                    for ((y, &x), &s) in y.iter_mut().zip(x).zip(scale) {
                        *y = (x - mean) * factor * s;
                    }
                }
                (false, false) => {
                    for (((y, &x), &s), &b) in y.iter_mut().zip(x).zip(scale).zip(bias) {
                        *y = fma::<FMA>((x - mean) * factor, s, b);
                    }
                }
            }
        }
    }

    /// `x / sqrt(mean of x^2 + epsilon) * scale` for each row of `cols` elements; an empty `scale` stands for ones.
    pub fn rms_norm<FMA>(cols: usize, scale: &[f32], epsilon: f32, x: &[f32], y: &mut [f32]) {
        if cols == 0 {
            return;
        }
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let mean_square = lanes::fold(x, 0.0, |a, x| fma::<FMA>(x, x, a), |a, b| a + b) / cols as f32;
            let factor = 1.0 / (mean_square + epsilon).sqrt();
            if scale.is_empty() {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x * factor;
                }
            } else {
                for ((y, &x), &s) in y.iter_mut().zip(x).zip(scale) {
                    *y = x * factor * s;
                }
            }
        }
    }

    /// Group normalisation of `[count, inner]` blocks: each block is one group of `count` channels of one image, the
    /// first of them group number `first_group` (modulo the groups of an image). `scale` and `bias` have one element
    /// per channel of an image. Instance normalisation is the case of one channel per group.
    pub fn group_norm<FMA>(shape: GroupShape, scale: &[f32], bias: &[f32], epsilon: f32, first_group: usize, x: &[f32], y: &mut [f32]) {
        let GroupShape { groups, channels_per_group: count, inner } = shape;
        if count * inner == 0 {
            return;
        }
        for (i, (x, y)) in x.chunks_exact(count * inner).zip(y.chunks_exact_mut(count * inner)).enumerate() {
            let (mean, factor) = moments(x, epsilon);
            let first_channel = (first_group + i) % groups * count;
            for (c, (x, y)) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)).enumerate() {
                let s = scale[first_channel + c] * factor;
                let b = bias[first_channel + c];
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = fma::<FMA>(x - mean, s, b);
                }
            }
        }
    }

    /// `x * factor[c] + shift[c]` for channel planes of `inner` elements, the first of them channel `first` (modulo the
    /// number of channels): batch normalisation with its statistics folded.
    pub fn scale_channels<FMA>(factor: &[f32], shift: &[f32], inner: usize, first: usize, x: &[f32], y: &mut [f32]) {
        if inner == 0 {
            return;
        }
        for (i, (x, y)) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)).enumerate() {
            let c = (first + i) % factor.len();
            let (f, s) = (factor[c], shift[c]);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = fma::<FMA>(x, f, s);
            }
        }
    }

    /// Local response normalisation: `x / (bias + alpha / size * sum of squares of neighbours)^beta` over a window of
    /// `size` channels of one image `[channels, inner]`.
    pub fn local_response_norm<FMA>(window: ResponseWindow, inner: usize, x: &[f32], y: &mut [f32]) {
        let channels = x.len().checked_div(inner).unwrap_or(0);
        let before = (window.size - 1) / 2;
        for c in 0..channels {
            let (low, high) = (c.saturating_sub(before), (c + window.size - before).min(channels));
            let y = &mut y[c * inner..][..inner];
            y.fill(0.0);
            for x in x[low * inner..high * inner].chunks_exact(inner) {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = fma::<FMA>(x, x, *y);
                }
            }
            for (y, &x) in y.iter_mut().zip(&x[c * inner..][..inner]) {
                let base = window.bias + window.alpha / window.size as f32 * *y;
                *y = x * math::exp::<FMA>(-window.beta * math::ln::<FMA>(base));
            }
        }
    }
}

/// How an image's channels are grouped.
#[derive(Clone, Copy, Debug)]
pub struct GroupShape {
    /// Groups of an image.
    pub groups: usize,
    /// Channels of a group.
    pub channels_per_group: usize,
    /// Elements of a channel.
    pub inner: usize,
}

/// The constants of [`local_response_norm`].
#[derive(Clone, Copy, Debug)]
pub struct ResponseWindow {
    /// Channels of the window, at least 1.
    pub size: usize,
    /// See the formula.
    pub alpha: f32,
    /// See the formula.
    pub beta: f32,
    /// See the formula.
    pub bias: f32,
}

/// Mean, and `1 / sqrt(variance + epsilon)`.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = lanes::sum(x, |x| x) / count;
    let variance = lanes::sum(x, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: f32, b: f64) -> bool {
        a.is_nan() && b.is_nan() || (a as f64 - b).abs() <= 1e-4 * (1.0 + b.abs())
    }

    fn naive_moments(x: &[f32], epsilon: f64) -> (f64, f64) {
        let n = x.len() as f64;
        let mean = x.iter().map(|&x| x as f64).sum::<f64>() / n;
        let variance = x.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / n;
        (mean, 1.0 / (variance + epsilon).sqrt())
    }

    proptest! {
        #[test]
        fn rows_are_normalised(cols in 1usize..100, seed in prop::collection::vec(-9f32..9.0, 101)) {
            let x: Vec<f32> = (0..3 * cols).map(|i| seed[i * 17 % 101]).collect();
            let scale: Vec<f32> = (0..cols).map(|i| seed[i * 3 % 101]).collect();
            let bias: Vec<f32> = (0..cols).map(|i| seed[i * 5 % 101]).collect();
            let (mut layer, mut bare, mut rms) = (vec![0f32; x.len()], vec![0f32; x.len()], vec![0f32; x.len()]);
            layer_norm(cols, &scale, &bias, 1e-3, &x, &mut layer);
            layer_norm(cols, &[], &[], 1e-3, &x, &mut bare);
            rms_norm(cols, &scale, 1e-3, &x, &mut rms);
            for r in 0..3 {
                let row = &x[r * cols..][..cols];
                let (mean, factor) = naive_moments(row, 1e-3);
                let square = row.iter().map(|&x| (x as f64).powi(2)).sum::<f64>() / cols as f64;
                for c in 0..cols {
                    let at = r * cols + c;
                    let normal = (x[at] as f64 - mean) * factor;
                    prop_assert!(close(bare[at], normal));
                    prop_assert!(close(layer[at], normal * scale[c] as f64 + bias[c] as f64));
                    prop_assert!(close(rms[at], x[at] as f64 / (square + 1e-3).sqrt() * scale[c] as f64));
                }
            }
        }

        #[test]
        fn groups_are_normalised(groups in 1usize..4, count in 1usize..4, inner in 1usize..40, seed in prop::collection::vec(-9f32..9.0, 101)) {
            let channels = groups * count;
            let x: Vec<f32> = (0..2 * channels * inner).map(|i| seed[i * 17 % 101]).collect();
            let scale: Vec<f32> = (0..channels).map(|i| seed[i * 3 % 101]).collect();
            let bias: Vec<f32> = (0..channels).map(|i| seed[i * 5 % 101]).collect();
            let shape = GroupShape { groups, channels_per_group: count, inner };
            let mut y = vec![0f32; x.len()];
            // In two parts, as two threads would.
            let part = count * inner;
            let (first, rest) = y.split_at_mut(part);
            group_norm(shape, &scale, &bias, 1e-3, 0, &x[..part], first);
            group_norm(shape, &scale, &bias, 1e-3, 1, &x[part..], rest);
            for (g, (x, y)) in x.chunks(part).zip(y.chunks(part)).enumerate() {
                let (mean, factor) = naive_moments(x, 1e-3);
                for (i, (&x, &y)) in x.iter().zip(y).enumerate() {
                    let c = g % groups * count + i / inner;
                    prop_assert!(close(y, (x as f64 - mean) * factor * scale[c] as f64 + bias[c] as f64));
                }
            }
        }
    }

    #[test]
    fn a_nan_stays_in_its_row() {
        let x = [f32::NAN, 1.0, 2.0, 3.0];
        let mut y = [0f32; 4];
        layer_norm(2, &[], &[], 1e-5, &x, &mut y);
        assert!(y[0].is_nan() && y[1].is_nan() && y[2] < 0.0 && y[3] > 0.0);
    }

    #[test]
    fn local_response_follows_its_formula() {
        let x: Vec<f32> = (0..15).map(|i| i as f32 * 0.3 - 2.0).collect();
        let window = ResponseWindow { size: 3, alpha: 0.5, beta: 0.75, bias: 1.5 };
        let mut y = vec![0f32; 15];
        local_response_norm(window, 3, &x, &mut y);
        for c in 0..5usize {
            for i in 0..3 {
                let square: f64 = (c.saturating_sub(1)..(c + 2).min(5)).map(|k| (x[k * 3 + i] as f64).powi(2)).sum();
                assert!(close(y[c * 3 + i], x[c * 3 + i] as f64 / (1.5 + 0.5 / 3.0 * square).powf(0.75)));
            }
        }
    }
}
