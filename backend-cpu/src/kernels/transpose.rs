//! Copies a strided view of a tensor to dense memory: transpose, slice, expand and tile are each one such view.
//!
//! Elements are moved by size, whatever their type. A view whose innermost stride is 1 is copied run by run; one that
//! exchanges dimensions is copied in small square blocks, so that both sides use whole cache lines.

use bytemuck::{AnyBitPattern, NoUninit, cast_slice, cast_slice_mut};
use smallvec::SmallVec;

use super::dims::Dims;

/// Signed strides in elements.
type Strides = SmallVec<[isize; 8]>;

/// Side of the blocks in which dimensions are exchanged.
const BLOCK: usize = 16;

/// A view of a tensor that can be copied to a dense tensor of shape `dims`.
#[derive(Clone, Debug)]
pub struct View {
    dims: Dims,
    strides: Strides,
    offset: usize,
    /// Elements in the view.
    len: usize,
}

impl View {
    /// The view with these dimensions, element strides (0 repeats, negative walks backwards) and first element.
    pub fn new(dims: &[usize], strides: &[isize], offset: usize) -> View {
        let len = dims.iter().product();
        let mut view = View { dims: Dims::new(), strides: Strides::new(), offset, len };
        for (&dim, &stride) in dims.iter().zip(strides).filter(|&(&dim, _)| dim != 1) {
            let joins = view.strides.last().is_some_and(|&last| last == stride * dim as isize);
            match (view.dims.last_mut(), view.strides.last_mut()) {
                (Some(last_dim), Some(last_stride)) if joins => (*last_dim, *last_stride) = (*last_dim * dim, stride),
                _ => {
                    view.dims.push(dim);
                    view.strides.push(stride);
                }
            }
        }
        if view.dims.is_empty() {
            view.dims.push(1);
            view.strides.push(1);
        }
        view
    }

    /// A dense tensor of shape `dims` with dimension `permutation[i]` in place `i`.
    pub fn transposed(dims: &[usize], permutation: &[usize]) -> View {
        let strides = super::dims::dense_strides(dims);
        let shape: Dims = permutation.iter().map(|&p| dims[p]).collect();
        let permuted: Strides = permutation.iter().map(|&p| strides[p] as isize).collect();
        View::new(&shape, &permuted, 0)
    }

    /// From a dense tensor of shape `dims`: along each dimension `counts[i]` elements from `starts[i]` on, `steps[i]` apart.
    pub fn sliced(dims: &[usize], starts: &[usize], steps: &[isize], counts: &[usize]) -> View {
        let strides = super::dims::dense_strides(dims);
        let offset = starts.iter().zip(&strides).map(|(start, stride)| start * stride).sum();
        let stepped: Strides = steps.iter().zip(&strides).map(|(&step, &stride)| step * stride as isize).collect();
        View::new(counts, &stepped, offset)
    }

    /// A dense tensor of shape `dims` repeated `repeats[i]` times along each dimension.
    pub fn tiled(dims: &[usize], repeats: &[usize]) -> View {
        let strides = super::dims::dense_strides(dims);
        let shape: Dims = repeats.iter().zip(dims).flat_map(|(&r, &d)| [r, d]).collect();
        let repeated: Strides = strides.iter().flat_map(|&s| [0, s as isize]).collect();
        View::new(&shape, &repeated, 0)
    }

    /// Elements in the view.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the view has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements that belong to one index of the outermost merged dimension: ranges given to [`View::copy`] start at
    /// multiples of it.
    pub fn unit(&self) -> usize {
        self.dims[1..].iter().product::<usize>().max(1)
    }

    /// Copies the elements from row-major position `start` (a multiple of [`View::unit`]) on, as many as `to` holds
    /// (whole units). Elements have 1, 2, 4, 8 or 16 bytes and are aligned.
    ///
    /// # Panics
    /// When the view reaches outside `from`.
    pub fn copy(&self, element_bytes: usize, from: &[u8], to: &mut [u8], start: usize) {
        match element_bytes {
            1 => self.copy_elements::<u8>(from, to, start),
            2 => self.copy_elements::<u16>(cast_slice(from), cast_slice_mut(to), start),
            4 => self.copy_elements::<u32>(cast_slice(from), cast_slice_mut(to), start),
            8 => self.copy_elements::<u64>(cast_slice(from), cast_slice_mut(to), start),
            16 => self.copy_elements::<[u64; 2]>(cast_slice(from), cast_slice_mut(to), start),
            other => unreachable!("no element has {other} bytes"),
        }
    }

