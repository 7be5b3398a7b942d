//! The loops of f32 instructions.

use super::{BinaryFn, CompareFn, UnaryFn};
use crate::kernels::math;
use crate::kernels::vectorise::vectorise;

/// One vectorised loop over `$x` into `$y` with `$e` as its body.
macro_rules! each {
    ($xs:ident, $ys:ident, |$x:ident| $e:expr) => {
        each!($xs, $ys, (), |$x, _nothing in ()| $e)
    };
    ($xs:ident, $ys:ident, $with:expr, |$x:ident, $p:pat_param in $pt:ty| $e:expr) => {{
        vectorise! {
            fn each<FMA>(with: $pt, x: &[f32], y: &mut [f32]) {
                let $p = with;
                for (y, &$x) in y.iter_mut().zip(x) {
                    *y = $e;
                }
            }
        }
        each($with, $xs, $ys)
    }};
}

/// A loop that calls the standard library for each element.
macro_rules! calls {
    ($xs:ident, $ys:ident, $f:expr) => {
        for (y, &x) in $ys.iter_mut().zip($xs) {
            *y = $f(x);
        }
    };
}

/// `y = f(x)` for functions whose result is a float.
pub(super) fn unary(f: UnaryFn, x: &[f32], y: &mut [f32]) {
    match f {
        UnaryFn::Neg => each!(x, y, |x| -x),
        UnaryFn::Abs => each!(x, y, |x| x.abs()),
        UnaryFn::Sign => each!(x, y, |x| math::sign(x)),
        UnaryFn::Exp => each!(x, y, |x| math::exp::<FMA>(x)),
        UnaryFn::Log => each!(x, y, |x| math::ln::<FMA>(x)),
        UnaryFn::Sqrt => each!(x, y, |x| x.sqrt()),
        UnaryFn::Rsqrt => each!(x, y, |x| 1.0 / x.sqrt()),
        UnaryFn::Reciprocal => each!(x, y, |x| 1.0 / x),
        UnaryFn::Square => each!(x, y, |x| x * x),
        UnaryFn::Sin => trig(x, y, f32::sin, |x, y| each!(x, y, |x| math::sin::<FMA>(x))),
        UnaryFn::Cos => trig(x, y, f32::cos, |x, y| each!(x, y, |x| math::cos::<FMA>(x))),
        UnaryFn::Tan => calls!(x, y, f32::tan),
        UnaryFn::Asin => calls!(x, y, f32::asin),
        UnaryFn::Acos => calls!(x, y, f32::acos),
        UnaryFn::Atan => calls!(x, y, f32::atan),
        UnaryFn::Sinh => calls!(x, y, f32::sinh),
        UnaryFn::Cosh => calls!(x, y, f32::cosh),
        UnaryFn::Tanh => each!(x, y, |x| math::tanh::<FMA>(x)),
        UnaryFn::Asinh => calls!(x, y, f32::asinh),
        UnaryFn::Acosh => calls!(x, y, f32::acosh),
        UnaryFn::Atanh => calls!(x, y, f32::atanh),
        UnaryFn::Sigmoid => each!(x, y, |x| math::sigmoid::<FMA>(x)),
        UnaryFn::Erf => each!(x, y, |x| math::erf::<FMA>(x)),
        UnaryFn::Gelu => each!(x, y, |x| math::gelu::<FMA>(x)),
        UnaryFn::GeluTanh => each!(x, y, |x| math::gelu_tanh::<FMA>(x)),
        UnaryFn::Silu => each!(x, y, |x| math::silu::<FMA>(x)),
        UnaryFn::Softplus => each!(x, y, |x| math::softplus::<FMA>(x)),
        UnaryFn::Softsign => each!(x, y, |x| x / (1.0 + x.abs())),
        UnaryFn::Mish => each!(x, y, |x| x * math::tanh::<FMA>(math::softplus::<FMA>(x))),
        UnaryFn::Relu => each!(x, y, |x| if x < 0.0 { 0.0 } else { x }),
        UnaryFn::HardSwish => each!(x, y, |x| x * math::min(math::max(x / 6.0 + 0.5, 0.0), 1.0)),
        UnaryFn::HardSigmoid { alpha, beta } => {
            each!(x, y, (alpha, beta), |x, (alpha, beta) in (f32, f32)| {
                math::min(math::max(alpha * x + beta, 0.0), 1.0)
            })
        }
        UnaryFn::LeakyRelu { alpha } => {
            each!(x, y, alpha, |x, alpha in f32| if x < 0.0 { alpha * x } else { x })
        }
        UnaryFn::ThresholdedRelu { alpha } => {
            each!(x, y, alpha, |x, alpha in f32| if x <= alpha { 0.0 } else { x })
        }
        UnaryFn::Elu { alpha, gamma } => {
            each!(x, y, (alpha, gamma), |x, (alpha, gamma) in (f32, f32)| {
                gamma * if x > 0.0 { x } else { alpha * math::exp_m1::<FMA>(x) }
            })
        }
        UnaryFn::Celu { alpha } => each!(x, y, alpha, |x, alpha in f32| {
            if x > 0.0 { x } else { alpha * math::exp_m1::<FMA>(x / alpha) }
        }),
        UnaryFn::Shrink { lambda, bias } => {
            each!(x, y, (lambda, bias), |x, (lambda, bias) in (f32, f32)| {
                if x < -lambda {
                    x + bias
                } else if x > lambda {
                    x - bias
                } else {
                    0.0
                }
            })
        }
        UnaryFn::Clip { min, max } => {
            each!(x, y, (min, max), |x, (low, high) in (f32, f32)| math::min(math::max(x, low), high))
        }
        UnaryFn::Floor => each!(x, y, |x| x.floor()),
        UnaryFn::Ceil => each!(x, y, |x| x.ceil()),
        UnaryFn::Round => each!(x, y, |x| x.round_ties_even()),
        UnaryFn::Trunc => each!(x, y, |x| x.trunc()),
        UnaryFn::Not | UnaryFn::IsNan | UnaryFn::IsInf { .. } => unreachable!("programs are typed"),
    }
}

