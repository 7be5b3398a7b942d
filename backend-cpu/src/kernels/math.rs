//! Scalar f32 functions whose loops the compiler vectorises: no branches, no tables, no calls.
//!
//! Each is meant to be called from a `vectorise!` body, which sets `FMA`. The tests hold every function against
//! f64 over the whole range of f32, special values included, and state the error in units in the last place (ULP).

use super::vectorise::fma;

/// `1.5 * 2^23`: adding and subtracting it rounds a small f32 to an integer, ties to even, and leaves that integer
/// in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;
const LN2_HI: f32 = 0.693_145_75;
const LN2_LO: f32 = 1.428_606_8e-6;

/// `2^n` for an integer n in -127..=127, from its bits.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `e^x`, within 1.5 ULP, subnormal results included.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    // Comparisons, not min and max, so that a NaN stays.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let t = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let i = (t.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let r = fma::<FMA>(n, -LN2_HI, x);
    let r = fma::<FMA>(n, -LN2_LO, r);
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_199_9e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 5e-1);
    p = fma::<FMA>(p, r * r, r) + 1.0;
    // Two factors: 2^i itself leaves the range of normal numbers at both ends.
    let half = i >> 1;
    p * power_of_two(half) * power_of_two(i.wrapping_sub(half))
}

/// `e^x - 1`, within 3 ULP, accurate near zero.
#[inline(always)]
pub fn exp_m1<const FMA: bool>(x: f32) -> f32 {
    // Taylor where cancellation would hurt.
    let mut p = 2.480_158_7e-5;
    p = fma::<FMA>(p, x, 1.984_127e-4);
    p = fma::<FMA>(p, x, 1.388_888_9e-3);
    p = fma::<FMA>(p, x, 8.333_334e-3);
    p = fma::<FMA>(p, x, 4.166_666_8e-2);
    p = fma::<FMA>(p, x, 1.666_666_7e-1);
    p = fma::<FMA>(p, x, 0.5);
    let near = fma::<FMA>(p * x, x, x);
    let far = exp::<FMA>(x) - 1.0;
    if x.abs() < 0.45 { near } else { far }
}

/// Natural logarithm, within 1 ULP (the method of FreeBSD's `logf`).
#[inline(always)]
pub fn ln<const FMA: bool>(x: f32) -> f32 {
    let subnormal = x < f32::MIN_POSITIVE;
    let scaled = if subnormal { x * 8_388_608.0 } else { x };
    let base = if subnormal { -23.0f32 } else { 0.0 };
    // Reduce to sqrt(1/2) <= m < sqrt(2).
    let bits = scaled.to_bits().wrapping_add(0x3f80_0000 - 0x3f35_04f3);
    let exponent = (bits >> 23) as i32 - 127;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let k = exponent as f32 + base;
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let t1 = w * fma::<FMA>(w, 0.242_790_79, 0.400_009_72);
    let t2 = z * fma::<FMA>(w, 0.284_987_87, 0.666_666_6);
    let r = t2 + t1;
    let half_square = 0.5 * f * f;
    let y = k * 0.693_138_1 - ((half_square - fma::<FMA>(s, half_square + r, k * 9.058_001e-6)) - f);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

/// `ln(1 + x)` for x >= 0, within 3 ULP.
#[inline(always)]
pub fn ln_1p<const FMA: bool>(x: f32) -> f32 {
    let u = 1.0 + x;
    let y = ln::<FMA>(u) + (x - (u - 1.0)) / u;
    if x == f32::INFINITY { x } else { y }
}

/// Hyperbolic tangent, within 3 ULP.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = fma::<FMA>(p, z, 2.063_909e-2);
    p = fma::<FMA>(p, z, -5.373_971_5e-2);
    p = fma::<FMA>(p, z, 1.333_144_2e-1);
    p = fma::<FMA>(p, z, -3.333_328e-1);
    let near = fma::<FMA>(p * z, x, x);
    let far = 1.0 - 2.0 / (exp::<FMA>(2.0 * a) + 1.0);
    if a < 0.625 { near } else { far.copysign(x) }
}

/// `1 / (1 + e^-x)`, within 3 ULP.
#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let e = exp::<FMA>(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// The error function, within 2 ULP (coefficients by N. Juffa).
#[inline(always)]
pub fn erf<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let s = x * x;
    let mut p = fma::<FMA>(-1.728_534_7e-5, a, 3.831_971_3e-4);
    let q = fma::<FMA>(-3.883_964_4e-3, a, 2.425_462_2e-2);
    p = fma::<FMA>(p, s, q);
    p = fma::<FMA>(p, a, -1.067_778_8e-1);
    p = fma::<FMA>(p, a, -6.348_467e-1);
    p = fma::<FMA>(p, a, -1.287_175_1e-1);
    p = fma::<FMA>(p, a, -a);
    let far = (1.0 - exp::<FMA>(p)).copysign(x);
    let far = if a > 4.0 { 1f32.copysign(x) } else { far };
    let mut q = -5.967_617e-4;
    q = fma::<FMA>(q, s, 4.991_194_2e-3);
    q = fma::<FMA>(q, s, -2.676_813_5e-2);
    q = fma::<FMA>(q, s, 1.128_199_25e-1);
    q = fma::<FMA>(q, s, -3.761_253_3e-1);
    q = fma::<FMA>(q, s, 1.283_791_7e-1);
    let near = fma::<FMA>(q, x, x);
    // A NaN fails the comparison and both forms carry it.
    if a > 0.927_734_4 { far } else { near }
}

