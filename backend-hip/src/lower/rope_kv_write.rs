//! `rope_kv_write`: the rotation of a layer's queries and keys and the write of its caches, in one launch.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output};
use ir::DType;
use ir::ops::RopeKvWrite;
use kernels::{Element, table};

struct Write {
    op: RopeKvWrite,
    x: Element,
    tables: Element,
    /// The type of the positions, where there are any.
    positions: Option<Element>,
}

pub(super) fn rope_kv_write(op: &RopeKvWrite, types: &Types<'_>) -> Chosen {
    let integers = (0..3).all(|i| types.input(i).is_some_and(|t| t.dtype == DType::I32));
    let (x, tables) = (types.element(4)?, types.element(8)?);
    let float = |e: &Element| matches!(e, Element::F32 | Element::F16 | Element::BF16);
    let alike = [3, 5, 6, 7].iter().all(|i| types.element(*i) == Ok(x)) && types.element(9)? == tables;
    if !integers || !alike || ![x, tables].iter().all(float) {
        return Err("its places are not i32, or its element types differ or are not f32, f16 or bf16");
    }
    let positions = types.input(10).map(|t| element(t.dtype)).transpose()?;
    if !matches!(positions, None | Some(Element::I64 | Element::I32)) {
        return Err("its positions are of another type");
    }
    Ok(Box::new(Write { op: op.clone(), x, tables, positions }))
}

impl Lowering for Write {
    fn name(&self) -> &'static str {
        "rope_kv_write"
    }

    fn files(&self) -> &'static [&'static str] {
        &["cache"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let [.., keys, k, values, v, q, cos, sin] = &sizes.ins[..10] else { return Err("it has ten operands".into()) };
        let (&[slots, k_heads, capacity, width], &[v_slots, v_heads, v_capacity, v_width]) = (&keys[..], &values[..])
        else {
            return Err("caches have rank 4".into());
        };
        let batch = sizes.ins[0].iter().product::<usize>();
        let steps = q[q.len() - 2];
        let inside = |rows: &[usize]| rows.len() == 3;
        let q_heads = if inside(q) { q[2] / width.max(1) } else { q[1] };
        let half = self.op.rotary.map_or(width, |r| r as usize) / 2;
        let rows = cos[..cos.len() - 1].iter().product::<usize>();
        if cos != sin || cos.last() != Some(&half) || 2 * half > width {
            return Err(format!("tables of {cos:?} and {sin:?} do not rotate {} of {width}", 2 * half));
        }
        let count = |heads: usize, width: usize| batch * heads * steps * width;
        let whole = [(k, k_heads, width), (v, v_heads, v_width), (q, q_heads, width)];
        let fits = whole.iter().all(|(rows, heads, width)| rows.iter().product::<usize>() == count(*heads, *width));
        if !fits || (slots, capacity) != (v_slots, v_capacity) {
            return Err("queries, keys and values differ in batch, steps or slots".into());
        }
        let places = if self.positions.is_some() { sizes.ins[10].iter().product::<usize>() } else { 0 };
        if self.positions.is_some() && places != 1 && places != batch * steps {
            return Err(format!("{places} positions are not one for each of {batch} x {steps} steps"));
        }
        let most = whole.iter().map(|(_, heads, width)| count(*heads, *width)).max().unwrap_or(0);
        if most == 0 {
            return Ok(vec![]);
        }
        // Positions that are not there point at the slots, of which nothing is read for them.
        let (of_positions, positions) = self.positions.map_or((input(0), Element::I64), |e| (input(10), e));
        let bits = [k, v, q].iter().enumerate().map(|(i, rows)| i64::from(inside(rows)) << i).sum();
        let [batch, steps, slots, capacity, k_heads, width, v_heads, v_width] =
            [batch, steps, slots, capacity, k_heads, width, v_heads, v_width].map(|n| n as i64);
        let [q_heads, half, rows, places, most] = [q_heads, half, rows, places, most].map(|n| n as i64);
        Ok(vec![call(table::rope_kv_write(
            self.x,
            self.tables,
            positions,
            input(0),
            input(1),
            input(2),
            input(4),
            input(6),
            input(7),
            input(8),
            input(9),
            of_positions,
            output(0),
            output(1),
            output(2),
            batch,
            steps,
            slots,
            capacity,
            k_heads,
            width,
            v_heads,
            v_width,
            q_heads,
            half,
            rows,
            places,
            bits,
            i64::from(self.op.interleaved),
            most,
        ))])
    }
}
