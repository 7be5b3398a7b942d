//! Functions that follow a sum, as kernels/hip/math.h numbers them.

use ir::ops::ActivationFn;
use ir::ops::activation::parameters;

/// The number, alpha and beta of a fused function; 0 is none.
pub(super) fn activation(f: Option<ActivationFn>, alpha: Option<f32>, beta: Option<f32>) -> (i64, f32, f32) {
    let Some(f) = f else { return (0, 0.0, 0.0) };
    let (alpha, beta) = parameters(f, alpha, beta);
    (number(f), alpha as f32, beta as f32)
}

fn number(f: ActivationFn) -> i64 {
    match f {
        ActivationFn::Relu => 1,
        ActivationFn::Sigmoid => 2,
        ActivationFn::Tanh => 3,
        ActivationFn::Silu => 4,
        ActivationFn::Gelu => 5,
        ActivationFn::GeluTanh => 6,
        ActivationFn::Mish => 7,
        ActivationFn::HardSwish => 8,
        ActivationFn::Softsign => 9,
        ActivationFn::Softplus => 10,
        ActivationFn::LeakyRelu => 11,
        ActivationFn::ThresholdedRelu => 12,
        ActivationFn::Elu => 13,
        ActivationFn::HardSigmoid => 14,
        ActivationFn::Affine => 15,
        ActivationFn::ScaledTanh => 16,
        ActivationFn::Clip => 17,
    }
}
