//! Convolution with one input channel per filter, plane by plane.
//!
//! A plane is first copied into a frame: zeros stand around it, and pixels that a stride keeps apart are parted, so that
//! what a tap reads for neighbouring outputs lies side by side. Filters of usual sizes then slide down a strip of
//! 16 or 32 columns: each input row is loaded once per column of the filter, and each of its rows adds it to the sums of
//! the output that it belongs to. Other filters are applied tap by tap to the whole frame.

use super::{Conv, ConvEpilogue};
use crate::kernels::gemm::simd::{Kernel, Simd};
use crate::kernels::pack::PANEL;
use crate::kernels::pool::{MatMut, Pool, Tile};

/// Outputs that a task aims at.
const TASK_ELEMS: usize = 1 << 14;
/// Vectors that are summed at a time, tap by tap.
const BLOCK: usize = 4;

/// Where the pixels of a padded plane lie: rows and columns are dealt out to `steps[0] * steps[1]` parts.
#[derive(Clone, Copy)]
struct Frame {
    steps: [usize; 2],
    rows: usize,
    /// Elements from one row of a part to the next.
    pitch: usize,
    /// Elements of all parts, and of what may be read past their end.
    elems: usize,
    /// Elements for the sums of all outputs, `pitch` apart from row to row.
    sums: usize,
}

impl Frame {
    fn new(conv: &Conv) -> Frame {
        let [_, out_height, out_width] = conv.output;
        let steps = [conv.stride[1], conv.stride[2]];
        let reach = [1, 2].map(|axis| conv.dilation[axis] * (conv.kernel[axis] - 1) / conv.stride[axis]);
        let (rows, pitch) = (out_height + reach[0], out_width + reach[1]);
        let slack = BLOCK * PANEL + reach[1];
        let elems = steps[0] * steps[1] * rows * pitch + slack;
        let sums = if Filter::new(conv) == Filter::Any { out_height * pitch + slack } else { 0 };
        Frame { steps, rows, pitch, elems, sums }
    }

    /// The first element of the part that holds row `row` and column `col` of the padded plane, and their place in it.
    #[inline(always)]
    fn part(&self, row: usize, col: usize) -> usize {
        (row * self.steps[1] + col) * self.rows * self.pitch
    }

    /// Copies a plane to its place among the zeros.
    #[inline(always)]
    fn fill<S: Simd>(&self, simd: S, conv: &Conv, x: &[f32], frame: &mut [f32]) {
        let in_width = conv.input[2];
        let [top, left] = [conv.pads[0][1], conv.pads[0][2]];
        let step = self.steps[1];
        for part in 0..step {
            // The first column of the plane that is in this part.
            let first = (part + step - left % step) % step;
            let col = (first + left) / step;
            if first >= in_width || col >= self.pitch {
                continue;
            }
            let count = (in_width - first).div_ceil(step).min(self.pitch - col);
            let (mut to_part, mut to_row) = (top % self.steps[0], top / self.steps[0]);
            for x in x.chunks_exact(in_width) {
                if to_row >= self.rows {
                    break;
                }
                let to = self.part(to_part, part) + to_row * self.pitch + col;
                take(simd, &x[first..], step, &mut frame[to..][..count]);
                to_part += 1;
                if to_part == self.steps[0] {
                    (to_part, to_row) = (0, to_row + 1);
                }
            }
        }
    }
}

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

/// Scratch elements per thread.
pub(super) fn scratch(conv: &Conv) -> usize {
    let frame = Frame::new(conv);
    frame.elems + frame.sums
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
    let (frame, filter) = (Frame::new(conv), Filter::new(conv));
    pool.tiles(rows, [per_task, unit], scratch, |scratch, zeroed: &mut Zeroed, y| {
        let (memory, rest) = scratch.split_at_mut(frame.elems);
        if !zeroed.0 {
            memory.fill(0.0);
            zeroed.0 = true;
        }
        let task = Planes { conv, frame, x, weights, epilogue, y, memory, sums: &mut rest[..frame.sums] };
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
            for v in 0..VECTORS {
                output.store(sums[open - 1][v], row + 1 - open, col + v * PANEL);
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
    let [down, across] = frame.steps;
    let mut sums = [simd.splat(0.0); VECTORS];
    for (h, weights) in weights.chunks_exact(conv.kernel[2]).enumerate() {
        let row = h * conv.dilation[1];
        let start = row / down * frame.pitch;
        let (mut part, mut col) = (0, 0);
        for &weight in weights {
            let line = &memory[frame.part(row % down, part) + start + col..][..VECTORS * PANEL];
            let weight = simd.splat(weight);
            for (sum, x) in sums.iter_mut().zip(line.as_chunks::<PANEL>().0) {
                *sum = simd.fma(weight, simd.load(x), *sum);
            }
            part += conv.dilation[2];
            (part, col) = (part % across, col + part / across);
        }
    }
    for (sum, to) in sums.iter().zip(to.as_chunks_mut::<PANEL>().0) {
        simd.store(*sum, to);
    }
}

/// Every `step`-th element, as many as `to` has.
#[inline(always)]
fn take<S: Simd>(simd: S, from: &[f32], step: usize, to: &mut [f32]) {
    match step {
        1 => copy(&from[..to.len()], to),
        2 => {
            // Vectors overlap at the end.
            for start in (0..to.len()).step_by(PANEL) {
                let start = start.min(to.len().saturating_sub(PANEL));
                let from = &from[2 * start..];
                let (low, high) = from.split_at(from.len().min(PANEL));
                let evens = simd.evens(simd.load_part(low), simd.load_part(high));
                simd.store_part(evens, &mut to[start..]);
            }
        }
        _ => {
            for (i, to) in to.iter_mut().enumerate() {
                *to = from[step * i];
            }
        }
    }
}

/// A copy of exactly `to.len()` elements, by whole vectors that overlap at the end.
#[inline(always)]
pub(super) fn copy(from: &[f32], to: &mut [f32]) {
    match to.len() {
        PANEL.. => by_vectors::<PANEL>(from, to),
        8.. => by_vectors::<8>(from, to),
        4.. => by_vectors::<4>(from, to),
        _ => {
            for (to, &x) in to.iter_mut().zip(from) {
                *to = x;
            }
        }
    }
}

#[inline(always)]
fn by_vectors<const N: usize>(from: &[f32], to: &mut [f32]) {
    for (to, from) in to.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = *from;
    }
}
