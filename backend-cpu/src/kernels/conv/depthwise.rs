//! Convolution with one input channel per filter, plane by plane.
//!
//! A plane is first copied into a [`Frame`]. Filters of usual sizes then slide down a strip of 16 or 32 columns: each
//! input row is loaded once per column of the filter and added to the sums of all outputs that it belongs to. Other filters
//! are applied tap by tap to the whole frame.

use super::frame::{Frame, SLACK};
use super::{Conv, ConvEpilogue};
use crate::kernels::gemm::simd::{Kernel, Simd};
use crate::kernels::pack::PANEL;
use crate::kernels::pool::{MatMut, Pool, Tile};

/// Outputs that a task aims at.
const TASK_ELEMS: usize = 1 << 14;
/// Vectors that are summed at a time, tap by tap.
const BLOCK: usize = SLACK / PANEL;

/// Filters that slide: height, width, and the strides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filter {
    Square3([usize; 2]),
    Square5([usize; 2]),
    Square7,
    Any,
}

impl Filter {
    fn new(conv: &Conv) -> Filter {
        let strides = [conv.stride[1], conv.stride[2]];
        let known = matches!(strides, [1, 1] | [2, 1] | [2, 2]) && conv.dilation[1..] == [1, 1];
        match (conv.kernel[1], conv.kernel[2]) {
            (3, 3) if known => Filter::Square3(strides),
            (5, 5) if known => Filter::Square5(strides),
            (7, 7) if known && strides == [1, 1] => Filter::Square7,
            _ => Filter::Any,
        }
    }
}

/// The frame of a plane, and elements for the sums of all its outputs where taps are applied one by one.
fn parts(conv: &Conv) -> (Frame, usize) {
    let frame = Frame::new(conv, 0..conv.output[1]);
    let sums = if Filter::new(conv) == Filter::Any { conv.output[1] * frame.pitch + BLOCK * PANEL } else { 0 };
    (frame, sums)
}

/// Scratch elements per thread.
pub(super) fn scratch(conv: &Conv) -> usize {
    let (frame, sums) = parts(conv);
    frame.elems + sums
}

/// Whether the zeros of a thread's frame were written.
#[derive(Default)]
struct Zeroed(bool);

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
    let unit = filters * conv.pixels();
    let per_task = (TASK_ELEMS / unit.max(1)).clamp(1, planes.div_ceil(pool.threads()).max(1));
    let rows = MatMut::new(y, planes, unit, unit);
    let ((frame, sums), filter) = (parts(conv), Filter::new(conv));
    pool.tiles(rows, [per_task, unit], scratch, |scratch, zeroed: &mut Zeroed, y| {
        let (memory, rest) = scratch.split_at_mut(frame.elems);
        if !zeroed.0 {
            memory.fill(0.0);
            zeroed.0 = true;
        }
        let task = Planes { conv, frame, x, weights, epilogue, y, memory, sums: &mut rest[..sums] };
        // Code of its own for each filter: together they would leave the compiler short of registers.
        match filter {
            Filter::Square3([1, _]) => pool.isa().run(Task::<3, 1, 1>(task)),
            Filter::Square3([_, 1]) => pool.isa().run(Task::<3, 2, 1>(task)),
            Filter::Square3(_) => pool.isa().run(Task::<3, 2, 2>(task)),
            Filter::Square5([1, _]) => pool.isa().run(Task::<5, 1, 1>(task)),
            Filter::Square5([_, 1]) => pool.isa().run(Task::<5, 2, 1>(task)),
            Filter::Square5(_) => pool.isa().run(Task::<5, 2, 2>(task)),
            Filter::Square7 => pool.isa().run(Task::<7, 1, 1>(task)),
            Filter::Any => pool.isa().run(Task::<0, 0, 0>(task)),
        }
    });
}

/// Some planes, each under all its filters.
struct Planes<'a, 'y> {
    conv: &'a Conv,
    frame: Frame,
    x: &'a [f32],
    weights: &'a [f32],
    epilogue: &'a ConvEpilogue<'a>,
    y: Tile<'y, f32>,
    memory: &'a mut [f32],
    sums: &'a mut [f32],
}

/// Planes under square filters of some size that move so many rows down and columns across; of size 0 any.
struct Task<'a, 'y, const SIZE: usize, const DOWN: usize, const ACROSS: usize>(Planes<'a, 'y>);

impl<const SIZE: usize, const DOWN: usize, const ACROSS: usize> Kernel for Task<'_, '_, SIZE, DOWN, ACROSS> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Planes { conv, frame, x, weights, epilogue, mut y, memory, sums } = self.0;
        let (in_plane, out_plane, taps, filters) =
            (conv.input_pixels(), conv.pixels(), conv.taps(), conv.out_per_group());
        let (low, high) = epilogue.clamp();
        for i in 0..y.rows {
            let plane = y.row + i;
            frame.fill(simd, conv, &x[plane * in_plane..][..in_plane], memory);
            for (f, y) in y.row(i).chunks_exact_mut(out_plane).enumerate() {
                let channel = plane % conv.groups * filters + f;
                let at = (plane * filters + f) * out_plane;
                let mut output = Output {
                    simd,
                    width: conv.output[2],
                    bias: simd.splat(epilogue.bias(channel)),
                    bounds: [simd.splat(low), simd.splat(high)],
                    residual: epilogue.residual.map(|r| &r[at..][..out_plane]),
                    y,
                };
                let weights = &weights[channel * taps..][..taps];
                match SIZE {
                    0 => tap_by_tap(conv, frame, memory, weights, sums, &mut output),
                    _ => slide::<S, SIZE, DOWN, ACROSS>(frame, memory, weights, &mut output),
                }
                epilogue.finish_activation(output.y);
            }
        }
    }
}

