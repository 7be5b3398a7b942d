//! `pad` and `tile`: every output row along the last dimension shows one row of the operand, or only padding.

use crate::kernel::{Call, Chosen, Kernel, Types, grain, movable};
use ir::Dim;
use ir::ops::{EvalError, Pad, PadMode, Tile};
use smallvec::SmallVec;

/// Bytes below which threads are not worth waking.
const LEAST_BYTES: usize = 1 << 16;

/// What positions of a padded dimension show.
#[derive(Clone, Copy)]
struct Axis {
    mode: PadMode,
    before: i64,
    first: i64,
    kept: i64,
}

impl Axis {
    /// The position of the operand that position `i` shows; `None` is padding by a value.
    fn source(&self, i: usize) -> Option<usize> {
        let at = i as i64 - self.before.max(0);
        let within = match self.mode {
            PadMode::Constant => (0..self.kept).contains(&at).then_some(at)?,
            PadMode::Edge => at.clamp(0, self.kept - 1),
            PadMode::Wrap => at.rem_euclid(self.kept),
            PadMode::Reflect if self.kept == 1 => 0,
            PadMode::Reflect => {
                let period = 2 * (self.kept - 1);
                let at = at.rem_euclid(period);
                at.min(period - at)
            }
        };
        Some((self.first + within) as usize)
    }
}

struct PadKernel {
    name: &'static str,
    mode: PadMode,
    /// Elements before, then after, for each of the axes.
    pads: Vec<Dim>,
    axes: SmallVec<[usize; 8]>,
    width: usize,
}

pub(super) fn pad(op: &Pad, types: &Types<'_>) -> Chosen {
    let rank = types.dims(0)?.len();
    let axes: SmallVec<[usize; 8]> = op.axes.iter().map(|a| a.rem_euclid(rank as i64) as usize).collect();
    // The last of several paddings of one axis counts in the reference; they are left to it.
    let twice = axes.iter().enumerate().any(|(i, a)| axes[..i].contains(a));
    let width = movable(types.outs[0].dtype).filter(|_| types.row_major() && !twice)?;
    Some(Box::new(PadKernel { name: "pad", mode: op.mode, pads: op.pads.clone(), axes, width }))
}

pub(super) fn tile(_: &Tile, types: &Types<'_>) -> Chosen {
    let width = movable(types.outs[0].dtype).filter(|_| types.row_major())?;
    let axes: SmallVec<[usize; 8]> = (0..types.dims(0)?.len()).collect();
    let pads = vec![Dim::constant(0); 2 * axes.len()];
    Some(Box::new(PadKernel { name: "tile", mode: PadMode::Wrap, pads, axes, width }))
}

impl PadKernel {
    fn axes(&self, dims: &[usize], out: &[usize], numbers: &[i64]) -> Result<SmallVec<[Axis; 8]>, EvalError> {
        let plain = |n: &usize| Axis { mode: PadMode::Constant, before: 0, first: 0, kept: *n as i64 };
        let mut all: SmallVec<[Axis; 8]> = dims.iter().map(plain).collect();
        for (i, at) in self.axes.iter().enumerate() {
            let (before, after) = (numbers[i], numbers[self.axes.len() + i]);
            let first = before.min(0).saturating_neg();
            let kept = (dims[*at] as i64).saturating_add(after.min(0)).saturating_sub(first);
            if kept <= 0 && self.mode != PadMode::Constant && out[*at] > 0 {
                return Err(EvalError::Invalid("there is no element to pad with".into()));
            }
            all[*at] = Axis { mode: self.mode, before, first, kept };
        }
        Ok(all)
    }
}

impl Kernel for PadKernel {
    fn name(&self) -> &'static str {
        self.name
    }

    fn numbers(&self) -> Vec<Dim> {
        self.pads.clone()
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, width) = (call.input(0), self.width);
        let zero = [0u8; 8];
        let value = call.ins.get(1).copied().flatten().map_or(&zero[..width], |v| v.bytes);
        let out = call.outs[0].dims;
        let axes = self.axes(x.dims, out, call.numbers)?;
        let to = &mut *call.outs[0].bytes;
        let (Some(last), Some(columns)) = (axes.last(), out.last()) else {
            to.copy_from_slice(x.bytes);
            return Ok(());
        };
        if to.is_empty() {
            return Ok(());
        }
        let lead = axes.len() - 1;
        let row = columns * width;
        let chunk = grain(to.len(), call.pool.threads(), row, LEAST_BYTES);
        call.pool.chunks_mut(to, chunk, |i, to| {
            for (r, to) in to.chunks_exact_mut(row).enumerate() {
                let (mut rest, mut from, mut stride) = (i * chunk / row + r, Some(0), x.dims[lead]);
                for at in (0..lead).rev() {
                    let source = axes[at].source(rest % out[at]);
                    from = from.zip(source).map(|(from, s)| from + s * stride);
                    rest /= out[at];
                    stride *= x.dims[at];
                }
                match from {
                    Some(from) => show(last, &x.bytes[from * width..][..x.dims[lead] * width], value, width, to),
                    None => to.chunks_exact_mut(width).for_each(|to| to.copy_from_slice(value)),
                }
            }
        });
        Ok(())
    }
}

/// One row of the result from one of the operand.
fn show(axis: &Axis, from: &[u8], value: &[u8], width: usize, to: &mut [u8]) {
    let columns = to.len() / width;
    // What is kept lies together; only the positions around it are found one by one.
    let start = (axis.before.max(0) as usize).min(columns);
    let end = (start + axis.kept.max(0) as usize).min(columns);
    for i in (0..start).chain(end..columns) {
        let source = axis.source(i).map_or(value, |s| &from[s * width..][..width]);
        to[i * width..][..width].copy_from_slice(source);
    }
    if end > start {
        let kept = &from[axis.first as usize * width..][..(end - start) * width];
        to[start * width..end * width].copy_from_slice(kept);
    }
}
