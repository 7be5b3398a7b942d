//! `cumulate`, `arg_reduce` and `top_k`: one line along an axis at a time.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, grain};
use crate::kernels::pool::Pool;
use crate::kernels::reduce::{Extreme, arg_extreme};
use crate::kernels::topk::{self, Order};
use ir::DType;
use ir::ops::{ArgFn, ArgReduce, Cumulate, CumulateFn, EvalError, TopK};

/// Elements below which threads are not worth waking.
const LEAST: usize = 8192;

/// Elements along an axis, and after it.
fn line(dims: &[usize], axis: i64) -> (usize, usize) {
    let at = axis.rem_euclid(dims.len() as i64) as usize;
    (dims[at], dims[at + 1..].iter().product())
}

/// Element types that these kernels order.
fn ordered(types: &Types<'_>) -> Option<DType> {
    let dtype = types.dtype(0).filter(|_| types.row_major())?;
    matches!(dtype, DType::F32 | DType::F64 | DType::I64 | DType::I32 | DType::U8 | DType::I8).then_some(dtype)
}

/// Calls `$f::<T>` with the native type of one of [`ordered`].
macro_rules! with_native {
    ($dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            DType::F32 => $f::<f32>($($arg),*),
            DType::F64 => $f::<f64>($($arg),*),
            DType::I64 => $f::<i64>($($arg),*),
            DType::I32 => $f::<i32>($($arg),*),
            DType::U8 => $f::<u8>($($arg),*),
            _ => $f::<i8>($($arg),*),
        }
    };
}

struct CumulateKernel(Cumulate);

pub(super) fn cumulate(op: &Cumulate, types: &Types<'_>) -> Chosen {
    let known = matches!(types.dtype(0)?, DType::F32 | DType::I64 | DType::I32) && types.row_major();
    known.then(|| Box::new(CumulateKernel(op.clone())) as Box<dyn Kernel>)
}

impl CumulateKernel {
    /// Lines of whole blocks; sums are made in `A`.
    fn along<T: bytemuck::Pod + Send + Sync, A: Copy + Sync>(
        &self,
        call: &mut Call<'_, '_>,
        unit: A,
        f: impl Fn(A, T) -> A + Sync,
        narrow: impl Fn(A) -> T + Sync,
    ) {
        let x = call.input(0);
        let (n, inner) = line(x.dims, self.0.axis);
        let x = x.as_slice::<T>();
        let y = call.outs[0].as_slice_mut::<T>();
        if y.is_empty() {
            return;
        }
        let chunk = grain(y.len(), call.pool.threads(), n * inner, LEAST);
        call.pool.chunks_mut(y, chunk, |at, y| {
            let x = &x[at * chunk..][..y.len()];
            for (x, y) in x.chunks_exact(n * inner).zip(y.chunks_exact_mut(n * inner)) {
                for lane in 0..inner {
                    let mut so_far = unit;
                    for i in 0..n {
                        let here = lane + if self.0.reverse { n - 1 - i } else { i } * inner;
                        let next = f(so_far, x[here]);
                        y[here] = narrow(if self.0.exclusive { so_far } else { next });
                        so_far = next;
                    }
                }
            }
        });
    }
}

impl Kernel for CumulateKernel {
    fn name(&self) -> &'static str {
        "cumulate"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        match (call.input(0).dtype, self.0.f) {
            (DType::F32, CumulateFn::Sum) => self.along(call, 0f64, |a, x: f32| a + x as f64, |a| a as f32),
            (DType::F32, CumulateFn::Prod) => self.along(call, 1f64, |a, x: f32| a * x as f64, |a| a as f32),
            (DType::I64, CumulateFn::Sum) => self.along(call, 0, i64::wrapping_add, |a| a),
            (DType::I64, CumulateFn::Prod) => self.along(call, 1, i64::wrapping_mul, |a| a),
            (_, CumulateFn::Sum) => self.along(call, 0, i32::wrapping_add, |a| a),
            (_, CumulateFn::Prod) => self.along(call, 1, i32::wrapping_mul, |a| a),
        }
        Ok(())
    }
}

struct ArgKernel {
    which: Extreme,
    axis: i64,
    last: bool,
    dtype: DType,
}

pub(super) fn arg_reduce(op: &ArgReduce, types: &Types<'_>) -> Chosen {
    let which = if op.f == ArgFn::Max { Extreme::Max } else { Extreme::Min };
    Some(Box::new(ArgKernel { which, axis: op.axis, last: op.select_last, dtype: ordered(types)? }))
}

fn find<T: bytemuck::Pod + PartialOrd + Sync>(kernel: &ArgKernel, call: &mut Call<'_, '_>, n: usize, inner: usize) {
    let x = call.input(0).as_slice::<T>();
    let y = call.outs[0].as_slice_mut::<i64>();
    let chunk = grain(y.len(), call.pool.threads(), inner, LEAST / n.max(1));
    call.pool.chunks_mut(y, chunk, |at, y| {
        arg_extreme(kernel.which, kernel.last, n, inner, &x[at * chunk * n..][..y.len() * n], y);
    });
}

impl Kernel for ArgKernel {
    fn name(&self) -> &'static str {
        "arg_reduce"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (n, inner) = line(call.input(0).dims, self.axis);
        if call.outs[0].bytes.is_empty() {
            return Ok(());
        }
        if n == 0 {
            return Err(EvalError::Invalid("there is no element to find".into()));
        }
        with_native!(self.dtype, find(self, call, n, inner));
        Ok(())
    }
}

struct TopKernel {
    order: Order,
    axis: i64,
    dtype: DType,
}

pub(super) fn top_k(op: &TopK, types: &Types<'_>) -> Chosen {
    let order = if op.largest { Order::Largest } else { Order::Smallest };
    Some(Box::new(TopKernel { order, axis: op.axis, dtype: ordered(types)? }))
}

fn choose<T: bytemuck::Pod + PartialOrd>(
    kernel: &TopKernel,
    call: &mut Call<'_, '_>,
    k: usize,
    n: usize,
    inner: usize,
) {
    let x = call.input(0).as_slice::<T>();
    let [values, indices] = call.outs else { unreachable!("top_k has two results") };
    let (values, indices) = (values.as_slice_mut::<T>(), indices.as_slice_mut::<i64>());
    topk::top_k(kernel.order, k, n, inner, x, values, indices, bytemuck::cast_slice_mut(call.scratch));
}

impl Kernel for TopKernel {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn scratch_words(&self, _: &Pool, dims: &CallDims<'_>) -> usize {
        dims.ins[0].map_or(0, |x| line(x, self.axis).0.div_ceil(2))
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (n, inner) = line(call.input(0).dims, self.axis);
        let (k, _) = line(call.outs[0].dims, self.axis);
        if k > n {
            return Err(EvalError::Invalid(format!("the {k} first of {n} elements")));
        }
        if k * inner > 0 {
            with_native!(self.dtype, choose(self, call, k, n, inner));
        }
        Ok(())
    }
}
