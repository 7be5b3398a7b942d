//! `pool`: a thread per window, or a block where one window is the whole image.

use super::window::{planes, three, words};
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output};
use ir::ops::window::Axis;
use ir::ops::{Pool, PoolFn};
use kernels::{Element, table};

/// From so many elements on, a window that is the whole image is reduced by a block.
const WHOLE: i64 = 256;

struct Windows {
    op: Pool,
    element: Element,
}

pub(super) fn pool(op: &Pool, types: &Types<'_>) -> Chosen {
    if types.dims(0)?.len() > 5 {
        return Err("it has more than 3 spatial dimensions");
    }
    Ok(Box::new(Windows { op: op.clone(), element: types.one_float()? }))
}

impl Lowering for Windows {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn files(&self) -> &'static [&'static str] {
        &["pool", "reduce"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let axes = three(&self.op.window(), sizes)?;
        let (image, plane) = planes(&axes);
        let channels = sizes.ins[0][..2].iter().product::<usize>() as i64;
        if channels * plane == 0 {
            return Ok(vec![]);
        }
        let whole = |a: &Axis| (a.before, a.after, a.dilation) == (0, 0, 1) && a.kernel == a.input && a.output == 1;
        // The order of hip/reduce.hip.
        let reduced = match (self.op.f, self.op.p) {
            (PoolFn::Average, _) => Some(1),
            (PoolFn::Max, _) => Some(2),
            (PoolFn::Lp, Some(1)) => Some(5),
            (PoolFn::Lp, None | Some(2)) => Some(6),
            (PoolFn::Lp, Some(_)) => None,
        };
        if let (true, Some(f)) = (image >= WHOLE && axes.iter().all(whole), reduced) {
            return Ok(vec![call(table::reduce(self.element, input(0), output(0), channels, image, 1, f))]);
        }
        // The order of hip/pool.hip.
        let f = match self.op.f {
            PoolFn::Max => 0,
            PoolFn::Average => 1,
            PoolFn::Lp => 2,
        };
        let (count_pads, p) = (i64::from(self.op.count_pads), self.op.p.unwrap_or(2) as f32);
        let made =
            table::pool(self.element, input(0), output(0), channels, image, plane, f, count_pads, p, words(&axes)?);
        Ok(vec![call(made)])
    }
}
