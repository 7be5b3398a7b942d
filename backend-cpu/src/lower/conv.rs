//! `conv` and `conv_transpose` over f32: weights are packed when a plan is loaded, or per call where they are computed.

use super::window::{Spatial, Windows};
use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View};
use crate::kernels::conv::{self, ConvEpilogue};
use crate::kernels::elementwise::UnaryFn;
use crate::kernels::pool::Pool;
use ir::ops::activation::{ActivationFn, parameters};
use ir::ops::{Conv, ConvTranspose, EvalError};
use ir::tensor::{Aligned, Memory};
use smallvec::SmallVec;

/// The engine's activation; `None` where it has no equal.
pub(super) fn activation(f: ActivationFn, alpha: Option<f32>, beta: Option<f32>) -> Option<UnaryFn> {
    let (alpha, beta) = parameters(f, alpha, beta);
    let (alpha, beta) = (alpha as f32, beta as f32);
    Some(match f {
        ActivationFn::Relu => UnaryFn::Relu,
        ActivationFn::Sigmoid => UnaryFn::Sigmoid,
        ActivationFn::Tanh => UnaryFn::Tanh,
        ActivationFn::Silu => UnaryFn::Silu,
        ActivationFn::Gelu => UnaryFn::Gelu,
        ActivationFn::GeluTanh => UnaryFn::GeluTanh,
        ActivationFn::Mish => UnaryFn::Mish,
        ActivationFn::HardSwish => UnaryFn::HardSwish,
        ActivationFn::Softsign => UnaryFn::Softsign,
        ActivationFn::Softplus => UnaryFn::Softplus,
        ActivationFn::LeakyRelu => UnaryFn::LeakyRelu { alpha },
        ActivationFn::ThresholdedRelu => UnaryFn::ThresholdedRelu { alpha },
        ActivationFn::Elu => UnaryFn::Elu { alpha, gamma: 1.0 },
        ActivationFn::HardSigmoid => UnaryFn::HardSigmoid { alpha, beta },
        ActivationFn::Clip => UnaryFn::Clip { min: alpha, max: beta },
        ActivationFn::Affine | ActivationFn::ScaledTanh => return None,
    })
}

/// What both directions of a convolution are.
pub(super) trait Geometry: Send + Sync {
    const NAME: &'static str;
    type Built: Built;

    /// The convolution of an input of dimensions `x` with a weight of dimensions `w`.
    fn build(&self, x: &[usize], w: &[usize]) -> Result<Self::Built, EvalError>;

    /// Dimensions of a small input that a weight of dimensions `w` fits.
    fn least(&self, w: &[usize]) -> Vec<usize>;
}

/// A convolution whose sizes are known.
pub(super) trait Built {
    fn packed_elems(&self) -> usize;
    fn pack(&self, weights: &[f32], packed: &mut [f32]);
    fn scratch_elems(&self, pool: &Pool) -> usize;
    fn run(&self, pool: &Pool, x: &[f32], packed: &[f32], e: &ConvEpilogue<'_>, y: &mut [f32], scratch: &mut [f32]);
}

macro_rules! built {
    ($t:ty) => {
        impl Built for $t {
            fn packed_elems(&self) -> usize {
                self.packed_elems()
            }
            fn pack(&self, weights: &[f32], packed: &mut [f32]) {
                self.pack(weights, packed)
            }
            fn scratch_elems(&self, pool: &Pool) -> usize {
                self.scratch_elems(pool)
            }
            fn run(&self, pool: &Pool, x: &[f32], w: &[f32], e: &ConvEpilogue<'_>, y: &mut [f32], scratch: &mut [f32]) {
                self.run(pool, x, w, e, y, scratch)
            }
        }
    };
}
built!(conv::Conv);
built!(conv::ConvTranspose);

struct ConvKernel<G> {
    geometry: G,
    activation: Option<UnaryFn>,
    /// The weight in the kernel's layout, where it is a constant.
    packed: Option<Aligned>,
}

/// Geometry of `conv`.
pub(super) struct Forward {
    pub(super) windows: Windows,
    pub(super) group: usize,
}

pub(super) fn conv(op: &Conv, types: &Types<'_>) -> Chosen {
    let windows = Windows::new(&op.strides, &op.dilations, &op.pads, op.same)?;
    let activation = match op.act {
        Some(f) => Some(activation(f, op.alpha, op.beta)?),
        None => None,
    };
    let geometry = Forward { windows, group: usize::try_from(op.group).ok()? };
    chosen(geometry, activation, types)
}

fn chosen<G: Geometry + 'static>(geometry: G, activation: Option<UnaryFn>, types: &Types<'_>) -> Chosen {
    let ranked = types.dims(0).is_some_and(|d| (3..=5).contains(&d.len()));
    let fits = types.all_f32() && types.row_major() && ranked;
    fits.then(|| Box::new(ConvKernel { geometry, activation, packed: None }) as Box<dyn Kernel>)
}

