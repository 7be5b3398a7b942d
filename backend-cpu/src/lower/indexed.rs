//! `gather_elements`, `gather_nd`, `scatter_elements` and `scatter_nd`: elements move to or from places that data names.

use crate::kernel::{Call, Chosen, Kernel, Types, movable};
use crate::kernels::gather::{self, ElementsShape, Index, IndexError, TupleShape};
use bytemuck::{cast_slice, cast_slice_mut};
use ir::DType;
use ir::ops::{EvalError, GatherElements, GatherNd, Reduction, ScatterElements, ScatterNd};

/// How indices name places.
enum Places {
    /// One element each, along an axis.
    Along(i64),
    /// Slices by tuples, after so many shared dimensions.
    Tuples(usize),
}

/// Whether indices of this type can be read.
fn indexed(types: &Types<'_>) -> bool {
    matches!(types.dtype(1), Some(DType::I64 | DType::I32)) && types.row_major()
}

struct GatherKernel {
    places: Places,
    width: usize,
}

pub(super) fn gather_elements(op: &GatherElements, types: &Types<'_>) -> Chosen {
    gather_kernel(Places::Along(op.axis), types)
}

pub(super) fn gather_nd(op: &GatherNd, types: &Types<'_>) -> Chosen {
    gather_kernel(Places::Tuples(usize::try_from(op.batch_dims).ok()?), types)
}

fn gather_kernel(places: Places, types: &Types<'_>) -> Chosen {
    let width = movable(types.outs[0].dtype).filter(|_| indexed(types))?;
    Some(Box::new(GatherKernel { places, width }))
}

fn outside(e: IndexError) -> EvalError {
    EvalError::Invalid(e.to_string())
}

fn misfit(indices: &[usize], dims: &[usize]) -> EvalError {
    EvalError::Invalid(format!("indices of shape {indices:?} do not fit {dims:?}"))
}

/// The shape of a gather or scatter along an axis.
fn elements<'a>(axis: i64, dims: &'a [usize], index_dims: &'a [usize]) -> Result<ElementsShape<'a>, EvalError> {
    let axis = axis.rem_euclid(dims.len() as i64) as usize;
    let wide = |(j, (n, m)): (usize, (&usize, &usize))| j != axis && n < m;
    match dims.iter().zip(index_dims).enumerate().any(wide) {
        true => Err(misfit(index_dims, dims)),
        false => Ok(ElementsShape { dims, index_dims, axis }),
    }
}

/// The shape of a gather or scatter by tuples.
fn tuples<'a>(batch_dims: usize, dims: &'a [usize], index_dims: &'a [usize]) -> Result<TupleShape<'a>, EvalError> {
    let Some((&tuple, lead)) = index_dims.split_last() else { return Err(misfit(index_dims, dims)) };
    let fits = batch_dims <= lead.len() && batch_dims + tuple <= dims.len() && dims[..batch_dims] == lead[..batch_dims];
    match fits {
        true => Ok(TupleShape { dims, batch_dims, tuple, tuples: lead[batch_dims..].iter().product() }),
        false => Err(misfit(index_dims, dims)),
    }
}

impl GatherKernel {
    fn gather<I: Index + bytemuck::AnyBitPattern>(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, indices) = (call.input(0), call.input(1));
        let (from, names) = (x.bytes, indices.as_slice::<I>());
        let to = &mut *call.outs[0].bytes;
        match self.places {
            Places::Along(axis) => {
                let shape = elements(axis, x.dims, indices.dims)?;
                match self.width {
                    1 => gather::gather_elements(shape, from, names, to),
                    2 => gather::gather_elements::<u16, I>(shape, cast_slice(from), names, cast_slice_mut(to)),
                    4 => gather::gather_elements::<u32, I>(shape, cast_slice(from), names, cast_slice_mut(to)),
                    _ => gather::gather_elements::<u64, I>(shape, cast_slice(from), names, cast_slice_mut(to)),
                }
            }
            Places::Tuples(batch) => {
                let shape = tuples(batch, x.dims, indices.dims)?;
                match self.width {
                    1 => gather::gather_nd(shape, from, names, to),
                    2 => gather::gather_nd::<u16, I>(shape, cast_slice(from), names, cast_slice_mut(to)),
                    4 => gather::gather_nd::<u32, I>(shape, cast_slice(from), names, cast_slice_mut(to)),
                    _ => gather::gather_nd::<u64, I>(shape, cast_slice(from), names, cast_slice_mut(to)),
                }
            }
        }
        .map_err(outside)
    }
}

