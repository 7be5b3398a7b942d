//! `pad`: elements before and after along axes, in any of ONNX's modes.

use super::copy::strides;
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, moved, output};
use ir::Dim;
use ir::ops::{Pad, PadMode};
use kernels::{Element, table};

const MOST_DIMS: usize = 6;

struct Padding {
    mode: PadMode,
    /// The axes that the pads are of.
    axes: Vec<usize>,
    pads: Vec<Dim>,
    has_value: bool,
    element: Element,
}

pub(super) fn pad(op: &Pad, types: &Types<'_>) -> Chosen {
    let rank = types.dims(0)?.len();
    if rank > MOST_DIMS {
        return Err("it has more than 6 dimensions");
    }
    let axes = op.axes.iter().map(|a| ir::ops::axis(*a, rank)).collect::<Result<Vec<_>, _>>();
    let axes = axes.map_err(|_| "its axes do not exist")?;
    let element = moved(types.input(0).ok_or("an operand is missing")?.dtype)?;
    let (pads, has_value) = (op.pads.clone(), types.input(1).is_some());
    Ok(Box::new(Padding { mode: op.mode, axes, pads, has_value, element }))
}

impl Lowering for Padding {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn files(&self) -> &'static [&'static str] {
        &["pad"]
    }

    fn numbers(&self) -> Vec<Dim> {
        self.pads.clone()
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, y) = (&sizes.ins[0], &sizes.outs[0]);
        let n = y.iter().product::<usize>() as i64;
        if self.has_value && sizes.ins[1].iter().product::<usize>() != 1 {
            return Err(format!("padding is one element, not {:?}", sizes.ins[1]));
        }
        let of_x = strides(x);
        let mut shape = [0u32; 31];
        shape[0] = x.len() as u32;
        let narrow = |n: i64| i32::try_from(n).map_err(|_| format!("{n} is too large for the kernel"));
        for (d, size) in x.iter().enumerate() {
            let own = self.axes.iter().position(|a| *a == d);
            let pad = |i: usize| own.map_or(0, |at| sizes.numbers[at + i * self.axes.len()]);
            let (before, after) = (pad(0), pad(1));
            let first = before.min(0).saturating_neg();
            let kept = (*size as i64).saturating_add(after.min(0)).saturating_sub(first);
            if kept <= 0 && self.mode != PadMode::Constant && y[d] > 0 {
                return Err("there is no element to pad with".into());
            }
            for (i, n) in [y[d] as i64, kept.max(0), first, before.max(0), of_x[d]].into_iter().enumerate() {
                shape[1 + 6 * i + d] = narrow(n)? as u32;
            }
        }
        if n == 0 {
            return Ok(vec![]);
        }
        // The order of hip/pad.hip.
        let mode = match self.mode {
            PadMode::Constant => 0,
            PadMode::Reflect => 1,
            PadMode::Edge => 2,
            PadMode::Wrap => 3,
        };
        let value = if self.has_value { input(1) } else { input(0) };
        let (x_count, has_value) = (x.iter().product::<usize>() as i64, i64::from(self.has_value));
        Ok(vec![call(table::pad(self.element, input(0), value, output(0), n, x_count, has_value, mode, shape))])
    }
}
