//! `tensor_scatter`: a copy of a cache with some rows replaced.

use crate::kernel::{Call, Chosen, Kernel, Types, View, grain, movable};
use ir::DType;
use ir::ops::{EvalError, TensorScatter};

/// Bytes below which threads are not worth waking.
const LEAST: usize = 1 << 16;

struct Scatter {
    axis: i64,
    circular: bool,
}

pub(super) fn tensor_scatter(op: &TensorScatter, types: &Types<'_>) -> Chosen {
    let starts = types.dtype(2).is_none_or(|d| matches!(d, DType::I64 | DType::I32));
    let plain = movable(types.dtype(0)?).is_some() && types.row_major();
    (starts && plain).then(|| Box::new(Scatter { axis: op.axis, circular: op.circular }) as Box<dyn Kernel>)
}

/// The row that sample `b` begins at.
fn start(starts: Option<View<'_>>, b: usize) -> i64 {
    match starts {
        None => 0,
        Some(v) if v.dtype == DType::I32 => v.as_slice::<i32>()[b].into(),
        Some(v) => v.as_slice::<i64>()[b],
    }
}

impl Kernel for Scatter {
    fn name(&self) -> &'static str {
        "tensor_scatter"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (cache, update, starts) = (call.input(0), call.input(1), call.ins.get(2).copied().flatten());
        let axis = self.axis.rem_euclid(cache.dims.len() as i64) as usize;
        let (rows, new) = (cache.dims[axis], update.dims[axis]);
        let outer: usize = cache.dims[1..axis].iter().product();
        let row_bytes = cache.dtype.bytes(cache.dims[axis + 1..].iter().product());
        for b in 0..cache.dims[0] {
            let first = start(starts, b);
            let inside = first >= 0 && (self.circular && rows > 0 || first.saturating_add(new as i64) <= rows as i64);
            if !inside && new > 0 {
                return Err(EvalError::Invalid(format!(
                    "rows {first} to {first} + {new} are outside a cache of {rows}"
                )));
            }
        }
        let plane = rows * row_bytes;
        if plane == 0 {
            return Ok(());
        }
        // Whole planes of rows, so that each thread writes the new rows of what it copied.
        let chunk = grain(cache.bytes.len(), call.pool.threads(), plane, LEAST);
        call.pool.chunks_mut(call.outs[0].bytes, chunk, |i, y| {
            y.copy_from_slice(&cache.bytes[i * chunk..][..y.len()]);
            for (p, y) in y.chunks_exact_mut(plane).enumerate() {
                let index = i * chunk / plane + p;
                let first = start(starts, index / outer) as usize;
                for row in 0..new {
                    // Only a circular cache has rows beyond its end here.
                    let to = (first % rows + row) % rows;
                    let from = &update.bytes[(index * new + row) * row_bytes..][..row_bytes];
                    y[to * row_bytes..][..row_bytes].copy_from_slice(from);
                }
            }
        });
        Ok(())
    }
}
