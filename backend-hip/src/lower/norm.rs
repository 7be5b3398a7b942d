//! `rms_norm` and `layer_norm` over whole rows, with scale and bias of a row's size.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output};
use ir::ops::{LayerNorm, RmsNorm};
use kernels::{Element, table};

struct Rows {
    /// Where a row's dimensions begin.
    axis: usize,
    eps: f32,
    /// Whether the mean is taken off: layer_norm.
    centred: bool,
    has: [bool; 2],
    element: Element,
}

pub(super) fn rms_norm(op: &RmsNorm, types: &Types<'_>) -> Chosen {
    rows(op.axis, op.eps, false, types)
}

pub(super) fn layer_norm(op: &LayerNorm, types: &Types<'_>) -> Chosen {
    rows(op.axis, op.eps, true, types)
}

fn rows(axis: i64, eps: f32, centred: bool, types: &Types<'_>) -> Chosen {
    let dims = types.dims(0)?;
    let axis = ir::ops::axis(axis, dims.len()).map_err(|_| "its axis does not exist")?;
    let row = &dims[axis..];
    for i in 1..types.ins.len() {
        let Some(found) = types.input(i).and_then(|t| t.dims()) else { continue };
        let lead = found.len().saturating_sub(row.len());
        let whole = found[..lead].iter().all(|d| d.as_const() == Some(1)) && found[lead..] == *row;
        if !whole {
            return Err("its scale or bias is not one row");
        }
    }
    let has = [types.input(1).is_some(), types.input(2).is_some()];
    Ok(Box::new(Rows { axis, eps, centred, has, element: types.one_float()? }))
}

impl Lowering for Rows {
    fn name(&self) -> &'static str {
        if self.centred { "layer_norm" } else { "rms_norm" }
    }

    fn files(&self) -> &'static [&'static str] {
        &["norm"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let dims = &sizes.outs[0];
        let rows = dims[..self.axis].iter().product::<usize>() as i64;
        let n = dims[self.axis..].iter().product::<usize>() as i64;
        if rows == 0 || n == 0 {
            return Ok(vec![]);
        }
        // A parameter that is not there points at x, of which nothing is read for it.
        let side = |i: usize| if self.has[i - 1] { input(i) } else { input(0) };
        let [scale, bias] = self.has.map(i64::from);
        Ok(vec![call(match self.centred {
            true => {
                table::layer_norm(self.element, input(0), side(1), side(2), output(0), rows, n, scale, bias, self.eps)
            }
            false => table::rms_norm(self.element, input(0), side(1), output(0), rows, n, scale, self.eps),
        })])
    }
}
