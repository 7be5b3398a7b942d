//! Convolution with output pixels in the lanes of vectors.
//!
//! Gathered fields lie in panels of 16 pixels, `[k][16]`; a tile of sums is 8 channels by up to 48 pixels (AVX-512), or
//! 4 by 16. Weights, packed for 16 channels, are broadcast one at a time, and sums are stored as rows of the output.

use super::implicit::{GATHERED_ELEMS, Gathered, Places, SLACK, gather, gather_scratch};
use super::{Conv, ConvEpilogue};
use crate::kernels::gemm::simd::{Kernel, Simd};
use crate::kernels::pack::{PANEL, panel_elems};
use crate::kernels::pool::{MatMut, Pool, Tile};

/// Inputs that are summed before the panels' next part is read: the weights of a tile stay in the L1 cache.
const K_BLOCK: usize = 768;
/// Pixels of the widest tile.
const WIDEST: usize = 3 * PANEL;

/// How the output is cut into tasks: channels and pixels of a task.
struct Split {
    channels: usize,
    pixels: usize,
}

impl Split {
    fn new(conv: &Conv, threads: usize) -> Split {
        let k = conv.in_per_group() * conv.taps();
        let most = (GATHERED_ELEMS / k.max(1)).clamp(WIDEST, 8 * WIDEST);
        let (pixels, images) = (conv.pixels().max(1), (conv.batch * conv.groups).max(1));
        let tiles = pixels.div_ceil(most);
        let shared = (tiles * images).next_multiple_of(threads).div_ceil(images);
        if tiles * images >= 8 * threads || pixels.div_ceil(shared) >= WIDEST {
            let even = pixels.div_ceil(tiles.max(shared));
            return Split { channels: conv.out_per_group(), pixels: even.next_multiple_of(PANEL) };
        }
        let panels = conv.out_per_group().div_ceil(PANEL).max(1);
        let even = pixels.div_ceil(tiles);
        Split { channels: panels.div_ceil(threads) * PANEL, pixels: even.next_multiple_of(PANEL) }
    }

    /// Elements of gathered fields, and of memory to gather them through.
    fn parts(&self, conv: &Conv) -> [usize; 2] {
        [self.pixels.div_ceil(PANEL) * panel_stride(conv) * PANEL, gather_scratch(conv, self.pixels)]
    }
}

/// Vectors from one panel of fields to the next.
fn panel_stride(conv: &Conv) -> usize {
    conv.in_per_group() * conv.taps() + SLACK / PANEL
}

/// Scratch elements per thread.
pub(super) fn scratch(conv: &Conv, pool: &Pool) -> usize {
    Split::new(conv, pool.threads()).parts(conv).iter().sum()
}

pub(super) fn run(
    conv: &Conv,
    pool: &Pool,
    x: &[f32],
    packed: &[f32],
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    let split = Split::new(conv, pool.threads());
    let (n, pixels) = (conv.out_per_group(), conv.pixels());
    let strides = [conv.out_channels * pixels, n * pixels];
    let out = MatMut::batched(y, [conv.batch, conv.groups], strides, n, pixels, pixels);
    pool.tiles(out, [split.channels, split.pixels], scratch, |scratch, gathered: &mut Gathered, y| {
        pool.isa().run(Task { conv, x, packed, epilogue, y, scratch, gathered, split: &split });
    });
}

struct Task<'a, 'y> {
    conv: &'a Conv,
    x: &'a [f32],
    packed: &'a [f32],
    epilogue: &'a ConvEpilogue<'a>,
    y: Tile<'y, f32>,
    scratch: &'a mut [f32],
    gathered: &'a mut Gathered,
    split: &'a Split,
}

impl Kernel for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Task { conv, x, packed, epilogue, mut y, scratch, gathered, split } = self;
        let k = conv.in_per_group() * conv.taps();
        let (fields, memory) = scratch.split_at_mut(split.parts(conv)[0]);
        let [image, group] = y.batch;
        if gathered.0 != Some((y.batch, y.col)) {
            let per_group = conv.in_per_group() * conv.input_pixels();
            let x = &x[(image * conv.groups + group) * per_group..][..per_group];
            let places = Places::Panels { stride: panel_stride(conv) * PANEL };
            gather(simd, conv, x, [y.col, y.cols], places, memory, fields);
            gathered.0 = Some((y.batch, y.col));
        }

        let n = conv.out_per_group();
        let weights = packed[group * panel_elems(n, k)..][..panel_elems(n, k)].as_chunks::<PANEL>().0;
        let fields = fields.as_chunks::<PANEL>().0;
        let blocks = k.div_ceil(K_BLOCK).max(1);
        let mut row = 0;
        while row < y.rows {
            let weights = &weights[(y.row + row) / PANEL * k..][..k];
            let rows = PANEL.min(y.rows - row);
            for block in 0..blocks {
                let range = block * K_BLOCK..k.min((block + 1) * K_BLOCK);
                let mut product = Product {
                    conv,
                    epilogue,
                    weights: &weights[range.clone()],
                    fields: &fields[range.start..],
                    stride: panel_stride(conv),
                    first: block == 0,
                    last: block + 1 == blocks,
                    y: &mut y,
                };
                product.panel(simd, row, rows);
            }
            for row in row..row + rows {
                epilogue.finish_activation(y.row(row));
            }
            row += rows;
        }
    }
}

