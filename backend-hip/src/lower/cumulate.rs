//! `cum_sum` and `cum_prod`: a thread per line along the axis.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output};
use ir::ops::{Cumulate, CumulateFn};
use kernels::{Element, table};

struct Lines {
    op: Cumulate,
    axis: usize,
    element: Element,
}

pub(super) fn cumulate(op: &Cumulate, types: &Types<'_>) -> Chosen {
    let axis = ir::ops::axis(op.axis, types.dims(0)?.len()).map_err(|_| "its axis does not exist")?;
    let element = types.element(0)?;
    match element {
        Element::F32 | Element::F16 | Element::BF16 | Element::I64 | Element::I32 => {
            Ok(Box::new(Lines { op: op.clone(), axis, element }))
        }
        _ => Err("the kernel takes f32, f16, bf16, i64 and i32 only"),
    }
}

impl Lowering for Lines {
    fn name(&self) -> &'static str {
        "cumulate"
    }

    fn files(&self) -> &'static [&'static str] {
        &["cumulate"]
    }

    // Each element is read before it is written, by one thread.
    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let dims = &sizes.outs[0];
        let product = |dims: &[usize]| dims.iter().product::<usize>() as i64;
        let (n, stride) = (dims[self.axis] as i64, product(&dims[self.axis + 1..]));
        let lines = product(&dims[..self.axis]) * stride;
        if lines * n == 0 {
            return Ok(vec![]);
        }
        let [is_product, exclusive, reverse] =
            [self.op.f == CumulateFn::Prod, self.op.exclusive, self.op.reverse].map(i64::from);
        let made = table::cumulate(self.element, input(0), output(0), lines, n, stride, is_product, exclusive, reverse);
        Ok(vec![call(made)])
    }
}
