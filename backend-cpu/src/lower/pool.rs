//! `pool` over f32: planes are shared among threads.

use super::window::Windows;
use crate::kernel::{Call, Chosen, Kernel, Types, grain};
use crate::kernels::pool2d::{PoolFn, Window, pool_planes};
use ir::ops::{self, EvalError, Pool};
use smallvec::SmallVec;

/// Elements read below which threads are not worth waking.
const LEAST: usize = 8192;

struct PoolKernel {
    f: PoolFn,
    kernel: SmallVec<[usize; 3]>,
    windows: Windows,
}

pub(super) fn pool(op: &Pool, types: &Types<'_>) -> Chosen {
    let f = match op.f {
        ops::PoolFn::Max => PoolFn::Max,
        ops::PoolFn::Average => PoolFn::Average { count_padding: op.count_pads },
        ops::PoolFn::Lp => PoolFn::Lp(op.p.unwrap_or(2) as f32),
    };
    let kernel = op.kernel.iter().map(|k| usize::try_from(*k).ok()).collect::<Option<_>>()?;
    let windows = Windows::new(&op.strides, &op.dilations, &op.pads, op.same)?;
    let fits = types.all_f32() && types.row_major() && types.dims(0).is_some_and(|d| d.len() <= 5);
    fits.then(|| Box::new(PoolKernel { f, kernel, windows }) as Box<dyn Kernel>)
}

/// Sizes along depth, height and width, the missing ones `missing`.
fn three(list: &[usize], missing: usize) -> [usize; 3] {
    let mut all = [missing; 3];
    all[3 - list.len()..].copy_from_slice(list);
    all
}

impl Kernel for PoolKernel {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x = call.input(0);
        self.windows.check(&x.dims[2..], &self.kernel)?;
        let [before, after] = self.windows.padding(&x.dims[2..], &self.kernel);
        let window = Window {
            input: three(&x.dims[2..], 1),
            output: three(&call.outs[0].dims[2..], 1),
            kernel: three(&self.kernel, 1),
            stride: three(&self.windows.strides, 1),
            dilation: three(&self.windows.dilations, 1),
            pads: [three(&before, 0), three(&after, 0)],
        };
        let (from, to): (usize, usize) = (window.input.iter().product(), window.output.iter().product());
        let x: &[f32] = x.as_slice();
        let y: &mut [f32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        let chunk = grain(y.len(), call.pool.threads(), to, LEAST * to / from.max(1));
        let whole = to == 1 && window.kernel == window.input && window.pads == [[0; 3]; 2] && window.dilation == [1; 3];
        call.pool.chunks_mut(y, chunk, |i, y| {
            let x = &x[i * chunk / to * from..][..y.len() / to * from];
            match whole {
                true => pool_planes(self.f, from, x, y),
                false => window.run(self.f, x, y),
            }
        });
        Ok(())
    }
}
