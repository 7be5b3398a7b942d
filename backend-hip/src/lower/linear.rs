//! `linear`: few rows by kernels that stream the weight, many by tiles; 16-bit factors by matrix instructions.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output};
use ir::ops::Linear;
use kernels::{Element, table};
use plan::Layout;

/// From so many rows on, tiles are faster than streaming the weight once for every 8 rows.
const MANY_ROWS: i64 = 32;
/// From so many rows on, matrix instructions are faster than plain ones where reading the weight is all the time it takes.
const MATRIX_ROWS: i64 = 2;
/// Up to so many rows the weight is streamed once for every 64 of them.
const STREAMED_ROWS: i64 = 64;
/// Tiles of 128 are for products of at least so many of them: fewer would leave processors without work.
const LARGE_TILES: i64 = 128;

struct LinearRows {
    x: Element,
    w: Element,
    has_bias: bool,
    /// The weight is `[k, n]`, and whether it lies so.
    kn: bool,
    lies_kn: bool,
}

pub(super) fn linear(op: &Linear, types: &Types<'_>) -> Chosen {
    let (x, w) = (types.element(0)?, types.element(1)?);
    let float = |e: Element| matches!(e, Element::F32 | Element::F16 | Element::BF16);
    if !float(x) || !float(w) {
        return Err("the kernel takes f32, f16 and bf16 only");
    }
    if types.input(2).is_some_and(|bias| element(bias.dtype) != Ok(x)) {
        return Err("its bias is of another element type");
    }
    types.dims(0)?;
    let lies_kn = op.kn && types.layout(1) != Layout::Transposed;
    Ok(Box::new(LinearRows { x, w, has_bias: types.input(2).is_some(), kn: op.kn, lies_kn }))
}

impl Lowering for LinearRows {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn files(&self) -> &'static [&'static str] {
        &["linear", "matmul"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, w) = (&sizes.ins[0], &sizes.ins[1]);
        let (n, k) = if self.kn { (w[1] as i64, w[0] as i64) } else { (w[0] as i64, w[1] as i64) };
        let rows = x[..x.len() - 1].iter().product::<usize>() as i64;
        if rows * n == 0 {
            return Ok(vec![]);
        }
        let bias = if self.has_bias { input(2) } else { input(0) };
        let has_bias = i64::from(self.has_bias);
        let narrow = self.x == self.w && self.x != Element::F32;
        if !self.lies_kn && narrow && k % 32 == 0 && rows >= MATRIX_ROWS {
            let large = ((rows + 127) / 128) * ((n + 127) / 128) >= LARGE_TILES;
            let chosen = match () {
                _ if rows <= STREAMED_ROWS => table::linear_tiles,
                _ if large => table::linear_block,
                _ => table::linear_block64,
            };
            return Ok(vec![call(chosen(self.x, input(0), input(1), bias, output(0), rows, n, k, has_bias))]);
        }
        if !self.lies_kn && rows < MANY_ROWS {
            let made = table::linear_rows(self.x, self.w, input(0), input(1), bias, output(0), rows, n, k, has_bias);
            return Ok(vec![call(made)]);
        }
        let (b_row, b_col) = if self.lies_kn { (n, 1) } else { (1, k) };
        Ok(vec![call(table::matmul(
            self.x,
            self.w,
            input(0),
            input(1),
            bias,
            output(0),
            rows,
            n,
            k,
            1,
            k,
            1,
            b_row,
            b_col,
            rows * k,
            n * k,
            has_bias,
            [0; 13],
        ))])
    }
}
