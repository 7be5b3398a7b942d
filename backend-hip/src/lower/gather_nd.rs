//! `gather_nd`: slices at positions of several numbers, each checked on the device.

use super::copy::strides;
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, moved, output};
use ir::ops::GatherNd;
use kernels::{Element, table};

/// Numbers of a position that the kernel takes.
const MOST_DEPTH: i64 = 6;

struct Positions {
    batch: usize,
    element: Element,
    index: Element,
}

pub(super) fn gather_nd(op: &GatherNd, types: &Types<'_>) -> Chosen {
    let element = moved(types.input(0).ok_or("an operand is missing")?.dtype)?;
    let index = types.element(1)?;
    if !matches!(index, Element::I64 | Element::I32) {
        return Err("its indices are of another type");
    }
    if types.dims(1)?.last().and_then(|d| d.as_const()).is_none_or(|d| d > MOST_DEPTH) {
        return Err("its positions have more than 6 numbers, or it is not known how many");
    }
    let batch = usize::try_from(op.batch_dims).map_err(|_| "its batch dimensions are negative")?;
    Ok(Box::new(Positions { batch, element, index }))
}

impl Lowering for Positions {
    fn name(&self) -> &'static str {
        "gather_nd"
    }

    fn files(&self) -> &'static [&'static str] {
        &["gather"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, indices) = (&sizes.ins[0], &sizes.ins[1]);
        let depth = indices.last().copied().unwrap_or(0);
        let fits = indices.len() > self.batch && self.batch + depth <= x.len();
        if !fits || x[..self.batch] != indices[..self.batch] {
            return Err(format!("indices of {indices:?} do not fit {x:?}"));
        }
        let product = |dims: &[usize]| dims.iter().product::<usize>() as i64;
        let (batches, step) = (product(&x[..self.batch]), product(&x[self.batch..]));
        let (rows, run) = (product(&indices[..indices.len() - 1]), product(&x[self.batch + depth..]));
        if rows * run == 0 {
            return Ok(vec![]);
        }
        let of_x = strides(x);
        let mut shape = [0u32; 12];
        for d in 0..depth {
            let narrow = |n: i64| u32::try_from(n).map_err(|_| "a stride is too large for the kernel".to_string());
            shape[d] = narrow(x[self.batch + d] as i64)?;
            shape[6 + d] = narrow(of_x[self.batch + d])?;
        }
        let (element, index) = (self.element, self.index);
        let depth = depth as i64;
        let made =
            table::gather_nd(element, index, input(0), input(1), output(0), batches, step, rows, depth, run, shape);
        Ok(vec![call(made)])
    }
}
