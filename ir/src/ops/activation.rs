//! Functions that follow a sum: fused behind convolutions and inside recurrent layers.

use crate::attr_enum;

attr_enum! {
    /// A function of one number with up to two parameters, alpha and beta.
    pub enum ActivationFn {
        Relu = "relu", Sigmoid = "sigmoid", Tanh = "tanh", Silu = "silu", Gelu = "gelu", GeluTanh = "gelu_tanh", Mish = "mish",
        HardSwish = "hard_swish", Softsign = "softsign", Softplus = "softplus",
        /// `x < 0 ? alpha x : x`
        LeakyRelu = "leaky_relu",
        /// `x > alpha ? x : 0`
        ThresholdedRelu = "thresholded_relu",
        /// `x < 0 ? alpha (exp x - 1) : x`
        Elu = "elu",
        /// `min(max(alpha x + beta, 0), 1)`
        HardSigmoid = "hard_sigmoid",
        /// `alpha x + beta`
        Affine = "affine",
        /// `alpha tanh(beta x)`
        ScaledTanh = "scaled_tanh",
        /// `min(max(x, alpha), beta)`
        Clip = "clip",
    }
}

impl ActivationFn {
    /// Alpha and beta where the model gives none.
    pub fn defaults(self) -> (f32, f32) {
        use ActivationFn::*;
        match self {
            LeakyRelu => (0.01, 0.0),
            HardSigmoid => (0.2, 0.5),
            Affine | ScaledTanh => (1.0, if self == ScaledTanh { 1.0 } else { 0.0 }),
            Clip => (f32::NEG_INFINITY, f32::INFINITY),
            _ => (1.0, 0.0),
        }
    }

    /// The function of a number; NaN stays NaN.
    pub fn float(self, x: f64, alpha: f64, beta: f64) -> f64 {
        use crate::scalar::UnaryFn as U;
        use ActivationFn::*;
        match self {
            _ if x.is_nan() => x,
            Relu => U::Relu.float(x),
            Sigmoid => U::Sigmoid.float(x),
            Tanh => x.tanh(),
            Silu => U::Silu.float(x),
            Gelu => U::Gelu.float(x),
            GeluTanh => U::GeluTanh.float(x),
            Mish => U::Mish.float(x),
            HardSwish => U::HardSwish.float(x),
            Softsign => U::Softsign.float(x),
            Softplus => U::Softplus.float(x),
            LeakyRelu if x < 0.0 => alpha * x,
            ThresholdedRelu if x <= alpha => 0.0,
            Elu if x < 0.0 => alpha * x.exp_m1(),
            LeakyRelu | ThresholdedRelu | Elu => x,
            HardSigmoid => clip(alpha * x + beta, 0.0, 1.0),
            Affine => alpha * x + beta,
            ScaledTanh => alpha * (beta * x).tanh(),
            Clip => clip(x, alpha, beta),
        }
    }
}

/// `x` within bounds, which need not be in order; NaN stays NaN, as in numpy's and the kernels' minimum and maximum.
fn clip(x: f64, low: f64, high: f64) -> f64 {
    if x.is_nan() { x } else { x.max(low).min(high) }
}

/// Alpha and beta of a fused activation: what the attributes say, else the function's defaults.
pub fn parameters(f: ActivationFn, alpha: Option<f32>, beta: Option<f32>) -> (f64, f64) {
    let (a, b) = f.defaults();
    (alpha.unwrap_or(a) as f64, beta.unwrap_or(b) as f64)
}
