//! `matmul_nbits` and `linears_nbits`: packed weights stay as they are in the device's memory. Few rows go through kernels that stream
//! them: where rows and scales are f16 and codes have 4 bits, up to three layers in one launch, unpacked in registers; else one layer
//! each, by matrix instructions where elements are of 16 bits. Many rows go by tiles, which are unpacked once for all rows of a tile.

use super::linear::activation;
use super::packed::{Packed, Row, blocks_fit};
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output, scratch};
use crate::tuning::Tuning;
use ir::Dim;
use ir::ops::{LinearsNBits, MatMulNBits};
use kernels::{Element, table};

/// From so many rows on, tiles in f32 are faster than streaming the weight once for every 4 rows.
const MANY_ROWS: i64 = 16;
/// Rows of a block of the kernels that unpack in registers.
const TOGETHER_ROWS: i64 = 16;
/// Layers that one launch takes.
const TOGETHER: usize = 3;

/// A layer: outputs, its weight, and operands of the node.
struct Layer {
    n: i64,
    w: Packed,
    bias: Option<usize>,
}

struct Layers {
    x: Element,
    k: i64,
    layers: Vec<Layer>,
    /// Rows of the weights, which are alike.
    row: Row,
    residual: Option<usize>,
    /// What gates the second product, as the kernels number it.
    gate: Option<i64>,
    /// Bytes of both products where they are gated afterwards.
    scratch: Option<Dim>,
    tuning: &'static Tuning,
}

pub(super) fn matmul_nbits(op: &MatMulNBits, types: &Types<'_>) -> Chosen {
    if types.input(4).is_some() {
        return Err("its columns name their blocks");
    }
    let bias = types.input(5).map(|_| 5);
    layers(types, op, &[(op.n, 1, bias)], None, None)
}

pub(super) fn linears_nbits(op: &LinearsNBits, types: &Types<'_>) -> Chosen {
    let LinearsNBits { bits, block, k, .. } = *op;
    let at = (LinearsNBits::FIRST..).step_by(LinearsNBits::EACH);
    let weights = at.zip(&op.n).map(|(at, n)| (*n, at, types.input(at + 3).map(|_| at + 3)));
    let weights: Vec<_> = weights.collect();
    if weights.len() > TOGETHER {
        return Err("it has more than three layers");
    }
    let gate = op.gate.map(activation).transpose()?;
    let residual = types.input(1).map(|_| 1);
    layers(types, &MatMulNBits { bits, block, n: 0, k, accuracy_level: None }, &weights, residual, gate)
}

/// Layers of so many outputs whose codes are such an operand, with their biases.
fn layers(
    types: &Types<'_>,
    op: &MatMulNBits,
    weights: &[(i64, usize, Option<usize>)],
    residual: Option<usize>,
    gate: Option<i64>,
) -> Chosen {
    let x = types.element(0)?;
    if !matches!(x, Element::F32 | Element::F16 | Element::BF16) {
        return Err("the kernel takes f32, f16 and bf16 only");
    }
    if !weights.iter().filter_map(|w| w.2).chain(residual).all(|i| types.element(i) == Ok(x)) {
        return Err("its bias is of another element type");
    }
    let blocks = op.blocks() as i64;
    blocks_fit(blocks, op.block)?;
    types.dims(0)?;
    let layer = |(n, at, bias): &(i64, usize, Option<usize>)| {
        Packed::new(types, *at, op.bits).map(|w| Layer { n: *n, w, bias: *bias })
    };
    let layers: Vec<Layer> = weights.iter().map(layer).collect::<Result<_, &'static str>>()?;
    let rows = layers.iter().map(|l| l.w.row(blocks * op.block * op.bits / 8, blocks, op.block));
    let mut rows: Vec<Row> = rows.collect();
    let row = rows.pop().ok_or("it has no layer")?;
    if !rows.iter().all(|r| *r == row) {
        return Err("its weights differ in the types of their scales or zero points");
    }
    let result = types.outs[0].dims().ok_or("its rank is not known")?;
    let scratch = gate.map(|_| result.iter().cloned().product::<Dim>() * (2 * x.bytes()));
    Ok(Box::new(Layers { x, k: op.k, layers, row, residual, gate, scratch, tuning: types.tuning }))
}

impl Layers {
    fn in_registers(&self) -> bool {
        self.row.in_registers(self.x, self.k)
    }

    /// Operands of layer `i`; where there is none, of the first.
    fn weight(&self, i: usize) -> [Memory; 3] {
        self.layers.get(i).unwrap_or(&self.layers[0]).w.memory()
    }

    fn bias(&self, i: usize) -> Memory {
        input(self.layers.get(i).and_then(|l| l.bias).unwrap_or(0))
    }

    /// Bit i says that layer i has a bias.
    fn biased(&self) -> i64 {
        self.layers.iter().enumerate().filter(|(_, l)| l.bias.is_some()).map(|(i, _)| 1 << i).sum()
    }

