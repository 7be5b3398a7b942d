//! Linear layers over 4-bit weights with a scale, and maybe a zero point, per block of inputs.
//!
//! A weight is `scale * (q - zero)` for `q` in 0..=15. Packed nibbles are `[ceil(n / 16)][blocks][block / 8][16][4]`
//! bytes: 64 bytes hold 8 inputs of 16 outputs; byte `j` of an output holds input `j` in its low half and input `4 + j`
//! in its high half. So one load gives eight vectors of f32 by shifts and table look-ups, or two operands of an 8-bit
//! dot product. Scales and zero points lie in planes of their own, `[ceil(n / 16)][blocks][16]`.
//!
//! With few rows the weights are unpacked in registers: memory sees 4 bits and a share of the scale per weight. With
//! more rows a block of panels is unpacked to scratch and multiplied as f32. [`Compute::Int8`] rounds the activations to
//! 8 bits per block, as `accuracy_level` 4 of ONNX Runtime's MatMulNBits and the q8 products of llama.cpp do, and is
//! about three times faster where multipliers are the limit.

use super::gemm::simd::{Element, Kernel, Simd};
use super::gemm::{
    Epilogue, PanelSource, Place, Rows, Split, Sums, load_part, multiply, pack_row_tiles, pack_rows, tile_rows,
};
use super::pack::PANEL;
use super::pool::{MatMut, Pool, Tile};

mod pack;
pub use pack::{Int4Panels, Int4Shape, pack_int4, pack_int4_plane, unpack_zero_points};

/// Inputs in 64 packed bytes.
const GROUP: usize = 8;
/// Rows up to which weights are unpacked in registers.
const DIRECT_ROWS: usize = 8;
/// Inputs that are unpacked to scratch at a time, if blocks are not longer.
const UNPACKED: usize = 512;

/// Largest magnitudes of a block that [`Compute::Int8`] serves: a scale and its inverse are normal numbers, and sums stay finite.
pub const ROUNDED: std::ops::RangeInclusive<f32> = 1e-30..=1e18;

/// How activations are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// As they are.
    F32,
    /// Rounded to signed 8 bits, with a scale per row and block. A row with a value that is not finite, or with a block whose
    /// largest magnitude leaves no room for a scale (not 0 and outside of [`ROUNDED`]), becomes NaN as a whole.
    Int8,
}

/// Elements of scratch that [`linear_int4`] needs for `m` rows.
pub fn int4_scratch(pool: &Pool, m: usize, shape: Int4Shape) -> usize {
    let padded = shape.blocks() * shape.block;
    let rows = split(pool, m, shape).rows;
    let rows = rows * (padded + 2 * shape.blocks());
    pool.threads() * (rows.next_multiple_of(PANEL) + 4 * PANEL * UNPACKED.max(shape.block))
}

fn split(pool: &Pool, m: usize, shape: Int4Shape) -> Split {
    // The unpacked form counts: rows that share it should not be torn apart.
    Split::new(pool, m, shape.n, shape.k, size_of::<f32>())
}

/// `y = epilogue(x * w^T)`: `x` has `m` rows of `k`, `y` is `m x n`.
///
/// # Panics
/// When shapes disagree or `scratch` has fewer than [`int4_scratch`] elements.
pub fn linear_int4<E: Element>(
    pool: &Pool,
    x: Rows<'_>,
    w: Int4Panels<'_, E>,
    compute: Compute,
    epilogue: &Epilogue<'_>,
    y: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let (m, shape) = (y.rows(), w.shape);
    assert_eq!((x.shape(), y.cols()), ([m, shape.k], shape.n), "shapes of a linear layer");
    assert_eq!(y.batch(), [1, 1], "a linear layer has one output matrix");
    epilogue.check(m, shape.n);
    assert!(scratch.len() >= int4_scratch(pool, m, shape), "scratch is too short");
    let split = split(pool, m, shape);
    pool.tiles(y, [split.rows, split.cols], scratch, |scratch, packed: &mut Option<usize>, y| {
        let task = Task { x, w, epilogue, y, scratch, packed };
        match compute {
            Compute::F32 => pool.isa().run(FloatTask(task)),
            Compute::Int8 => pool.isa().run_int8(Int8Task(task)),
        }
    });
}

