//! Concatenation, and padding, of tensors of any element type.

use super::dims::{Dims, dense_strides};

/// One operand of a concatenation: its dense bytes, and how many of them belong to one index of the dimensions before
/// the axis.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The tensor.
    pub bytes: &'a [u8],
    /// Bytes per outer index: the product of its dimensions from the axis on, times the element size.
    pub stride: usize,
}

/// Joins `parts` along an axis into outer indices `first ..` of the output, as many as `to` holds.
pub fn concat(parts: &[Part<'_>], to: &mut [u8], first: usize) {
    let stride: usize = parts.iter().map(|part| part.stride).sum();
    if stride == 0 {
        return;
    }
    for (i, mut to) in to.chunks_exact_mut(stride).enumerate() {
        for part in parts {
            let (head, tail) = to.split_at_mut(part.stride);
            head.copy_from_slice(&part.bytes[(first + i) * part.stride..][..part.stride]);
            to = tail;
        }
    }
}

/// What padding is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PadMode {
    /// A given element.
    Constant,
    /// The nearest element of the tensor.
    Edge,
    /// The tensor mirrored, its edge not repeated.
    Reflect,
    /// The tensor repeated.
    Wrap,
}

impl PadMode {
    /// Which element of a dimension of size `n` position `at` shows; none where the fill shows.
    fn source(self, at: isize, n: usize) -> Option<usize> {
        let n = n as isize;
        if (0..n).contains(&at) {
            return Some(at as usize);
        }
        match self {
            PadMode::Constant => None,
            _ if n == 0 => None,
            PadMode::Edge => Some(at.clamp(0, n - 1) as usize),
            PadMode::Wrap => Some(at.rem_euclid(n) as usize),
            PadMode::Reflect if n == 1 => Some(0),
            PadMode::Reflect => {
                let period = 2 * (n - 1);
                let at = at.rem_euclid(period);
                Some(at.min(period - at) as usize)
            }
        }
    }
}

/// Padding of a tensor of shape `dims`: output position `p` of dimension `i` shows input position `p - before[i]`.
/// Negative `before` crops.
#[derive(Clone, Debug)]
pub struct Padding<'a> {
    /// Shape of the input.
    pub dims: &'a [usize],
    /// Shape of the output, of the same rank.
    pub out_dims: &'a [usize],
    /// Elements added before each dimension.
    pub before: &'a [isize],
    /// What is added.
    pub mode: PadMode,
    /// Bytes of an element.
    pub element_bytes: usize,
}

impl Padding<'_> {
    /// Pads `from` into `to`; `fill` is one element.
    pub fn run(&self, from: &[u8], fill: &[u8], to: &mut [u8]) {
        let strides: Dims = dense_strides(self.dims).iter().map(|s| s * self.element_bytes).collect();
        if self.dims.is_empty() {
            to.copy_from_slice(from);
            return;
        }
        self.level(0, &strides, from, Some(0), fill, to);
    }

    /// Writes the output below one index of the first `axis` dimensions; `base` is where that index lies in the input.
    fn level(&self, axis: usize, strides: &[usize], from: &[u8], base: Option<usize>, fill: &[u8], to: &mut [u8]) {
        let Some(base) = base else {
            to.chunks_exact_mut(self.element_bytes).for_each(|to| to.copy_from_slice(fill));
            return;
        };
        let count = self.out_dims[axis];
        if axis + 1 == self.dims.len() {
            return self.innermost(axis, from, base, fill, to);
        }
        let unit = to.len() / count.max(1);
        if unit == 0 {
            return;
        }
        for (i, to) in to.chunks_exact_mut(unit).enumerate() {
            let source = self.mode.source(i as isize - self.before[axis], self.dims[axis]);
            self.level(axis + 1, strides, from, source.map(|s| base + s * strides[axis]), fill, to);
        }
    }

    fn innermost(&self, axis: usize, from: &[u8], base: usize, fill: &[u8], to: &mut [u8]) {
        let (size, before, n) = (self.element_bytes, self.before[axis], self.dims[axis]);
        let count = self.out_dims[axis];
        // The middle shows the input itself.
        let start = before.clamp(0, count as isize) as usize;
        let end = (before + n as isize).clamp(start as isize, count as isize) as usize;
        if end > start {
            let first = base + (start as isize - before) as usize * size;
            to[start * size..end * size].copy_from_slice(&from[first..][..(end - start) * size]);
        }
        for i in (0..start).chain(end..count) {
            let element = match self.mode.source(i as isize - before, n) {
                Some(s) => &from[base + s * size..][..size],
                None => fill,
            };
            to[i * size..][..size].copy_from_slice(element);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_alternate_per_outer_index() {
        let parts = [Part { bytes: &[1, 2, 3, 4], stride: 2 }, Part { bytes: &[9, 8], stride: 1 }];
        let mut to = [0; 6];
        concat(&parts, &mut to, 0);
        assert_eq!(to, [1, 2, 9, 3, 4, 8]);
        let mut last = [0; 3];
        concat(&parts, &mut last, 1);
        assert_eq!(last, [3, 4, 8]);
        concat(&[Part { bytes: &[], stride: 0 }], &mut [], 0);
    }

    #[test]
    fn modes_show_what_numpy_shows() {
        let x: Vec<u8> = vec![1, 2, 3];
        let row = |mode| {
            let mut y = vec![0; 9];
            Padding { dims: &[3], out_dims: &[9], before: &[4], mode, element_bytes: 1 }.run(&x, &[7], &mut y);
            y
        };
        assert_eq!(row(PadMode::Constant), [7, 7, 7, 7, 1, 2, 3, 7, 7]);
        assert_eq!(row(PadMode::Edge), [1, 1, 1, 1, 1, 2, 3, 3, 3]);
        assert_eq!(row(PadMode::Reflect), [1, 2, 3, 2, 1, 2, 3, 2, 1]);
        assert_eq!(row(PadMode::Wrap), [3, 1, 2, 3, 1, 2, 3, 1, 2]);
    }

    proptest! {
        #[test]
        fn padding_agrees_with_the_definition(pads in prop::collection::vec((0usize..4, -2isize..4, 0usize..4), 1..4), mode in 0usize..4) {
            let mode = [PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap][mode];
            let dims: Vec<usize> = pads.iter().map(|p| p.0).collect();
            let before: Vec<isize> = pads.iter().map(|p| p.1).collect();
            let out: Vec<usize> = pads.iter().map(|p| (p.0 as isize + p.1 + p.2 as isize).max(0) as usize).collect();
            let x: Vec<u16> = (1..=dims.iter().product::<usize>() as u16).collect();
            let mut y = vec![0u16; out.iter().product()];
            let padding = Padding { dims: &dims, out_dims: &out, before: &before, mode, element_bytes: 2 };
            padding.run(bytemuck::cast_slice(&x), bytemuck::bytes_of(&999u16), bytemuck::cast_slice_mut(&mut y));
            let (strides, out_strides) = (dense_strides(&dims), dense_strides(&out));
            for (at, &y) in y.iter().enumerate() {
                let place: Option<usize> = (0..dims.len())
                    .map(|i| mode.source((at / out_strides[i] % out[i]) as isize - before[i], dims[i]).map(|s| s * strides[i]))
                    .sum();
                prop_assert_eq!(y, place.map_or(999, |p| x[p]));
            }
        }
    }
}
