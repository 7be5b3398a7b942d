//! Functions of one or two numbers: what elementwise operators compute.

use crate::attr_enum;
use crate::dtype::Class;

attr_enum! {
    /// A function of one number. Integer operands are allowed where [`UnaryFn::int`] has an answer.
    pub enum UnaryFn {
        Neg = "neg", Abs = "abs", Sign = "sign", Not = "not", BitNot = "bit_not",
        Exp = "exp", Log = "log", Sqrt = "sqrt", Rsqrt = "rsqrt", Reciprocal = "reciprocal",
        Sin = "sin", Cos = "cos", Tan = "tan", Asin = "asin", Acos = "acos", Atan = "atan",
        Sinh = "sinh", Cosh = "cosh", Tanh = "tanh", Asinh = "asinh", Acosh = "acosh", Atanh = "atanh",
        Sigmoid = "sigmoid", Silu = "silu", Erf = "erf", Gelu = "gelu", GeluTanh = "gelu_tanh",
        Relu = "relu", Softplus = "softplus", Softsign = "softsign", HardSwish = "hard_swish", Mish = "mish",
        Floor = "floor", Ceil = "ceil", Round = "round", IsNan = "is_nan", IsInf = "is_inf",
    }
}

attr_enum! {
    /// A function of two numbers of one type.
    pub enum BinaryFn {
        Add = "add", Sub = "sub", Mul = "mul", Div = "div", Pow = "pow", Min = "min", Max = "max",
        /// Remainder with the sign of the divisor (Python's `%`).
        Mod = "mod",
        /// Remainder with the sign of the dividend (C's `fmod`).
        Fmod = "fmod",
        And = "and", Or = "or", Xor = "xor", BitAnd = "bit_and", BitOr = "bit_or", BitXor = "bit_xor",
        ShiftLeft = "shift_left", ShiftRight = "shift_right",
    }
}

attr_enum! {
    /// A comparison; NaN is unequal to everything, itself included.
    pub enum CompareFn { Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge" }
}

/// Error function; <https://en.wikipedia.org/wiki/Error_function>, exact to a few ULP of f64 (libm's algorithm).
pub fn erf(x: f64) -> f64 {
    libm::erf(x)
}

impl UnaryFn {
    /// Whether the result is bool whatever the operand is.
    pub fn is_predicate(self) -> bool {
        matches!(self, UnaryFn::IsNan | UnaryFn::IsInf)
    }

    /// The function of a float.
    pub fn float(self, x: f64) -> f64 {
        use UnaryFn::*;
        let sigmoid = |x: f64| if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) };
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p() + if x.is_nan() { x } else { 0.0 };
        match self {
            Neg => -x,
            Abs => x.abs(),
            Sign if x == 0.0 || x.is_nan() => x,
            Sign => x.signum(),
            Not => f64::from(x == 0.0),
            BitNot => f64::NAN,
            Exp => x.exp(),
            Log => x.ln(),
            Sqrt => x.sqrt(),
            Rsqrt => 1.0 / x.sqrt(),
            Reciprocal => 1.0 / x,
            Sin => x.sin(),
            Cos => x.cos(),
            Tan => x.tan(),
            Asin => x.asin(),
            Acos => x.acos(),
            Atan => x.atan(),
            Sinh => x.sinh(),
            Cosh => x.cosh(),
            Tanh => x.tanh(),
            Asinh => x.asinh(),
            Acosh => x.acosh(),
            Atanh => x.atanh(),
            Sigmoid => sigmoid(x),
            Silu => x * sigmoid(x),
            Erf => erf(x),
            Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Relu if x.is_nan() => x,
            Relu => x.max(0.0),
            Softplus => softplus(x),
            Softsign => x / (1.0 + x.abs()),
            HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Mish => x * softplus(x).tanh(),
            Floor => x.floor(),
            Ceil => x.ceil(),
            Round => x.round_ties_even(),
            IsNan => f64::from(x.is_nan()),
            IsInf => f64::from(x.is_infinite()),
        }
    }

    /// The function of an integer, before it wraps to its type; `None` where it makes no sense.
    pub fn int(self, x: i128) -> Option<i128> {
        Some(match self {
            UnaryFn::Neg => -x,
            UnaryFn::Abs => x.abs(),
            UnaryFn::Sign => x.signum(),
            UnaryFn::Not => i128::from(x == 0),
            UnaryFn::BitNot => !x,
            UnaryFn::Relu => x.max(0),
            UnaryFn::Floor | UnaryFn::Ceil | UnaryFn::Round => x,
            _ => return None,
        })
    }
}

