//! `matmul_nbits`: linear layers over weights of 2, 4 or 8 bits with a scale per block of inputs.
//!
//! 4-bit codes are packed into panels when a plan is made and multiplied as they are; 2-bit codes are widened to 4 bits when
//! it is loaded. Everything else (8 bits, blocks that are no power of two, columns that name their block) becomes an
//! ordinary f32 weight at load: correct and fast at many rows, but 4 bytes per weight.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View};
use crate::kernels::gemm::{self, Element, Epilogue, Panels, Rows};
use crate::kernels::int4::{self, Compute, Int4Panels, Int4Shape};
use crate::kernels::pack;
use crate::kernels::pool::{MatMut, Pool};
use half::{bf16, f16};
use ir::ops::{EvalError, MatMulNBits};
use ir::tensor::{Aligned, Memory};
use ir::{DType, Datum, Tensor};
use plan::Layout;

/// The shape of the codes, when the kernel of 4-bit panels serves them: not with a block per column.
pub(crate) fn nibbles(op: &MatMulNBits, grouped: bool) -> Option<Int4Shape> {
    let block = usize::try_from(op.block).ok()?;
    let fits = matches!(op.bits, 2 | 4) && block.is_power_of_two() && block >= 16 && !grouped;
    let shape = Int4Shape { n: usize::try_from(op.n).ok()?, k: usize::try_from(op.k).ok()?, block };
    fits.then_some(shape)
}

pub(super) fn matmul_nbits(op: &MatMulNBits, types: &Types<'_>) -> Chosen {
    let f32_or_none = |i: usize| types.dtype(i).is_none_or(|d| d == DType::F32);
    let constant = (1..5).all(|i| types.ins.len() <= i || types.constant(i));
    let others_plain = types.layouts.iter().enumerate().all(|(i, l)| i == 1 || *l == Layout::RowMajor);
    if !f32_or_none(0) || !f32_or_none(5) || !constant || !others_plain {
        return None;
    }
    let shape = nibbles(op, !types.lacks(4));
    match (types.layouts[1], shape) {
        (Layout::Nibbles16, Some(shape)) if op.bits == 4 => Some(Box::new(Nibbles::new(op, shape, true))),
        (Layout::RowMajor, Some(shape)) => Some(Box::new(Nibbles::new(op, shape, false))),
        (Layout::RowMajor, None) => Some(Box::new(Dequantized { op: op.clone(), panels: Aligned::zeroed(0) })),
        _ => None,
    }
}

/// The longest block that is rounded with one scale. Its sum of products, 15 * 127 each, is exact in f32.
const LONGEST_ROUNDED: usize = 1024;

/// Rows, outputs and inputs of a call.
fn sizes(op: &MatMulNBits, x: &[usize]) -> [usize; 3] {
    let rows = x.split_last().map_or(0, |(_, lead)| lead.iter().product());
    [rows, op.n as usize, op.k as usize]
}

fn not_ready() -> EvalError {
    EvalError::Invalid("the packed weight was not there when the plan was loaded".into())
}

/// Codes in panels; scales and zero points in planes beside them.
struct Nibbles {
    op: MatMulNBits,
    shape: Int4Shape,
    /// The plan has the codes in panels; else they are here.
    packed: bool,
    codes: Aligned,
    /// Of scales and zero points.
    dtype: DType,
    scales: Aligned,
    zeros: Aligned,
    /// Rows are rounded to 8 bits: the model allows it, sums fit, and no weight is infinite or NaN.
    rounds: bool,
}

impl Nibbles {
    fn new(op: &MatMulNBits, shape: Int4Shape, packed: bool) -> Nibbles {
        let [codes, scales, zeros] = std::array::from_fn(|_| Aligned::zeroed(0));
        Nibbles { op: op.clone(), shape, packed, codes, dtype: DType::F32, scales, zeros, rounds: false }
    }

    fn planes<E: Element + bytemuck::Pod>(&mut self, scales: View<'_>, zeros: Option<View<'_>>, from: fn(f64) -> E) {
        let (shape, blocks, bits) = (self.shape, self.shape.blocks(), self.op.bits as usize);
        let plane = |values: &[E]| {
            let mut plane = Aligned::zeroed(shape.plane_elems() * size_of::<E>());
            int4::pack_int4_plane(values, shape, bytemuck::cast_slice_mut(plane.bytes_mut()));
            plane
        };
        let values: Vec<E> = match zeros {
            None => vec![from(f64::from(1u32 << (bits - 1))); shape.n * blocks],
            Some(z) if z.dtype.is_float() => floats(z).into_iter().map(from).collect(),
            Some(z) => {
                let row = (blocks * bits).div_ceil(8);
                let code = |i: usize| {
                    let at = i % blocks * bits;
                    z.bytes[i / blocks * row + at / 8] >> (at % 8) & ((1u16 << bits) - 1) as u8
                };
                (0..shape.n * blocks).map(|i| from(code(i).into())).collect()
            }
        };
        self.dtype = scales.dtype;
        self.scales = plane(scales.as_slice());
        // Without zero points the kernel knows what 4-bit codes mean.
        self.zeros = if zeros.is_some() || bits != 4 { plane(&values) } else { Aligned::zeroed(0) };
    }

