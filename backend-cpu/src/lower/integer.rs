//! `matmul_integer` by a constant matrix, which is packed when a plan is made.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View};
use crate::kernels::int8::{self, Int8Panels, Int8Rows, panel_sums};
use crate::kernels::pack;
use crate::kernels::pool::{MatMut, Pool};
use ir::DType;
use ir::ops::EvalError;
use ir::tensor::{Aligned, Memory};
use plan::Layout;

struct MatMulInteger {
    /// Whether the plan has the weight in panels; else they are here.
    packed: bool,
    panels: Aligned,
    /// Of the stored weights, per output; empty until they are seen.
    sums: Vec<i32>,
}

pub(super) fn matmul_integer(types: &Types<'_>) -> Chosen {
    let scalar = |i: usize| types.dims(i).is_some_and(|d| d.iter().all(|d| d.as_const() == Some(1)));
    let vector = |i: usize| types.dims(i).is_some_and(|d| d.len() == 1);
    let rows = types.lacks(2) || scalar(2) || vector(2) && types.dims(0)?.len() == 2;
    let columns = types.lacks(3) || scalar(3) || vector(3);
    let packed = types.layouts[1] == Layout::PanelI8Kn;
    let matrix = types.constant(1) && types.dims(0).is_some_and(|d| !d.is_empty()) && types.dims(1)?.len() == 2;
    let known = packed || types.layouts[1] == Layout::RowMajor && matrix;
    let kernel = MatMulInteger { packed, panels: Aligned::zeroed(0), sums: vec![] };
    (known && rows && columns).then(|| Box::new(kernel) as Box<dyn Kernel>)
}

/// Zero points as numbers.
fn widen(from: Option<View<'_>>, to: &mut [i32]) {
    let Some(from) = from else { return };
    let signed = from.dtype == DType::I8;
    for (to, byte) in to.iter_mut().zip(from.bytes) {
        *to = if signed { i32::from(*byte as i8) } else { i32::from(*byte) };
    }
}

fn count(zeros: Option<&[usize]>) -> usize {
    zeros.map_or(0, |d| d.iter().product())
}

/// Rows, outputs and inputs.
fn sizes(a: &[usize], b: &[usize]) -> [usize; 3] {
    let k = a.last().copied().unwrap_or(0);
    let rows = a.split_last().map_or(0, |(_, lead)| lead.iter().product());
    [rows, b[1], k]
}

impl Kernel for MatMulInteger {
    fn name(&self) -> &'static str {
        "matmul_integer"
    }

    fn prepare(&mut self, constants: &[Option<View<'_>>]) {
        let Some(w) = constants.get(1).copied().flatten() else { return };
        let (n, k) = (w.dims[1], w.dims[0]);
        self.sums = vec![0; n];
        if self.packed {
            return panel_sums(bytemuck::cast_slice(w.bytes), k, &mut self.sums);
        }
        self.panels = Aligned::zeroed(int8::int8_panel_elems(n, k));
        let panels = bytemuck::cast_slice_mut(self.panels.bytes_mut());
        int8::pack_int8(w.bytes, w.dtype == DType::U8, n, k, pack::Layout::Kn, panels, &mut self.sums);
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let (Some(a), Some(b)) = (dims.ins[0], dims.ins[1]) else { return 0 };
        let [m, n, k] = sizes(a, b);
        let zeros = [2, 3].map(|i| count(dims.ins.get(i).copied().flatten()));
        (zeros[0] + zeros[1] + int8::int8_scratch(pool, m, n, k)).div_ceil(2)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (a, b) = (call.input(0), call.input(1));
        let [m, n, k] = sizes(a.dims, b.dims);
        let zeros = [2, 3].map(|i| call.ins.get(i).copied().flatten());
        let scratch: &mut [i32] = bytemuck::cast_slice_mut(call.scratch);
        let (a_zeros, scratch) = scratch.split_at_mut(count(zeros[0].as_ref().map(|z| z.dims)));
        let (b_zeros, scratch) = scratch.split_at_mut(count(zeros[1].as_ref().map(|z| z.dims)));
        widen(zeros[0], a_zeros);
        widen(zeros[1], b_zeros);
        let fits = |zeros: &[i32], count: usize| zeros.len() <= 1 || zeros.len() == count;
        if !fits(a_zeros, m) || !fits(b_zeros, n) {
            let found = (a_zeros.len(), b_zeros.len());
            return Err(EvalError::Invalid(format!("{found:?} zero points do not fit {m} rows and {n} columns")));
        }
        if self.sums.len() != n {
            return Err(EvalError::Invalid("the packed weight was not there when the plan was loaded".into()));
        }
        let panels = bytemuck::cast_slice(if self.packed { b.bytes } else { self.panels.bytes() });
        let weights = Int8Panels::new(panels, &self.sums, b_zeros, b.dtype == DType::U8, n, k);
        let rows = Int8Rows { data: a.bytes, signed: a.dtype == DType::I8, zero_points: a_zeros, row_stride: k };
        let y = MatMut::new(call.outs[0].as_slice_mut(), m, n, n);
        int8::linear_int8(call.pool, rows, weights, y, bytemuck::cast_slice_mut(scratch));
        Ok(())
    }
}