/// The product of one panel of weights with all fields, over one block of inputs.
struct Product<'a, 'y> {
    conv: &'a Conv,
    epilogue: &'a ConvEpilogue<'a>,
    weights: &'a [[f32; PANEL]],
    fields: &'a [[f32; PANEL]],
    /// Vectors from one panel of fields to the next.
    stride: usize,
    first: bool,
    last: bool,
    y: &'a mut Tile<'y, f32>,
}

impl Product<'_, '_> {
    /// Rows `row .. row + rows` of `y`, at most 16.
    #[inline(always)]
    fn panel<S: Simd>(&mut self, simd: S, row: usize, rows: usize) {
        let panels = self.y.cols.div_ceil(PANEL);
        let mut panel = 0;
        while panel < panels {
            let left = panels - panel;
            if S::WIDE {
                // Four panels left make two tiles of two, not three and one.
                let count = if left == 4 { 2 } else { left.min(3) };
                for lane in (0..rows).step_by(8) {
                    match count {
                        3 => self.tile::<S, 8, 3>(simd, row, lane, rows, panel),
                        2 => self.tile::<S, 8, 2>(simd, row, lane, rows, panel),
                        _ => self.tile::<S, 8, 1>(simd, row, lane, rows, panel),
                    }
                }
                panel += count;
            } else {
                for lane in (0..rows).step_by(4) {
                    self.tile::<S, 4, 1>(simd, row, lane, rows, panel);
                }
                panel += 1;
            }
        }
    }

    /// The sums of `ROWS` channels, those from `lane` on of the panel of weights, and `PANELS` panels of pixels.
    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const PANELS: usize>(
        &mut self,
        simd: S,
        row: usize,
        lane: usize,
        rows: usize,
        panel: usize,
    ) {
        let k = self.weights.len();
        let mut fields = [&self.fields[..k]; PANELS];
        for (p, fields) in fields.iter_mut().enumerate() {
            *fields = &self.fields[(panel + p) * self.stride..][..k];
        }
        let mut sums = [[simd.splat(0.0); PANELS]; ROWS];
        for (i, weights) in self.weights.iter().enumerate() {
            let weights: &[f32; ROWS] = weights[lane..].first_chunk().expect("a part of a panel");
            let mut x = [simd.splat(0.0); PANELS];
            for (x, field) in x.iter_mut().zip(fields) {
                *x = simd.load(&field[i]);
            }
            for (sums, &w) in sums.iter_mut().zip(weights) {
                let w = simd.splat(w);
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = simd.fma(w, x, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            if lane + r < rows {
                self.store(simd, sums, row + lane + r, panel * PANEL);
            }
        }
    }

    #[inline(always)]
    fn store<S: Simd, const PANELS: usize>(&mut self, simd: S, sums: &[S::V; PANELS], row: usize, col: usize) {
        let channel = self.y.batch[1] * self.conv.out_per_group() + self.y.row + row;
        let at = (self.y.batch[0] * self.conv.out_channels + channel) * self.conv.pixels() + self.y.col + col;
        let bias = simd.splat(self.epilogue.bias(channel));
        let (low, high) = self.epilogue.clamp();
        let y = &mut self.y.row(row)[col..];
        let residual = if self.last { self.epilogue.residual } else { None };
        for (p, &sum) in sums.iter().enumerate() {
            let width = PANEL.min(y.len() - p * PANEL);
            let y = &mut y[p * PANEL..][..width];
            let mut sum = sum;
            if !self.first {
                sum = simd.add(sum, simd.load_part(y));
            }
            if self.last {
                sum = simd.add(sum, bias);
                if let Some(residual) = residual {
                    sum = simd.add(sum, simd.load_part(&residual[at + p * PANEL..][..width]));
                }
                // The machine's min and max keep a NaN in their second operand.
                sum = simd.min(simd.splat(high), simd.max(simd.splat(low), sum));
            }
            match y.first_chunk_mut::<PANEL>() {
                Some(y) => simd.store(sum, y),
                None => simd.store_part(sum, y),
            }
        }
    }
}
