//! Convolution as a matrix product over panels of weights, its other operand gathered tile by tile.
//!
//! A task owns some pixels of one image and group, for all or some output channels. It gathers the receptive fields of
//! its pixels into its scratch once and multiplies them by every panel. Vectors hold 16 pixels of one channel
//! (`pixel_lanes`), so that sums are stored as NCHW wants them; or, for images of so few pixels that lanes would idle,
//! 16 channels of one pixel (`channel_lanes`).

use super::frame::Frame;
use super::{Conv, ConvEpilogue, channel_lanes, pixel_lanes};
use crate::kernels::gemm::simd::Simd;
use crate::kernels::pack::PANEL;
use crate::kernels::pool::Pool;

/// Inputs that are summed before the panels' next part is read: keeps that part in the L2 cache.
pub(super) const K_BLOCK: usize = 512;
/// Gathered elements that a task aims at: half a megabyte.
pub(super) const GATHERED_ELEMS: usize = 128 << 10;
/// Elements that are copied at a time, so that a copy may write up to so many past its end.
pub(super) const SLACK: usize = PANEL;

/// Whether channels rather than pixels go into lanes: where a tenth of the lanes would idle, and sums are long enough
/// to pay for transposing them.
fn channels_in_lanes(conv: &Conv) -> bool {
    let pixels = conv.pixels();
    let lanes = pixels.next_multiple_of(PANEL);
    lanes * 10 > pixels * 11 && conv.in_per_group() * conv.taps() >= 64 && conv.out_per_group() >= PANEL
}

/// Scratch elements per thread.
pub(super) fn scratch(conv: &Conv, pool: &Pool) -> usize {
    if channels_in_lanes(conv) { channel_lanes::scratch(conv, pool) } else { pixel_lanes::scratch(conv, pool) }
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
    if channels_in_lanes(conv) {
        channel_lanes::run(conv, pool, x, packed, epilogue, y, scratch);
    } else {
        pixel_lanes::run(conv, pool, x, packed, epilogue, y, scratch);
    }
}

/// Which pixels a thread's scratch holds: image and group, first pixel.
#[derive(Default)]
pub(super) struct Gathered(pub(super) Option<([usize; 2], usize)>);

/// How gathered inputs lie.
#[derive(Clone, Copy)]
pub(super) enum Places {
    /// Tiles of `rows` pixels, each `[k][pixels of the tile]`, `stride` apart; [`SLACK`] elements follow each.
    Tiles { rows: usize, stride: usize },
    /// Panels of 16 pixels, each `[k][16]`, `stride` apart; the last one has idle lanes. [`SLACK`] elements follow each.
    Panels { stride: usize },
}

impl Places {
    /// Pixels of a place, and elements from one to the next.
    #[inline(always)]
    fn shape(self) -> (usize, usize) {
        match self {
            Places::Tiles { rows, stride } => (rows, stride),
            Places::Panels { stride } => (PANEL, stride),
        }
    }

    /// Elements from one input of a place of `height` pixels to the next.
    #[inline(always)]
    fn width(self, height: usize) -> usize {
        match self {
            Places::Tiles { .. } => height,
            Places::Panels { .. } => PANEL,
        }
    }
}

/// How the receptive fields of a convolution are read.
enum Fields {
    /// One pixel of the input each, in order.
    Pixels,
    /// From frames of planes.
    Planes,
    /// From volumes, tap by tap.
    Volumes,
}

impl Fields {
    fn new(conv: &Conv) -> Fields {
        if conv.taps() == 1 && conv.stride == [1; 3] && conv.pads == [[0; 3]; 2] {
            return Fields::Pixels;
        }
        let plane = conv.kernel[0] == 1 && conv.input[0] == 1 && conv.output[0] == 1 && conv.pads[0][0] == 0;
        if plane { Fields::Planes } else { Fields::Volumes }
    }
}

/// Elements of memory that [`gather`] needs beside what it writes, for up to so many pixels.
pub(super) fn gather_scratch(conv: &Conv, pixels: usize) -> usize {
    match Fields::new(conv) {
        Fields::Pixels => 0,
        Fields::Planes => {
            let rows = (pixels + conv.output[2]).div_ceil(conv.output[2].max(1)) + 1;
            Frame::new(conv, 0..rows.min(conv.output[1])).elems
        }
        Fields::Volumes => pixels + SLACK,
    }
}

/// Gathers the receptive fields of `pixels` (first, count) to their `places`. Up to [`SLACK`] elements after each place are
/// overwritten.
#[inline(always)]
pub(super) fn gather<S: Simd>(
    simd: S,
    conv: &Conv,
    x: &[f32],
    pixels: [usize; 2],
    places: Places,
    memory: &mut [f32],
    to: &mut [f32],
) {
    let [first, count] = pixels;
    let plane = conv.input_pixels();
    let planes = (0..conv.in_per_group()).map(|channel| &x[channel * plane..][..plane]);
    match Fields::new(conv) {
        Fields::Pixels => {
            for (k, x) in planes.enumerate() {
                spread(&x[first..], count, places, k, to);
            }
        }
        Fields::Planes => {
            let width = conv.output[2];
            let frame = Frame::new(conv, first / width..(first + count).div_ceil(width));
            let memory = &mut memory[..frame.elems];
            memory.fill(0.0);
            for (channel, x) in planes.enumerate() {
                frame.fill(simd, conv, x, memory);
                spread_taps(simd, conv, &frame, memory, [first % width, count], places, channel, to);
            }
        }
        Fields::Volumes => {
            let line = &mut memory[..count];
            let mut k = 0;
            for x in planes {
                for depth in 0..conv.kernel[0] {
                    for height in 0..conv.kernel[1] {
                        for width in 0..conv.kernel[2] {
                            fill_line(conv, x, [depth, height, width], first, line);
                            spread(line, count, places, k, to);
                            k += 1;
                        }
                    }
                }
            }
        }
    }
}