    fn compute<E: Element + bytemuck::Pod>(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, w) = (call.input(0), call.input(1));
        let [m, n, k] = sizes(&self.op, x.dims);
        let codes = if self.packed { w.bytes } else { self.codes.bytes() };
        let (scales, zeros): (&[E], &[E]) =
            (bytemuck::cast_slice(self.scales.bytes()), bytemuck::cast_slice(self.zeros.bytes()));
        if scales.len() != self.shape.plane_elems() || codes.len() != self.shape.nibble_bytes() {
            return Err(not_ready());
        }
        let panels = Int4Panels::new(codes, scales, (!zeros.is_empty()).then_some(zeros), self.shape);
        let bias = call.ins.get(5).copied().flatten().map(|b| b.as_slice::<f32>());
        let epilogue = Epilogue { bias, ..Epilogue::NONE };
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let (x, y) = (x.as_slice(), call.outs[0].as_slice_mut());
        let compute = if self.rounds { Compute::Int8 } else { Compute::F32 };
        let out = MatMut::new(&mut *y, m, n, n);
        int4::linear_int4(call.pool, Rows::new(x, m, k, k), panels, compute, &epilogue, out, scratch);
        if self.rounds {
            // What could not be rounded is NaN throughout, and is computed as it is.
            for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)).filter(|(_, y)| y[0].is_nan()) {
                let (x, y) = (Rows::new(x, 1, k, k), MatMut::new(y, 1, n, n));
                int4::linear_int4(call.pool, x, panels, Compute::F32, &epilogue, y, scratch);
            }
        }
        Ok(())
    }
}

fn floats(v: View<'_>) -> Vec<f64> {
    match v.dtype {
        DType::F16 => v.as_slice::<f16>().iter().map(|x| x.to_f64()).collect(),
        DType::BF16 => v.as_slice::<bf16>().iter().map(|x| x.to_f64()).collect(),
        _ => v.as_slice::<f32>().iter().map(|x| f64::from(*x)).collect(),
    }
}

/// 2-bit codes as 4-bit ones, low bits first in both.
fn widen_codes(from: &[u8]) -> Vec<u8> {
    let two = |b: u8| [b & 3 | (b & 12) << 2, b >> 4 & 3 | (b >> 2) & 0x30];
    from.iter().flat_map(|b| two(*b)).collect()
}

impl Kernel for Nibbles {
    fn name(&self) -> &'static str {
        if self.op.bits == 2 { "linear_int2" } else { "linear_int4" }
    }

    fn prepare(&mut self, constants: &[Option<View<'_>>]) {
        let at = |i: usize| constants.get(i).copied().flatten();
        let (Some(w), Some(scales)) = (at(1), at(2)) else { return };
        let finite = |v: View<'_>| !v.dtype.is_float() || floats(v).iter().all(|x| x.is_finite());
        self.rounds =
            self.op.rounds_rows() && self.shape.block <= LONGEST_ROUNDED && finite(scales) && at(3).is_none_or(finite);
        match scales.dtype {
            DType::F16 => self.planes(scales, at(3), f16::from_f64),
            DType::BF16 => self.planes(scales, at(3), bf16::from_f64),
            DType::F32 => self.planes(scales, at(3), |x| x as f32),
            _ => return,
        }
        if !self.packed {
            let wide = if self.op.bits == 2 { widen_codes(w.bytes) } else { w.bytes.to_vec() };
            self.codes = Aligned::zeroed(self.shape.nibble_bytes());
            int4::pack_int4(&wide, self.shape, self.codes.bytes_mut());
        }
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let rows = sizes(&self.op, dims.ins[0].expect("typing made sure of the operand"))[0];
        int4::int4_scratch(pool, rows, self.shape).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        match self.dtype {
            DType::F16 => self.compute::<f16>(call),
            DType::BF16 => self.compute::<bf16>(call),
            _ => self.compute::<f32>(call),
        }
    }
}

/// A weight in any other form, as f32 panels.
struct Dequantized {
    op: MatMulNBits,
    panels: Aligned,
}

impl Dequantized {
    fn dequantize(&self, constants: &[Option<View<'_>>]) -> Result<Aligned, EvalError> {
        let mut operands = vec![Datum::Absent; constants.len().max(6)];
        for (operand, view) in operands.iter_mut().zip(constants) {
            if let Some(v) = view {
                *operand = Tensor::from_bytes(v.dtype, v.dims, v.bytes)?.into();
            }
        }
        let refs: Vec<&Datum> = operands.iter().collect();
        let plain: Vec<f32> = self.op.dequantize(&refs)?.into_iter().map(|x| x as f32).collect();
        let (n, k) = (self.op.n as usize, self.op.k as usize);
        let mut panels = Aligned::zeroed(pack::panel_elems(n, k) * 4);
        pack::pack_panels(&plain, n, k, pack::Layout::Nk, bytemuck::cast_slice_mut(panels.bytes_mut()));
        Ok(panels)
    }
}

impl Kernel for Dequantized {
    fn name(&self) -> &'static str {
        "linear_dequantized"
    }

    fn prepare(&mut self, constants: &[Option<View<'_>>]) {
        // A weight that cannot be read is reported by the run.
        self.panels = self.dequantize(constants).unwrap_or_else(|_| Aligned::zeroed(0));
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let [m, n, k] = sizes(&self.op, dims.ins[0].expect("typing made sure of the operand"));
        gemm::linear_scratch(pool, m, n, k).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x = call.input(0);
        let [m, n, k] = sizes(&self.op, x.dims);
        let panels: &[f32] = bytemuck::cast_slice(self.panels.bytes());
        if panels.len() != pack::panel_elems(n, k) {
            return Err(not_ready());
        }
        let bias = call.ins.get(5).copied().flatten().map(|b| b.as_slice::<f32>());
        let epilogue = Epilogue { bias, ..Epilogue::NONE };
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let y = MatMut::new(call.outs[0].as_slice_mut(), m, n, n);
        gemm::linear(call.pool, Rows::new(x.as_slice(), m, k, k), Panels::new(panels, n, k), &epilogue, y, scratch);
        Ok(())
    }
}
