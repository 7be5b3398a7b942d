//! `softmax` along any axis.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output};
use ir::ops::Softmax;
use kernels::{Element, table};

struct Lines {
    axis: usize,
    log: bool,
    element: Element,
}

pub(super) fn softmax(op: &Softmax, types: &Types<'_>) -> Chosen {
    let axis = ir::ops::axis(op.axis, types.dims(0)?.len()).map_err(|_| "its axis does not exist")?;
    Ok(Box::new(Lines { axis, log: op.log, element: types.one_float()? }))
}

impl Lowering for Lines {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn files(&self) -> &'static [&'static str] {
        &["softmax"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let dims = &sizes.outs[0];
        let n = dims[self.axis] as i64;
        let stride = dims[self.axis + 1..].iter().product::<usize>() as i64;
        let lines = dims[..self.axis].iter().product::<usize>() as i64 * stride;
        if n == 0 || lines == 0 {
            return Ok(vec![]);
        }
        let make = if self.log { table::log_softmax } else { table::softmax };
        Ok(vec![call(make(self.element, input(0), output(0), lines, n, stride))])
    }
}
