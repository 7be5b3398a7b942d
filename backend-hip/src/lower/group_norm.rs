//! `group_norm`: a block per group of channels of a sample.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output};
use ir::Dim;
use ir::ops::GroupNorm;
use kernels::{Element, table};

struct Groups {
    groups: Dim,
    eps: f32,
    element: Element,
}

pub(super) fn group_norm(op: &GroupNorm, types: &Types<'_>) -> Chosen {
    types.dims(0)?;
    Ok(Box::new(Groups { groups: op.groups.clone(), eps: op.eps, element: types.one_float()? }))
}

impl Lowering for Groups {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn files(&self) -> &'static [&'static str] {
        &["norm"]
    }

    fn numbers(&self) -> Vec<Dim> {
        vec![self.groups.clone()]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, groups) = (&sizes.ins[0], sizes.numbers[0]);
        let all = x[1] as i64;
        if groups < 1 || all % groups != 0 {
            return Err(format!("{x:?} does not split into {groups} groups of channels"));
        }
        let (samples, inner) = (x[0] as i64, x[2..].iter().product::<usize>() as i64);
        if samples * all * inner == 0 {
            return Ok(vec![]);
        }
        let (x, scale, bias, y) = (input(0), input(1), input(2), output(0));
        let made = table::group_norm(self.element, x, scale, bias, y, samples, groups, all / groups, inner, self.eps);
        Ok(vec![call(made)])
    }
}
