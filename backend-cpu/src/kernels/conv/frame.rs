//! A padded plane in memory, laid out so that what a tap reads for neighbouring outputs lies side by side.
//!
//! Zeros stand around the pixels, and rows and columns that a stride keeps apart are dealt out to parts. With strides of 2, a
//! row of 7 pixels between two zeros becomes
//!
//! ```text
//! 0 1 2 3 4 5 6 7 0     0 2 4 6 0     1 3 5 7
//! ```

use super::Conv;
use crate::kernels::gemm::simd::Simd;
use crate::kernels::pack::PANEL;
use std::ops::Range;

/// Elements that may be read past the end of a frame, beside those that a tap shifts by.
pub(super) const SLACK: usize = 4 * PANEL;

/// Where the pixels lie that some rows of the output read.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    strides: [usize; 2],
    /// Parts that a tap reads, of those that the strides make.
    parts: [usize; 2],
    /// The first row in each part.
    first_row: usize,
    /// Rows of a part.
    pub(super) rows: usize,
    /// Elements from one row of a part to the next.
    pub(super) pitch: usize,
    /// Elements of all parts, and of what may be read past their end.
    pub(super) elems: usize,
}

impl Frame {
    /// The frame for some rows of the output of a convolution over planes.
    pub(super) fn new(conv: &Conv, rows: Range<usize>) -> Frame {
        let strides = [conv.stride[1], conv.stride[2]];
        let reach = [1, 2].map(|axis| conv.dilation[axis] * (conv.kernel[axis] - 1));
        let parts = [0, 1].map(|i| strides[i].min(reach[i] + 1));
        let pitch = conv.output[2] + reach[1] / strides[1];
        let count = rows.len() + reach[0] / strides[0];
        let elems = parts[0] * parts[1] * count * pitch + SLACK + reach[1];
        Frame { strides, parts, first_row: rows.start, rows: count, pitch, elems }
    }

    /// The first element of the part that holds row `row` and column `col` of the padded plane.
    #[inline(always)]
    pub(super) fn part(&self, row: usize, col: usize) -> usize {
        (row * self.parts[1] + col) * self.rows * self.pitch
    }

    /// The first element that each row of taps reads for output 0, then each tap of it: calls `tap` with its number and the element.
    #[inline(always)]
    pub(super) fn taps(&self, conv: &Conv, mut tap: impl FnMut(usize, usize)) {
        let [down, across] = self.strides;
        let mut number = 0;
        for h in 0..conv.kernel[1] {
            let row = h * conv.dilation[1];
            let start = row / down * self.pitch;
            let (mut part, mut col) = (0, 0);
            for _ in 0..conv.kernel[2] {
                tap(number, self.part(row % down, part) + start + col);
                number += 1;
                part += conv.dilation[2];
                while part >= across {
                    (part, col) = (part - across, col + 1);
                }
            }
        }
    }

    /// Copies a plane to its place among the zeros.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(&self, simd: S, conv: &Conv, x: &[f32], memory: &mut [f32]) {
        let in_width = conv.input[2];
        let [top, left] = [conv.pads[0][1], conv.pads[0][2]];
        let [down, across] = self.strides;
        // Rows of the plane that are in the frame.
        let low = (self.first_row * down).saturating_sub(top);
        let high = ((self.first_row + self.rows) * down).saturating_sub(top).min(conv.input[1]);
        for part in 0..self.parts[1] {
            // The first column of the plane that is in this part.
            let first = (part + across - left % across) % across;
            let col = (first + left) / across;
            if first >= in_width || col >= self.pitch {
                continue;
            }
            let count = (in_width - first).div_ceil(across).min(self.pitch - col);
            let mut to_part = (low + top) % down;
            let mut to_row = (low + top) / down - self.first_row;
            for row in low..high {
                if to_part < self.parts[0] {
                    let to = self.part(to_part, part) + to_row * self.pitch + col;
                    take(simd, &x[row * in_width + first..], across, &mut memory[to..][..count]);
                }
                to_part += 1;
                if to_part == down {
                    (to_part, to_row) = (0, to_row + 1);
                }
            }
        }
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
fn copy(from: &[f32], to: &mut [f32]) {
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