fn refused(e: conv::ConvError) -> EvalError {
    EvalError::Invalid(e.to_string())
}

impl Geometry for Forward {
    const NAME: &'static str = "conv";
    type Built = conv::Conv;

    fn build(&self, x: &[usize], w: &[usize]) -> Result<conv::Conv, EvalError> {
        let (input, kernel) = (&x[2..], &w[2..]);
        self.windows.check(input, kernel)?;
        let [before, after] = self.windows.padding(input, kernel);
        conv::Conv::new(x[0], self.group, [x[1], w[0]], input, kernel)
            .strides(&self.windows.strides)
            .dilations(&self.windows.dilations)
            .pads(&before, &after)
            .build()
            .map_err(refused)
    }

    fn least(&self, w: &[usize]) -> Vec<usize> {
        let field = |(k, dilation): (&usize, &usize)| dilation * k.saturating_sub(1) + 1;
        let fields = w[2..].iter().zip(&self.windows.dilations).map(field);
        [1, w[1] * self.group].into_iter().chain(fields).collect()
    }
}

/// Geometry of `conv_transpose`.
struct Backward {
    strides: Spatial,
    dilations: Spatial,
    output_padding: Spatial,
    pads: SmallVec<[usize; 6]>,
    group: usize,
}

pub(super) fn conv_transpose(op: &ConvTranspose, types: &Types<'_>) -> Chosen {
    let sizes = |list: &[i64]| list.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<Spatial>>();
    // A negative padding widens the result, which the kernel does not know; one that depends on symbols may be negative.
    let pads = op.pads.iter().map(|p| usize::try_from(p.as_const()?).ok()).collect::<Option<_>>()?;
    let geometry = Backward {
        strides: sizes(&op.strides)?,
        dilations: sizes(&op.dilations)?,
        output_padding: sizes(&op.output_padding)?,
        pads,
        group: usize::try_from(op.group).ok()?,
    };
    chosen(geometry, None, types)
}

impl Geometry for Backward {
    const NAME: &'static str = "conv_transpose";
    type Built = conv::ConvTranspose;

    fn build(&self, x: &[usize], w: &[usize]) -> Result<conv::ConvTranspose, EvalError> {
        let (before, after) = self.pads.split_at(self.pads.len() / 2);
        conv::Conv::new(x[0], self.group, [x[1], w[1] * self.group], &x[2..], &w[2..])
            .strides(&self.strides)
            .dilations(&self.dilations)
            .pads(before, after)
            .build_transposed(&self.output_padding)
            .map_err(refused)
    }

    fn least(&self, w: &[usize]) -> Vec<usize> {
        [1, w[0]].into_iter().chain(w[2..].iter().map(|_| 1)).collect()
    }
}

impl<G: Geometry> ConvKernel<G> {
    /// Elements of scratch: for the kernel, and for the packed weight where it is computed.
    fn scratch(&self, built: &G::Built, pool: &Pool) -> usize {
        built.scratch_elems(pool) + if self.packed.is_some() { 0 } else { built.packed_elems() }
    }
}

impl<G: Geometry> Kernel for ConvKernel<G> {
    fn name(&self) -> &'static str {
        G::NAME
    }

    fn prepare(&mut self, constants: &[Option<View<'_>>]) {
        let Some(w) = constants.get(1).copied().flatten() else { return };
        // The layout of a packed weight does not depend on the input's sizes.
        let Ok(built) = self.geometry.build(&self.geometry.least(w.dims), w.dims) else { return };
        let mut packed = Aligned::zeroed(built.packed_elems() * 4);
        built.pack(w.as_slice(), bytemuck::cast_slice_mut(packed.bytes_mut()));
        self.packed = Some(packed);
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let (Some(x), Some(w)) = (dims.ins[0], dims.ins[1]) else { return 0 };
        self.geometry.build(x, w).map_or(0, |built| self.scratch(&built, pool).div_ceil(2))
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, w) = (call.input(0), call.input(1));
        let built = self.geometry.build(x.dims, w.dims)?;
        let side = |i: usize| call.ins.get(i).copied().flatten().map(|v| v.as_slice::<f32>());
        let epilogue = ConvEpilogue { bias: side(2), residual: side(3), activation: self.activation };
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let y: &mut [f32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        if let Some(packed) = &self.packed {
            built.run(call.pool, x.as_slice(), bytemuck::cast_slice(packed.bytes()), &epilogue, y, scratch);
            return Ok(());
        }
        let (packed, scratch) = scratch.split_at_mut(built.packed_elems());
        built.pack(w.as_slice(), packed);
        built.run(call.pool, x.as_slice(), packed, &epilogue, y, scratch);
        Ok(())
    }
}
