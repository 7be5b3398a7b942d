//! `transpose`, `expand`, `slice`, `concat` and `gather`: elements move, nothing is computed.

use crate::kernel::{Call, Chosen, Kernel, Types, View, ViewMut, grain, movable};
use crate::kernels::concat::{Part, concat as join};
use crate::kernels::dims::{Dims, broadcast_strides};
use crate::kernels::gather::{GatherShape, IndexError, PanelRows, gather as gather_rows, gather_panels};
use crate::kernels::pack::Layout as Rows;
use crate::kernels::transpose::View as Strided;
use ir::DType;
use ir::ops::{Concat, EvalError, Gather, Transpose};
use plan::Layout;
use smallvec::SmallVec;

/// Bytes below which threads are not worth waking.
const LEAST_BYTES: usize = 1 << 16;

fn whole(types: &Types<'_>) -> Option<usize> {
    types.row_major().then(|| movable(types.outs[0].dtype))?
}

/// Copies a strided view of operand 0 into result 0.
fn copy(call: &mut Call<'_, '_>, view: &Strided, width: usize) {
    let x = call.input(0);
    let (unit, total) = (view.unit(), view.len());
    if total == 0 {
        return;
    }
    let chunk = grain(total, call.pool.threads(), unit, LEAST_BYTES / width);
    call.pool.chunks_mut(call.outs[0].bytes, chunk * width, |i, to| view.copy(width, x.bytes, to, i * chunk));
}

struct TransposeKernel {
    perm: SmallVec<[usize; 8]>,
    width: usize,
}

pub(super) fn transpose(op: &Transpose, types: &Types<'_>) -> Chosen {
    let width = whole(types)?;
    Some(Box::new(TransposeKernel { perm: op.perm.iter().map(|p| *p as usize).collect(), width }))
}

impl Kernel for TransposeKernel {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let view = Strided::transposed(call.input(0).dims, &self.perm);
        copy(call, &view, self.width);
        Ok(())
    }
}

struct ExpandKernel {
    width: usize,
}

pub(super) fn expand(types: &Types<'_>) -> Chosen {
    Some(Box::new(ExpandKernel { width: whole(types)? }))
}

impl Kernel for ExpandKernel {
    fn name(&self) -> &'static str {
        "expand"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let dims = call.outs[0].dims;
        let strides: SmallVec<[isize; 8]> =
            broadcast_strides(call.input(0).dims, dims).iter().map(|s| *s as isize).collect();
        let view = Strided::new(dims, &strides, 0);
        copy(call, &view, self.width);
        Ok(())
    }
}

struct ConcatKernel {
    axis: i64,
    width: usize,
}

pub(super) fn concat(op: &Concat, types: &Types<'_>) -> Chosen {
    Some(Box::new(ConcatKernel { axis: op.axis, width: whole(types)? }))
}

impl Kernel for ConcatKernel {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let dims = call.outs[0].dims;
        let at = self.axis.rem_euclid(dims.len() as i64) as usize;
        let stride = |dims: &[usize]| dims[at..].iter().product::<usize>() * self.width;
        let parts: SmallVec<[Part<'_>; 8]> =
            call.ins.iter().flatten().map(|v| Part { bytes: v.bytes, stride: stride(v.dims) }).collect();
        let unit = stride(dims);
        if unit == 0 || call.outs[0].bytes.is_empty() {
            return Ok(());
        }
        let chunk = grain(call.outs[0].bytes.len(), call.pool.threads(), unit, LEAST_BYTES);
        call.pool.chunks_mut(call.outs[0].bytes, chunk, |i, to| join(&parts, to, i * chunk / unit));
        Ok(())
    }
}

struct GatherKernel {
    axis: i64,
    width: usize,
}

pub(super) fn gather(op: &Gather, types: &Types<'_>) -> Chosen {
    let rows = match types.layouts[0] {
        Layout::Panel16 => Some(Rows::Nk),
        Layout::Panel16Kn => Some(Rows::Kn),
        _ => None,
    };
    if let Some(rows) = rows.filter(|_| op.axis == 0) {
        return Some(Box::new(GatherPanels { rows }));
    }
    Some(Box::new(GatherKernel { axis: op.axis, width: whole(types)? }))
}