struct Task<'a, 'y, E> {
    x: Rows<'a>,
    w: Int4Panels<'a, E>,
    epilogue: &'a Epilogue<'a>,
    y: Tile<'y, f32>,
    scratch: &'a mut [f32],
    packed: &'a mut Option<usize>,
}

struct FloatTask<'a, 'y, E>(Task<'a, 'y, E>);

impl<E: Element> Kernel for FloatTask<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Task { x, w, epilogue, mut y, scratch, packed } = self.0;
        let shape = w.shape;
        let padded = shape.blocks() * shape.block;
        let direct = y.rows <= DIRECT_ROWS;
        let rows = if direct { direct_rows::<S>(y.rows) } else { tile_rows::<S>(y.rows) };
        let stride = if direct { padded } else { shape.k };
        let (buffer, rest) = scratch.split_at_mut(4 * PANEL * UNPACKED.max(shape.block));
        let a = &mut rest[..y.rows * stride];
        if *packed != Some(y.row) {
            if direct {
                for first in (0..y.rows).step_by(rows) {
                    let count = rows.min(y.rows - first);
                    let to = &mut a[first * padded..][..count * padded];
                    let (to, rest) = to.split_at_mut(count * shape.k);
                    pack_rows(simd, count, shape.k, |row| x.row(y.row + first + row), to);
                    rest.fill(0.0);
                }
            } else {
                pack_row_tiles(simd, |row| x.row(row), shape.k, [y.row, y.rows, rows], a);
            }
            *packed = Some(y.row);
        }
        if !direct {
            let source = Unpacked { w, first_panel: y.col / PANEL, buffer };
            let depth = UNPACKED.max(shape.block);
            return multiply(simd, a, rows, source, shape.k, depth, epilogue, &mut y);
        }
        let mut sums: Sums = [[0.0; PANEL]; 24];
        for col in (0..y.cols).step_by(PANEL) {
            let panel = (y.col + col) / PANEL;
            for first in (0..y.rows).step_by(rows) {
                let count = rows.min(y.rows - first);
                let a = &a[first * padded..][..count * padded];
                match count {
                    1 => float_tile::<S, E, 1, 4>(simd, a, w, panel, &mut sums),
                    2 => float_tile::<S, E, 2, 2>(simd, a, w, panel, &mut sums),
                    3 => float_tile::<S, E, 3, 1>(simd, a, w, panel, &mut sums),
                    4 => float_tile::<S, E, 4, 1>(simd, a, w, panel, &mut sums),
                    5 if S::WIDE => float_tile::<S, E, 5, 1>(simd, a, w, panel, &mut sums),
                    6 if S::WIDE => float_tile::<S, E, 6, 1>(simd, a, w, panel, &mut sums),
                    7 if S::WIDE => float_tile::<S, E, 7, 1>(simd, a, w, panel, &mut sums),
                    8 if S::WIDE => float_tile::<S, E, 8, 1>(simd, a, w, panel, &mut sums),
                    _ => unreachable!("no tile of {count} rows"),
                }
                let at = Place { row: first, rows: count, col, panels: 1, first: true, last: true };
                epilogue.store(simd, &sums, at, &mut y);
            }
        }
    }
}

fn direct_rows<S: Simd>(m: usize) -> usize {
    let most = if S::WIDE { 8 } else { 4 };
    m.div_ceil(m.div_ceil(most).max(1)).max(1)
}

