//! `arg_reduce` and `top_k`: a block looks through each line.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output};
use ir::DType;
use ir::ops::{ArgFn, ArgReduce, TopK};
use kernels::{Element, table};

/// More elements than this are sorted faster than picked one after the other.
const MOST_PICKED: i64 = 256;

struct Pick {
    axis: usize,
    largest: bool,
    /// `None`: the first elements; else the place of one, the last among equals or the first.
    one: Option<bool>,
    element: Element,
}

pub(super) fn arg_reduce(op: &ArgReduce, types: &Types<'_>) -> Chosen {
    pick(op.axis, op.f == ArgFn::Max, Some(op.select_last), types)
}

pub(super) fn top_k(op: &TopK, types: &Types<'_>) -> Chosen {
    if op.k.as_const().is_none_or(|k| k > MOST_PICKED) {
        return Err("it picks more than 256 elements, or it is not known how many");
    }
    pick(op.axis, op.largest, None, types)
}

fn pick(axis: i64, largest: bool, one: Option<bool>, types: &Types<'_>) -> Chosen {
    let element = types.element(0)?;
    let bits = matches!(element, Element::U16 | Element::U32 | Element::U64);
    if bits || types.input(0).is_some_and(|t| t.dtype == DType::Bool) {
        return Err("no kernel orders its element type");
    }
    let axis = ir::ops::axis(axis, types.dims(0)?.len()).map_err(|_| "its axis does not exist")?;
    Ok(Box::new(Pick { axis, largest, one, element }))
}

impl Lowering for Pick {
    fn name(&self) -> &'static str {
        if self.one.is_some() { "arg_reduce" } else { "top_k" }
    }

    fn files(&self) -> &'static [&'static str] {
        &["pick"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let x = &sizes.ins[0];
        let product = |dims: &[usize]| dims.iter().product::<usize>() as i64;
        let (n, stride) = (x[self.axis] as i64, product(&x[self.axis + 1..]));
        let lines = product(&x[..self.axis]) * stride;
        if sizes.outs[0].contains(&0) {
            return Ok(vec![]);
        }
        let largest = i64::from(self.largest);
        Ok(vec![call(match self.one {
            Some(last) => {
                table::arg_reduce(self.element, input(0), output(0), lines, n, stride, largest, i64::from(last))
            }
            None => {
                let k = sizes.outs[0][self.axis] as i64;
                table::top_k(self.element, input(0), output(0), output(1), lines, n, k, stride, largest)
            }
        })])
    }
}