impl Kernel for GatherKernel {
    fn name(&self) -> &'static str {
        match self.places {
            Places::Along(_) => "gather_elements",
            Places::Tuples(_) => "gather_nd",
        }
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        match call.input(1).dtype {
            DType::I32 => self.gather::<i32>(call),
            _ => self.gather::<i64>(call),
        }
    }
}

struct ScatterKernel {
    places: Places,
    reduction: Reduction,
    dtype: DType,
    width: usize,
}

pub(super) fn scatter_elements(op: &ScatterElements, types: &Types<'_>) -> Chosen {
    scatter_kernel(Places::Along(op.axis), op.reduction, types)
}

pub(super) fn scatter_nd(op: &ScatterNd, types: &Types<'_>) -> Chosen {
    scatter_kernel(Places::Tuples(0), op.reduction, types)
}

fn scatter_kernel(places: Places, reduction: Reduction, types: &Types<'_>) -> Chosen {
    let dtype = types.outs[0].dtype;
    let width = movable(dtype).filter(|_| indexed(types))?;
    let joins = reduction == Reduction::None || matches!(dtype, DType::F32 | DType::I64);
    joins.then(|| Box::new(ScatterKernel { places, reduction, dtype, width }) as Box<dyn Kernel>)
}

impl ScatterKernel {
    /// Joins the updates to the result, which holds the data.
    fn scatter<I: Index + bytemuck::AnyBitPattern, T: bytemuck::Pod>(
        &self,
        call: &mut Call<'_, '_>,
        join: impl Fn(T, T) -> T,
    ) -> Result<(), EvalError> {
        let (x, indices, updates) = (call.input(0), call.input(1), call.input(2));
        let names = indices.as_slice::<I>();
        let (new, to) = (updates.as_slice::<T>(), call.outs[0].as_slice_mut::<T>());
        match self.places {
            Places::Along(axis) => {
                if indices.dims != updates.dims {
                    let reason = format!("{:?} indices for {:?} updates", indices.dims, updates.dims);
                    return Err(EvalError::Invalid(reason));
                }
                gather::scatter_elements(elements(axis, x.dims, indices.dims)?, names, new, to, join)
            }
            Places::Tuples(batch) => {
                let shape = tuples(batch, x.dims, indices.dims)?;
                if new.len() != shape.tuples * shape.slice_len() {
                    let reason = format!("updates of shape {:?} do not fill their slices", updates.dims);
                    return Err(EvalError::Invalid(reason));
                }
                gather::scatter_nd(shape, names, new, to, join)
            }
        }
        .map_err(outside)
    }

    fn typed<I: Index + bytemuck::AnyBitPattern>(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let f = self.reduction;
        match (f, self.dtype, self.width) {
            (Reduction::None, _, 1) => self.scatter::<I, u8>(call, |_, new| new),
            (Reduction::None, _, 2) => self.scatter::<I, u16>(call, |_, new| new),
            (Reduction::None, _, 4) => self.scatter::<I, u32>(call, |_, new| new),
            (Reduction::None, _, _) => self.scatter::<I, u64>(call, |_, new| new),
            (_, DType::F32, _) => self.scatter::<I, f32>(call, |old, new| f.float(old as f64, new as f64) as f32),
            (_, _, _) => self.scatter::<I, i64>(call, |old, new| f.i64(old, new)),
        }
    }
}

impl Kernel for ScatterKernel {
    fn name(&self) -> &'static str {
        match self.places {
            Places::Along(_) => "scatter_elements",
            Places::Tuples(_) => "scatter_nd",
        }
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        call.outs[0].bytes.copy_from_slice(call.input(0).bytes);
        match call.input(1).dtype {
            DType::I32 => self.typed::<i32>(call),
            _ => self.typed::<i64>(call),
        }
    }
}