    fn copy_elements<T: AnyBitPattern + NoUninit>(&self, from: &[T], to: &mut [T], start: usize) {
        if to.is_empty() {
            return;
        }
        let first = start / self.unit();
        let offset = self.offset as isize + first as isize * self.strides[0];
        let mut dims = self.dims.clone();
        dims[0] = to.len() / self.unit();
        copy_level(from, offset, &dims, &self.strides, to);
    }
}

/// Copies a view of rank >= 1, outer dimensions by recursion.
fn copy_level<T: Copy>(from: &[T], offset: isize, dims: &[usize], strides: &[isize], to: &mut [T]) {
    match (dims, strides) {
        (&[count], &[stride]) => copy_run(from, offset, count, stride, to),
        (&[rows, cols], &[1, stride]) if stride != 0 => exchange(from, offset, rows, cols, stride, to),
        // The unit stride is two dimensions out: exchange it with the innermost one, plane by plane.
        (&[rows, planes, cols], &[1, plane_stride, stride]) if stride > 1 && plane_stride != 1 => {
            for row in (0..rows).step_by(BLOCK) {
                let count = BLOCK.min(rows - row);
                for plane in 0..planes {
                    let base = offset + row as isize + plane as isize * plane_stride;
                    let target = &mut to[(row * planes + plane) * cols..];
                    exchange_block(from, base, count, cols, stride, planes * cols, target);
                }
            }
        }
        _ => {
            let unit = to.len() / dims[0].max(1);
            for (i, to) in to.chunks_exact_mut(unit.max(1)).enumerate() {
                copy_level(from, offset + i as isize * strides[0], &dims[1..], &strides[1..], to);
            }
        }
    }
}

fn copy_run<T: Copy>(from: &[T], offset: isize, count: usize, stride: isize, to: &mut [T]) {
    let first = offset as usize;
    match stride {
        0 => to[..count].fill(from[first]),
        1 => to[..count].copy_from_slice(&from[first..first + count]),
        2.. => {
            for (to, &x) in to[..count].iter_mut().zip(from[first..].iter().step_by(stride as usize)) {
                *to = x;
            }
        }
        _ => {
            for (to, &x) in to[..count].iter_mut().zip(from[..=first].iter().rev().step_by(stride.unsigned_abs())) {
                *to = x;
            }
        }
    }
}

/// `to[r][c] = from[r + c * stride]`, in blocks.
fn exchange<T: Copy>(from: &[T], offset: isize, rows: usize, cols: usize, stride: isize, to: &mut [T]) {
    for row in (0..rows).step_by(BLOCK) {
        let count = BLOCK.min(rows - row);
        exchange_block(from, offset + row as isize, count, cols, stride, cols, &mut to[row * cols..]);
    }
}

/// `to[r * to_stride + c] = from[r + c * stride]` for at most [`BLOCK`] rows.
fn exchange_block<T: Copy>(
    from: &[T],
    offset: isize,
    rows: usize,
    cols: usize,
    stride: isize,
    to_stride: usize,
    to: &mut [T],
) {
    for col in (0..cols).step_by(BLOCK) {
        let count = BLOCK.min(cols - col);
        if rows == BLOCK && count == BLOCK {
            let mut block: [[T; BLOCK]; BLOCK] = std::array::from_fn(|c| {
                let first = (offset + (col + c) as isize * stride) as usize;
                *from[first..].first_chunk().expect("the view lies inside its tensor")
            });
            flip(&mut block);
            for (r, row) in block.iter().enumerate() {
                to[r * to_stride + col..][..BLOCK].copy_from_slice(row);
            }
            continue;
        }
        for c in col..col + count {
            let first = (offset + c as isize * stride) as usize;
            for (r, &x) in from[first..first + rows].iter().enumerate() {
                to[r * to_stride + c] = x;
            }
        }
    }
}

