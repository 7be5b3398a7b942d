//! `rope`: heads of rank 3 or 4, with angles per step or tables that positions read.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output};
use ir::ops::Rope;
use kernels::{Element, table};

struct Rotation {
    heads: Option<i64>,
    rotary: Option<i64>,
    interleaved: bool,
    element: Element,
    /// The element type of positions, where there are some.
    positions: Option<Element>,
}

pub(super) fn rope(op: &Rope, types: &Types<'_>) -> Chosen {
    let x = types.element(0)?;
    let floats = [0, 1, 2].iter().all(|i| types.element(*i) == Ok(x));
    if !floats || !matches!(x, Element::F32 | Element::F16 | Element::BF16) {
        return Err("its element types differ, or are not f32, f16 or bf16");
    }
    let positions = types.input(3).map(|t| element(t.dtype)).transpose()?;
    if positions.is_some_and(|p| !matches!(p, Element::I64 | Element::I32)) {
        return Err("its positions are of another type");
    }
    types.dims(0)?;
    let (heads, rotary, interleaved) = (op.heads, op.rotary, op.interleaved);
    Ok(Box::new(Rotation { heads, rotary, interleaved, element: x, positions }))
}

impl Lowering for Rotation {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn files(&self) -> &'static [&'static str] {
        &["rope"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let x = &sizes.ins[0];
        let (batch, heads, steps, d, heads_last) = match (&x[..], self.heads) {
            (&[b, h, s, d], _) => (b, h, s, d, false),
            (&[b, s, w], Some(h)) if h > 0 => (b, h as usize, s, w / h as usize, true),
            _ => return Err(format!("{x:?} does not split into heads")),
        };
        let half = self.rotary.unwrap_or(d as i64) / 2;
        if x.contains(&0) {
            return Ok(vec![]);
        }
        if half == 0 {
            return Err("it rotates nothing".into());
        }
        let cos = &sizes.ins[1];
        let table_rows = cos[..cos.len() - 1].iter().product::<usize>() as i64;
        let count = sizes.ins.get(3).map_or(0, |p| p.iter().product::<usize>() as i64);
        let mode = match (self.positions, count) {
            (None, _) => 0,
            (Some(_), 1) => 2,
            (Some(_), _) => 1,
        };
        let positions = if mode == 0 { input(0) } else { input(3) };
        let made = table::rope(
            self.element,
            self.positions.unwrap_or(Element::I64),
            input(0),
            input(1),
            input(2),
            positions,
            output(0),
            (batch * heads * steps) as i64,
            d as i64,
            half,
            heads as i64,
            steps as i64,
            i64::from(heads_last),
            i64::from(self.interleaved),
            mode,
            table_rows,
            count,
        );
        Ok(vec![call(made)])
    }
}
