//! Gather and scatter in their three forms: along an axis, element by element, and by index tuples.
//!
//! Indices come from data, so each is checked; a bad one ends the kernel with an [`IndexError`] that names it. A
//! negative index counts from the end, as in ONNX.

use super::pack::{Layout, PANEL};

/// An index outside its dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("index {index} (element {position} of the indices) is outside a dimension of size {size}")]
pub struct IndexError {
    /// Where it stands among the indices.
    pub position: usize,
    /// The index.
    pub index: i64,
    /// The size of the dimension it indexes.
    pub size: usize,
}

/// Integer types that index.
pub trait Index: Copy + Into<i64> {}
impl Index for i32 {}
impl Index for i64 {}

#[inline(always)]
fn resolve(index: i64, size: usize, position: usize) -> Result<usize, IndexError> {
    let place = if index < 0 { index + size as i64 } else { index };
    if (0..size as i64).contains(&place) { Ok(place as usize) } else { Err(IndexError { position, index, size }) }
}

/// The shape of a gather along an axis: the input is `[outer, size, inner]`.
#[derive(Clone, Copy, Debug)]
pub struct GatherShape {
    /// Size of the axis.
    pub size: usize,
    /// Bytes of one index of the axis: the dimensions after it times the element size.
    pub row_bytes: usize,
}

/// Copies the rows that `indices` name into `to`, which holds the output rows from number `first` on; the output is
/// `[outer, indices, row]`.
pub fn gather<I: Index>(
    shape: GatherShape,
    from: &[u8],
    indices: &[I],
    to: &mut [u8],
    first: usize,
) -> Result<(), IndexError> {
    let GatherShape { size, row_bytes } = shape;
    if row_bytes == 0 {
        return Ok(());
    }
    for (i, to) in to.chunks_exact_mut(row_bytes).enumerate() {
        let (outer, position) = ((first + i) / indices.len(), (first + i) % indices.len());
        let place = resolve(indices[position].into(), size, position)?;
        copy(&from[(outer * size + place) * row_bytes..][..row_bytes], to);
    }
    Ok(())
}

/// Copies the rows that `indices` name of a matrix stored as panels.
pub fn gather_panels<T: Copy, I: Index>(
    shape: PanelRows,
    from: &[T],
    indices: &[I],
    to: &mut [T],
) -> Result<(), IndexError> {
    let PanelRows { rows, n, k } = shape;
    let (size, width) = match rows {
        Layout::Nk => (n, k),
        Layout::Kn => (k, n),
    };
    if width == 0 {
        return Ok(());
    }
    for (position, to) in to.chunks_exact_mut(width).enumerate() {
        let place = resolve(indices[position].into(), size, position)?;
        match rows {
            Layout::Nk => {
                let panel = &from[place / PANEL * PANEL * k..][..PANEL * k];
                for (to, row) in to.iter_mut().zip(panel.as_chunks::<PANEL>().0) {
                    *to = row[place % PANEL];
                }
            }
            Layout::Kn => {
                for (panel, to) in to.chunks_mut(PANEL).enumerate() {
                    to.copy_from_slice(&from[(panel * k + place) * PANEL..][..to.len()]);
                }
            }
        }
    }
    Ok(())
}

/// A packed matrix of `n` outputs and `k` inputs whose rows are gathered.
#[derive(Clone, Copy, Debug)]
pub struct PanelRows {
    /// The matrix before packing: rows are outputs, or inputs.
    pub rows: Layout,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Copies a few bytes without a call where their number is that of one element.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8]) {
    match from.len() {
        4 => to[..4].copy_from_slice(&from[..4]),
        8 => to[..8].copy_from_slice(&from[..8]),
        _ => to.copy_from_slice(from),
    }
}

/// Shape of an element-wise gather or scatter along an axis. Dimensions before the axis and after it may be smaller in
/// the indices than in the data.
#[derive(Clone, Copy, Debug)]
pub struct ElementsShape<'a> {
    /// Shape of the data.
    pub dims: &'a [usize],
    /// Shape of the indices, of the same rank.
    pub index_dims: &'a [usize],
    /// The axis.
    pub axis: usize,
}