/// Writes what all taps read of a channel's frame, for `pixels` (column of the first in the frame's first row, count).
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one loop nest, inlined into its caller")]
fn spread_taps<S: Simd>(
    simd: S,
    conv: &Conv,
    frame: &Frame,
    memory: &[f32],
    pixels: [usize; 2],
    places: Places,
    channel: usize,
    to: &mut [f32],
) {
    let [mut col, count] = pixels;
    let (rows, stride) = places.shape();
    let mut row_start = 0;
    for (t, first) in (0..count).step_by(rows).enumerate() {
        let height = rows.min(count - first);
        let width = places.width(height);
        // Runs of pixels in one row: their first lane, and the first one's element in the frame.
        let mut runs = [[0; 2]; PANEL];
        let (mut run, mut lane) = (0, 0);
        while lane < height {
            runs[run] = [lane, row_start + col];
            run += 1;
            let length = (conv.output[2] - col).min(height - lane);
            (lane, col) = (lane + length, col + length);
            if col == conv.output[2] {
                (row_start, col) = (row_start + frame.pitch, 0);
            }
        }
        let runs = &runs[..run];
        let to = &mut to[t * stride + channel * conv.taps() * width..];
        frame.taps(conv, |tap, start| {
            // Whole vectors: what one writes too much, the next run, the next tap or the next channel overwrites.
            for &[lane, from] in runs {
                let x = simd.load(memory[start + from..].first_chunk().expect("a frame ends with slack"));
                simd.store(x, to[tap * width + lane..].first_chunk_mut().expect("places end with slack"));
            }
        });
    }
}

/// Writes input `k` of `count` pixels to its place in each tile.
#[inline(always)]
pub(super) fn spread(line: &[f32], count: usize, places: Places, k: usize, to: &mut [f32]) {
    let (rows, stride) = places.shape();
    for (t, first) in (0..count).step_by(rows).enumerate() {
        let height = rows.min(count - first);
        let to = &mut to[t * stride + k * places.width(height)..];
        // A fixed number of elements is one or two registers; what it writes too much is overwritten later or slack.
        match (line[first..].first_chunk::<SLACK>(), to.first_chunk_mut::<SLACK>()) {
            (Some(from), Some(to)) => *to = *from,
            _ => to[..height].copy_from_slice(&line[first..first + height]),
        }
    }
}

/// What one tap reads for the pixels from `first` on: rows of the input with zeros where it reads padding.
#[inline(always)]
fn fill_line(conv: &Conv, x: &[f32], tap: [usize; 3], first: usize, mut line: &mut [f32]) {
    let [_, out_height, out_width] = conv.output;
    let [in_depth, in_height, in_width] = conv.input;
    let offset = |axis: usize| (tap[axis] * conv.dilation[axis]) as isize - conv.pads[0][axis] as isize;
    let (mut row, mut col) = (first / out_width, first % out_width);
    let (shift, step) = (offset(2), conv.stride[2]);
    // Pixels of a row from `low` to `high` read inside the input.
    let low = (-shift).max(0) as usize;
    let low = low.div_ceil(step).min(out_width);
    let inside = (in_width as isize - shift).max(0) as usize;
    let high = inside.div_ceil(step).clamp(low, out_width);
    while !line.is_empty() {
        let count = (out_width - col).min(line.len());
        let (part, rest) = line.split_at_mut(count);
        line = rest;
        let depth = (row / out_height * conv.stride[0]) as isize + offset(0);
        let height = (row % out_height * conv.stride[1]) as isize + offset(1);
        let visible = (0..in_depth as isize).contains(&depth) && (0..in_height as isize).contains(&height);
        let (from, to) = (low.max(col).min(col + count), high.min(col + count));
        if !visible || from >= to {
            part.fill(0.0);
        } else {
            let x = &x[(depth as usize * in_height + height as usize) * in_width..][..in_width];
            part[..from - col].fill(0.0);
            part[to - col..].fill(0.0);
            let x = &x[((from * step) as isize + shift) as usize..];
            let part = &mut part[from - col..to - col];
            match step {
                1 => copy_short(&x[..part.len()], part),
                2 => {
                    let (last, part) = part.split_last_mut().expect("the row shows some of the input");
                    for (to, pair) in part.iter_mut().zip(x.as_chunks::<2>().0) {
                        *to = pair[0];
                    }
                    *last = x[2 * part.len()];
                }
                _ => {
                    for (j, to) in part.iter_mut().enumerate() {
                        *to = x[step * j];
                    }
                }
            }
        }
        (row, col) = (row + 1, 0);
    }
}

/// A copy without a call where it is short.
#[inline(always)]
fn copy_short(from: &[f32], to: &mut [f32]) {
    if from.len() >= 64 {
        return to.copy_from_slice(from);
    }
    for (to, &x) in to.iter_mut().zip(from) {
        *to = x;
    }
}
