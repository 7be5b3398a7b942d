//! Convolution with output channels in the lanes of vectors: for images of few pixels and many channels.
//!
//! A task multiplies the gathered fields of some pixels, tile by tile, by two panels (32 channels) at a time. The sums
//! are `[pixel][channel]`; 16 x 16 blocks of them are transposed on their way to the NCHW output.

use super::implicit::{GATHERED_ELEMS, Gathered, K_BLOCK, Places, SLACK, gather, gather_scratch};
use super::{Conv, ConvEpilogue};
use crate::kernels::gemm::simd::{Kernel, Simd};
use crate::kernels::gemm::tile::{Sums, tile, tile_panels, tile_rows};
use crate::kernels::math;
use crate::kernels::pack::{PANEL, panel_elems};
use crate::kernels::pool::{MatMut, Pool, Tile};

/// Panels multiplied at a time.
const PANELS: usize = 2;

/// How the output is cut into tasks: channels and pixels of a task.
struct Split {
    channels: usize,
    pixels: usize,
}

impl Split {
    fn new(conv: &Conv, threads: usize) -> Split {
        let k = conv.in_per_group() * conv.taps();
        let most = (GATHERED_ELEMS / k.max(1)).clamp(48, 384);
        let (pixels, images) = (conv.pixels().max(1), (conv.batch * conv.groups).max(1));
        let tiles = pixels.div_ceil(most);
        let shared = (tiles * images).next_multiple_of(threads).div_ceil(images);
        if tiles * images >= 8 * threads || pixels.div_ceil(shared) >= 24 {
            return Split { channels: conv.out_per_group(), pixels: pixels.div_ceil(tiles.max(shared)) };
        }
        let panels = conv.out_per_group().div_ceil(PANEL).max(1);
        let channels = panels.div_ceil(threads).next_multiple_of(PANELS) * PANEL;
        Split { channels, pixels: pixels.div_ceil(tiles) }
    }
}

/// Where things lie in one thread's scratch.
struct Parts {
    /// Elements from one tile of pixels to the next.
    tile_stride: usize,
    gathered: usize,
    memory: usize,
    sums: usize,
}

impl Parts {
    fn new(conv: &Conv, pixels: usize) -> Parts {
        let k = conv.in_per_group() * conv.taps();
        // The smallest tile of any instruction set bounds the number of tiles.
        let tiles = pixels.div_ceil(3);
        Parts {
            tile_stride: 0,
            gathered: k * pixels + tiles * SLACK + SLACK,
            memory: gather_scratch(conv, pixels),
            sums: pixels * PANELS * PANEL,
        }
    }

    fn elems(&self) -> usize {
        // Room to align each part.
        self.gathered + self.memory + self.sums + 3 * PANEL
    }
}

/// Scratch elements per thread.
pub(super) fn scratch(conv: &Conv, pool: &Pool) -> usize {
    Parts::new(conv, Split::new(conv, pool.threads()).pixels).elems()
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
        pool.isa().run(Task { conv, x, packed, epilogue, y, scratch, gathered, most_pixels: split.pixels });
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
    most_pixels: usize,
}

impl Kernel for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Task { conv, x, packed, epilogue, mut y, scratch, gathered, most_pixels } = self;
        let k = conv.in_per_group() * conv.taps();
        let mut parts = Parts::new(conv, most_pixels);
        let rows = tile_rows::<S>(y.cols);
        parts.tile_stride = k * rows + SLACK;
        let (a, rest) = scratch.split_at_mut(parts.gathered);
        let (memory, rest) = rest.split_at_mut(parts.memory);
        let sums = &mut rest[..parts.sums].as_chunks_mut::<PANEL>().0[..y.cols * PANELS];

        let [image, group] = y.batch;
        if gathered.0 != Some((y.batch, y.col)) {
            let per_group = conv.in_per_group() * conv.input_pixels();
            let x = &x[(image * conv.groups + group) * per_group..][..per_group];
            let places = Places::Tiles { rows, stride: parts.tile_stride };
            gather(simd, conv, x, [y.col, y.cols], places, memory, a);
            gathered.0 = Some((y.batch, y.col));
        }

        let n = conv.out_per_group();
        let panels = packed[group * panel_elems(n, k)..][..panel_elems(n, k)].as_chunks::<PANEL>().0;
        let first_panel = y.row / PANEL;
        let panel_count = y.rows.div_ceil(PANEL);
        for panel in (0..panel_count).step_by(PANELS) {
            let count = PANELS.min(panel_count - panel);
            multiply(simd, a, rows, parts.tile_stride, y.cols, &panels[(first_panel + panel) * k..], k, count, sums);
            for p in 0..count {
                let sums = &sums[p * y.cols..][..y.cols];
                store(conv, epilogue, sums, (panel + p) * PANEL, &mut y);
            }
        }
    }
}

