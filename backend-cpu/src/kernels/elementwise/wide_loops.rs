//! The loops of f64, integer and boolean instructions: plain, as models spend little time in them.

use super::{BinaryFn, CompareFn, UnaryFn};

/// `y = f(x)` for f64.
pub(super) fn unary_f64(f: UnaryFn, x: &[f64], y: &mut [f64]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = unary_f64_scalar(f, x);
    }
}

fn unary_f64_scalar(f: UnaryFn, x: f64) -> f64 {
    match f {
        UnaryFn::Neg => -x,
        UnaryFn::Abs => x.abs(),
        UnaryFn::Sign if x == 0.0 || x.is_nan() => x,
        UnaryFn::Sign => x.signum(),
        UnaryFn::Exp => x.exp(),
        UnaryFn::Log => x.ln(),
        UnaryFn::Sqrt => x.sqrt(),
        UnaryFn::Rsqrt => 1.0 / x.sqrt(),
        UnaryFn::Reciprocal => 1.0 / x,
        UnaryFn::Square => x * x,
        UnaryFn::Sin => x.sin(),
        UnaryFn::Cos => x.cos(),
        UnaryFn::Tan => x.tan(),
        UnaryFn::Asin => x.asin(),
        UnaryFn::Acos => x.acos(),
        UnaryFn::Atan => x.atan(),
        UnaryFn::Sinh => x.sinh(),
        UnaryFn::Cosh => x.cosh(),
        UnaryFn::Tanh => x.tanh(),
        UnaryFn::Asinh => x.asinh(),
        UnaryFn::Acosh => x.acosh(),
        UnaryFn::Atanh => x.atanh(),
        UnaryFn::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        UnaryFn::Erf => erf(x),
        UnaryFn::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        UnaryFn::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        UnaryFn::Silu => x / (1.0 + (-x).exp()),
        UnaryFn::Softplus => softplus(x),
        UnaryFn::Softsign => x / (1.0 + x.abs()),
        UnaryFn::Mish => x * softplus(x).tanh(),
        UnaryFn::Relu if x < 0.0 => 0.0,
        UnaryFn::Relu => x,
        UnaryFn::HardSwish => x * clip(x / 6.0 + 0.5, 0.0, 1.0),
        UnaryFn::HardSigmoid { alpha, beta } => clip(alpha as f64 * x + beta as f64, 0.0, 1.0),
        UnaryFn::LeakyRelu { alpha } if x < 0.0 => alpha as f64 * x,
        UnaryFn::LeakyRelu { .. } => x,
        UnaryFn::ThresholdedRelu { alpha } if x <= alpha as f64 => 0.0,
        UnaryFn::ThresholdedRelu { .. } => x,
        UnaryFn::Elu { gamma, .. } if x > 0.0 => gamma as f64 * x,
        UnaryFn::Elu { alpha, gamma } => gamma as f64 * alpha as f64 * x.exp_m1(),
        UnaryFn::Celu { .. } if x > 0.0 => x,
        UnaryFn::Celu { alpha } => alpha as f64 * (x / alpha as f64).exp_m1(),
        UnaryFn::Shrink { lambda, bias } if x < -lambda as f64 => x + bias as f64,
        UnaryFn::Shrink { lambda, bias } if x > lambda as f64 => x - bias as f64,
        UnaryFn::Shrink { .. } => 0.0,
        UnaryFn::Clip { min, max } => clip(x, min as f64, max as f64),
        UnaryFn::Floor => x.floor(),
        UnaryFn::Ceil => x.ceil(),
        UnaryFn::Round => x.round_ties_even(),
        UnaryFn::Trunc => x.trunc(),
        UnaryFn::Not | UnaryFn::IsNan | UnaryFn::IsInf { .. } => unreachable!("programs are typed"),
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn clip(x: f64, low: f64, high: f64) -> f64 {
    if x < low {
        low
    } else if x > high {
        high
    } else {
        x
    }
}

/// The error function: its series near zero, the continued fraction of its complement elsewhere.
fn erf(x: f64) -> f64 {
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

/// `y = f(x)`, a boolean, for f64.
pub(super) fn test_f64(f: UnaryFn, x: &[f64], y: &mut [u8]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = match f {
            UnaryFn::IsInf { negative, positive } => {
                positive && x == f64::INFINITY || negative && x == f64::NEG_INFINITY
            }
            _ => x.is_nan(),
        } as u8;
    }
}

/// `y = f(a, b)` for f64.
pub(super) fn binary_f64(f: BinaryFn, a: &[f64], b: &[f64], y: &mut [f64]) {
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        *y = match f {
            BinaryFn::Add => a + b,
            BinaryFn::Sub => a - b,
            BinaryFn::Mul => a * b,
            BinaryFn::Div => a / b,
            BinaryFn::Pow => a.powf(b),
            BinaryFn::Min if a < b || a.is_nan() => a,
            BinaryFn::Min => b,
            BinaryFn::Max if a > b || a.is_nan() => a,
            BinaryFn::Max => b,
            BinaryFn::Fmod => a % b,
            BinaryFn::Mod => match a % b {
                r if r != 0.0 && (r < 0.0) != (b < 0.0) => r + b,
                r => r,
            },
            BinaryFn::Prelu if a < 0.0 => a * b,
            BinaryFn::Prelu => a,
            BinaryFn::And | BinaryFn::Or | BinaryFn::Xor | BinaryFn::ShiftLeft | BinaryFn::ShiftRight => {
                unreachable!("programs are typed")
            }
        };
    }
}

/// The loops of one integer type.
macro_rules! integers {
    ($unary:ident, $binary:ident, $t:ty, $unsigned:ty) => {
        /// `y = f(x)`.
        pub(super) fn $unary(f: UnaryFn, x: &[$t], y: &mut [$t]) {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = match f {
                    UnaryFn::Neg => x.wrapping_neg(),
                    UnaryFn::Abs => x.wrapping_abs(),
                    UnaryFn::Sign => x.signum(),
                    UnaryFn::Not => !x,
                    UnaryFn::Square => x.wrapping_mul(x),
                    UnaryFn::Relu => x.max(0),
                    UnaryFn::Clip { min, max } => x.min(max as $t).max(min as $t),
                    UnaryFn::LeakyRelu { alpha } if x < 0 => (x as f64 * alpha as f64) as $t,
                    // Rounding leaves integers as they are; other functions are refused when a program is built.
                    _ => x,
                };
            }
        }

        /// `y = f(a, b)`.
        pub(super) fn $binary(f: BinaryFn, a: &[$t], b: &[$t], y: &mut [$t]) {
            let each = |y: &mut [$t], f: fn($t, $t) -> $t| {
                for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                    *y = f(a, b);
                }
            };
            match f {
                BinaryFn::Add => each(y, <$t>::wrapping_add),
                BinaryFn::Sub => each(y, <$t>::wrapping_sub),
                BinaryFn::Mul => each(y, <$t>::wrapping_mul),
                BinaryFn::Div => each(y, |a, b| if b == 0 { 0 } else { a.wrapping_div(b) }),
                BinaryFn::Pow => each(y, |a, b| match u32::try_from(b) {
                    Ok(b) => a.wrapping_pow(b),
                    Err(_) => (a as f64).powf(b as f64) as $t,
                }),
                BinaryFn::Min => each(y, |a, b| a.min(b)),
                BinaryFn::Max => each(y, |a, b| a.max(b)),
                BinaryFn::Fmod => each(y, |a, b| if b == 0 { 0 } else { a.wrapping_rem(b) }),
                BinaryFn::Mod => each(y, |a, b| match if b == 0 { 0 } else { a.wrapping_rem(b) } {
                    r if r != 0 && (r < 0) != (b < 0) => r + b,
                    r => r,
                }),
                BinaryFn::Prelu => each(y, |a, b| if a < 0 { a.wrapping_mul(b) } else { a }),
                BinaryFn::And => each(y, |a, b| a & b),
                BinaryFn::Or => each(y, |a, b| a | b),
                BinaryFn::Xor => each(y, |a, b| a ^ b),
                BinaryFn::ShiftLeft => each(y, |a, b| match b as u64 {
                    b if b < <$t>::BITS as u64 => ((a as $unsigned) << b) as $t,
                    _ => 0,
                }),
                BinaryFn::ShiftRight => each(y, |a, b| match b as u64 {
                    b if b < <$t>::BITS as u64 => ((a as $unsigned) >> b) as $t,
                    _ => 0,
                }),
            }
        }
    };
}
integers!(unary_i64, binary_i64, i64, u64);
integers!(unary_i32, binary_i32, i32, u32);

/// `y = f(a, b)` for booleans.
pub(super) fn binary_bool(f: BinaryFn, a: &[u8], b: &[u8], y: &mut [u8]) {
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        *y = match f {
            BinaryFn::And | BinaryFn::Mul | BinaryFn::Min => a & b,
            BinaryFn::Or | BinaryFn::Add | BinaryFn::Max => a | b,
            _ => a ^ b,
        };
    }
}

/// `y = a ? b`, a boolean.
pub(super) fn compare<T: Copy + PartialOrd>(f: CompareFn, a: &[T], b: &[T], y: &mut [u8]) {
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        *y = match f {
            CompareFn::Equal => a == b,
            CompareFn::NotEqual => a != b,
            CompareFn::Less => a < b,
            CompareFn::LessOrEqual => a <= b,
            CompareFn::Greater => a > b,
            CompareFn::GreaterOrEqual => a >= b,
        } as u8;
    }
}

/// `y = condition ? yes : no`.
pub(super) fn select<T: Copy>(condition: &[u8], yes: &[T], no: &[T], y: &mut [T]) {
    for (((y, &c), &a), &b) in y.iter_mut().zip(condition).zip(yes).zip(no) {
        *y = if c != 0 { a } else { b };
    }
}