impl Kernel for GatherKernel {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, indices) = (call.input(0), call.input(1));
        let at = self.axis.rem_euclid(x.dims.len() as i64) as usize;
        let row_bytes = x.dims[at + 1..].iter().product::<usize>() * self.width;
        let shape = GatherShape { size: x.dims[at], row_bytes };
        let to = &mut *call.outs[0].bytes;
        if to.is_empty() {
            return Ok(());
        }
        match indices.dtype {
            DType::I32 => gather_rows(shape, x.bytes, indices.as_slice::<i32>(), to, 0),
            _ => gather_rows(shape, x.bytes, indices.as_slice::<i64>(), to, 0),
        }
        .map_err(|e| EvalError::Invalid(e.to_string()))
    }
}

/// Rows of a weight that lies in panels for the linear layer that shares it.
struct GatherPanels {
    rows: Rows,
}

impl Kernel for GatherPanels {
    fn name(&self) -> &'static str {
        "gather_panels"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, indices) = (call.input(0), call.input(1));
        let (n, k) = match self.rows {
            Rows::Nk => (x.dims[0], x.dims[1]),
            Rows::Kn => (x.dims[1], x.dims[0]),
        };
        let shape = PanelRows { rows: self.rows, n, k };
        let to = &mut call.outs[0];
        fn rows<T: bytemuck::Pod>(
            shape: PanelRows,
            x: &View<'_>,
            i: &View<'_>,
            to: &mut ViewMut<'_>,
        ) -> Result<(), IndexError> {
            match i.dtype {
                DType::I32 => gather_panels::<T, i32>(shape, x.as_slice(), i.as_slice(), to.as_slice_mut()),
                _ => gather_panels::<T, i64>(shape, x.as_slice(), i.as_slice(), to.as_slice_mut()),
            }
        }
        let done = match x.dtype {
            DType::F32 => rows::<u32>(shape, &x, &indices, to),
            _ => rows::<u16>(shape, &x, &indices, to),
        };
        done.map_err(|e| EvalError::Invalid(e.to_string()))
    }
}

/// A kernel that copies its operand as it is; for graph outputs that are views of something else.
pub(crate) struct CopyKernel;

impl Kernel for CopyKernel {
    fn name(&self) -> &'static str {
        "move"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (x, dims) = (call.input(0), call.outs[0].dims);
        let y = &mut call.outs[0].bytes;
        // A reshape whose sizes agree only for some bindings of the symbols.
        if x.bytes.len() != y.len() {
            return Err(EvalError::Invalid(format!("{:?} cannot become {dims:?}: another number of elements", x.dims)));
        }
        y.copy_from_slice(x.bytes);
        Ok(())
    }
}

/// Slices; where each axis starts is a number of the call, how far it goes is the result's shape.
struct SliceKernel {
    axes: SmallVec<[usize; 4]>,
    starts: Vec<ir::Dim>,
    steps: SmallVec<[i64; 4]>,
    width: usize,
}

pub(super) fn slice(op: &ir::ops::Slice, types: &Types<'_>) -> Chosen {
    let dims = types.ins[0]?.dims()?;
    let axes: SmallVec<[usize; 4]> = op.axes.iter().map(|a| a.rem_euclid(dims.len() as i64) as usize).collect();
    let start =
        |(i, at): (usize, &usize)| Some(ir::ops::Slice::extent(&dims[*at], &op.starts[i], &op.ends[i], op.steps[i])?.0);
    let starts: Option<Vec<ir::Dim>> = axes.iter().enumerate().map(start).collect();
    Some(Box::new(SliceKernel {
        starts: starts?,
        steps: op.steps.iter().copied().collect(),
        width: whole(types)?,
        axes,
    }))
}

impl Kernel for SliceKernel {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn numbers(&self) -> Vec<ir::Dim> {
        self.starts.clone()
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let dims = call.input(0).dims;
        let mut starts: Dims = SmallVec::from_elem(0, dims.len());
        let mut steps: SmallVec<[isize; 8]> = SmallVec::from_elem(1, dims.len());
        for (i, at) in self.axes.iter().enumerate() {
            starts[*at] = usize::try_from(call.numbers[i]).unwrap_or(0);
            steps[*at] = self.steps[i] as isize;
        }
        if call.outs[0].bytes.is_empty() {
            return Ok(());
        }
        let view = Strided::sliced(dims, &starts, &steps, call.outs[0].dims);
        copy(call, &view, self.width);
        Ok(())
    }
}
