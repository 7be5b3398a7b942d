//! Dimension arithmetic shared by the kernels: strides, and merging dimensions that one stride walks through.
//!
//! Adding a bias `[64, 1, 1]` to `[8, 64, 32, 32]` is, after merging, a walk over `[8, 64, 1024]` with strides
//! `[65536, 1024, 1]` and `[0, 1, 0]`.

use smallvec::SmallVec;

/// One number per dimension; on the stack up to rank 8.
pub type Dims = SmallVec<[usize; 8]>;

/// Element strides of a dense row-major tensor.
pub fn dense_strides(dims: &[usize]) -> Dims {
    let mut strides: Dims = SmallVec::from_elem(1, dims.len());
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i];
    }
    strides
}

/// Element strides with which an operand of shape `from` is read at the shape `to` it broadcasts to (0 where repeated).
pub fn broadcast_strides(from: &[usize], to: &[usize]) -> Dims {
    let dense = dense_strides(from);
    let missing = to.len() - from.len();
    (0..to.len()).map(|i| if i < missing || from[i - missing] == 1 { 0 } else { dense[i - missing] }).collect()
}

/// Shape and, per operand, strides after dropping dimensions of size 1 and merging neighbours that every operand
/// walks with one stride. A scalar becomes one dimension of size 1; an empty tensor one of size 0.
pub fn merge<const N: usize>(dims: &[usize], strides: [&[usize]; N]) -> (Dims, [Dims; N]) {
    let mut merged = Dims::new();
    let mut merged_strides: [Dims; N] = std::array::from_fn(|_| Dims::new());
    if dims.contains(&0) {
        merged.push(0);
        merged_strides.iter_mut().for_each(|s| s.push(0));
        return (merged, merged_strides);
    }
    for (i, &dim) in dims.iter().enumerate() {
        if dim == 1 {
            continue;
        }
        let last = merged.len().wrapping_sub(1);
        let joins = !merged.is_empty() && (0..N).all(|n| merged_strides[n][last] == strides[n][i] * dim);
        if joins {
            merged[last] *= dim;
            (0..N).for_each(|n| merged_strides[n][last] = strides[n][i]);
        } else {
            merged.push(dim);
            (0..N).for_each(|n| merged_strides[n].push(strides[n][i]));
        }
    }
    if merged.is_empty() {
        merged.push(1);
        merged_strides.iter_mut().for_each(|s| s.push(0));
    }
    (merged, merged_strides)
}

/// A position in a tensor of shape `dims`, with the element offset it has under each of several strides.
#[derive(Clone, Debug)]
pub struct Walk<'a, const N: usize> {
    dims: &'a [usize],
    strides: [&'a [usize]; N],
    at: Dims,
    /// Element offset of the position under each strides.
    pub offsets: [usize; N],
}

impl<'a, const N: usize> Walk<'a, N> {
    /// Stands at the row-major position `start`.
    pub fn new(dims: &'a [usize], strides: [&'a [usize]; N], start: usize) -> Self {
        let mut at: Dims = SmallVec::from_elem(0, dims.len());
        let mut offsets = [0; N];
        let mut rest = start;
        for i in (0..dims.len()).rev() {
            let dim = dims[i].max(1);
            at[i] = rest % dim;
            rest /= dim;
            (0..N).for_each(|n| offsets[n] += at[i] * strides[n][i]);
        }
        Walk { dims, strides, at, offsets }
    }

    /// Moves to the next position; wraps at the end.
    #[inline]
    pub fn step(&mut self) {
        self.advance(self.dims.len());
    }

    /// Moves on by `count` along the last dimension, which must have so many positions left.
    #[inline]
    pub fn skip_inner(&mut self, count: usize) {
        let Some(last) = self.dims.len().checked_sub(1) else {
            return;
        };
        self.at[last] += count;
        (0..N).for_each(|n| self.offsets[n] += count * self.strides[n][last]);
        if self.at[last] == self.dims[last] {
            (0..N).for_each(|n| self.offsets[n] -= self.dims[last] * self.strides[n][last]);
            self.at[last] = 0;
            self.advance(last);
        }
    }

    /// The first stride of the last dimension; 0 for a scalar.
    #[inline]
    pub fn inner_stride(&self) -> usize {
        self.strides[0].last().copied().unwrap_or(0)
    }

    /// Positions left in the last dimension, this one included.
    #[inline]
    pub fn inner_left(&self) -> usize {
        match self.dims.len() {
            0 => 1,
            rank => self.dims[rank - 1] - self.at[rank - 1],
        }
    }

    #[inline]
    fn advance(&mut self, rank: usize) {
        for i in (0..rank).rev() {
            self.at[i] += 1;
            (0..N).for_each(|n| self.offsets[n] += self.strides[n][i]);
            if self.at[i] < self.dims[i] {
                return;
            }
            (0..N).for_each(|n| self.offsets[n] -= self.at[i] * self.strides[n][i]);
            self.at[i] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bias_over_an_image_merges_to_three_dimensions() {
        let dims = [8, 64, 32, 32];
        let (dense, bias) = (dense_strides(&dims), broadcast_strides(&[64, 1, 1], &dims));
        let (merged, strides) = merge(&dims, [&dense, &bias]);
        assert_eq!(merged.as_slice(), [8, 64, 1024]);
        assert_eq!(strides[1].as_slice(), [0, 1, 0]);
    }

    #[test]
    fn a_walk_visits_row_major_order() {
        let dims = [2, 3];
        let mut walk = Walk::new(&dims, [&[1, 2]], 1);
        let offsets: Vec<usize> = (0..6)
            .map(|_| {
                let o = walk.offsets[0];
                walk.step();
                o
            })
            .collect();
        assert_eq!(offsets, [2, 4, 1, 3, 5, 0]);
    }

    #[test]
    fn scalars_and_empty_tensors_have_one_dimension() {
        assert_eq!(merge(&[], [&[]]).0.as_slice(), [1]);
        assert_eq!(merge(&[3, 0], [&[0, 1]]).0.as_slice(), [0]);
    }
}