/// Arguments beyond this magnitude are left to the standard library by [`sin`] and [`cos`]'s callers.
pub const TRIG_LIMIT: f32 = 1e8;

/// The remainder of `x` by pi/2 and the quadrant, for `|x| <= TRIG_LIMIT`.
#[inline(always)]
fn quadrant(x: f32) -> (f32, i32) {
    /// `1.5 * 2^52`, the f64 counterpart of [`ROUND`].
    const ROUND_F64: f64 = 6_755_399_441_055_744.0;
    const PIO2_HI: f64 = 1.570_796_310_901_641_8;
    const PIO2_LO: f64 = 1.589_325_477_352_819_6e-8;
    let x = x as f64;
    let t = x * std::f64::consts::FRAC_2_PI + ROUND_F64;
    let n = t - ROUND_F64;
    let r = (x - n * PIO2_HI) - n * PIO2_LO;
    (r as f32, t.to_bits() as i32)
}

#[inline(always)]
fn sin_cos_of_remainder<const FMA: bool>(r: f32) -> (f32, f32) {
    let z = r * r;
    let mut s = -1.951_529_6e-4;
    s = fma::<FMA>(s, z, 8.332_161e-3);
    s = fma::<FMA>(s, z, -1.666_665_5e-1);
    let s = fma::<FMA>(s * z, r, r);
    let mut c = 2.443_315_7e-5;
    c = fma::<FMA>(c, z, -1.388_731_6e-3);
    c = fma::<FMA>(c, z, 4.166_664_6e-2);
    let c = fma::<FMA>(c, z * z, fma::<FMA>(z, -0.5, 1.0));
    (s, c)
}

/// Sine for `|x| <= TRIG_LIMIT`, within 2 ULP of f32 away from zeros of the result and 1e-7 absolute near them.
#[inline(always)]
pub fn sin<const FMA: bool>(x: f32) -> f32 {
    let (r, q) = quadrant(x);
    let (s, c) = sin_cos_of_remainder::<FMA>(r);
    let y = if q & 1 == 0 { s } else { c };
    if q & 2 == 0 { y } else { -y }
}

/// Cosine for `|x| <= TRIG_LIMIT`, with the error of [`sin`].
#[inline(always)]
pub fn cos<const FMA: bool>(x: f32) -> f32 {
    let (r, q) = quadrant(x);
    let (s, c) = sin_cos_of_remainder::<FMA>(r);
    let y = if q & 1 == 0 { c } else { s };
    if q.wrapping_add(1) & 2 == 0 { y } else { -y }
}

/// `x * (1 + erf(x / sqrt 2)) / 2`.
#[inline(always)]
pub fn gelu<const FMA: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The tanh approximation of [`gelu`].
#[inline(always)]
pub fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    let inner = 0.797_884_6 * fma::<FMA>(0.044_715 * x, x * x, x);
    // x (1 + tanh u) / 2 = x sigmoid(2u): no cancellation for negative x.
    x * sigmoid::<FMA>(2.0 * inner)
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub fn silu<const FMA: bool>(x: f32) -> f32 {
    x * sigmoid::<FMA>(x)
}

/// `ln(1 + e^x)`.
#[inline(always)]
pub fn softplus<const FMA: bool>(x: f32) -> f32 {
    let positive = if x < 0.0 { 0.0 } else { x };
    positive + ln_1p::<FMA>(exp::<FMA>(-x.abs()))
}

/// The larger operand, or NaN when either is NaN.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// The smaller operand, or NaN when either is NaN.
#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { a } else { b }
}