/// `sums[row]` of one panel; `CHAINS` sums per row run side by side, so that few rows do not wait for the adder.
#[inline(always)]
fn float_tile<S: Simd, E: Element, const ROWS: usize, const CHAINS: usize>(
    simd: S,
    a: &[f32],
    w: Int4Panels<'_, E>,
    panel: usize,
    sums: &mut Sums,
) {
    let (blocks, groups) = (w.shape.blocks(), w.shape.block / GROUP);
    let (a, _) = a.as_chunks::<ROWS>();
    let (a, _) = a.as_chunks::<GROUP>();
    let mut acc = [simd.splat(0.0); ROWS];
    for block in 0..blocks {
        let index = panel * blocks + block;
        let nibbles = &w.nibbles[index * groups..][..groups];
        let a = &a[block * groups..][..groups];
        let mut partial = [[simd.splat(0.0); CHAINS]; ROWS];
        // Zero points are taken off each weight, not off the sum: an infinite activation times a difference stays one.
        let minus_zero = simd.mul(w.zero(simd, index), simd.splat(-1.0));
        for group in 0..groups {
            let values = simd.unpack_nibbles(&nibbles[group]);
            for j in 0..GROUP {
                let value = simd.add(values[j], minus_zero);
                for row in 0..ROWS {
                    let x = simd.splat(a[group][j][row]);
                    partial[row][j % CHAINS] = simd.fma(x, value, partial[row][j % CHAINS]);
                }
            }
        }
        let scale = E::load(simd, &w.scales[index]);
        for row in 0..ROWS {
            let mut sum = partial[row][0];
            for &chain in &partial[row][1..] {
                sum = simd.add(sum, chain);
            }
            acc[row] = simd.fma(sum, scale, acc[row]);
        }
    }
    for row in 0..ROWS {
        simd.store(acc[row], &mut sums[row]);
    }
}

/// Panels of f32 made on demand in `buffer`.
struct Unpacked<'a, E> {
    w: Int4Panels<'a, E>,
    first_panel: usize,
    buffer: &'a mut [f32],
}

impl<E: Element> PanelSource for Unpacked<'_, E> {
    type Elem = f32;

    #[inline(always)]
    fn block<S: Simd>(
        &mut self,
        simd: S,
        panel: usize,
        panels: usize,
        start: usize,
        len: usize,
    ) -> (&[[f32; 16]], usize) {
        let shape = self.w.shape;
        let (to, _) = self.buffer.as_chunks_mut::<PANEL>();
        let depth = len.next_multiple_of(shape.block);
        if depth == 0 {
            return (to, 0);
        }
        for (panel, to) in (self.first_panel + panel..).zip(to.chunks_exact_mut(depth).take(panels)) {
            for (block, to) in (start / shape.block..).zip(to.chunks_exact_mut(shape.block)) {
                let index = panel * shape.blocks() + block;
                let scale = E::load(simd, &self.w.scales[index]);
                // (q - zero) * scale in one step would round differently; subtract first, as the definition does.
                let zero = simd.mul(self.w.zero(simd, index), simd.splat(-1.0));
                let groups = shape.block / GROUP;
                let nibbles = &self.w.nibbles[index * groups..][..groups];
                for (nibbles, to) in nibbles.iter().zip(to.as_chunks_mut::<GROUP>().0) {
                    let values = simd.unpack_nibbles(nibbles);
                    for j in 0..GROUP {
                        simd.store(simd.mul(simd.add(values[j], zero), scale), &mut to[j]);
                    }
                }
            }
        }
        (to, depth)
    }
}

struct Int8Task<'a, 'y, E>(Task<'a, 'y, E>);

impl<E: Element> Kernel for Int8Task<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Task { x, w, epilogue, mut y, scratch, packed } = self.0;
        let (blocks, block) = (w.shape.blocks(), w.shape.block);
        let rows = direct_rows::<S>(y.rows);
        // Packed bytes `[group of 4][row][4]`, then for each tile `[block][row]` scales and scaled sums.
        let (bytes, rest) = scratch.split_at_mut(y.rows * blocks * block / 4);
        let (quads, _) = bytemuck::cast_slice_mut::<f32, i8>(bytes).as_chunks_mut::<4>();
        let (scales, rest) = rest.split_at_mut(y.rows * blocks);
        let sums_x = &mut rest[..y.rows * blocks];
        if *packed != Some(y.row) {
            for row in 0..y.rows {
                let first = row / rows * rows;
                let count = rows.min(y.rows - first);
                let quads = &mut quads[first * blocks * block / 4..];
                for (index, from) in x.row(y.row + row).chunks(block).enumerate() {
                    let at = first * blocks + index * count + row - first;
                    let to = &mut quads[index * block / 4 * count..(index + 1) * block / 4 * count];
                    (scales[at], sums_x[at]) = quantize(simd, from, to, count, row - first);
                }
            }
            *packed = Some(y.row);
        }
        let mut sums: Sums = [[0.0; PANEL]; 24];
        for col in (0..y.cols).step_by(PANEL) {
            let panel = (y.col + col) / PANEL;
            for first in (0..y.rows).step_by(rows) {
                let count = rows.min(y.rows - first);
                let quads = &quads[first * blocks * block / 4..][..count * blocks * block / 4];
                let range = first * blocks..(first + count) * blocks;
                let x = QuantizedRows { quads, scales: &scales[range.clone()], sums: &sums_x[range] };
                match count {
                    1 => int8_tile::<S, E, 1, 4>(simd, x, w, panel, &mut sums),
                    2 => int8_tile::<S, E, 2, 2>(simd, x, w, panel, &mut sums),
                    3 => int8_tile::<S, E, 3, 2>(simd, x, w, panel, &mut sums),
                    4 => int8_tile::<S, E, 4, 1>(simd, x, w, panel, &mut sums),
                    5 if S::WIDE => int8_tile::<S, E, 5, 1>(simd, x, w, panel, &mut sums),
                    6 if S::WIDE => int8_tile::<S, E, 6, 1>(simd, x, w, panel, &mut sums),
                    7 if S::WIDE => int8_tile::<S, E, 7, 1>(simd, x, w, panel, &mut sums),
                    8 if S::WIDE => int8_tile::<S, E, 8, 1>(simd, x, w, panel, &mut sums),
                    _ => unreachable!("no tile of {count} rows"),
                }
                let at = Place { row: first, rows: count, col, panels: 1, first: true, last: true };
                epilogue.store(simd, &sums, at, &mut y);
            }
        }
    }
}

