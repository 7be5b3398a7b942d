//! `reduce` over f32 and the integer sums of shape arithmetic.

use crate::kernel::{Call, Chosen, Kernel, Types, grain};
use crate::kernels::reduce::{ReduceFn, Reduction};
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
    (types.all_f32() && types.row_major()).then(|| Box::new(ReduceKernel { f, axes }) as Box<dyn Kernel>)
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
