//! `gather`: slices along an axis by indices on the device, each checked there.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, moved, output};
use ir::ops::Gather;
use kernels::{Element, table};

struct Slices {
    axis: usize,
    element: Element,
    index: Element,
}

pub(super) fn gather(op: &Gather, types: &Types<'_>) -> Chosen {
    let axis = ir::ops::axis(op.axis, types.dims(0)?.len()).map_err(|_| "its axis does not exist")?;
    let element = moved(types.input(0).ok_or("an operand is missing")?.dtype)?;
    let index = types.element(1)?;
    match index {
        Element::I64 | Element::I32 => Ok(Box::new(Slices { axis, element, index })),
        _ => Err("its indices are of another type"),
    }
}

impl Lowering for Slices {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn files(&self) -> &'static [&'static str] {
        &["gather"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, indices) = (&sizes.ins[0], &sizes.ins[1]);
        let product = |dims: &[usize]| dims.iter().product::<usize>() as i64;
        let (outer, n, inner) = (product(&x[..self.axis]), x[self.axis] as i64, product(&x[self.axis + 1..]));
        let rows = product(indices);
        if outer * rows * inner == 0 {
            return Ok(vec![]);
        }
        let made = table::gather(self.element, self.index, input(0), input(1), output(0), outer, n, rows, inner);
        Ok(vec![call(made)])
    }
}
