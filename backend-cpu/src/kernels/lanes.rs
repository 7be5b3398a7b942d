//! Folds of slices in independent lanes, which the compiler turns into a few vector registers.
//!
//! Summing in lanes also bounds the rounding error: it grows with the length over the number of lanes.

/// Lanes of a fold.
const LANES: usize = 32;

/// Folds `x` with `step` in lanes that start at `identity`, and joins the lanes pairwise with `join`.
#[inline(always)]
pub fn fold<T: Copy>(x: &[T], identity: T, step: impl Fn(T, T) -> T, join: impl Fn(T, T) -> T) -> T {
    let mut lanes = [identity; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for j in 0..LANES {
            lanes[j] = step(lanes[j], chunk[j]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for j in 0..width {
            lanes[j] = join(lanes[j], lanes[j + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `f` over `x`.
#[inline(always)]
pub fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    fold(x, 0.0, |a, x| a + f(x), |a, b| a + b)
}

/// The largest element, NaN passed over; minus infinity of nothing.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    fold(x, f32::NEG_INFINITY, larger, larger)
}
