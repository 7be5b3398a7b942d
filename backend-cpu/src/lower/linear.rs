//! `linear` and `matmul`.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types};
use crate::kernels::dims::{Dims, Walk, broadcast_strides, merge};
use crate::kernels::gemm::{self, Epilogue, Panels, Rows, Strided};
use crate::kernels::pool::{MatMut, Pool};
use half::{bf16, f16};
use ir::DType;
use ir::ops::{EvalError, Linear};
use plan::Layout;
use smallvec::SmallVec;

/// A linear layer whose weight was packed into panels at compile time.
struct PackedLinear {
    weight: DType,
}

pub(super) fn linear(op: &Linear, types: &Types<'_>) -> Chosen {
    let weight = types.dtype(1)?;
    let float = matches!(weight, DType::F32 | DType::F16 | DType::BF16);
    let others = types.dtype(0)? == DType::F32 && types.dtype(2).is_none_or(|d| d == DType::F32);
    if !float || !others {
        return None;
    }
    match types.layouts[1] {
        Layout::Panel16 | Layout::Panel16Kn => Some(Box::new(PackedLinear { weight })),
        Layout::RowMajor => Some(Box::new(PlainLinear { weight, kn: op.kn })),
        _ => None,
    }
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

/// A linear layer over a weight that lies as the model has it.
struct PlainLinear {
    weight: DType,
    kn: bool,
}

impl Kernel for PlainLinear {
    fn name(&self) -> &'static str {
        "linear_row_major"
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let [rows @ .., k] = dims.ins[0].expect("typing made sure of the operand") else { return 0 };
        let n = dims.outs[0].last().copied().unwrap_or(0);
        gemm::matmul_scratch(pool, rows.iter().product(), n, *k).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, w) = (call.input(0), call.input(1));
        let bias = call.ins.get(2).copied().flatten().map(|b| b.as_slice::<f32>());
        let k = x.dims[x.dims.len() - 1];
        let n = *call.outs[0].dims.last().expect("a linear layer has columns");
        let m = x.dims[..x.dims.len() - 1].iter().product();
        let epilogue = Epilogue { bias, ..Epilogue::NONE };
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let x = Strided::matrix(x.as_slice(), k);
        let y = MatMut::new(call.outs[0].as_slice_mut(), m, n, n);
        fn run<E: gemm::Element>(
            (pool, k, kn): (&Pool, usize, bool),
            x: Strided<'_, f32>,
            w: &[E],
            epilogue: &Epilogue<'_>,
            y: MatMut<'_, f32>,
            scratch: &mut [f32],
        ) {
            let w = if kn { Strided::matrix(w, y.cols()) } else { Strided::matrix(w, k).transposed() };
            gemm::matmul(pool, k, x, w, epilogue, y, scratch);
        }
        let how = (call.pool, k, self.kn);
        match self.weight {
            DType::F32 => run::<f32>(how, x, w.as_slice(), &epilogue, y, scratch),
            DType::F16 => run::<f16>(how, x, w.as_slice(), &epilogue, y, scratch),
            _ => run::<bf16>(how, x, w.as_slice(), &epilogue, y, scratch),
        }
        Ok(())
    }
}

/// The product of two activations.
struct MatMulKernel;

pub(super) fn matmul(types: &Types<'_>) -> Chosen {
    (types.all_f32() && types.row_major()).then(|| Box::new(MatMulKernel) as Box<dyn Kernel>)
}

/// `[.., rows, cols]` of an operand; a vector is a row on the left and a column on the right.
fn matrix(dims: &[usize], left: bool) -> (&[usize], usize, usize) {
    match dims {
        [k] if left => (&[], 1, *k),
        [k] => (&[], *k, 1),
        [lead @ .., rows, cols] => (lead, *rows, *cols),
        [] => unreachable!("typing refused scalars"),
    }
}

impl Kernel for MatMulKernel {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let [Some(a), Some(b), ..] = dims.ins else { return 0 };
        let (lead, m, k) = matrix(a, true);
        let (lead_b, _, n) = matrix(b, false);
        let rows = if lead_b.is_empty() { m * lead.iter().product::<usize>() } else { m };
        gemm::matmul_scratch(pool, rows, n, k).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (a, b) = (call.input(0), call.input(1));
        let (lead_a, m, k) = matrix(a.dims, true);
        let (lead_b, _, n) = matrix(b.dims, false);
        let (a, b): (&[f32], &[f32]) = (a.as_slice(), b.as_slice());
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let removed = usize::from(call.ins[0].is_some_and(|v| v.dims.len() == 1))
            + usize::from(call.ins[1].is_some_and(|v| v.dims.len() == 1));
        let out_dims = call.outs[0].dims;
        let y: &mut [f32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        if lead_b.is_empty() {
            let rows = m * lead_a.iter().product::<usize>();
            let (a, b) = (Strided::matrix(a, k), Strided::matrix(b, n));
            gemm::matmul(call.pool, k, a, b, &Epilogue::NONE, MatMut::new(y, rows, n, n), scratch);
            return Ok(());
        }
        let lead = &out_dims[..out_dims.len() + removed - 2];
        let scaled =
            |from: &[usize], by: usize| -> Dims { broadcast_strides(from, lead).iter().map(|s| s * by).collect() };
        let (sa, sb) = (scaled(lead_a, m * k), scaled(lead_b, k * n));
        let (axes, [sa, sb]) = merge(lead, [&sa, &sb]);
        // The product takes two batch axes; further ones are walked here.
        let inner = axes.len().saturating_sub(2);
        let two = |v: &[usize]| -> [usize; 2] {
            match v {
                [] => [0, 0],
                [x] => [0, *x],
                [.., x, y] => [*x, *y],
            }
        };
        let batch = match axes[inner..] {
            [] => [1, 1],
            [x] => [1, x],
            [x, y, ..] => [x, y],
        };
        let step = batch[0] * batch[1] * m * n;
        let (outer_a, outer_b): (SmallVec<[usize; 8]>, SmallVec<[usize; 8]>) = (sa[..inner].into(), sb[..inner].into());
        let mut walk = Walk::new(&axes[..inner], [&outer_a, &outer_b], 0);
        for y in y.chunks_exact_mut(step) {
            let [at_a, at_b] = walk.offsets;
            let a = Strided { data: &a[at_a..], batch_strides: two(&sa[inner..]), strides: [k, 1] };
            let b = Strided { data: &b[at_b..], batch_strides: two(&sb[inner..]), strides: [n, 1] };
            let y = MatMut::batched(y, batch, [batch[1] * m * n, m * n], m, n, n);
            gemm::matmul(call.pool, k, a, b, &Epilogue::NONE, y, scratch);
            if inner > 0 {
                walk.step();
            }
        }
        Ok(())
    }
}
