//! `linear` and `matmul`.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types};
use crate::kernels::gemm::{self, Epilogue, Panels, Rows};
use crate::kernels::pool::{MatMut, Pool};
use half::{bf16, f16};
use ir::DType;
use ir::ops::{EvalError, Linear};
use plan::Layout;

/// A linear layer whose weight was packed into panels at compile time.
struct PackedLinear {
    weight: DType,
}

pub(super) fn linear(_op: &Linear, types: &Types<'_>) -> Chosen {
    let weight = types.dtype(1)?;
    let packed = matches!(types.layouts[1], Layout::Panel16 | Layout::Panel16Kn);
    let float = matches!(weight, DType::F32 | DType::F16 | DType::BF16);
    let others = types.dtype(0)? == DType::F32 && types.dtype(2).is_none_or(|d| d == DType::F32);
    if packed && float && others {
        return Some(Box::new(PackedLinear { weight }));
    }
    None
}

impl Kernel for PackedLinear {
    fn name(&self) -> &'static str {
        match self.weight {
            DType::F32 => "linear_f32",
            DType::F16 => "linear_f16",
            _ => "linear_bf16",
        }
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let [rows @ .., k] = dims.ins[0].expect("typing made sure of the operand") else { return 0 };
        let n = dims.outs[0].last().copied().unwrap_or(0);
        gemm::linear_scratch(pool, rows.iter().product(), n, *k).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, w) = (call.input(0), call.input(1));
        let bias = call.ins.get(2).copied().flatten().map(|b| b.as_slice::<f32>());
        let k = x.dims[x.dims.len() - 1];
        let n = *call.outs[0].dims.last().expect("a linear layer has columns");
        let m = x.dims[..x.dims.len() - 1].iter().product();
        let epilogue = Epilogue { bias, ..Epilogue::NONE };
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let x = Rows::new(x.as_slice(), m, k, k);
        let y = MatMut::new(call.outs[0].as_slice_mut(), m, n, n);
        match self.weight {
            DType::F32 => gemm::linear(call.pool, x, Panels::<f32>::new(w.as_slice(), n, k), &epilogue, y, scratch),
            DType::F16 => gemm::linear(call.pool, x, Panels::<f16>::new(w.as_slice(), n, k), &epilogue, y, scratch),
            _ => gemm::linear(call.pool, x, Panels::<bf16>::new(w.as_slice(), n, k), &epilogue, y, scratch),
        }
        Ok(())
    }
}
