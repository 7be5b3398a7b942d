//! The scalar functions of elementwise programs.

/// Functions of one operand. The result has the operand's register type, except where noted.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum UnaryFn {
    Neg,
    Abs,
    Sign,
    /// Logical for booleans, bitwise for integers.
    Not,
    Exp,
    Log,
    Sqrt,
    /// `1 / sqrt(x)`
    Rsqrt,
    Reciprocal,
    Square,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Tanh,
    Asinh,
    Acosh,
    Atanh,
    Sigmoid,
    Erf,
    Gelu,
    GeluTanh,
    Silu,
    Softplus,
    Softsign,
    Mish,
    Relu,
    /// `x * clamp(x / 6 + 1/2, 0, 1)`
    HardSwish,
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    LeakyRelu {
        alpha: f32,
    },
    /// `x > alpha ? x : 0`
    ThresholdedRelu {
        alpha: f32,
    },
    /// `x > 0 ? gamma * x : gamma * alpha * (e^x - 1)`: Elu has gamma 1, Selu its two constants.
    Elu {
        alpha: f32,
        gamma: f32,
    },
    /// `max(0, x) + min(0, alpha * (e^(x / alpha) - 1))`
    Celu {
        alpha: f32,
    },
    /// `x < -lambda ? x + bias : x > lambda ? x - bias : 0`
    Shrink {
        lambda: f32,
        bias: f32,
    },
    Clip {
        min: f32,
        max: f32,
    },
    Floor,
    Ceil,
    /// To the nearest integer, ties to even.
    Round,
    /// Towards zero.
    Trunc,
    /// A boolean.
    IsNan,
    /// A boolean; which infinities count is chosen.
    IsInf {
        negative: bool,
        positive: bool,
    },
}

/// Functions of two operands of one register type; the result has it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum BinaryFn {
    Add,
    Sub,
    Mul,
    /// Truncates for integers; an integer divided by zero is 0.
    Div,
    Pow,
    /// NaN when either operand is NaN.
    Min,
    /// NaN when either operand is NaN.
    Max,
    /// The remainder with the sign of the divisor; an integer's remainder by zero is 0.
    Mod,
    /// The remainder with the sign of the dividend (C's `fmod`).
    Fmod,
    /// `a < 0 ? a * b : a`
    Prelu,
    /// Bitwise; logical for booleans.
    And,
    /// Bitwise; logical for booleans.
    Or,
    /// Bitwise; logical for booleans.
    Xor,
    /// Zero where the shift is as wide as the register.
    ShiftLeft,
    /// Of the value as unsigned; zero where the shift is as wide as the register.
    ShiftRight,
}

/// Comparisons: two operands of one register type, a boolean result. Only `NotEqual` holds of a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum CompareFn {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}