/// `sums[panel][pixel] = gathered[pixel] * panels[panel]` for `count` panels that lie `k` vectors apart.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one inner loop, inlined into its caller")]
fn multiply<S: Simd>(
    simd: S,
    a: &[f32],
    rows: usize,
    tile_stride: usize,
    pixels: usize,
    panels: &[[f32; PANEL]],
    k: usize,
    count: usize,
    sums: &mut [[f32; PANEL]],
) {
    let mut tile_sums: Sums = [[0.0; 16]; 24];
    let widest = tile_panels::<S>(rows).min(count);
    let step = if widest >= PANELS { PANELS } else { 1 };
    for start in (0..k.max(1)).step_by(K_BLOCK) {
        let len = K_BLOCK.min(k - start);
        for panel in (0..count).step_by(step) {
            let group = step.min(count - panel);
            let b = &panels[panel * k + start..];
            for (t, first) in (0..pixels).step_by(rows).enumerate() {
                let height = rows.min(pixels - first);
                let a = &a[t * tile_stride + start * height..][..len * height];
                tile(simd, height, group, a, b, k, &mut tile_sums);
                for p in 0..group {
                    let to = &mut sums[(panel + p) * pixels + first..][..height];
                    for (r, to) in to.iter_mut().enumerate() {
                        let mut sum = simd.load(&tile_sums[r * group + p]);
                        if start > 0 {
                            sum = simd.add(sum, simd.load(to));
                        }
                        simd.store(sum, to);
                    }
                }
            }
        }
    }
}

/// Transposes the sums of one panel into the rows of `y` from `row` on, finished.
#[inline(always)]
fn store(conv: &Conv, epilogue: &ConvEpilogue<'_>, sums: &[[f32; PANEL]], row: usize, y: &mut Tile<'_, f32>) {
    let channels = PANEL.min(y.rows - row);
    let first_channel = y.batch[1] * conv.out_per_group() + y.row + row;
    let (low, high) = epilogue.clamp();
    let (blocks, rest) = sums.as_chunks::<PANEL>();
    let pixels = conv.pixels();
    let at = |channel: usize| (y_image(y, conv) + first_channel + channel) * pixels + y.col;
    let places: [usize; PANEL] = std::array::from_fn(at);
    for (b, block) in blocks.iter().enumerate() {
        let columns = transpose(block);
        for (c, column) in columns.iter().enumerate().take(channels) {
            let bias = epilogue.bias(first_channel + c);
            let to: &mut [f32; PANEL] =
                y.row(row + c)[b * PANEL..].first_chunk_mut().expect("a block of pixels lies inside its tile");
            match epilogue.residual {
                Some(residual) => {
                    let residual = &residual[places[c] + b * PANEL..][..PANEL];
                    for j in 0..PANEL {
                        to[j] = math::min(math::max(column[j] + bias + residual[j], low), high);
                    }
                }
                None => {
                    for j in 0..PANEL {
                        to[j] = math::min(math::max(column[j] + bias, low), high);
                    }
                }
            }
        }
    }
    let start = blocks.len() * PANEL;
    for c in 0..channels {
        let to = &mut y.row(row + c)[start..];
        for (to, sums) in to.iter_mut().zip(rest) {
            *to = sums[c];
        }
        let bias = epilogue.bias(first_channel + c);
        for (j, to) in to.iter_mut().enumerate() {
            let residual = epilogue.residual.map_or(0.0, |r| r[places[c] + start + j]);
            *to = math::min(math::max(*to + bias + residual, low), high);
        }
        epilogue.finish_activation(y.row(row + c));
    }
}

/// Output channels before those of the tile's image.
#[inline(always)]
fn y_image(y: &Tile<'_, f32>, conv: &Conv) -> usize {
    y.batch[0] * conv.out_channels
}

/// Columns of a block as rows.
#[inline(always)]
fn transpose(block: &[[f32; PANEL]; PANEL]) -> [[f32; PANEL]; PANEL] {
    std::array::from_fn(|c| std::array::from_fn(|r| block[r][c]))
}