/// Runs `fast` and lets the standard library redo the arguments that are too large for it.
fn trig(x: &[f32], y: &mut [f32], exact: fn(f32) -> f32, fast: fn(&[f32], &mut [f32])) {
    fast(x, y);
    vectorise! {
        fn largest<FMA>(x: &[f32]) -> f32 {
            let mut lanes = [0f32; 16];
            for chunk in x.chunks(16) {
                for (m, &x) in lanes.iter_mut().zip(chunk) {
                    *m = if x.abs() > *m { x.abs() } else { *m };
                }
            }
            lanes.into_iter().fold(0.0, f32::max)
        }
    }
    if largest(x) <= math::TRIG_LIMIT {
        return;
    }
    for (y, &x) in y.iter_mut().zip(x).filter(|(_, x)| x.abs() > math::TRIG_LIMIT) {
        *y = exact(x);
    }
}

/// `y = f(x)` for functions whose result is a boolean.
pub(super) fn test(f: UnaryFn, x: &[f32], y: &mut [u8]) {
    match f {
        UnaryFn::IsInf { negative, positive } => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (positive && x == f32::INFINITY || negative && x == f32::NEG_INFINITY) as u8;
            }
        }
        _ => {
            for (y, x) in y.iter_mut().zip(x) {
                *y = x.is_nan() as u8;
            }
        }
    }
}

/// One vectorised loop over two operands.
macro_rules! pairs {
    ($as:ident, $bs:ident, $ys:ident : $yt:ty, |$a:ident, $b:ident| $e:expr) => {{
        vectorise! {
            fn pairs<FMA>(a: &[f32], b: &[f32], y: &mut [$yt]) {
                for ((y, &$a), &$b) in y.iter_mut().zip(a).zip(b) {
                    *y = $e;
                }
            }
        }
        pairs($as, $bs, $ys)
    }};
}

/// `y = f(a, b)`.
pub(super) fn binary(f: BinaryFn, a: &[f32], b: &[f32], y: &mut [f32]) {
    match f {
        BinaryFn::Add => pairs!(a, b, y: f32, |a, b| a + b),
        BinaryFn::Sub => pairs!(a, b, y: f32, |a, b| a - b),
        BinaryFn::Mul => pairs!(a, b, y: f32, |a, b| a * b),
        BinaryFn::Div => pairs!(a, b, y: f32, |a, b| a / b),
        BinaryFn::Min => pairs!(a, b, y: f32, |a, b| math::min(a, b)),
        BinaryFn::Max => pairs!(a, b, y: f32, |a, b| math::max(a, b)),
        BinaryFn::Prelu => pairs!(a, b, y: f32, |a, b| if a < 0.0 { a * b } else { a }),
        BinaryFn::Pow => pow(a, b, y),
        BinaryFn::Fmod => pairs!(a, b, y: f32, |a, b| a % b),
        BinaryFn::Mod => pairs!(a, b, y: f32, |a, b| {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        }),
        BinaryFn::And | BinaryFn::Or | BinaryFn::Xor | BinaryFn::ShiftLeft | BinaryFn::ShiftRight => {
            unreachable!("programs are typed")
        }
    }
}

/// `a^b`; the exponents that models use, constant over the block, take short cuts.
fn pow(a: &[f32], b: &[f32], y: &mut [f32]) {
    let constant = b.first().copied().filter(|first| b.iter().all(|b| b == first));
    match constant {
        Some(1.0) => y.copy_from_slice(a),
        Some(2.0) => each!(a, y, |x| x * x),
        Some(3.0) => each!(a, y, |x| x * x * x),
        Some(-1.0) => each!(a, y, |x| 1.0 / x),
        // pow(-inf, 0.5) is +inf, pow(-0, 0.5) is +0.
        Some(0.5) => each!(a, y, |x| if x == f32::NEG_INFINITY { f32::INFINITY } else { (x + 0.0).sqrt() }),
        _ => pairs!(a, b, y: f32, |a, b| a.powf(b)),
    }
}

/// `y = a ? b`, a boolean.
pub(super) fn compare(f: CompareFn, a: &[f32], b: &[f32], y: &mut [u8]) {
    match f {
        CompareFn::Equal => pairs!(a, b, y: u8, |a, b| (a == b) as u8),
        CompareFn::NotEqual => pairs!(a, b, y: u8, |a, b| (a != b) as u8),
        CompareFn::Less => pairs!(a, b, y: u8, |a, b| (a < b) as u8),
        CompareFn::LessOrEqual => pairs!(a, b, y: u8, |a, b| (a <= b) as u8),
        CompareFn::Greater => pairs!(a, b, y: u8, |a, b| (a > b) as u8),
        CompareFn::GreaterOrEqual => pairs!(a, b, y: u8, |a, b| (a >= b) as u8),
    }
}

vectorise! {
    /// `y = condition ? yes : no` for four-byte values.
    pub(super) fn select<FMA>(condition: &[u8], yes: &[u32], no: &[u32], y: &mut [u32]) {
        for (((y, &c), &a), &b) in y.iter_mut().zip(condition).zip(yes).zip(no) {
            *y = if c != 0 { a } else { b };
        }
    }
}
