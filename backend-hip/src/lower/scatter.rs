//! `scatter_elements` and `scatter_nd`: the tensor is copied, then updates are combined into it. A thread has every update that
//! may fall on what it writes and takes them in order, so results do not depend on timing.

use super::copy::{strides, walk};
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, moved, output};
use ir::ops::{Reduction, ScatterElements, ScatterNd};
use kernels::{Element, table};

const MOST_DIMS: usize = 6;

struct Scatter {
    /// The axis of `scatter_elements`; `None` for `scatter_nd`.
    axis: Option<usize>,
    f: i64,
    element: Element,
    index: Element,
}

pub(super) fn scatter_elements(op: &ScatterElements, types: &Types<'_>) -> Chosen {
    let axis = ir::ops::axis(op.axis, types.dims(0)?.len()).map_err(|_| "its axis does not exist")?;
    if types.dims(0)?.len() > MOST_DIMS {
        return Err("it has more than 6 dimensions");
    }
    scatter(Some(axis), op.reduction, types)
}

pub(super) fn scatter_nd(op: &ScatterNd, types: &Types<'_>) -> Chosen {
    if types.dims(1)?.last().and_then(|d| d.as_const()).is_none_or(|d| d > MOST_DIMS as i64) {
        return Err("its positions have more than 6 numbers, or it is not known how many");
    }
    scatter(None, op.reduction, types)
}

fn scatter(axis: Option<usize>, f: Reduction, types: &Types<'_>) -> Chosen {
    let index = types.element(1)?;
    if !matches!(index, Element::I64 | Element::I32) {
        return Err("its indices are of another type");
    }
    let dtype = types.input(0).ok_or("an operand is missing")?.dtype;
    let element = match f {
        Reduction::None => match moved(dtype)? {
            Element::U64 => Element::I64,
            Element::U32 => Element::I32,
            narrow => narrow,
        },
        _ => match super::element(dtype)? {
            Element::U16 | Element::U32 | Element::U64 | Element::U8 => {
                return Err("the kernel combines f32, f16, bf16, i64 and i32 only");
            }
            known => known,
        },
    };
    // The order of hip/scatter.hip.
    let f = match f {
        Reduction::None => 0,
        Reduction::Add => 1,
        Reduction::Mul => 2,
        Reduction::Max => 3,
        Reduction::Min => 4,
    };
    Ok(Box::new(Scatter { axis, f, element, index }))
}

impl Lowering for Scatter {
    fn name(&self) -> &'static str {
        if self.axis.is_some() { "scatter_elements" } else { "scatter_nd" }
    }

    fn files(&self) -> &'static [&'static str] {
        &["copy", "scatter"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let n = sizes.ins[0].iter().product::<usize>();
        let copied = walk(self.element, input(0), output(0), &[n], (0, &[1]), (0, &[1]))?;
        let updates = match self.axis {
            Some(axis) => self.elements(axis, sizes)?,
            None => self.slices(sizes)?,
        };
        Ok(copied.into_iter().chain(updates).collect())
    }
}

fn narrow(n: i64) -> Result<u32, String> {
    u32::try_from(n).map_err(|_| "a stride is too large for the kernel".to_string())
}

impl Scatter {
    fn elements(&self, axis: usize, sizes: &Sizes<'_>) -> Result<Option<Call<Memory>>, String> {
        let (x, indices, updates) = (&sizes.ins[0], &sizes.ins[1], &sizes.ins[2]);
        let inside = |d: usize| d == axis || indices[d] <= x[d];
        if indices != updates || indices.len() != x.len() || !(0..x.len()).all(inside) {
            return Err(format!("indices of {indices:?} for updates of {updates:?} do not fit {x:?}"));
        }
        if indices.contains(&0) {
            return Ok(None);
        }
        let (of_x, of_updates) = (strides(x), strides(indices));
        let mut shape = [0u32; 21];
        shape[0] = x.len() as u32;
        for d in 0..x.len() {
            shape[1 + d] = if d == axis { 1 } else { narrow(indices[d] as i64)? };
            (shape[7 + d], shape[13 + d]) = (narrow(of_updates[d])?, narrow(of_x[d])?);
        }
        (shape[19], shape[20]) = (narrow(of_updates[axis])?, narrow(of_x[axis])?);
        let n = indices[axis] as i64;
        let lines = indices.iter().product::<usize>() as i64 / n;
        let (count, size) = (x.iter().product::<usize>() as i64, x[axis] as i64);
        let (i, u, y) = (input(1), input(2), output(0));
        let made = table::scatter_elements(self.element, self.index, i, u, y, count, lines, n, size, self.f, shape);
        Ok(Some(call(made)))
    }

    fn slices(&self, sizes: &Sizes<'_>) -> Result<Option<Call<Memory>>, String> {
        let (x, indices, updates) = (&sizes.ins[0], &sizes.ins[1], &sizes.ins[2]);
        let depth = indices.last().copied().unwrap_or(0);
        let fits = !indices.is_empty() && depth <= x.len();
        if !fits || [&indices[..indices.len() - 1], &x[depth..]].concat() != *updates {
            return Err(format!("indices of {indices:?} for updates of {updates:?} do not fit {x:?}"));
        }
        let product = |dims: &[usize]| dims.iter().product::<usize>() as i64;
        let (rows, run) = (product(&indices[..indices.len() - 1]), product(&x[depth..]));
        if rows * run == 0 {
            return Ok(None);
        }
        let of_x = strides(x);
        let mut shape = [0u32; 12];
        for d in 0..depth {
            (shape[d], shape[6 + d]) = (narrow(x[d] as i64)?, narrow(of_x[d])?);
        }
        let (i, u, y) = (input(1), input(2), output(0));
        let (count, depth) = (product(x), depth as i64);
        let made = table::scatter_nd(self.element, self.index, i, u, y, count, rows, depth, run, self.f, shape);
        Ok(Some(call(made)))
    }
}
