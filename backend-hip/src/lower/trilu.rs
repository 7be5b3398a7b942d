//! `trilu`: matrices with zeros below or above a diagonal.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, moved, output};
use ir::Dim;
use ir::ops::Trilu;
use kernels::{Element, table};

struct Triangle {
    upper: bool,
    diagonal: Dim,
    element: Element,
}

pub(super) fn trilu(op: &Trilu, types: &Types<'_>) -> Chosen {
    types.dims(0)?;
    let element = moved(types.input(0).ok_or("an operand is missing")?.dtype)?;
    Ok(Box::new(Triangle { upper: op.upper, diagonal: op.diagonal.clone(), element }))
}

impl Lowering for Triangle {
    fn name(&self) -> &'static str {
        "trilu"
    }

    fn files(&self) -> &'static [&'static str] {
        &["trilu"]
    }

    fn numbers(&self) -> Vec<Dim> {
        vec![self.diagonal.clone()]
    }

    // Each element is read before it is written, by one thread.
    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let dims = &sizes.outs[0];
        let n = dims.iter().product::<usize>() as i64;
        let [.., rows, columns] = dims[..] else { return Err("a matrix has two dimensions".into()) };
        if n == 0 {
            return Ok(vec![]);
        }
        // Beyond every element, so that the kernel cannot overflow.
        let diagonal = sizes.numbers[0].clamp(-(1 << 40), 1 << 40);
        let (rows, columns, upper) = (rows as i64, columns as i64, i64::from(self.upper));
        Ok(vec![call(table::trilu(self.element, input(0), output(0), n, rows, columns, diagonal, upper))])
    }
}