    /// Products of few rows, in one launch.
    fn together(&self, rows: i64, to: &[Memory], residual: Option<usize>) -> Call<Memory> {
        let [[w0, s0, z0], [w1, s1, z1], [w2, s2, z2]] = [0, 1, 2].map(|i| self.weight(i));
        let [b0, b1, b2] = [0, 1, 2].map(|i| self.bias(i));
        let [y0, y1, y2] = [0, 1, 2].map(|i| to.get(i).copied().unwrap_or(to[0]));
        let [n0, n1, n2] = [0, 1, 2].map(|i| self.layers.get(i).map_or(0, |l| l.n));
        let (r, has_residual) = (input(residual.unwrap_or(0)), i64::from(residual.is_some()));
        let (row, k) = (&self.row, self.k);
        call(table::nbits_linears(
            self.x,
            input(0),
            w0,
            w1,
            w2,
            s0,
            s1,
            s2,
            z0,
            z1,
            z2,
            b0,
            b1,
            b2,
            r,
            y0,
            y1,
            y2,
            rows,
            n0,
            n1,
            n2,
            k,
            row.bytes,
            row.blocks,
            row.shift,
            row.zero_kind,
            self.biased(),
            has_residual,
        ))
    }

    /// The product of one layer with some rows.
    fn wide(&self, rows: i64, to: Memory, residual: Option<usize>) -> Call<Memory> {
        let ([w, scales, zeros], row, n, k) = (self.weight(0), &self.row, self.layers[0].n, self.k);
        let (r, has_residual) = (input(residual.unwrap_or(0)), i64::from(residual.is_some()));
        let (bytes, blocks, shift) = (row.bytes, row.blocks, row.shift);
        call(table::nbits_wide(
            self.x,
            input(0),
            w,
            scales,
            zeros,
            self.bias(0),
            r,
            to,
            rows,
            n,
            k,
            bytes,
            blocks,
            shift,
            row.zero_kind,
            self.biased(),
            has_residual,
        ))
    }

    /// Two products of few rows of which one gates the other, in one launch.
    fn gated(&self, rows: i64, act: i64) -> Call<Memory> {
        let ([w0, s0, z0], [w1, s1, z1]) = (self.weight(0), self.weight(1));
        let (r, has_residual) = (input(self.residual.unwrap_or(0)), i64::from(self.residual.is_some()));
        let (row, n, k) = (&self.row, self.layers[0].n, self.k);
        call(table::nbits_gate(
            self.x,
            input(0),
            w0,
            w1,
            s0,
            s1,
            z0,
            z1,
            self.bias(0),
            self.bias(1),
            r,
            output(0),
            rows,
            n,
            k,
            row.bytes,
            row.blocks,
            row.shift,
            row.zero_kind,
            self.biased(),
            has_residual,
            act,
            1.0,
        ))
    }

    /// The product of one layer.
    fn alone(&self, i: usize, rows: i64, to: Memory, residual: Option<usize>) -> Call<Memory> {
        let ([w, scales, zeros], row, n, k) = (self.weight(i), &self.row, self.layers[i].n, self.k);
        let has_bias = i64::from(self.layers[i].bias.is_some());
        let matrices = self.layers[i].w.fits(self.x) && k % 32 == 0;
        let large = ((rows + 127) / 128) * ((n + 127) / 128) >= self.tuning.large_tiles;
        let kernel = match matrices {
            true if rows == 1 => table::nbits_rows,
            true if rows <= self.tuning.streamed_rows => table::nbits_stream,
            true if large => table::nbits_block,
            true => table::nbits_block64,
            false if rows < MANY_ROWS => table::nbits_rows,
            false => table::nbits_matmul,
        };
        call(kernel(
            self.x,
            input(0),
            w,
            scales,
            zeros,
            self.bias(i),
            input(residual.unwrap_or(0)),
            to,
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
            i64::from(residual.is_some()),
        ))
    }

    /// Every product to where it belongs.
    fn products(&self, rows: i64, to: &[Memory], residual: Option<usize>) -> Vec<Call<Memory>> {
        if self.in_registers() && rows <= self.tuning.streamed_rows {
            // Rows are read half as often, where such blocks leave no processor without work.
            let wide = (self.layers[0].n + 31) / 32 * ((rows + 31) / 32) >= self.tuning.large_tiles;
            return vec![match self.layers.len() == 1 && rows > TOGETHER_ROWS && wide {
                true => self.wide(rows, to[0], residual),
                false => self.together(rows, to, residual),
            }];
        }
        (0..self.layers.len()).map(|i| self.alone(i, rows, to[i], residual)).collect()
    }
}

impl Lowering for Layers {
    fn name(&self) -> &'static str {
        "matmul_nbits"
    }

    fn files(&self) -> &'static [&'static str] {
        match (self.in_registers(), self.gate) {
            (true, None) => &["nbits_linears", "nbits"],
            (false, None) => &["nbits"],
            (true, Some(_)) => &["nbits_linears", "nbits", "linear"],
            (false, Some(_)) => &["nbits", "linear"],
        }
    }

    fn scratch(&self) -> Option<Dim> {
        self.scratch.clone()
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let x = &sizes.ins[0];
        let rows = x[..x.len() - 1].iter().product::<usize>() as i64;
        if rows == 0 {
            return Ok(vec![]);
        }
        let Some(act) = self.gate else {
            let to: Vec<Memory> = (0..self.layers.len()).map(output).collect();
            return Ok(self.products(rows, &to, self.residual));
        };
        if self.in_registers() && rows <= self.tuning.streamed_rows {
            return Ok(vec![self.gated(rows, act)]);
        }
        let elements = rows * self.layers[0].n;
        let (g, u) = (scratch(0), scratch(elements * self.x.bytes()));
        let (r, has_residual) = (input(self.residual.unwrap_or(0)), i64::from(self.residual.is_some()));
        let mut calls = self.products(rows, &[g, u], None);
        calls.push(call(table::gate(self.x, g, u, r, output(0), elements, has_residual, act, 1.0)));
        Ok(calls)
    }
}
