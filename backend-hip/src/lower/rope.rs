//! `rope`: rotary positions, by tables of one row per step or read at positions.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output};
use ir::ops::Rope;
use kernels::{Element, table};

struct Rotation {
    heads: Option<i64>,
    rotary: Option<i64>,
    interleaved: bool,
    x: Element,
    tables: Element,
    /// The type of the positions, where there are any.
    positions: Option<Element>,
}

pub(super) fn rope(op: &Rope, types: &Types<'_>) -> Chosen {
    let float = |e: &Element| matches!(e, Element::F32 | Element::F16 | Element::BF16);
    let (x, tables) = (types.element(0)?, types.element(1)?);
    if ![x, tables].iter().all(float) || types.element(2)? != tables {
        return Err("the kernel takes f32, f16 and bf16 only, and two tables of one type");
    }
    let positions = types.input(3).map(|t| element(t.dtype)).transpose()?;
    if !matches!(positions, None | Some(Element::I64 | Element::I32)) {
        return Err("its positions are of another type");
    }
    types.dims(0)?;
    let Rope { heads, rotary, interleaved } = *op;
    Ok(Box::new(Rotation { heads, rotary, interleaved, x, tables, positions }))
}

impl Lowering for Rotation {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn files(&self) -> &'static [&'static str] {
        &["rope"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, cos, sin) = (&sizes.ins[0], &sizes.ins[1], &sizes.ins[2]);
        let (batch, heads, steps, d, inside) = match (&x[..], self.heads) {
            (&[b, h, s, d], _) => (b, h, s, d, 0),
            (&[b, s, w], Some(h)) if h > 0 && w.is_multiple_of(h as usize) => (b, h as usize, s, w / h as usize, 1),
            _ => return Err(format!("{x:?} does not split into heads")),
        };
        let half = self.rotary.map_or(d, |r| r as usize) / 2;
        if cos != sin || cos.last() != Some(&half) {
            return Err(format!("tables of {cos:?} and {sin:?} do not rotate {} of {d}", 2 * half));
        }
        let rows = cos[..cos.len() - 1].iter().product::<usize>();
        let places = if self.positions.is_some() { sizes.ins[3].iter().product::<usize>() } else { 0 };
        if self.positions.is_some() && places != 1 && places != batch * steps {
            return Err(format!("{places} positions are not one for each of {batch} x {steps} steps"));
        }
        if x.contains(&0) {
            return Ok(vec![]);
        }
        // Positions that are not there point at x, of which nothing is read for them.
        let (of_positions, element) = self.positions.map_or((input(0), Element::I64), |e| (input(3), e));
        let [batch, heads, steps, d, half, rows, places] =
            [batch, heads, steps, d, half, rows, places].map(|n| n as i64);
        Ok(vec![call(table::rope(
            self.x,
            self.tables,
            element,
            input(0),
            input(1),
            input(2),
            of_positions,
            output(0),
            batch,
            heads,
            steps,
            d,
            half,
            rows,
            places,
            inside,
            i64::from(self.interleaved),
        ))])
    }
}
