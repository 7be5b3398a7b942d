//! Transposed convolution: each input pixel adds its share to the output pixels it reaches.
//!
//! The shares of some input pixels are a matrix product over the channels; they are added to the output rows at once,
//! so that no column matrix exists as a whole. A task owns whole output channels.

use super::implicit::{Places, SLACK, spread};
use super::{Conv, ConvBuilder, ConvEpilogue, ConvError, Spatial};
use crate::kernels::gemm::simd::{Kernel, Simd};
use crate::kernels::gemm::tile::{Sums, tile, tile_rows};
use crate::kernels::pack::{Layout, PANEL, pack_panels, panel_elems};
use crate::kernels::pool::{MatMut, Pool, Tile};

/// Input pixels whose shares are computed at a time.
const PIXELS: usize = 96;

/// The geometry of a transposed convolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvTranspose {
    /// Input, output and attributes as for a convolution; only the output's size follows another rule.
    pub(super) conv: Conv,
}

impl ConvBuilder {
    /// The transposed convolution; along each dimension its output has
    /// `stride * (input - 1) + dilation * (kernel - 1) + 1 + output_padding - pads` pixels.
    pub fn build_transposed(mut self, output_padding: &[usize]) -> Result<ConvTranspose, ConvError> {
        self.lists.push(("output padding", super::List::new(output_padding, 0)));
        let padding: Spatial = self.list("output padding", 0);
        let mut conv = self.geometry()?;
        for (i, &padding) in padding.iter().enumerate() {
            let field = conv.dilation[i] * conv.kernel[i].saturating_sub(1) + 1;
            let full = conv.stride[i] * conv.input[i].saturating_sub(1) + field + padding;
            conv.output[i] = full.saturating_sub(conv.pads[0][i] + conv.pads[1][i]);
        }
        Ok(ConvTranspose { conv })
    }
}

impl ConvTranspose {
    /// The spatial sizes of the output.
    pub fn output(&self) -> &[usize] {
        &self.conv.output[3 - self.conv.rank..]
    }

    /// Elements of the output.
    pub fn output_elems(&self) -> usize {
        self.conv.output_elems()
    }

    /// Products per input pixel and group: one per output channel and tap.
    fn products(&self) -> usize {
        self.conv.out_per_group() * self.conv.taps()
    }

    /// Elements of the packed weights.
    pub fn packed_elems(&self) -> usize {
        self.conv.groups * panel_elems(self.products(), self.conv.in_per_group())
    }

    /// Packs `[in_channels, out_channels / groups, kernel..]`.
    ///
    /// # Panics
    /// When a length is wrong.
    pub fn pack(&self, weights: &[f32], packed: &mut [f32]) {
        let (n, k) = (self.products(), self.conv.in_per_group());
        assert_eq!(packed.len(), self.packed_elems(), "the packed weights of a transposed convolution");
        assert_eq!(weights.len(), self.conv.groups * n * k, "the weights of a transposed convolution");
        if n * k == 0 {
            return;
        }
        for (from, to) in weights.chunks_exact(n * k).zip(packed.chunks_exact_mut(panel_elems(n, k))) {
            pack_panels(from, n, k, Layout::Kn, to);
        }
    }

    fn gathered(&self) -> usize {
        self.conv.in_per_group() * PIXELS + (PIXELS.div_ceil(3) + 1) * SLACK
    }

    /// Elements of scratch that [`ConvTranspose::run`] needs.
    pub fn scratch_elems(&self, pool: &Pool) -> usize {
        pool.threads() * self.gathered()
    }

    /// `y = act(conv_transpose(x, weights) + bias + residual)`.
    ///
    /// # Panics
    /// When a length is wrong.
    pub fn run(
        &self,
        pool: &Pool,
        x: &[f32],
        packed: &[f32],
        epilogue: &ConvEpilogue<'_>,
        y: &mut [f32],
        scratch: &mut [f32],
    ) {
        let conv = &self.conv;
        assert_eq!(
            x.len(),
            conv.batch * conv.in_channels * conv.input_pixels(),
            "the input of a transposed convolution"
        );
        assert_eq!(y.len(), conv.output_elems(), "the output of a transposed convolution");
        assert_eq!(packed.len(), self.packed_elems(), "the packed weights of a transposed convolution");
        if y.is_empty() {
            return;
        }
        let (n, pixels) = (conv.out_per_group(), conv.pixels());
        let strides = [conv.out_channels * pixels, n * pixels];
        let out = MatMut::batched(y, [conv.batch, conv.groups], strides, n, pixels, pixels);
        let images = conv.batch * conv.groups;
        let channels = if images >= pool.threads() { n } else { n.div_ceil(pool.threads() * 2).max(1) };
        pool.tiles(out, [channels, pixels], &mut scratch[..self.scratch_elems(pool)], |scratch, _state: &mut (), y| {
            pool.isa().run(Task { transposed: self, x, packed, epilogue, y, scratch });
        });
    }
}

