//! Softmax and log-softmax over rows or over a strided axis, and the masked form that attention uses.
//!
//! The largest element is subtracted first, so that large inputs do not overflow; a NaN makes its row NaN.

use super::lanes;
use super::math;
use super::vectorise::vectorise;

/// Which of the two is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftmaxKind {
    /// `e^x / sum e^x`
    Softmax,
    /// `x - ln sum e^x`
    LogSoftmax,
}

vectorise! {
    /// Softmax of each row of `cols` elements of `x` into `y`; both hold whole rows.
    pub fn softmax_rows<FMA>(kind: SoftmaxKind, cols: usize, x: &[f32], y: &mut [f32]) {
        if cols == 0 {
            return;
        }
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let largest = lanes::max(x);
            match kind {
                SoftmaxKind::Softmax => {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = math::exp::<FMA>(x - largest);
                    }
                    let factor = 1.0 / lanes::sum(y, |y| y);
                    for y in y.iter_mut() {
                        *y *= factor;
                    }
                }
                SoftmaxKind::LogSoftmax => {
                    let total = lanes::sum(x, |x| math::exp::<FMA>(x - largest));
                    let log = math::ln::<FMA>(total);
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = (x - largest) - log;
                    }
                }
            }
        }
    }

    /// Softmax over the middle axis of blocks `[n, inner]`; `x` and `y` hold whole blocks, `scratch` at least
    /// `2 * inner` elements.
    pub fn softmax_strided<FMA>(kind: SoftmaxKind, n: usize, inner: usize, x: &[f32], y: &mut [f32], scratch: &mut [f32]) {
        if n * inner == 0 {
            return;
        }
        let (largest, total) = scratch[..2 * inner].split_at_mut(inner);
        for (x, y) in x.chunks_exact(n * inner).zip(y.chunks_exact_mut(n * inner)) {
            largest.fill(f32::NEG_INFINITY);
            total.fill(0.0);
            for x in x.chunks_exact(inner) {
                for (m, &x) in largest.iter_mut().zip(x) {
                    *m = if x > *m { x } else { *m };
                }
            }
            for (x, y) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)) {
                for (((y, &x), &m), t) in y.iter_mut().zip(x).zip(&*largest).zip(total.iter_mut()) {
                    let e = math::exp::<FMA>(x - m);
                    *y = if kind == SoftmaxKind::Softmax { e } else { x - m };
                    *t += e;
                }
            }
            for t in total.iter_mut() {
                *t = if kind == SoftmaxKind::Softmax { 1.0 / *t } else { math::ln::<FMA>(*t) };
            }
            for y in y.chunks_exact_mut(inner) {
                for (y, &t) in y.iter_mut().zip(&*total) {
                    *y = if kind == SoftmaxKind::Softmax { *y * t } else { *y - t };
                }
            }
        }
    }

    /// Turns one row of attention scores into weights in place: softmax of `scale * score + mask` over the first
    /// `visible` scores; the rest, which a causal mask hides, become 0. `mask` is empty or as long as the row.
    pub fn softmax_scores<FMA>(scores: &mut [f32], scale: f32, mask: &[f32], visible: usize) {
        let (scores, hidden) = scores.split_at_mut(visible);
        hidden.fill(0.0);
        if mask.is_empty() {
            for s in scores.iter_mut() {
                *s *= scale;
            }
        } else {
            for (s, &m) in scores.iter_mut().zip(&mask[..visible]) {
                *s = *s * scale + m;
            }
        }
        let largest = lanes::max(scores);
        for s in scores.iter_mut() {
            *s = math::exp::<FMA>(*s - largest);
        }
        let factor = 1.0 / lanes::sum(scores, |s| s);
        for s in scores.iter_mut() {
            *s *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(kind: SoftmaxKind, x: &[f32]) -> Vec<f32> {
        let m = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x as f64));
        let total: f64 = x.iter().map(|&x| (x as f64 - m).exp()).sum();
        let one = |x: f32| match kind {
            SoftmaxKind::Softmax => (x as f64 - m).exp() / total,
            SoftmaxKind::LogSoftmax => x as f64 - m - total.ln(),
        };
        x.iter().map(|&x| one(x) as f32).collect()
    }

    fn close(a: f32, b: f32) -> bool {
        a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 2e-6 * (1.0 + b.abs())
    }

    fn score() -> impl Strategy<Value = f32> {
        prop_oneof![8 => -20f32..20.0, 1 => prop::sample::select(vec![f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 0.0, 1e30, -1e30])]
    }

    proptest! {
        #[test]
        fn rows_and_strides_agree_with_f64(n in 1usize..70, inner in 1usize..20, seed in prop::collection::vec(score(), 97)) {
            let x: Vec<f32> = (0..2 * n * inner).map(|i| seed[i * 13 % 97]).collect();
            for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax] {
                let (mut rows, mut strided) = (vec![0f32; x.len()], vec![0f32; x.len()]);
                softmax_rows(kind, n, &x, &mut rows);
                for (x, y) in x.chunks(n).zip(rows.chunks(n)) {
                    for (a, b) in y.iter().zip(naive(kind, x)) {
                        prop_assert!(close(*a, b), "{:?} {} {}", kind, a, b);
                    }
                }
                softmax_strided(kind, n, inner, &x, &mut strided, &mut vec![0.0; 2 * inner]);
                for o in 0..2 {
                    for i in 0..inner {
                        let column = |v: &[f32]| -> Vec<f32> { (0..n).map(|k| v[(o * n + k) * inner + i]).collect() };
                        for (a, b) in column(&strided).iter().zip(naive(kind, &column(&x))) {
                            prop_assert!(close(*a, b), "{:?} {} {}", kind, a, b);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn hidden_scores_weigh_nothing() {
        let mut scores = [1.0, 2.0, 3.0, 50.0];
        softmax_scores(&mut scores, 0.5, &[0.0, f32::NEG_INFINITY, 0.0, 0.0], 3);
        let e = |x: f32| x.exp();
        assert!(close(scores[0], e(0.5) / (e(0.5) + e(1.5))));
        assert_eq!((scores[1], scores[3]), (0.0, 0.0));
    }
}
