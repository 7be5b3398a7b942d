//! `matmul_nbits`: packed weights stay as they are in the device's memory. Few rows go through a kernel that streams them, by matrix
//! instructions where elements are of 16 bits; many rows by tiles, which are unpacked once for all rows of a tile.

use super::packed::{Packed, blocks_fit};
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output};
use ir::ops::MatMulNBits;
use kernels::{Element, table};

/// From so many rows on, tiles in f32 are faster than streaming the weight once for every 4 rows.
const MANY_ROWS: i64 = 16;
/// Up to so many rows, matrix instructions stream the weights: once for every 32 of them.
const STREAMED_ROWS: i64 = 64;
/// Tiles of 128 are for products of at least so many of them: fewer would leave processors without work.
const LARGE_TILES: i64 = 128;

struct Product {
    op: MatMulNBits,
    x: Element,
    w: Packed,
    has_bias: bool,
}

pub(super) fn matmul_nbits(op: &MatMulNBits, types: &Types<'_>) -> Chosen {
    let x = types.element(0)?;
    if !matches!(x, Element::F32 | Element::F16 | Element::BF16) {
        return Err("the kernel takes f32, f16 and bf16 only");
    }
    if types.input(4).is_some() {
        return Err("its columns name their blocks");
    }
    let has_bias = types.input(5).is_some();
    if has_bias && types.element(5)? != x {
        return Err("its bias is of another element type");
    }
    blocks_fit(op.blocks() as i64, op.block)?;
    types.dims(0)?;
    Ok(Box::new(Product { op: op.clone(), x, w: Packed::new(types, 1, op.bits)?, has_bias }))
}

impl Lowering for Product {
    fn name(&self) -> &'static str {
        "matmul_nbits"
    }

    fn files(&self) -> &'static [&'static str] {
        &["nbits"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, n, k) = (&sizes.ins[0], self.op.n, self.op.k);
        let rows = x[..x.len() - 1].iter().product::<usize>() as i64;
        if rows == 0 {
            return Ok(vec![]);
        }
        let blocks = self.op.blocks() as i64;
        let row = self.w.row(blocks * self.op.block * self.op.bits / 8, blocks, self.op.block);
        let [w, scales, zeros] = self.w.memory();
        let (bias, has_bias) = (input(if self.has_bias { 5 } else { 0 }), i64::from(self.has_bias));
        let matrices = self.w.fits(self.x) && k % 32 == 0;
        let large = ((rows + 127) / 128) * ((n + 127) / 128) >= LARGE_TILES;
        let kernel = match matrices {
            true if rows == 1 => table::nbits_rows,
            true if rows <= STREAMED_ROWS => table::nbits_stream,
            true if large => table::nbits_block,
            true => table::nbits_block64,
            false if rows < MANY_ROWS => table::nbits_rows,
            false => table::nbits_matmul,
        };
        Ok(vec![call(kernel(
            self.x,
            input(0),
            w,
            scales,
            zeros,
            bias,
            output(0),
            rows,
            n,
            k,
            row.bits,
            row.bytes,
            row.blocks,
            row.shift,
            row.scale_kind,
            row.zero_kind,
            has_bias,
        ))])
    }
}
