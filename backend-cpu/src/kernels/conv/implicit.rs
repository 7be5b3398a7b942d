//! Convolution as a matrix product over panels of weights, its other operand gathered tile by tile.
//!
//! A task owns some pixels of one image and group, for all or some output channels. It gathers the receptive fields of
//! its pixels into its scratch once and multiplies them by every panel. Vectors hold 16 pixels of one channel
//! (`pixel_lanes`), so that sums are stored as NCHW wants them; or, for images of so few pixels that lanes would idle,
//! 16 channels of one pixel (`channel_lanes`).

use super::{Conv, ConvEpilogue, channel_lanes, pixel_lanes};
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
    /// Panels of 16 pixels, each `[k][16]`, `stride` apart; the last one has idle lanes.
    Panels { stride: usize },
}

/// Gathers the receptive fields of `pixels` (first, count) to their `places`.
#[inline(always)]
pub(super) fn gather(conv: &Conv, x: &[f32], pixels: [usize; 2], places: Places, line: &mut [f32], to: &mut [f32]) {
    let [first, count] = pixels;
    let plane = conv.input_pixels();
    let pointwise = conv.taps() == 1 && conv.stride == [1; 3] && conv.pads == [[0; 3]; 2];
    let mut k = 0;
    for channel in 0..conv.in_per_group() {
        let x = &x[channel * plane..][..plane];
        if pointwise {
            spread(&x[first..], count, places, k, to);
            k += 1;
            continue;
        }
        for depth in 0..conv.kernel[0] {
            for height in 0..conv.kernel[1] {
                for width in 0..conv.kernel[2] {
                    fill_line(conv, x, [depth, height, width], first, &mut line[..count]);
                    spread(line, count, places, k, to);
                    k += 1;
                }
            }
        }
    }
}

/// Writes input `k` of `count` pixels to its place in each tile.
#[inline(always)]
pub(super) fn spread(line: &[f32], count: usize, places: Places, k: usize, to: &mut [f32]) {
    let (rows, stride) = match places {
        Places::Tiles { rows, stride } => (rows, stride),
        Places::Panels { stride } => (PANEL, stride),
    };
    for (t, first) in (0..count).step_by(rows).enumerate() {
        let height = rows.min(count - first);
        let width = if let Places::Tiles { .. } = places { height } else { PANEL };
        let to = &mut to[t * stride + k * width..];
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
