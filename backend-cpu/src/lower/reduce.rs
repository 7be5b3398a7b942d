//! `reduce` over f32, and over integers where wrapping is exact.

use crate::kernel::{Call, Chosen, Kernel, Types, grain};
use crate::kernels::reduce::{ReduceFn, Reduction};
use ir::DType;
use ir::ops::{self, EvalError, Reduce};
use smallvec::SmallVec;

/// Elements read below which threads are not worth waking.
const LEAST: usize = 8192;

struct ReduceKernel {
    f: ReduceFn,
    axes: SmallVec<[usize; 8]>,
}

pub(super) fn reduce(op: &Reduce, types: &Types<'_>) -> Chosen {
    let rank = types.ins[0]?.dims()?.len();
    let f = match op.f {
        ops::ReduceFn::Sum => ReduceFn::Sum,
        ops::ReduceFn::Mean => ReduceFn::Mean,
        ops::ReduceFn::Max => ReduceFn::Max,
        ops::ReduceFn::Min => ReduceFn::Min,
        ops::ReduceFn::Prod => ReduceFn::Prod,
        ops::ReduceFn::L1 => ReduceFn::L1,
        ops::ReduceFn::L2 => ReduceFn::L2,
        ops::ReduceFn::SumSquare => ReduceFn::SumSquare,
        ops::ReduceFn::LogSum => ReduceFn::LogSum,
        ops::ReduceFn::LogSumExp => ReduceFn::LogSumExp,
    };
    let reduced = op.reduced(rank).ok()?;
    let axes = (0..rank).filter(|i| reduced[*i]).collect();
    if !types.row_major() {
        return None;
    }
    match types.dtype(0)? {
        DType::F32 => Some(Box::new(ReduceKernel { f, axes })),
        DType::I64 | DType::I32 if is_wrapping(f) => Some(Box::new(IntKernel { f, axes })),
        _ => None,
    }
}

/// Whether wrapping at each step gives what wrapping at the end gives.
fn is_wrapping(f: ReduceFn) -> bool {
    use ReduceFn::{L1, Max, Min, Prod, Sum, SumSquare};
    matches!(f, Sum | Prod | Max | Min | L1 | SumSquare)
}

/// Reductions of integers.
struct IntKernel {
    f: ReduceFn,
    axes: SmallVec<[usize; 8]>,
}

macro_rules! reduce_int {
    ($t:ty, $f:expr, $reduction:expr, $x:expr, $y:expr) => {{
        let (x, y): (&[$t], &mut [$t]) = ($x.as_slice(), $y.as_slice_mut());
        match $f {
            ReduceFn::Prod => $reduction.run_with(x, y, 0, 1, <$t>::wrapping_mul),
            ReduceFn::Max => $reduction.run_with(x, y, 0, <$t>::MIN, <$t>::max),
            ReduceFn::Min => $reduction.run_with(x, y, 0, <$t>::MAX, <$t>::min),
            ReduceFn::L1 => $reduction.run_with(x, y, 0, 0, |a: $t, x: $t| a.wrapping_add(x.wrapping_abs())),
            ReduceFn::SumSquare => $reduction.run_with(x, y, 0, 0, |a: $t, x: $t| a.wrapping_add(x.wrapping_mul(x))),
            _ => $reduction.run_with(x, y, 0, 0, <$t>::wrapping_add),
        }
    }};
}

impl Kernel for IntKernel {
    fn name(&self) -> &'static str {
        "reduce_int"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x = call.input(0);
        let reduction = Reduction::new(x.dims, &self.axes);
        match x.dtype {
            DType::I32 => reduce_int!(i32, self.f, reduction, x, call.outs[0]),
            _ => reduce_int!(i64, self.f, reduction, x, call.outs[0]),
        }
        Ok(())
    }
}

impl Kernel for ReduceKernel {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x = call.input(0);
        let reduction = Reduction::new(x.dims, &self.axes);
        let x: &[f32] = x.as_slice();
        let y: &mut [f32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        let chunk = grain(y.len(), call.pool.threads(), 1, LEAST / reduction.count().max(1));
        call.pool.chunks_mut(y, chunk, |i, y| reduction.run(self.f, x, y, i * chunk));
        Ok(())
    }
}