struct Task<'a, 'y> {
    transposed: &'a ConvTranspose,
    x: &'a [f32],
    packed: &'a [f32],
    epilogue: &'a ConvEpilogue<'a>,
    y: Tile<'y, f32>,
    scratch: &'a mut [f32],
}

impl Kernel for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Task { transposed, x, packed, epilogue, mut y, scratch } = self;
        let conv = &transposed.conv;
        let (k, n, taps) = (conv.in_per_group(), transposed.products(), conv.taps());
        let [image, group] = y.batch;
        let plane = conv.input_pixels();
        let x = &x[(image * conv.groups + group) * k * plane..][..k * plane];
        let panels = packed[group * panel_elems(n, k)..][..panel_elems(n, k)].as_chunks::<PANEL>().0;
        for row in 0..y.rows {
            y.row(row).fill(0.0);
        }
        let mut sums: Sums = [[0.0; 16]; 24];
        // Products of this task's channels.
        let (low, high) = (y.row * taps, (y.row + y.rows) * taps);
        for first in (0..plane).step_by(PIXELS) {
            let count = PIXELS.min(plane - first);
            let rows = tile_rows::<S>(count);
            let stride = k * rows + SLACK;
            for (c, x) in x.chunks_exact(plane).enumerate() {
                spread(&x[first..], count, Places::Tiles { rows, stride }, c, scratch);
            }
            for panel in low / PANEL..high.div_ceil(PANEL) {
                for (t, start) in (0..count).step_by(rows).enumerate() {
                    let height = rows.min(count - start);
                    tile(simd, height, 1, &scratch[t * stride..][..k * height], &panels[panel * k..], k, &mut sums);
                    let products = low.max(panel * PANEL)..high.min((panel + 1) * PANEL);
                    for product in products {
                        let row = product / taps - y.row;
                        add(conv, product % taps, first + start, &sums[..height], product % PANEL, y.row(row));
                    }
                }
            }
        }
        let first_channel = group * conv.out_per_group() + y.row;
        for row in 0..y.rows {
            let channel = first_channel + row;
            let at = (image * conv.out_channels + channel) * conv.pixels();
            epilogue.finish(channel, at, y.row(row));
        }
    }
}

/// Adds the shares in `lane` of the input pixels from `first` on, under one tap, to an output channel.
#[inline(always)]
fn add(conv: &Conv, tap: usize, first: usize, sums: &[[f32; 16]], lane: usize, y: &mut [f32]) {
    let [_, kernel_height, kernel_width] = conv.kernel;
    let [_, in_height, in_width] = conv.input;
    let taps = [tap / kernel_width / kernel_height, tap / kernel_width % kernel_height, tap % kernel_width];
    let [out_depth, out_height, out_width] = conv.output;
    let place = |axis: usize, at: usize| {
        (at * conv.stride[axis] + taps[axis] * conv.dilation[axis]) as isize - conv.pads[0][axis] as isize
    };
    let (mut row, mut col) = (first / in_width, first % in_width);
    let mut sums = sums.iter();
    while sums.len() > 0 {
        let count = (in_width - col).min(sums.len());
        let (depth, height) = (place(0, row / in_height), place(1, row % in_height));
        let visible = (0..out_depth as isize).contains(&depth) && (0..out_height as isize).contains(&height);
        let shares = sums.by_ref().take(count);
        if visible {
            let y = &mut y[(depth as usize * out_height + height as usize) * out_width..][..out_width];
            for (j, share) in shares.enumerate() {
                if let Some(y) = y.get_mut(place(2, col + j) as usize) {
                    *y += share[lane];
                }
            }
        } else {
            shares.for_each(drop);
        }
        (row, col) = (row + 1, 0);
    }
}