/// Rounds a block to signed bytes, written as column `row` of `[block / 4][rows][4]`; gives the scale and the sum of
/// the rounded values times the scale. A block with a value that is not finite, or a largest outside of [`ROUNDED`], gets a
/// NaN scale.
#[inline(always)]
fn quantize<S: Simd>(simd: S, from: &[f32], to: &mut [[i8; 4]], rows: usize, row: usize) -> (f32, f32) {
    let mut largest = simd.splat(0.0);
    let mut zero = simd.splat(0.0);
    for chunk in from.chunks(16) {
        let x = load_part(simd, chunk);
        largest = simd.max(simd.abs(x), largest);
        zero = simd.fma(x, simd.splat(0.0), zero);
    }
    let mut lanes = [0.0; 16];
    simd.store(largest, &mut lanes);
    let largest = lanes.iter().fold(0.0f32, |most, &x| most.max(x));
    // Zero times a value that is not finite is NaN.
    let fits = simd.sum(zero) == 0.0 && (largest == 0.0 || ROUNDED.contains(&largest));
    let scale = if fits { largest / 127.0 } else { f32::NAN };
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut sum = 0;
    for (index, to) in to.chunks_mut(4 * rows).enumerate() {
        let chunk = from.get(index * 16..).unwrap_or_default();
        let x = load_part(simd, &chunk[..chunk.len().min(16)]);
        let bytes = simd.round_i8(simd.mul(x, simd.splat(inverse)));
        for (quad, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
            to[quad * rows + row] = *bytes;
        }
        sum += bytes.iter().map(|&x| i32::from(x)).sum::<i32>();
    }
    (scale, sum as f32 * scale)
}

/// A tile of rows rounded by [`quantize`].
#[derive(Clone, Copy)]
struct QuantizedRows<'a> {
    quads: &'a [[i8; 4]],
    scales: &'a [f32],
    sums: &'a [f32],
}

