//! `softmax`, `layer_norm` and `rms_norm`: independent rows, shared among threads.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, grain};
use crate::kernels::norm;
use crate::kernels::pool::Pool;
use crate::kernels::softmax::{SoftmaxKind, softmax_rows, softmax_strided};
use ir::ops::{EvalError, Softmax};

/// Elements below which threads are not worth waking.
const LEAST: usize = 4096;

struct SoftmaxKernel {
    kind: SoftmaxKind,
    axis: i64,
}

pub(super) fn softmax(op: &Softmax, types: &Types<'_>) -> Chosen {
    let kind = if op.log { SoftmaxKind::LogSoftmax } else { SoftmaxKind::Softmax };
    (types.all_f32() && types.row_major()).then(|| Box::new(SoftmaxKernel { kind, axis: op.axis }) as Box<dyn Kernel>)
}

impl SoftmaxKernel {
    /// Elements of the axis, and after it.
    fn lines(&self, dims: &[usize]) -> (usize, usize) {
        let at = self.axis.rem_euclid(dims.len() as i64) as usize;
        (dims[at], dims[at + 1..].iter().product())
    }
}

impl Kernel for SoftmaxKernel {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        match self.lines(dims.outs[0]) {
            (_, 1) => 0,
            (_, inner) => pool.threads() * inner,
        }
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x: &[f32] = call.input(0).as_slice();
        let (n, inner) = self.lines(call.outs[0].dims);
        let y: &mut [f32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        let chunk = grain(y.len(), call.pool.threads(), n * inner, LEAST);
        if inner == 1 {
            call.pool.chunks_mut(y, chunk, |i, y| softmax_rows(self.kind, n, &x[i * chunk..][..y.len()], y));
            return Ok(());
        }
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(&mut call.scratch[..call.pool.threads() * inner]);
        call.pool.chunks_scratch(y, chunk, scratch, |scratch, i, y| {
            softmax_strided(self.kind, n, inner, &x[i * chunk..][..y.len()], y, scratch)
        });
        Ok(())
    }
}

/// Which normalisation of rows.
pub(super) enum RowNorm {
    Layer,
    Rms,
}

pub(super) struct NormKernel {
    pub(super) norm: RowNorm,
    pub(super) axis: i64,
    pub(super) eps: f32,
}

impl Kernel for NormKernel {
    fn name(&self) -> &'static str {
        match self.norm {
            RowNorm::Layer => "layer_norm",
            RowNorm::Rms => "rms_norm",
        }
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x: &[f32] = call.input(0).as_slice();
        let side = |i: usize| call.ins.get(i).copied().flatten().map_or(&[][..], |v| v.as_slice::<f32>());
        let (scale, bias) = (side(1), side(2));
        let dims = call.outs[0].dims;
        let at = self.axis.rem_euclid(dims.len() as i64) as usize;
        let cols: usize = dims[at..].iter().product();
        let y: &mut [f32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        let chunk = grain(y.len(), call.pool.threads(), cols, LEAST);
        call.pool.chunks_mut(y, chunk, |i, y| {
            let x = &x[i * chunk..][..y.len()];
            match self.norm {
                RowNorm::Layer => norm::layer_norm(cols, scale, bias, self.eps, x, y),
                RowNorm::Rms => norm::rms_norm(cols, scale, self.eps, x, y),
            }
        });
        Ok(())
    }
}
