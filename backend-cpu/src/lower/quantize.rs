//! `dynamic_quantize_linear`, `quantize_linear` and `dequantize_linear` between f32 and bytes.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View, grain};
use crate::kernels::pool::Pool;
use crate::kernels::quantize::{Affine, dequantize, quantize, range};
use ir::DType;
use ir::ops::{DequantizeLinear, EvalError, QuantizeLinear};

/// Elements below which threads are not worth waking.
const LEAST: usize = 1 << 14;

struct Dynamic;

pub(super) fn dynamic_quantize_linear(types: &Types<'_>) -> Chosen {
    (types.dtype(0)? == DType::F32 && types.row_major()).then(|| Box::new(Dynamic) as Box<dyn Kernel>)
}

impl Kernel for Dynamic {
    fn name(&self) -> &'static str {
        "dynamic_quantize_linear"
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let total = dims.outs[0].iter().product::<usize>();
        total.div_ceil(grain(total, pool.threads(), 64, LEAST).max(1))
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x: &[f32] = call.input(0).as_slice();
        let chunk = grain(x.len(), call.pool.threads(), 64, LEAST);
        let [y, scale, zero] = call.outs else { unreachable!("it has three results") };
        // A range per chunk, both ends in one word.
        let ranges: &mut [[f32; 2]] = bytemuck::cast_slice_mut(call.scratch);
        let ranges = &mut ranges[..x.len().div_ceil(chunk)];
        call.pool.chunks_mut(ranges, 1, |i, to| {
            let (low, high) = range(&x[i * chunk..x.len().min((i + 1) * chunk)]);
            to[0] = [low, high];
        });
        let low = ranges.iter().fold(0f32, |a, r| a.min(r[0]));
        let high = ranges.iter().fold(0f32, |a, r| a.max(r[1]));
        let by = Affine::covering(low, high);
        call.pool.chunks_mut(y.bytes, chunk, |i, y| quantize(&x[i * chunk..][..y.len()], by, y));
        scale.as_slice_mut::<f32>()[0] = by.scale;
        zero.bytes[0] = by.zero_point();
        Ok(())
    }
}

/// Runs of elements that share a scale: a scalar, or one per index of an axis.
#[derive(Clone, Copy)]
struct Granularity {
    axis: i64,
}

impl Granularity {
    /// When scale and zero point are f32 and bytes of such a kind.
    fn new(types: &Types<'_>, axis: i64, block: i64) -> Option<Granularity> {
        let plain = types.dtype(1)? == DType::F32 && block <= 0 && types.row_major();
        (plain && types.dims(1)?.len() <= 1).then_some(Granularity { axis })
    }

    /// Elements of a run, for a tensor of dimensions `x` and `scales` scales.
    fn run(&self, x: &[usize], scales: usize) -> usize {
        let total = x.iter().product::<usize>();
        if scales == 1 || x.is_empty() {
            return total;
        }
        let axis = self.axis.rem_euclid(x.len() as i64) as usize;
        x[axis + 1..].iter().product()
    }
}

/// Zero point `i`.
fn zero(zeros: Option<View<'_>>, i: usize) -> f32 {
    match zeros {
        None => 0.0,
        Some(z) if z.dtype == DType::I8 => f32::from(z.bytes[i] as i8),
        Some(z) => f32::from(z.bytes[i]),
    }
}

fn byte(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::I8 | DType::U8))
}

/// Calls `part(affine, start, y)` for parts of `y` with one scale each, of at most `chunk` elements, on all threads.
fn for_runs<T: Send>(
    call: (&Pool, View<'_>, Option<View<'_>>, bool),
    run: usize,
    y: &mut [T],
    part: impl Fn(Affine, usize, &mut [T]) + Sync,
) -> Result<(), EvalError> {
    let (pool, scales, zeros, signed) = call;
    let scales: &[f32] = scales.as_slice();
    if zeros.is_some_and(|z| z.bytes.len() != scales.len()) {
        return Err(EvalError::Invalid("scale and zero point differ in shape".into()));
    }
    if y.is_empty() {
        return Ok(());
    }
    let affine = |i: usize| Affine { scale: scales[i], zero: zero(zeros, i), signed };
    let chunk = grain(y.len(), pool.threads(), 64, LEAST);
    pool.chunks_mut(y, chunk, |i, mut y| {
        let mut start = i * chunk;
        while !y.is_empty() {
            let index = start / run;
            let len = ((index + 1) * run - start).min(y.len());
            let (own, rest) = y.split_at_mut(len);
            part(affine(index % scales.len()), start, own);
            (start, y) = (start + len, rest);
        }
    });
    Ok(())
}

struct Quantize {
    granularity: Granularity,
    signed: bool,
}

pub(super) fn quantize_linear(op: &QuantizeLinear, types: &Types<'_>) -> Chosen {
    let plain = types.dtype(0)? == DType::F32 && op.precision.is_none_or(|p| p == DType::F32) && byte(Some(op.to));
    let granularity = Granularity::new(types, op.axis, op.block)?;
    plain.then(|| Box::new(Quantize { granularity, signed: op.to == DType::I8 }) as Box<dyn Kernel>)
}

impl Kernel for Quantize {
    fn name(&self) -> &'static str {
        "quantize_linear"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, scales) = (call.input(0), call.input(1));
        let run = self.granularity.run(x.dims, scales.dims.iter().product());
        let zeros = call.ins.get(2).copied().flatten();
        let x: &[f32] = x.as_slice();
        for_runs((call.pool, scales, zeros, self.signed), run, call.outs[0].bytes, |by, start, y| {
            quantize(&x[start..][..y.len()], by, y);
        })
    }
}

struct Dequantize {
    granularity: Granularity,
    signed: bool,
}

pub(super) fn dequantize_linear(op: &DequantizeLinear, types: &Types<'_>) -> Chosen {
    let zero = types.lacks(2) || types.dtype(2) == types.dtype(0);
    let plain = byte(types.dtype(0)) && zero && op.to == DType::F32;
    let granularity = Granularity::new(types, op.axis, op.block)?;
    let signed = types.dtype(0)? == DType::I8;
    plain.then(|| Box::new(Dequantize { granularity, signed }) as Box<dyn Kernel>)
}

impl Kernel for Dequantize {
    fn name(&self) -> &'static str {
        "dequantize_linear"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, scales) = (call.input(0), call.input(1));
        let run = self.granularity.run(x.dims, scales.dims.iter().product());
        let zeros = call.ins.get(2).copied().flatten();
        for_runs((call.pool, scales, zeros, self.signed), run, call.outs[0].as_slice_mut(), |by, start, y| {
            dequantize(&x.bytes[start..][..y.len()], by, y);
        })
    }
}
