//! `resize` over f32, one axis after the other; the tables of each axis are made once per pair of sizes.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, grain};
use crate::kernels::dims::Dims;
use crate::kernels::pool::Pool;
use crate::kernels::resize::AxisTable;
use ir::ops::{EvalError, Resize};
use smallvec::SmallVec;
use std::sync::{Arc, Mutex, PoisonError};

/// Tables that are kept; models resize to few sizes.
const TABLES: usize = 64;
/// Elements below which threads are not worth waking.
const LEAST: usize = 8192;

/// The table of an axis from one size to another; none where the axis stays as it is.
struct Known {
    key: [usize; 3],
    table: Option<Arc<AxisTable>>,
}

struct ResizeKernel {
    op: Resize,
    known: Mutex<Vec<Known>>,
}

pub(super) fn resize(op: &Resize, types: &Types<'_>) -> Chosen {
    let kernel = ResizeKernel { op: op.clone(), known: Mutex::new(Vec::with_capacity(TABLES)) };
    (types.all_f32() && types.row_major()).then(|| Box::new(kernel) as Box<dyn Kernel>)
}

impl ResizeKernel {
    fn table(&self, key: [usize; 3]) -> Option<Arc<AxisTable>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.iter().find(|k| k.key == key) {
            return known.table.clone();
        }
        let [axis, from, to] = key;
        let outside = self.op.extrapolation.unwrap_or(0.0);
        let table = self.op.taps(axis, from, to).map(|taps| Arc::new(AxisTable::new(from, taps, outside)));
        if known.len() == TABLES {
            known.clear();
        }
        known.push(Known { key, table: table.clone() });
        table
    }
}

impl Kernel for ResizeKernel {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn scratch_words(&self, _: &Pool, dims: &CallDims<'_>) -> usize {
        let Some(x) = dims.ins[0] else { return 0 };
        let between = |at: usize| dims.outs[0][..at].iter().chain(&x[at..]).product::<usize>();
        2 * (0..x.len()).map(between).max().unwrap_or(0).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x = call.input(0);
        let sizes = call.outs[0].dims;
        let (mut dims, x): (Dims, &[f32]) = (x.dims.iter().copied().collect(), x.as_slice());
        let y: &mut [f32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        if x.is_empty() {
            return Err(EvalError::Invalid("nothing to take samples from".into()));
        }
        let tables: SmallVec<[(usize, Arc<AxisTable>); 4]> =
            (0..dims.len()).filter_map(|at| Some((at, self.table([at, dims[at], sizes[at]])?))).collect();
        let Some((last, before)) = tables.split_last() else {
            y.copy_from_slice(x);
            return Ok(());
        };
        let half = call.scratch.len() / 2;
        let (a, b) = call.scratch.split_at_mut(half);
        let (mut from, mut to): (&mut [f32], &mut [f32]) = (bytemuck::cast_slice_mut(a), bytemuck::cast_slice_mut(b));
        let mut step = |(at, table): &(usize, Arc<AxisTable>), x: &[f32], y: &mut [f32]| -> usize {
            let inner: usize = dims[at + 1..].iter().product();
            let (read, written) = (dims[*at] * inner, table.to() * inner);
            dims[*at] = table.to();
            let total: usize = dims.iter().product();
            let chunk = grain(total, call.pool.threads(), written, LEAST);
            call.pool.chunks_mut(&mut y[..total], chunk, |i, y| {
                table.run(inner, &x[i * chunk / written * read..][..y.len() / written * read], y);
            });
            total
        };
        let mut held = None;
        for table in before {
            let len = match held {
                None => step(table, x, to),
                Some(len) => step(table, &from[..len], to),
            };
            held = Some(len);
            std::mem::swap(&mut from, &mut to);
        }
        match held {
            None => step(last, x, y),
            Some(len) => step(last, &from[..len], y),
        };
        Ok(())
    }
}