/// Transposes a block in place.
#[inline(always)]
fn flip<T: Copy>(block: &mut [[T; BLOCK]; BLOCK]) {
    for r in 1..BLOCK {
        let (above, row) = block.split_at_mut(r);
        for (c, above) in above.iter_mut().enumerate() {
            std::mem::swap(&mut row[0][c], &mut above[r]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(from: &[u32], dims: &[usize], strides: &[isize], offset: usize) -> Vec<u32> {
        let total: usize = dims.iter().product();
        let dense = super::super::dims::dense_strides(dims);
        (0..total)
            .map(|at| {
                let place: isize = (0..dims.len()).map(|i| (at / dense[i] % dims[i]) as isize * strides[i]).sum();
                from[(offset as isize + place) as usize]
            })
            .collect()
    }

    fn check(view: &View, from: &[u32], expected: &[u32]) {
        let mut to = vec![u32::MAX; expected.len()];
        view.copy(4, cast_slice(from), cast_slice_mut(&mut to), 0);
        assert_eq!(to, expected);
        // In two parts.
        let middle = view.unit() * (expected.len() / view.unit() / 2);
        let mut to = vec![u32::MAX; expected.len()];
        let (a, b) = to.split_at_mut(middle);
        view.copy(4, cast_slice(from), cast_slice_mut(a), 0);
        view.copy(4, cast_slice(from), cast_slice_mut(b), middle);
        assert_eq!(to, expected);
    }

    fn sized() -> impl Strategy<Value = usize> {
        prop_oneof![4 => 0usize..6, 1 => 15usize..40]
    }

    proptest! {
        #[test]
        fn every_permutation_is_copied(dims in prop::collection::vec(sized(), 1..5), order in prop::collection::vec(any::<u32>(), 5)) {
            let mut permutation: Vec<usize> = (0..dims.len()).collect();
            permutation.sort_by_key(|&i| order[i]);
            let total: usize = dims.iter().product();
            prop_assume!(total < 200_000);
            let from: Vec<u32> = (0..total as u32).collect();
            let strides = super::super::dims::dense_strides(&dims);
            let shape: Vec<usize> = permutation.iter().map(|&p| dims[p]).collect();
            let permuted: Vec<isize> = permutation.iter().map(|&p| strides[p] as isize).collect();
            check(&View::transposed(&dims, &permutation), &from, &naive(&from, &shape, &permuted, 0));
        }

        #[test]
        fn slices_step_both_ways(cuts in prop::collection::vec((1usize..9, any::<u8>(), 1isize..4, any::<bool>()), 1..4)) {
            let dims: Vec<usize> = cuts.iter().map(|c| c.0).collect();
            let starts: Vec<usize> = cuts.iter().map(|c| c.1 as usize % c.0).collect();
            let steps: Vec<isize> = cuts.iter().map(|c| if c.3 { -c.2 } else { c.2 }).collect();
            let counts: Vec<usize> = (0..dims.len()).map(|i| {
                if steps[i] > 0 { (dims[i] - starts[i]).div_ceil(steps[i] as usize) } else { starts[i] / steps[i].unsigned_abs() + 1 }
            }).collect();
            let from: Vec<u32> = (0..dims.iter().product::<usize>() as u32).collect();
            let dense = super::super::dims::dense_strides(&dims);
            let strides: Vec<isize> = (0..dims.len()).map(|i| steps[i] * dense[i] as isize).collect();
            let offset = (0..dims.len()).map(|i| starts[i] * dense[i]).sum();
            check(&View::sliced(&dims, &starts, &steps, &counts), &from, &naive(&from, &counts, &strides, offset));
        }
    }

    #[test]
    fn tiles_repeat() {
        check(&View::tiled(&[2, 2], &[2, 2]), &[1, 2, 3, 4], &[1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4]);
        check(&View::tiled(&[2], &[0]), &[1, 2], &[]);
    }

    #[test]
    fn expanding_repeats_with_stride_zero() {
        check(&View::new(&[3, 2], &[0, 1], 0), &[7, 8], &[7, 8, 7, 8, 7, 8]);
        check(&View::new(&[2, 3], &[1, 0], 0), &[7, 8], &[7, 7, 7, 8, 8, 8]);
    }

    #[test]
    fn elements_of_every_size_move() {
        for bytes in [1, 2, 4, 8, 16] {
            let words: Vec<u64> = (0..24).map(|i| i * 0x0101_0307_0905).collect();
            let from = &cast_slice::<u64, u8>(&words)[..12 * bytes];
            let mut to = vec![0u64; 24];
            View::transposed(&[3, 4], &[1, 0]).copy(bytes, from, &mut cast_slice_mut(&mut to)[..12 * bytes], 0);
            let to = cast_slice::<u64, u8>(&to);
            for (r, c) in (0..3).flat_map(|r| (0..4).map(move |c| (r, c))) {
                assert_eq!(to[(c * 3 + r) * bytes..][..bytes], from[(r * 4 + c) * bytes..][..bytes]);
            }
        }
    }
}
