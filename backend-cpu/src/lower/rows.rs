//! `softmax` and the normalisations: independent rows, groups or images, shared among threads.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, grain};
use crate::kernels::norm;
use crate::kernels::pool::Pool;
use crate::kernels::softmax::{SoftmaxKind, softmax_rows, softmax_strided};
use ir::Dim;
use ir::ops::{EvalError, GroupNorm, LayerNorm, Lrn, RmsNorm, Softmax};

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
enum RowNorm {
    Layer,
    Rms,
}

struct NormKernel {
    norm: RowNorm,
    axis: i64,
    eps: f32,
}

pub(super) fn layer_norm(op: &LayerNorm, types: &Types<'_>) -> Chosen {
    row_norm(NormKernel { norm: RowNorm::Layer, axis: op.axis, eps: op.eps }, types)
}

pub(super) fn rms_norm(op: &RmsNorm, types: &Types<'_>) -> Chosen {
    row_norm(NormKernel { norm: RowNorm::Rms, axis: op.axis, eps: op.eps }, types)
}

fn row_norm(kernel: NormKernel, types: &Types<'_>) -> Chosen {
    let dims = types.dims(0)?;
    let row = &dims[kernel.axis.rem_euclid(dims.len() as i64) as usize..];
    // Scale and bias have one element per column: other broadcasts are left to the reference.
    let whole = |i: usize| {
        types.ins.get(i).copied().flatten().is_none_or(|t| {
            let found = t.dims().unwrap_or_default();
            let lead = found.len().saturating_sub(row.len());
            found[..lead].iter().all(|d| d.as_const() == Some(1)) && found[lead..] == *row
        })
    };
    let fits = types.all_f32() && types.row_major() && whole(1) && whole(2);
    fits.then(|| Box::new(kernel) as Box<dyn Kernel>)
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

/// Normalisation over groups of channels.
struct GroupNormKernel {
    groups: Dim,
    eps: f32,
}

pub(super) fn group_norm(op: &GroupNorm, types: &Types<'_>) -> Chosen {
    let kernel = GroupNormKernel { groups: op.groups.clone(), eps: op.eps };
    (types.all_f32() && types.row_major()).then(|| Box::new(kernel) as Box<dyn Kernel>)
}

impl Kernel for GroupNormKernel {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn numbers(&self) -> Vec<Dim> {
        vec![self.groups.clone()]
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x: &[f32] = call.input(0).as_slice();
        let (scale, bias): (&[f32], &[f32]) = (call.input(1).as_slice(), call.input(2).as_slice());
        let dims = call.outs[0].dims;
        let (channels, inner) = (dims[1], dims[2..].iter().product::<usize>());
        let groups = usize::try_from(call.numbers[0]).unwrap_or(0);
        if groups == 0 || channels % groups != 0 {
            return Err(EvalError::Invalid(format!("{channels} channels do not split into {groups} groups")));
        }
        let shape = norm::GroupShape { groups, channels_per_group: channels / groups, inner };
        let unit = shape.channels_per_group * inner;
        let y: &mut [f32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        let chunk = grain(y.len(), call.pool.threads(), unit, LEAST);
        call.pool.chunks_mut(y, chunk, |i, y| {
            norm::group_norm(shape, scale, bias, self.eps, i * chunk / unit, &x[i * chunk..][..y.len()], y);
        });
        Ok(())
    }
}

/// Local response normalisation: whole images.
struct ResponseKernel(norm::ResponseWindow);

pub(super) fn lrn(op: &Lrn, types: &Types<'_>) -> Chosen {
    let size = usize::try_from(op.size).ok().filter(|n| *n > 0)?;
    let kernel = ResponseKernel(norm::ResponseWindow { size, alpha: op.alpha, beta: op.beta, bias: op.bias });
    (types.all_f32() && types.row_major()).then(|| Box::new(kernel) as Box<dyn Kernel>)
}

impl Kernel for ResponseKernel {
    fn name(&self) -> &'static str {
        "lrn"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x: &[f32] = call.input(0).as_slice();
        let dims = call.outs[0].dims;
        let (image, inner) = (dims[1..].iter().product::<usize>(), dims[2..].iter().product::<usize>());
        let y: &mut [f32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        call.pool.chunks_mut(y, image, |i, y| {
            norm::local_response_norm(self.0, inner, &x[i * image..][..image], y);
        });
        Ok(())
    }
}