impl ElementsShape<'_> {
    /// Calls `visit(position, place)` for each index in order: its position, and the element of the data it names.
    fn visit<I: Index>(&self, indices: &[I], mut visit: impl FnMut(usize, usize)) -> Result<(), IndexError> {
        let strides = super::dims::dense_strides(self.dims);
        let mut others = strides.clone();
        if let Some(stride) = others.get_mut(self.axis) {
            *stride = 0;
        }
        let mut walk = super::dims::Walk::new(self.index_dims, [&others], 0);
        for (position, &index) in indices.iter().enumerate() {
            let place = resolve(index.into(), self.dims[self.axis], position)?;
            visit(position, walk.offsets[0] + place * strides[self.axis]);
            walk.step();
        }
        Ok(())
    }
}

/// `to[i] = from[.., indices[i], ..]` along the axis. Elements are moved as `T` of their size.
pub fn gather_elements<T: Copy, I: Index>(
    shape: ElementsShape<'_>,
    from: &[T],
    indices: &[I],
    to: &mut [T],
) -> Result<(), IndexError> {
    shape.visit(indices, |position, place| to[position] = from[place])
}

/// `to[.., indices[i], ..] = join(to[.., indices[i], ..], updates[i])` along the axis; `to` holds the data.
pub fn scatter_elements<T: Copy, I: Index>(
    shape: ElementsShape<'_>,
    indices: &[I],
    updates: &[T],
    to: &mut [T],
    join: impl Fn(T, T) -> T,
) -> Result<(), IndexError> {
    shape.visit(indices, |position, place| to[place] = join(to[place], updates[position]))
}

/// Shape of a gather or scatter by index tuples.
#[derive(Clone, Copy, Debug)]
pub struct TupleShape<'a> {
    /// Shape of the data.
    pub dims: &'a [usize],
    /// Leading dimensions that data and indices share.
    pub batch_dims: usize,
    /// Length of a tuple.
    pub tuple: usize,
    /// Tuples per batch index.
    pub tuples: usize,
}

impl TupleShape<'_> {
    /// Elements that one tuple names.
    pub fn slice_len(&self) -> usize {
        self.dims[self.batch_dims + self.tuple..].iter().product()
    }

    /// Calls `visit(i, start)` for each tuple: its number, and the first element that it names.
    fn visit<I: Index>(&self, indices: &[I], mut visit: impl FnMut(usize, usize)) -> Result<(), IndexError> {
        let strides = super::dims::dense_strides(self.dims);
        let batch_len: usize = self.dims[self.batch_dims..].iter().product();
        let count = self.dims[..self.batch_dims].iter().product::<usize>() * self.tuples;
        for i in 0..count {
            let mut start = i / self.tuples * batch_len;
            for (j, &index) in indices[i * self.tuple..][..self.tuple].iter().enumerate() {
                let axis = self.batch_dims + j;
                start += resolve(index.into(), self.dims[axis], i * self.tuple + j)? * strides[axis];
            }
            visit(i, start);
        }
        Ok(())
    }
}

/// Copies the slices that the tuples name.
pub fn gather_nd<T: Copy, I: Index>(
    shape: TupleShape<'_>,
    from: &[T],
    indices: &[I],
    to: &mut [T],
) -> Result<(), IndexError> {
    let len = shape.slice_len();
    shape.visit(indices, |i, start| to[i * len..][..len].copy_from_slice(&from[start..start + len]))
}