impl BinaryFn {
    /// Whether operands of this class have such a function.
    pub fn takes(self, class: Class) -> bool {
        use BinaryFn::*;
        match (self, class) {
            (_, Class::Text) => false,
            (And | Or | Xor, class) => class == Class::Bool,
            (BitAnd | BitOr | BitXor, class) => class != Class::Float,
            (ShiftLeft | ShiftRight, class) => matches!(class, Class::Signed | Class::Unsigned),
            (_, class) => class != Class::Bool,
        }
    }

    /// The function of two floats; `min` and `max` give NaN when either is.
    pub fn float(self, a: f64, b: f64) -> f64 {
        use BinaryFn::*;
        match self {
            Add => a + b,
            Sub => a - b,
            Mul => a * b,
            Div => a / b,
            Pow => a.powf(b),
            Min | Max if a.is_nan() || b.is_nan() => f64::NAN,
            Min => a.min(b),
            Max => a.max(b),
            Mod if b.is_infinite() && a.is_finite() => {
                if a != 0.0 && (a < 0.0) != (b < 0.0) {
                    b
                } else {
                    a
                }
            }
            Mod => a - (a / b).floor() * b,
            Fmod => a % b,
            And => f64::from(a != 0.0 && b != 0.0),
            Or => f64::from(a != 0.0 || b != 0.0),
            Xor => f64::from((a != 0.0) != (b != 0.0)),
            BitAnd | BitOr | BitXor | ShiftLeft | ShiftRight => f64::NAN,
        }
    }

    /// The function of two integers before it wraps to its type. Division truncates; by zero it is `None`.
    pub fn int(self, a: i128, b: i128, bits: u32) -> Option<i128> {
        use BinaryFn::*;
        Some(match self {
            Add => a + b,
            Sub => a - b,
            Mul => a.wrapping_mul(b),
            Div => a.checked_div(b)?,
            Pow if b < 0 => (a as f64).powf(b as f64) as i128,
            Pow => wrapping_pow(a, b),
            Min => a.min(b),
            Max => a.max(b),
            Mod => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r })?,
            Fmod => a.checked_rem(b)?,
            And => i128::from(a != 0 && b != 0),
            Or => i128::from(a != 0 || b != 0),
            Xor => i128::from((a != 0) != (b != 0)),
            BitAnd => a & b,
            BitOr => a | b,
            BitXor => a ^ b,
            ShiftLeft if b < 0 || b >= bits as i128 => 0,
            ShiftLeft => a << b,
            ShiftRight if b < 0 || b >= bits as i128 => {
                if a < 0 {
                    -1
                } else {
                    0
                }
            }
            ShiftRight => a >> b,
        })
    }
}

fn wrapping_pow(base: i128, exponent: i128) -> i128 {
    let (mut base, mut exponent, mut result) = (base, exponent, 1i128);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    result
}

impl CompareFn {
    /// Compares two numbers of any kind.
    pub fn holds<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        match self {
            CompareFn::Eq => a == b,
            CompareFn::Ne => a != b,
            CompareFn::Lt => a < b,
            CompareFn::Le => a <= b,
            CompareFn::Gt => a > b,
            CompareFn::Ge => a >= b,
        }
    }
}
