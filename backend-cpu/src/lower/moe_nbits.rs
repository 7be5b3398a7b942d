//! `moe_gemm_nbits`: experts over weights of 2, 4 or 8 bits, read as they are.

use super::moe::gate;
use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View};
use crate::kernels::gemm::{Finish, Pairs, Rows};
use crate::kernels::moe_nbits::{Packed, PackedProducts, Zeros, packed_experts, packed_experts_scratch};
use crate::kernels::pool::Pool;
use ir::DType;
use ir::ops::{EvalError, Gating, MoeGemm, MoeGemmNBits};

struct PackedKernel {
    op: MoeGemmNBits,
    finish: Finish,
    repeat: usize,
}

pub(super) fn gemm(op: &MoeGemmNBits, types: &Types<'_>) -> Chosen {
    let wide = [0, 4, 6, 8, 10, 11].iter().all(|i| types.dtype(*i).is_none_or(|d| d == DType::F32));
    let zeros = [5, 9].iter().all(|i| types.dtype(*i).is_none_or(|d| matches!(d, DType::F32 | DType::U8)));
    let MoeGemmNBits { repeat, gating, act, alpha, beta, limit, .. } = *op;
    let gate = gate(&MoeGemm { repeat, kn: false, gating, act, alpha, beta, limit })?;
    let finish = Finish { gate, beta: beta.unwrap_or(0.0), limit: limit.unwrap_or(f32::INFINITY) };
    let repeat = usize::try_from(repeat).ok().filter(|r| *r > 0)?;
    let fits = wide && zeros && types.row_major();
    fits.then(|| Box::new(PackedKernel { op: op.clone(), finish, repeat }) as Box<dyn Kernel>)
}

impl PackedKernel {
    /// Products of a row of x.
    fn width(&self, ins: &[Option<&[usize]>]) -> usize {
        [3, 7].iter().filter_map(|i| ins.get(*i).copied().flatten()).map(|dims| dims[1]).sum()
    }
}

/// The weight whose codes are operand `at`.
fn packed<'a>(call: &Call<'a, '_>, at: usize, bits: i64) -> Result<Packed<'a>, EvalError> {
    let optional = |i: usize| call.ins.get(i).copied().flatten();
    let (codes, scales) = (call.input(at), call.input(at + 1));
    let bits = bits as usize;
    let (&[experts, n, bytes], &[.., blocks]) = (codes.dims, scales.dims) else {
        return Err(EvalError::Invalid("packed weights and their scales have rank 3".into()));
    };
    let k = bytes * 8 / bits;
    if scales.dims != [experts, n, blocks] || blocks == 0 || !k.is_multiple_of(blocks) {
        return Err(EvalError::Invalid(format!("scales {:?} for packed weights {:?}", scales.dims, codes.dims)));
    }
    let each = |v: View<'_>, row: usize| v.dims.iter().product::<usize>() == experts * n * row;
    let zeros = match optional(at + 2) {
        None => Zeros::Middle,
        Some(z) if z.dtype == DType::U8 && each(z, (blocks * bits).div_ceil(8)) => Zeros::Codes(z.bytes),
        Some(z) if z.dtype == DType::F32 && each(z, blocks) => Zeros::Floats(z.as_slice()),
        Some(_) => return Err(EvalError::Invalid("one zero point per block is needed".into())),
    };
    let bias = optional(at + 3).map_or(&[][..], |b| b.as_slice());
    Ok(Packed { codes: codes.bytes, scales: scales.as_slice(), zeros, bias, bits, n, k, blocks })
}

impl Kernel for PackedKernel {
    fn name(&self) -> &'static str {
        "moe_gemm_nbits"
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let (Some(x), Some(pairs)) = (dims.ins[0], dims.ins[1]) else { return 0 };
        let k = x.last().copied().unwrap_or(0);
        packed_experts_scratch(pool, pairs[0], [dims.outs[0][1], self.width(dims.ins), k]).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x = call.input(0);
        let pairs = Pairs { rows: call.input(1).as_slice(), offsets: call.input(2).as_slice(), repeat: self.repeat };
        if !pairs.are_valid() {
            return Err(EvalError::Invalid("the pairs are not what expert_index gives".into()));
        }
        let first = packed(call, 3, self.op.bits[0])?;
        let products = match (self.op.gating, self.op.bits.get(1)) {
            (Gating::Interleaved, _) => PackedProducts::Interleaved(first),
            (Gating::Halves, _) => PackedProducts::Halves(first),
            (Gating::None, Some(bits)) => PackedProducts::Two(first, packed(call, 7, *bits)?),
            (Gating::None, None) => PackedProducts::One(first),
        };
        let weights = call.ins.get(11).copied().flatten().map(|w| w.as_slice::<f32>());
        let (k, lead) = x.dims.split_last().map_or((0, 0), |(k, lead)| (*k, lead.iter().product()));
        let x = Rows::new(x.as_slice(), lead, k, k);
        let n = call.outs[0].dims[1];
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let y = call.outs[0].as_slice_mut();
        packed_experts(call.pool, x, pairs, products, self.finish, weights, y, n, scratch);
        Ok(())
    }
}