/// Joins the slices of `updates` to those of `to` that the tuples name; `to` holds the data.
pub fn scatter_nd<T: Copy, I: Index>(
    shape: TupleShape<'_>,
    indices: &[I],
    updates: &[T],
    to: &mut [T],
    join: impl Fn(T, T) -> T,
) -> Result<(), IndexError> {
    let len = shape.slice_len();
    shape.visit(indices, |i, start| {
        for (to, &update) in to[start..start + len].iter_mut().zip(&updates[i * len..][..len]) {
            *to = join(*to, update);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_are_gathered(outer in 0usize..4, size in 1usize..6, inner in 0usize..5, picks in prop::collection::vec(any::<i16>(), 0..7)) {
            let indices: Vec<i64> = picks.iter().map(|&p| p as i64 % size as i64).collect();
            let from: Vec<u32> = (0..outer * size * inner).map(|i| i as u32).collect();
            let mut to = vec![0u32; outer * indices.len() * inner];
            let shape = GatherShape { size, row_bytes: inner * 4 };
            gather(shape, bytemuck::cast_slice(&from), &indices, bytemuck::cast_slice_mut(&mut to), 0).unwrap();
            for (at, &to) in to.iter().enumerate() {
                let (o, p, i) = (at / inner / indices.len(), at / inner % indices.len(), at % inner);
                let place = indices[p].rem_euclid(size as i64) as usize;
                prop_assert_eq!(to, from[(o * size + place) * inner + i]);
            }
        }
    }

    #[test]
    fn rows_come_back_from_panels() {
        let (n, k) = (21, 18);
        for rows in [Layout::Nk, Layout::Kn] {
            let plain: Vec<u16> = (0..n * k).map(|i| i as u16).collect();
            let mut panels = vec![0; crate::kernels::pack::panel_elems(n, k)];
            crate::kernels::pack::pack_panels(&plain, n, k, rows, &mut panels);
            let width = if rows == Layout::Nk { k } else { n };
            let mut to = vec![0; 3 * width];
            gather_panels(PanelRows { rows, n, k }, &panels, &[17i64, 0, -1], &mut to).unwrap();
            let last = plain.len() / width - 1;
            for (to, row) in to.chunks_exact(width).zip([17, 0, last]) {
                assert_eq!(to, &plain[row * width..][..width]);
            }
            assert!(gather_panels(PanelRows { rows, n, k }, &panels, &[99i32], &mut to).is_err());
        }
    }

    #[test]
    fn a_bad_index_is_named() {
        let error = gather(GatherShape { size: 2, row_bytes: 1 }, &[1, 2], &[0i32, -3], &mut [0, 0], 0);
        assert_eq!(error, Err(IndexError { position: 1, index: -3, size: 2 }));
        assert_eq!(
            error.unwrap_err().to_string(),
            "index -3 (element 1 of the indices) is outside a dimension of size 2"
        );
        assert!(gather(GatherShape { size: 0, row_bytes: 4 }, &[], &[0i64], &mut [0; 4], 0).is_err());
    }

    #[test]
    fn elements_follow_the_onnx_example() {
        let shape = ElementsShape { dims: &[3, 3], index_dims: &[2, 3], axis: 0 };
        let mut to = [0; 6];
        gather_elements(shape, &[1, 2, 3, 4, 5, 6, 7, 8, 9], &[1i64, 2, 0, 2, 0, 0], &mut to).unwrap();
        assert_eq!(to, [4, 8, 3, 7, 2, 3]);

        let shape = ElementsShape { dims: &[3, 3], index_dims: &[2, 3], axis: 0 };
        let mut to = [0.0; 9];
        scatter_elements(shape, &[1i64, 0, 2, 0, 2, 1], &[1.0, 1.1, 1.2, 2.0, 2.1, 2.2], &mut to, |_, u| u).unwrap();
        assert_eq!(to, [2.0, 1.1, 0.0, 1.0, 0.0, 2.2, 0.0, 2.1, 1.2]);

        let shape = ElementsShape { dims: &[1, 5], index_dims: &[1, 2], axis: 1 };
        let mut to = [1.0, 2.0, 3.0, 4.0, 5.0];
        scatter_elements(shape, &[1i64, 1], &[1.1, 2.1], &mut to, |a, u| a + u).unwrap();
        assert_eq!(to, [1.0, 5.2, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn tuples_follow_the_onnx_examples() {
        let data = [0, 1, 2, 3, 4, 5, 6, 7];
        let mut to = [0; 4];
        let shape = TupleShape { dims: &[2, 2, 2], batch_dims: 1, tuple: 1, tuples: 1 };
        gather_nd(shape, &data, &[1i64, 0], &mut to).unwrap();
        assert_eq!(to, [2, 3, 4, 5]);

        let mut to = [1, 2, 3, 4, 5, 6, 7, 8];
        let shape = TupleShape { dims: &[8], batch_dims: 0, tuple: 1, tuples: 4 };
        scatter_nd(shape, &[4i64, 3, 1, 7], &[9, 10, 11, 12], &mut to, |_, u| u).unwrap();
        assert_eq!(to, [1, 11, 3, 10, 9, 6, 7, 12]);
    }
}