/// -1, 0 or 1 with the sign of `x`; NaN stays.
#[inline(always)]
pub fn sign(x: f32) -> f32 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units in the last place of the f32 nearest to `exact`, subnormals counted as f32 does.
    fn ulp(got: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        if got.is_nan() && exact.is_nan() || got == rounded {
            return 0.0;
        }
        if !got.is_finite() || !rounded.is_finite() {
            return f64::INFINITY;
        }
        let unit = (f32::from_bits((rounded.abs().to_bits()).max(0x0080_0000) & 0x7f80_0000) as f64) * 2f64.powi(-23);
        (got as f64 - exact).abs() / unit
    }

    fn every_kth() -> impl Iterator<Item = f32> {
        (0..u32::MAX).step_by(4099).map(f32::from_bits).chain([
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            1.0,
            -1.0,
        ])
    }

    fn worst(range: f32, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        let mut worst = (0.0, 0.0f32);
        for x in every_kth().filter(|x| x.is_nan() || x.abs() <= range) {
            let e = ulp(f(x), exact(x as f64));
            if e > worst.0 {
                worst = (e, x);
            }
        }
        println!("worst {:.2} ULP at {:e}", worst.0, worst.1);
        worst.0
    }

    fn erf_f64(x: f64) -> f64 {
        // Series near zero, continued fraction of erfc far from it.
        let a = x.abs();
        if a.is_nan() {
            return x;
        }
        if a > 6.0 {
            return 1f64.copysign(x);
        }
        if a < 2.5 {
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= -x * x / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            return sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let mut fraction = a;
        for n in (1..200).rev() {
            fraction = a + (n as f64 / 2.0) / fraction;
        }
        (1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
    }

    #[test]
    fn exp_is_within_its_bound() {
        assert!(worst(f32::INFINITY, exp::<true>, f64::exp) < 1.5);
        assert!(worst(f32::INFINITY, exp::<false>, f64::exp) < 2.0);
    }

    #[test]
    fn exp_m1_is_within_its_bound() {
        assert!(worst(f32::INFINITY, exp_m1::<true>, f64::exp_m1) < 3.0);
    }

    #[test]
    fn ln_is_within_its_bound() {
        assert!(worst(f32::INFINITY, ln::<true>, f64::ln) < 1.0);
        assert!(worst(f32::INFINITY, ln::<false>, f64::ln) < 1.0);
        assert!(worst(f32::INFINITY, |x| ln_1p::<true>(x.abs()), |x| x.abs().ln_1p()) < 3.0);
    }

    #[test]
    fn tanh_and_sigmoid_are_within_their_bounds() {
        assert!(worst(f32::INFINITY, tanh::<true>, f64::tanh) < 3.0);
        assert!(worst(f32::INFINITY, sigmoid::<true>, |x| 1.0 / (1.0 + (-x).exp())) < 3.0);
    }

    /// `sqrt(1 - tanh(x)^2)` is a number for every number.
    #[test]
    fn tanh_is_never_above_one() {
        for x in every_kth().chain((0..4_000_000).map(|k| k as f32 * 5e-6)).filter(|x| !x.is_nan()) {
            assert!(tanh::<true>(x).abs() <= 1.0 && tanh::<false>(x).abs() <= 1.0, "tanh {x:e}");
        }
    }

    #[test]
    fn erf_is_within_its_bound() {
        assert!(worst(f32::INFINITY, erf::<true>, erf_f64) < 2.0);
        assert!(worst(f32::INFINITY, erf::<false>, erf_f64) < 3.0);
    }

    #[test]
    fn sin_and_cos_are_within_their_bounds() {
        for x in every_kth().filter(|x| x.abs() <= TRIG_LIMIT) {
            assert!((sin::<true>(x) as f64 - (x as f64).sin()).abs() <= 1.2e-7, "sin {x}");
            assert!((cos::<true>(x) as f64 - (x as f64).cos()).abs() <= 1.2e-7, "cos {x}");
        }
        assert!(worst(0.7, sin::<true>, f64::sin) < 1.5);
        assert!(sin::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn activations_agree_with_their_formulas() {
        for x in every_kth().filter(|x| x.abs() < 1e3) {
            let d = x as f64;
            let close = |got: f32, exact: f64| (got as f64 - exact).abs() <= 3e-7 * (1.0 + exact.abs());
            assert!(close(gelu::<true>(x), 0.5 * d * (1.0 + erf_f64(d / 2f64.sqrt()))), "gelu {x}");
            let u = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
            assert!(close(gelu_tanh::<true>(x), 0.5 * d * (1.0 + u.tanh())), "gelu_tanh {x}");
            assert!(close(silu::<true>(x), d / (1.0 + (-d).exp())), "silu {x}");
            assert!(close(softplus::<true>(x), d.max(0.0) + (-d.abs()).exp().ln_1p()), "softplus {x}");
        }
    }

    #[test]
    fn min_and_max_carry_nan() {
        assert!(max(f32::NAN, 1.0).is_nan() && max(1.0, f32::NAN).is_nan());
        assert!(min(f32::NAN, 1.0).is_nan() && min(1.0, f32::NAN).is_nan());
        assert_eq!((max(1.0, 2.0), min(1.0, 2.0)), (2.0, 1.0));
        assert_eq!((sign(-3.0), sign(0.0), sign(9.0)), (-1.0, 0.0, 1.0));
    }
}
