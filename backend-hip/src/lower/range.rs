//! `range`: numbers in equal steps.

use super::{Call, Chosen, Lowering, Memory, Sizes, call, output};
use ir::Dim;
use ir::ops::Range;
use kernels::table;

struct Steps {
    start: Dim,
    step: Dim,
}

pub(super) fn range(op: &Range) -> Chosen {
    Ok(Box::new(Steps { start: op.start.clone(), step: op.step.clone() }))
}

impl Lowering for Steps {
    fn name(&self) -> &'static str {
        "range"
    }

    fn files(&self) -> &'static [&'static str] {
        &["range"]
    }

    fn numbers(&self) -> Vec<Dim> {
        vec![self.start.clone(), self.step.clone()]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        match sizes.outs[0][0] as i64 {
            0 => Ok(vec![]),
            n => Ok(vec![call(table::range(output(0), n, sizes.numbers[0], sizes.numbers[1]))]),
        }
    }
}
