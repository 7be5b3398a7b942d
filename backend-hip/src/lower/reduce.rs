//! `reduce` along axes that lie side by side.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output};
use ir::ops::{Reduce, ReduceFn};
use kernels::{Element, table};

struct Lines {
    /// The reduced dimensions.
    first: usize,
    last: usize,
    f: i64,
    element: Element,
}

pub(super) fn reduce(op: &Reduce, types: &Types<'_>) -> Chosen {
    let reduced = op.reduced(types.dims(0)?.len()).map_err(|_| "its axes do not exist")?;
    let (Some(first), Some(last)) = (reduced.iter().position(|r| *r), reduced.iter().rposition(|r| *r)) else {
        return Err("it reduces no axis");
    };
    if reduced[first..=last].contains(&false) {
        return Err("its axes do not lie side by side");
    }
    // The order of hip/reduce.hip.
    let f = match op.f {
        ReduceFn::Sum => 0,
        ReduceFn::Mean => 1,
        ReduceFn::Max => 2,
        ReduceFn::Min => 3,
        ReduceFn::Prod => 4,
        ReduceFn::L1 => 5,
        ReduceFn::L2 => 6,
        ReduceFn::SumSquare => 7,
        ReduceFn::LogSum => 8,
        ReduceFn::LogSumExp => 9,
    };
    Ok(Box::new(Lines { first, last, f, element: types.one_float()? }))
}

impl Lowering for Lines {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn files(&self) -> &'static [&'static str] {
        &["reduce"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let dims = &sizes.ins[0];
        let n = dims[self.first..=self.last].iter().product::<usize>() as i64;
        let stride = dims[self.last + 1..].iter().product::<usize>() as i64;
        let lines = dims[..self.first].iter().product::<usize>() as i64 * stride;
        if lines == 0 {
            return Ok(vec![]);
        }
        Ok(vec![call(table::reduce(self.element, input(0), output(0), lines, n, stride, self.f))])
    }
}
