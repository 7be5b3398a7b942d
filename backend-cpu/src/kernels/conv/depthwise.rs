//! Convolution with one input channel per filter, plane by plane.
//!
//! A plane is first copied into a frame of zeros whose rows have room to be read past their end, so that every output
//! row is whole vectors without special cases at the edges.

use super::{Conv, ConvEpilogue};
use crate::kernels::pool::{MatMut, Pool};
use crate::kernels::vectorise::{fma, vectorise};

/// Output pixels computed at a time.
const LANES: usize = 16;

/// Height and width of the frame, the width with room for whole vectors.
fn frame(conv: &Conv) -> [usize; 2] {
    let reach = |axis: usize, outputs: usize| {
        (outputs.max(1) - 1) * conv.stride[axis] + conv.dilation[axis] * (conv.kernel[axis].max(1) - 1) + 1
    };
    let whole = conv.output[2].next_multiple_of(LANES);
    [
        reach(1, conv.output[1]).max(conv.input[1] + conv.pads[0][1]),
        reach(2, whole).max(conv.input[2] + conv.pads[0][2]) + conv.stride[2],
    ]
}

/// Scratch elements per thread.
pub(super) fn scratch(conv: &Conv) -> usize {
    let [height, width] = frame(conv);
    height * width
}

pub(super) fn run(
    conv: &Conv,
    pool: &Pool,
    x: &[f32],
    weights: &[f32],
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    let (planes, filters) = (conv.batch * conv.groups, conv.out_per_group());
    let (in_plane, out_plane, taps) = (conv.input_pixels(), conv.pixels(), conv.taps());
    // A few planes per task: whole tasks are short.
    let per_task = (1 << 16) / (out_plane * filters).max(1);
    let per_task = per_task.clamp(1, planes.div_ceil(pool.threads()).max(1));
    let unit = filters * out_plane;
    let rows = MatMut::new(y, planes, unit, unit);
    pool.tiles(rows, [per_task, unit], scratch, |frame, _state: &mut (), mut y| {
        for i in 0..y.rows {
            let plane = y.row + i;
            let group = plane % conv.groups;
            let x = &x[plane * in_plane..][..in_plane];
            let weights = &weights[group * filters * taps..][..filters * taps];
            let y = y.row(i);
            plane_filters(conv, x, weights, y, frame);
            for (f, y) in y.chunks_exact_mut(out_plane).enumerate() {
                let at = plane * unit + f * out_plane;
                finish(epilogue, group * filters + f, at, y);
            }
        }
    });
}

vectorise! {
    fn finish<FMA>(epilogue: &ConvEpilogue<'_>, channel: usize, at: usize, y: &mut [f32]) {
        epilogue.finish(channel, at, y);
    }

    /// Each filter of one channel.
    fn plane_filters<FMA>(conv: &Conv, x: &[f32], weights: &[f32], y: &mut [f32], frame_memory: &mut [f32]) {
        let [height, width] = frame(conv);
        let frame = &mut frame_memory[..height * width];
        let [top, left] = [conv.pads[0][1], conv.pads[0][2]];
        let [_, in_height, in_width] = conv.input;
        for (row, to) in frame.chunks_exact_mut(width).enumerate() {
            let inside = row >= top && row < top + in_height;
            if !inside {
                to.fill(0.0);
                continue;
            }
            to[..left].fill(0.0);
            to[left..left + in_width].copy_from_slice(&x[(row - top) * in_width..][..in_width]);
            to[left + in_width..].fill(0.0);
        }
        let [_, out_height, out_width] = conv.output;
        let taps = conv.kernel[1] * conv.kernel[2];
        for (weights, y) in weights.chunks_exact(taps.max(1)).zip(y.chunks_exact_mut((out_height * out_width).max(1))) {
            for (row, y) in y.chunks_exact_mut(out_width.max(1)).enumerate() {
                let x = &frame[row * conv.stride[1] * width..];
                let tap_rows = conv.dilation[1] * width;
                match (conv.kernel[1], conv.kernel[2], conv.dilation[2], conv.stride[2]) {
                    (3, 3, 1, 1) => filter_row::<FMA, 3, 3, 1>(x, tap_rows, weights, y),
                    (3, 3, 1, 2) => filter_row::<FMA, 3, 3, 2>(x, tap_rows, weights, y),
                    (5, 5, 1, 1) => filter_row::<FMA, 5, 5, 1>(x, tap_rows, weights, y),
                    (5, 5, 1, 2) => filter_row::<FMA, 5, 5, 2>(x, tap_rows, weights, y),
                    (7, 7, 1, 1) => filter_row::<FMA, 7, 7, 1>(x, tap_rows, weights, y),
                    _ => filter_row_any::<FMA>(conv, x, tap_rows, weights, y),
                }
            }
        }
    }
}

/// One output row under a filter of fixed size.
#[inline(always)]
fn filter_row<const FMA: bool, const H: usize, const W: usize, const STEP: usize>(
    x: &[f32],
    tap_rows: usize,
    weights: &[f32],
    y: &mut [f32],
) {
    for (block, y) in y.chunks_mut(LANES).enumerate() {
        let first = block * LANES * STEP;
        let mut sums = [0f32; LANES];
        for h in 0..H {
            let row = &x[h * tap_rows + first..][..W + (LANES - 1) * STEP];
            for w in 0..W {
                let weight = weights[h * W + w];
                for j in 0..LANES {
                    sums[j] = fma::<FMA>(weight, row[w + j * STEP], sums[j]);
                }
            }
        }
        match y.first_chunk_mut::<LANES>() {
            Some(y) => *y = sums,
            None => y.copy_from_slice(&sums[..y.len()]),
        }
    }
}

/// One output row under any filter.
#[inline(always)]
fn filter_row_any<const FMA: bool>(conv: &Conv, x: &[f32], tap_rows: usize, weights: &[f32], y: &mut [f32]) {
    let (step, dilation, taps) = (conv.stride[2], conv.dilation[2], conv.kernel[2]);
    for (block, y) in y.chunks_mut(LANES).enumerate() {
        let first = block * LANES * step;
        let mut sums = [0f32; LANES];
        for (h, weights) in weights.chunks_exact(taps.max(1)).enumerate() {
            for (w, &weight) in weights.iter().enumerate() {
                let row = &x[h * tap_rows + first + w * dilation..][..(LANES - 1) * step + 1];
                if step == 1 {
                    for j in 0..LANES {
                        sums[j] = fma::<FMA>(weight, row[j], sums[j]);
                    }
                } else {
                    for j in 0..LANES {
                        sums[j] = fma::<FMA>(weight, row[j * step], sums[j]);
                    }
                }
            }
        }
        y.copy_from_slice(&sums[..y.len()]);
    }
}
