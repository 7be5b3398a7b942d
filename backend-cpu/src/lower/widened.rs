//! Kernels of f32 for narrower floats: operands are widened into scratch, results rounded once.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View, ViewMut, element, grain};
use crate::kernels::elementwise::cast;
use crate::kernels::pool::Pool;
use ir::ops::EvalError;
use ir::{DType, TensorType};
use plan::Layout;
use smallvec::SmallVec;

/// Elements below which threads are not worth waking.
const LEAST: usize = 1 << 14;

struct Widened {
    inner: Box<dyn Kernel>,
    /// Which operands and results the inner kernel sees as f32.
    ins: SmallVec<[bool; 4]>,
    outs: SmallVec<[bool; 2]>,
}

/// A result that is rounded to its own type at the end.
type Narrow<'a> = (DType, &'a mut [u8]);

fn narrow(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// What `choose` finds for f32 in place of f16 and bf16. Operands that `kept` names, and packed weights, stay narrow.
pub(super) fn widened(types: &Types<'_>, kept: &[usize], choose: impl FnOnce(&Types<'_>) -> Chosen) -> Chosen {
    let wide = |t: &TensorType| TensorType { dtype: DType::F32, shape: t.shape.clone() };
    let change = |i: usize| {
        let plain = types.layouts[i] == Layout::RowMajor && !kept.contains(&i);
        plain && types.dtype(i).is_some_and(narrow)
    };
    let ins: SmallVec<[bool; 4]> = (0..types.ins.len()).map(change).collect();
    let outs: SmallVec<[bool; 2]> = types.outs.iter().map(|t| narrow(t.dtype)).collect();
    if !ins.contains(&true) && !outs.contains(&true) {
        return None;
    }
    let pick = |t: &TensorType, change: bool| if change { wide(t) } else { t.clone() };
    let in_types: Vec<Option<TensorType>> = types.ins.iter().zip(&ins).map(|(t, c)| Some(pick((*t)?, *c))).collect();
    let out_types: Vec<TensorType> = types.outs.iter().zip(&outs).map(|(t, c)| pick(t, *c)).collect();
    let in_refs: Vec<Option<&TensorType>> = in_types.iter().map(Option::as_ref).collect();
    let out_refs: Vec<&TensorType> = out_types.iter().collect();
    let inner = choose(&Types { ins: &in_refs, outs: &out_refs, layouts: types.layouts, constants: types.constants })?;
    Some(Box::new(Widened { inner, ins, outs }))
}

/// Words of `elements` f32.
fn words(elements: usize) -> usize {
    elements.div_ceil(2)
}

fn count(dims: &[usize]) -> usize {
    dims.iter().product()
}

fn convert(pool: &Pool, from: DType, x: &[u8], to: DType, y: &mut [u8]) {
    let (Some(from), Some(to)) = (element(from), element(to)) else { unreachable!("both are floats") };
    let total = y.len() / to.bytes();
    let chunk = grain(total, pool.threads(), 64, LEAST);
    pool.chunks_mut(y, chunk * to.bytes(), |i, y| {
        let start = i * chunk * from.bytes();
        let len = y.len() / to.bytes() * from.bytes();
        cast(from, &x[start..start + len], to, y);
    });
}

impl Kernel for Widened {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn numbers(&self) -> Vec<ir::Dim> {
        self.inner.numbers()
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let ins = dims.ins.iter().zip(&self.ins).filter(|(_, c)| **c);
        let outs = dims.outs.iter().zip(&self.outs).filter(|(_, c)| **c);
        ins.map(|(d, _)| d.map_or(0, |d| words(count(d)))).sum::<usize>()
            + outs.map(|(d, _)| words(count(d))).sum::<usize>()
            + self.inner.scratch_words(pool, dims)
    }

    fn prepare(&mut self, constants: &[Option<View<'_>>]) {
        let wide: Vec<Option<Vec<f32>>> = constants
            .iter()
            .zip(&self.ins)
            .map(|(v, c)| {
                let v = v.filter(|_| *c)?;
                let mut wide = vec![0f32; count(v.dims)];
                cast(element(v.dtype)?, v.bytes, element(DType::F32)?, bytemuck::cast_slice_mut(&mut wide));
                Some(wide)
            })
            .collect();
        let mut views: Vec<Option<View<'_>>> = constants.to_vec();
        for (view, wide) in views.iter_mut().zip(&wide) {
            if let (Some(view), Some(wide)) = (view, wide) {
                (view.dtype, view.bytes) = (DType::F32, bytemuck::cast_slice(wide));
            }
        }
        self.inner.prepare(&views);
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let mut rest = &mut *call.scratch;
        let mut take = |elements: usize| {
            let (own, left) = std::mem::take(&mut rest).split_at_mut(words(elements));
            rest = left;
            &mut bytemuck::cast_slice_mut::<u64, u8>(own)[..elements * 4]
        };
        let mut ins: SmallVec<[Option<View<'_>>; 8]> = SmallVec::new();
        for (v, change) in call.ins.iter().zip(&self.ins) {
            ins.push(match v {
                Some(v) if *change => {
                    let wide = take(count(v.dims));
                    convert(call.pool, v.dtype, v.bytes, DType::F32, wide);
                    Some(View { dtype: DType::F32, dims: v.dims, bytes: wide })
                }
                v => *v,
            });
        }
        let mut outs: SmallVec<[ViewMut<'_>; 2]> = SmallVec::new();
        let mut narrow: SmallVec<[Option<Narrow<'_>>; 2]> = SmallVec::new();
        for (out, change) in call.outs.iter_mut().zip(&self.outs) {
            if *change {
                outs.push(ViewMut { dtype: DType::F32, dims: out.dims, bytes: take(count(out.dims)) });
                narrow.push(Some((out.dtype, out.bytes)));
            } else {
                outs.push(ViewMut { dtype: out.dtype, dims: out.dims, bytes: out.bytes });
                narrow.push(None);
            }
        }
        let (pool, numbers) = (call.pool, call.numbers);
        self.inner.run(&mut Call { pool, ins: &ins, outs: &mut outs, numbers, scratch: rest })?;
        for (wide, narrow) in outs.iter().zip(narrow) {
            if let Some((dtype, bytes)) = narrow {
                convert(pool, DType::F32, wide.bytes, dtype, bytes);
            }
        }
        Ok(())
    }
}