#[inline(always)]
fn int8_tile<S: Simd, E: Element, const ROWS: usize, const CHAINS: usize>(
    simd: S,
    x: QuantizedRows<'_>,
    w: Int4Panels<'_, E>,
    panel: usize,
    sums: &mut Sums,
) {
    let (blocks, groups) = (w.shape.blocks(), w.shape.block / GROUP);
    let (quads, _) = x.quads.as_chunks::<ROWS>();
    let (quads, _) = quads.as_chunks::<2>();
    let (scales, _) = x.scales.as_chunks::<ROWS>();
    let (x_sums, _) = x.sums.as_chunks::<ROWS>();
    let mut acc = [simd.splat(0.0); ROWS];
    for block in 0..blocks {
        let index = panel * blocks + block;
        let nibbles = &w.nibbles[index * groups..][..groups];
        let quads = &quads[block * groups..][..groups];
        let mut partial = [[simd.splat_i32(0); CHAINS]; ROWS];
        for pair in 0..groups / 2 {
            for half in 0..2 {
                let group = pair * 2 + half;
                let [low, high] = simd.load_nibbles(&nibbles[group]);
                for row in 0..ROWS {
                    let chain = half * 2 % CHAINS;
                    partial[row][chain] = simd.dot4_nibbles(partial[row][chain], quads[group][0][row], low);
                    let chain = (half * 2 + 1) % CHAINS;
                    partial[row][chain] = simd.dot4_nibbles(partial[row][chain], quads[group][1][row], high);
                }
            }
        }
        let scale = E::load(simd, &w.scales[index]);
        let zero = w.zero(simd, index);
        for row in 0..ROWS {
            let mut sum = partial[row][0];
            for &chain in &partial[row][1..] {
                sum = simd.add_i32(sum, chain);
            }
            let offset = simd.mul(simd.splat(-x_sums[block][row]), zero);
            let sum = simd.fma(simd.to_f32(sum), simd.splat(scales[block][row]), offset);
            acc[row] = simd.fma(sum, scale, acc[row]);
        }
    }
    for row in 0..ROWS {
        simd.store(acc[row], &mut sums[row]);
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::super::gemm::{Activation, Isa};
    use super::*;

    struct Weights {
        shape: Int4Shape,
        nibbles: Vec<u8>,
        scales: Vec<f32>,
        zeros: Vec<u8>,
    }

    impl Weights {
        fn new(shape: Int4Shape, seed: u64) -> Self {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as u8
            };
            let blocks = shape.n * shape.blocks();
            Self {
                shape,
                nibbles: (0..blocks * shape.block / 2).map(|_| next()).collect(),
                scales: (0..blocks).map(|_| (f32::from(next()) - 100.0) / 256.0).collect(),
                zeros: (0..shape.n * shape.blocks().div_ceil(2)).map(|_| next()).collect(),
            }
        }

        fn at(&self, output: usize, input: usize, zeros: bool) -> f64 {
            let (blocks, block) = (self.shape.blocks(), input / self.shape.block);
            let byte = self.nibbles[output * blocks * self.shape.block / 2 + input / 2];
            let zero = self.zeros[output * blocks.div_ceil(2) + block / 2] >> (block % 2 * 4) & 15;
            let zero = if zeros { f64::from(zero) } else { 8.0 };
            (f64::from(byte >> (input % 2 * 4) & 15) - zero) * f64::from(self.scales[output * blocks + block])
        }
    }

    fn case<E: Element>(pool: &Pool, m: usize, shape: Int4Shape, zeros: bool, seed: u64, from: fn(f32) -> E) {
        let Int4Shape { n, k, .. } = shape;
        let weights = Weights::new(shape, seed);
        let x: Vec<f32> = (0..m * k).map(|i| ((i * 37 + i / 11) % 201) as f32 / 100.0 - 1.0).collect();
        let mut nibbles = vec![0xff; shape.nibble_bytes()];
        pack_int4(&weights.nibbles, shape, &mut nibbles);
        let mut scales = vec![E::ZERO; shape.plane_elems()];
        let narrow: Vec<E> = weights.scales.iter().map(|&scale| from(scale)).collect();
        pack_int4_plane(&narrow, shape, &mut scales);
        let mut plain = vec![E::ZERO; n * shape.blocks()];
        unpack_zero_points(&weights.zeros, shape, |zero| from(zero.into()), &mut plain);
        let mut plane = vec![E::ZERO; shape.plane_elems()];
        pack_int4_plane(&plain, shape, &mut plane);
        let panels = Int4Panels::new(&nibbles, &scales, zeros.then_some(&plane[..]), shape);
        let bias: Vec<f32> = (0..n).map(|j| j as f32 / 8.0).collect();
        let epilogue = Epilogue { bias: Some(&bias), activation: Activation::Relu, ..Epilogue::NONE };
        for compute in [Compute::F32, Compute::Int8] {
            let mut y = vec![f32::NAN; m * n];
            let mut scratch = vec![f32::NAN; int4_scratch(pool, m, shape)];
            let out = MatMut::new(&mut y, m, n, n);
            linear_int4(pool, Rows::new(&x, m, k, k), panels, compute, &epilogue, out, &mut scratch);
            for (index, &y) in y.iter().enumerate() {
                let (i, j) = (index / n, index % n);
                let products = (0..k).map(|p| f64::from(x[i * k + p]) * weights.at(j, p, zeros));
                let want = (products.sum::<f64>() + f64::from(bias[j])).max(0.0);
                // With rounded activations zero points are taken off after summing: an error is relative to sums of 15 steps.
                let size: f64 = (0..k)
                    .map(|p| {
                        15.0 * f64::from(
                            x[i * k + p].abs() * weights.scales[j * shape.blocks() + p / shape.block].abs(),
                        )
                    })
                    .sum();
                // A rounded activation is off by half a step of the largest in its block, here at most 1.
                let rounding: f64 = (0..k).map(|p| weights.at(j, p, zeros).abs() / 254.0).sum();
                let rounding = if compute == Compute::Int8 { rounding } else { 0.0 };
                let error = (f64::from(y) - want).abs();
                assert!(
                    error <= 1e-6 * (size + want + 1.0) + rounding,
                    "({i}, {j}) of {m} x {shape:?}, {compute:?}, {:?}: {y}, not {want}",
                    pool.isa()
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn products_of_nibbles(
            m in 0usize..=30, n in 0usize..=70, k in 0usize..=200, block in 4u32..8, zeros in any::<bool>(),
            seed in any::<u32>()
        ) {
            let shape = Int4Shape { n, k, block: 1 << block };
            for isa in Isa::available() {
                case(&Pool::with_isa(2, isa), m, shape, zeros, seed.into(), |x| x);
                case(&Pool::with_isa(2, isa), m, shape, zeros, seed.into(), f16::from_f32);
            }
        }

        #[test]
        fn rounded_rows_are_what_integers_give(
            m in 0usize..=40, n in 1usize..=40, k in 1usize..=300, block in 4u32..8, zeros in any::<bool>(), seed in any::<u32>()
        ) {
            for isa in Isa::available() {
                check_rounded(isa, m, Int4Shape { n, k, block: 1 << block }, zeros, seed.into());
            }
        }
    }

    /// What rounding is defined to do: a symmetric step per block, integer products, scales; sums in f64.
    fn rounded_product(x: &[f32], weights: &Weights, output: usize, zeros: bool) -> f64 {
        let block = weights.shape.block;
        let of_block = |(index, x): (usize, &[f32])| {
            let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let step = largest / 127.0;
            let code = |x: f32| if step == 0.0 { 0.0 } else { f64::from((x * (1.0 / step)).round_ties_even()) };
            assert!(x.iter().all(|x| code(*x).abs() <= 127.0));
            let product = |(i, x): (usize, &f32)| code(*x) * weights.at(output, index * block + i, zeros);
            x.iter().enumerate().map(product).sum::<f64>() * f64::from(step)
        };
        x.chunks(block).enumerate().map(of_block).sum()
    }

    /// Rows of one kind each: ordinary, all zero, -0 and one value, tiny, large, one large value among small ones.
    fn kinds_of_rows(m: usize, k: usize) -> Vec<f32> {
        let ordinary = |i: usize| ((i * 37 + i / 11) % 201) as f32 / 100.0 - 1.0;
        let of = |i: usize| match (i / k % 6, i % k) {
            (1, _) => 0.0,
            (2, p) => {
                if p % 40 == 3 {
                    -0.75
                } else {
                    -0.0
                }
            }
            (3, _) => ordinary(i) * 1e-27,
            (4, _) => ordinary(i) * 1e17,
            (5, p) => {
                if p % 24 == 5 {
                    300.0
                } else {
                    ordinary(i)
                }
            }
            _ => ordinary(i),
        };
        (0..m * k).map(of).collect()
    }

    fn check_rounded(isa: Isa, m: usize, shape: Int4Shape, zeros: bool, seed: u64) {
        let (Int4Shape { n, k, .. }, pool) = (shape, Pool::with_isa(2, isa));
        let weights = Weights::new(shape, seed);
        let x = kinds_of_rows(m, k);
        let mut nibbles = vec![0xff; shape.nibble_bytes()];
        pack_int4(&weights.nibbles, shape, &mut nibbles);
        let [mut scales, mut plane] = [(); 2].map(|()| vec![0.0f32; shape.plane_elems()]);
        pack_int4_plane(&weights.scales, shape, &mut scales);
        let mut plain = vec![0.0f32; n * shape.blocks()];
        unpack_zero_points(&weights.zeros, shape, f32::from, &mut plain);
        pack_int4_plane(&plain, shape, &mut plane);
        let panels = Int4Panels::new(&nibbles, &scales, zeros.then_some(&plane[..]), shape);
        let (mut y, mut scratch) = (vec![f32::NAN; m * n], vec![f32::NAN; int4_scratch(&pool, m, shape)]);
        let out = MatMut::new(&mut y, m, n, n);
        linear_int4(&pool, Rows::new(&x, m, k, k), panels, Compute::Int8, &Epilogue::NONE, out, &mut scratch);
        for (index, &y) in y.iter().enumerate() {
            let (row, j) = (&x[index / n * k..][..k], index % n);
            let want = rounded_product(row, &weights, j, zeros);
            let scale = |p: usize| f64::from(weights.scales[j * shape.blocks() + p / shape.block].abs());
            let size: f64 = (0..k).map(|p| 15.0 * f64::from(row[p].abs()) * scale(p)).sum();
            let error = (f64::from(y) - want).abs();
            assert!(error <= 1e-6 * size, "{index} of {m} x {shape:?}, {isa:?}: {y}, not {want}");
        }
    }

    #[test]
    fn no_inputs_give_zeros() {
        for isa in Isa::available() {
            case(&Pool::with_isa(1, isa), 9, Int4Shape { n: 1, k: 0, block: 16 }, false, 0, |x| x);
        }
    }

    #[test]
    fn several_blocks_of_rows_and_inputs() {
        for isa in Isa::available() {
            let pool = Pool::with_isa(2, isa);
            case(&pool, 70, Int4Shape { n: 100, k: 1300, block: 32 }, true, 5, |x| x);
            case(&pool, 9, Int4Shape { n: 40, k: 2100, block: 1024 }, false, 6, |x| x);
        }
    }

    #[test]
    fn blocks_without_room_for_a_scale_make_their_row_nan() {
        let shape = Int4Shape { n: 20, k: 40, block: 32 };
        let (nibbles, scales) = (vec![0x29; shape.nibble_bytes()], vec![1.0f32; shape.plane_elems()]);
        for (odd, isa) in [1e-40, -1e-31, 1e30, f32::INFINITY, f32::NAN]
            .into_iter()
            .flat_map(|x| Isa::available().map(move |isa| (x, isa)))
        {
            let (pool, mut x) = (Pool::with_isa(1, isa), vec![0.0; 9 * 40]);
            x[3 * 40 + 35] = odd;
            let (mut y, mut scratch) = (vec![1.0; 180], vec![0.0; int4_scratch(&pool, 9, shape)]);
            let panels = Int4Panels::new(&nibbles, &scales, None, shape);
            let out = MatMut::new(&mut y, 9, 20, 20);
            linear_int4(&pool, Rows::new(&x, 9, 40, 40), panels, Compute::Int8, &Epilogue::NONE, out, &mut scratch);
            assert!((0..180).all(|i| if i / 20 == 3 { y[i].is_nan() } else { y[i] == 0.0 }), "{odd}, {isa:?}");
        }
    }

    #[test]
    fn a_row_that_is_not_finite_stays_alone() {
        let shape = Int4Shape { n: 20, k: 64, block: 32 };
        let nibbles = vec![0x29; shape.nibble_bytes()];
        let scales = vec![1.0f32; shape.plane_elems()];
        let mut x = vec![0.5; 3 * 64];
        x[64 + 9] = f32::NAN;
        for isa in Isa::available() {
            let pool = Pool::with_isa(1, isa);
            for compute in [Compute::F32, Compute::Int8] {
                let mut y = vec![0.0; 60];
                let mut scratch = vec![0.0; int4_scratch(&pool, 3, shape)];
                let panels = Int4Panels::new(&nibbles, &scales, None, shape);
                let out = MatMut::new(&mut y, 3, 20, 20);
                linear_int4(&pool, Rows::new(&x, 3, 64, 64), panels, compute, &Epilogue::NONE, out, &mut scratch);
                assert!((0..60).all(|i| y[i].is_nan() == (i / 20 == 1)), "{compute:?}");
            }
        }
    }
}
