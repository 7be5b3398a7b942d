//! `rope`: heads rotated at their positions.

use crate::kernel::{Call, Chosen, Kernel, Types, grain};
use crate::kernels::attention::rotate;
use ir::DType;
use ir::ops::{EvalError, Rope};

/// Elements below which threads are not worth waking.
const LEAST: usize = 8192;

struct RopeKernel {
    op: Rope,
}

pub(super) fn rope(op: &Rope, types: &Types<'_>) -> Chosen {
    let floats = (0..3).all(|i| types.dtype(i) == Some(DType::F32));
    let positions = types.dtype(3).is_none_or(|d| matches!(d, DType::I32 | DType::I64));
    (floats && positions && types.row_major()).then(|| Box::new(RopeKernel { op: op.clone() }) as Box<dyn Kernel>)
}

impl Kernel for RopeKernel {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let [x, cos, sin] = [0, 1, 2].map(|i| call.input(i));
        let positions = call.ins.get(3).copied().flatten();
        // Rows of a head each; those of a step are neighbours where heads lie inside the last dimension.
        let (batch, steps, heads, d, inside) = match (x.dims, self.op.heads) {
            (&[b, h, s, d], _) => (b, s, h, d, false),
            (&[b, s, w], Some(h)) => (b, s, h as usize, w / h as usize, true),
            _ => unreachable!("typing made sure of the rank"),
        };
        let half = self.op.rotary.map_or(d, |r| r as usize) / 2;
        if 2 * half > d || cos.dims != sin.dims || cos.dims.last() != Some(&half) {
            let message = format!("tables of {:?} and {:?} do not rotate {} of {d}", cos.dims, sin.dims, 2 * half);
            return Err(EvalError::Invalid(message));
        }
        let rows: usize = cos.dims[..cos.dims.len() - 1].iter().product();
        let given = |i: usize| {
            let v = positions?;
            Some(if v.dtype == DType::I32 { v.as_slice::<i32>()[i] as i64 } else { v.as_slice::<i64>()[i] })
        };
        let count: usize = positions.map_or(batch * steps, |v| v.dims.iter().product());
        if count != 1 && count != batch * steps {
            return Err(EvalError::Invalid(format!("{count} positions for {batch} rows of {steps}")));
        }
        let one = positions.is_some() && count == 1;
        let place = |i: usize| match (one, positions) {
            (true, _) => given(0).map_or(0, |p| p.max(0)) + (i % steps) as i64,
            (false, Some(_)) => given(i).map_or(-1, |p| if p < 0 { p + rows as i64 } else { p }),
            (false, None) => i as i64,
        };
        if !(0..batch * steps).all(|i| (0..rows as i64).contains(&place(i))) {
            return Err(EvalError::Invalid(format!("a position is outside the table of {rows} rows")));
        }
        let (x, cos, sin): (&[f32], &[f32], &[f32]) = (x.as_slice(), cos.as_slice(), sin.as_slice());
        let y: &mut [f32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        let chunk = grain(y.len(), call.pool.threads(), d, LEAST);
        call.pool.chunks_mut(y, chunk, |c, y| {
            for (i, y) in y.chunks_exact_mut(d).enumerate() {
                let row = c * chunk / d + i;
                let step = if inside { row / heads } else { row / steps / heads * steps + row % steps };
                let at = place(step) as usize * half;
                rotate(&x[row * d..][..d], &cos[at..][..half], &sin[at..][..half], self.op.interleaved, y);
            }
        });
        Ok(())
    }
}