/// One plane of the output, and what is done to its sums.
struct Output<'a, S: Simd> {
    simd: S,
    width: usize,
    bias: S::V,
    bounds: [S::V; 2],
    residual: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl<S: Simd> Output<'_, S> {
    /// Finishes and stores 16 sums of row `row` from column `col` on. Those past the row's end land where the next row
    /// begins, so its first columns must be stored later.
    #[inline(always)]
    fn store(&mut self, sum: S::V, row: usize, col: usize) {
        let (simd, at) = (self.simd, row * self.width + col);
        let mut sum = simd.add(sum, self.bias);
        if let Some(residual) = self.residual {
            sum = simd.add(sum, simd.load_part(&residual[at..]));
        }
        // The machine's min and max keep a NaN in their second operand.
        let [low, high] = self.bounds;
        sum = simd.min(high, simd.max(low, sum));
        let y = &mut self.y[at..];
        match y.first_chunk_mut::<PANEL>() {
            Some(y) => simd.store(sum, y),
            None => simd.store_part(sum, y),
        }
    }
}

/// A square filter slides down strips of the frame, from right to left.
#[inline(always)]
fn slide<S: Simd, const SIZE: usize, const DOWN: usize, const ACROSS: usize>(
    frame: Frame,
    memory: &[f32],
    weights: &[f32],
    output: &mut Output<'_, S>,
) {
    let mut strips = output.width.div_ceil(PANEL);
    if S::WIDE {
        while strips >= 2 {
            strips -= 2;
            strip::<S, SIZE, DOWN, ACROSS, 2>(frame, memory, weights, strips * PANEL, output);
        }
    }
    while strips > 0 {
        strips -= 1;
        strip::<S, SIZE, DOWN, ACROSS, 1>(frame, memory, weights, strips * PANEL, output);
    }
}

/// The outputs of `16 * VECTORS` columns from `col` on.
#[inline(always)]
fn strip<S: Simd, const SIZE: usize, const DOWN: usize, const ACROSS: usize, const VECTORS: usize>(
    frame: Frame,
    memory: &[f32],
    weights: &[f32],
    col: usize,
    output: &mut Output<'_, S>,
) {
    let simd = output.simd;
    let weights: [[S::V; SIZE]; SIZE] =
        std::array::from_fn(|h| std::array::from_fn(|w| simd.splat(weights[h * SIZE + w])));
    // Outputs that an input row belongs to; `sums[j]` are those of the output `j` rows above the newest.
    let open = SIZE.div_ceil(DOWN);
    let mut sums = [[simd.splat(0.0); VECTORS]; SIZE];
    for row in 0..frame.rows {
        for h in 0..DOWN {
            for part in 0..ACROSS {
                let start = frame.part(h, part) + row * frame.pitch + col;
                let line = &memory[start..][..VECTORS * PANEL + SIZE.div_ceil(ACROSS)];
                for w in (part..SIZE).step_by(ACROSS) {
                    let x: [S::V; VECTORS] = std::array::from_fn(|v| {
                        simd.load(line[v * PANEL + w / ACROSS..].first_chunk().expect("a vector of the line"))
                    });
                    for j in 0..open {
                        if j * DOWN + h < SIZE {
                            for v in 0..VECTORS {
                                sums[j][v] = simd.fma(weights[j * DOWN + h][w], x[v], sums[j][v]);
                            }
                        }
                    }
                }
            }
        }
        if row + 1 >= open {
            for (v, sum) in sums[open - 1].iter().enumerate() {
                output.store(*sum, row + 1 - open, col + v * PANEL);
            }
        }
        for j in (1..open).rev() {
            sums[j] = sums[j - 1];
        }
        sums[0] = [simd.splat(0.0); VECTORS];
    }
}

/// Any filter: all outputs as one line of sums, each tap added in turn.
#[inline(always)]
fn tap_by_tap<S: Simd>(
    conv: &Conv,
    frame: Frame,
    memory: &[f32],
    weights: &[f32],
    sums: &mut [f32],
    output: &mut Output<'_, S>,
) {
    let (height, width) = (conv.output[1], conv.output[2]);
    let vectors = (height * frame.pitch).div_ceil(PANEL);
    let mut vector = 0;
    while vector < vectors {
        let sums = &mut sums[vector * PANEL..];
        if vectors - vector >= BLOCK {
            block::<S, BLOCK>(output.simd, conv, frame, &memory[vector * PANEL..], weights, sums);
            vector += BLOCK;
        } else {
            block::<S, 1>(output.simd, conv, frame, &memory[vector * PANEL..], weights, sums);
            vector += 1;
        }
    }
    for row in 0..height {
        for col in (0..width).step_by(PANEL) {
            let sum = sums[row * frame.pitch + col..].first_chunk().expect("room follows the sums");
            output.store(output.simd.load(sum), row, col);
        }
    }
}

/// The first `16 * VECTORS` sums of a line, of the pixels from the start of `memory` on.
#[inline(always)]
fn block<S: Simd, const VECTORS: usize>(
    simd: S,
    conv: &Conv,
    frame: Frame,
    memory: &[f32],
    weights: &[f32],
    to: &mut [f32],
) {
    let mut sums = [simd.splat(0.0); VECTORS];
    frame.taps(conv, |tap, start| {
        let weight = simd.splat(weights[tap]);
        for (sum, x) in sums.iter_mut().zip(memory[start..][..VECTORS * PANEL].as_chunks::<PANEL>().0) {
            *sum = simd.fma(weight, simd.load(x), *sum);
        }
    });
    for (sum, to) in sums.iter().zip(to.as_chunks_mut::<PANEL>().0) {
        simd.store(*sum, to);
    }
}
