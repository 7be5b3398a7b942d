//! How the elements of a stored weight lie: a few named layouts that can be undone and do not depend on the processor.
//!
//! The panels of a matrix of `n` outputs and `k` inputs are `[ceil(n / 16)][k][16]`: panel `i` holds outputs `16 i` to
//! `16 i + 15`, and for each input their 16 weights lie side by side, zeros where there is no output. One layout serves
//! matrix-vector and matrix-matrix products. Leading dimensions (the experts of a mixture) repeat it.
//!
//! | layout | from | bytes |
//! | --- | --- | --- |
//! | `row_major` | anything | as the tensor has |
//! | `transposed` | `[.., k, n]`, 4- or 2-byte floats | as the tensor has: `[.., n, k]` |
//! | `panel16` | `[.., n, k]`, 4- or 2-byte floats | `.. * ceil(n/16) * k * 16` elements |
//! | `panel16_kn` | `[.., k, n]`, 4- or 2-byte floats | the same panels |
//! | `panel_i8` | `[.., n, k]`, 1-byte integers | `.. * ceil(n/16) * ceil(k/4) * 64`: four inputs of an output side by side, u8 less 128 |
//! | `panel_i8_kn` | `[.., k, n]`, 1-byte integers | the same panels |
//! | `nibbles16` | u8 `[n, ..]`, two 4-bit codes a byte, rows of whole groups of 4 bytes | the panels of groups: input `j < 4` of a group's 8 in the low half of byte `j`, input `4 + j` in its high half |
//! | `conv16` | `[n, c, ..]`, 4- or 2-byte floats | the panels of `[n, c * ..]`: outputs of a convolution in blocks of 16 |

use ir::DType;

/// Outputs in a panel.
pub const PANEL: usize = 16;
/// Inputs of one output that lie side by side in `panel_i8`.
const GROUP: usize = 4;

/// How elements lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// The last dimension is contiguous.
    RowMajor,
    /// `[.., n, k]`, from `[.., k, n]`.
    Transposed,
    /// Panels of 16 rows, from `[.., n, k]`.
    Panel16,
    /// Panels of 16 columns, from `[.., k, n]`.
    Panel16Kn,
    /// Panels of 16 rows with groups of four inputs, from `[.., n, k]` of 1-byte integers.
    PanelI8,
    /// Panels of 16 columns with groups of four inputs, from `[.., k, n]` of 1-byte integers.
    PanelI8Kn,
    /// Panels of 16 rows with groups of eight 4-bit inputs, from u8 `[n, ..]`.
    Nibbles16,
    /// Panels of 16 filters, from `[n, c, ..]`.
    Conv16,
}

/// A batch of matrices of `n` outputs and `k` inputs: what a layout makes of dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// How many matrices.
    pub batch: usize,
    /// Outputs of each.
    pub n: usize,
    /// Inputs of each.
    pub k: usize,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Layout; 8] = [
        Layout::RowMajor,
        Layout::Transposed,
        Layout::Panel16,
        Layout::Panel16Kn,
        Layout::PanelI8,
        Layout::PanelI8Kn,
        Layout::Nibbles16,
        Layout::Conv16,
    ];

    /// The word in a plan.
    pub fn name(self) -> &'static str {
        match self {
            Layout::RowMajor => "row_major",
            Layout::Transposed => "transposed",
            Layout::Panel16 => "panel16",
            Layout::Panel16Kn => "panel16_kn",
            Layout::PanelI8 => "panel_i8",
            Layout::PanelI8Kn => "panel_i8_kn",
            Layout::Nibbles16 => "nibbles16",
            Layout::Conv16 => "conv16",
        }
    }

    /// The layout a word stands for.
    pub fn from_name(word: &str) -> Option<Layout> {
        Layout::ALL.into_iter().find(|l| l.name() == word)
    }

    /// The matrices of such a tensor; `None` when the layout does not apply to it, and for row-major.
    pub fn matrix(self, dtype: DType, dims: &[usize]) -> Option<Matrix> {
        let float = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
        let byte = matches!(dtype, DType::I8 | DType::U8);
        let [lead @ .., a, b] = dims else { return None };
        let batch = lead.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        let row = dims[1..].iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        match self {
            Layout::RowMajor => None,
            Layout::Panel16 => float.then_some(Matrix { batch, n: *a, k: *b }),
            Layout::Panel16Kn | Layout::Transposed => float.then_some(Matrix { batch, n: *b, k: *a }),
            Layout::PanelI8 => byte.then_some(Matrix { batch, n: *a, k: *b }),
            Layout::PanelI8Kn => byte.then_some(Matrix { batch, n: *b, k: *a }),
            Layout::Nibbles16 => {
                let k = row?;
                (dtype == DType::U8 && k.is_multiple_of(GROUP)).then_some(Matrix { batch: 1, n: dims[0], k })
            }
            Layout::Conv16 => float.then_some(Matrix { batch: 1, n: dims[0], k: row? }),
        }
    }

    /// Bytes of such a tensor in this layout; `None` when the layout does not apply, for text, and beyond memory.
    pub fn bytes(self, dtype: DType, dims: &[usize]) -> Option<usize> {
        if dtype == DType::Str {
            return None;
        }
        if self == Layout::RowMajor {
            return Some(dtype.bytes(ir::tensor::count(dims).ok()?));
        }
        let Matrix { batch, n, k } = self.matrix(dtype, dims)?;
        if self == Layout::Transposed {
            return Layout::RowMajor.bytes(dtype, dims);
        }
        let k = if self.groups_bytes() { k.checked_next_multiple_of(GROUP)? } else { k };
        let rows = n.checked_next_multiple_of(PANEL)?;
        ir::tensor::count(&[batch, rows, k]).ok().map(|elements| dtype.bytes(elements))
    }

    /// Rearranges row-major bytes; `None` when the layout does not apply or the length is wrong.
    pub fn pack(self, dtype: DType, dims: &[usize], row_major: &[u8]) -> Option<Vec<u8>> {
        self.rearrange(dtype, dims, row_major, Direction::Pack)
    }

    /// The inverse of [`Layout::pack`].
    pub fn unpack(self, dtype: DType, dims: &[usize], packed: &[u8]) -> Option<Vec<u8>> {
        self.rearrange(dtype, dims, packed, Direction::Unpack)
    }

    fn rearrange(self, dtype: DType, dims: &[usize], from: &[u8], direction: Direction) -> Option<Vec<u8>> {
        let plain = Layout::RowMajor.bytes(dtype, dims)?;
        let packed = self.bytes(dtype, dims)?;
        let (needed, made) = match direction {
            Direction::Pack => (plain, packed),
            Direction::Unpack => (packed, plain),
        };
        if from.len() != needed {
            return None;
        }
        if self == Layout::RowMajor || plain == 0 {
            return Some(from.to_vec());
        }
        let matrix = self.matrix(dtype, dims)?;
        let mut to = vec![0; made];
        let (from_each, to_each) = (needed / matrix.batch, made / matrix.batch);
        if self.groups_bytes() {
            let flip = if dtype == DType::U8 { 0x80 } else { 0 };
            for (from, to) in from.chunks_exact(from_each).zip(to.chunks_exact_mut(to_each)) {
                self.move_bytes(matrix, flip, from, to, direction);
            }
            return Some(to);
        }
        if self == Layout::Nibbles16 {
            let groups = Matrix { k: matrix.k / GROUP, ..matrix };
            let from: Vec<u8> = match direction {
                Direction::Pack => from.as_chunks().0.iter().flat_map(|g| interleave(*g)).collect(),
                Direction::Unpack => from.to_vec(),
            };
            Layout::Panel16.move_elements::<GROUP>(groups, &from, &mut to, direction);
            if direction == Direction::Unpack {
                to.as_chunks_mut().0.iter_mut().for_each(|g| *g = deinterleave(*g));
            }
            return Some(to);
        }
        if self == Layout::Transposed {
            let (rows, columns) = match direction {
                Direction::Pack => (matrix.k, matrix.n),
                Direction::Unpack => (matrix.n, matrix.k),
            };
            for (from, to) in from.chunks_exact(from_each).zip(to.chunks_exact_mut(to_each)) {
                match dtype.bits() / 8 {
                    4 => transpose::<4>(rows, columns, from, to),
                    _ => transpose::<2>(rows, columns, from, to),
                }
            }
            return Some(to);
        }
        for (from, to) in from.chunks_exact(from_each).zip(to.chunks_exact_mut(to_each)) {
            match dtype.bits() / 8 {
                4 => self.move_elements::<4>(matrix, from, to, direction),
                _ => self.move_elements::<2>(matrix, from, to, direction),
            }
        }
        Some(to)
    }

    /// Moves the elements of one matrix, panel by panel.
    fn move_elements<const W: usize>(self, m: Matrix, from: &[u8], to: &mut [u8], direction: Direction) {
        let (from, _) = from.as_chunks::<W>();
        let (to, _) = to.as_chunks_mut::<W>();
        for panel in 0..m.n.div_ceil(PANEL) {
            let rows = panel * PANEL..m.n.min((panel + 1) * PANEL);
            for input in 0..m.k {
                for row in rows.clone() {
                    let plain = if self == Layout::Panel16Kn { input * m.n + row } else { row * m.k + input };
                    let packed = self.packed_index(m, panel, input, row % PANEL);
                    match direction {
                        Direction::Pack => to[packed] = from[plain],
                        Direction::Unpack => to[plain] = from[packed],
                    }
                }
            }
        }
    }

    fn packed_index(self, m: Matrix, panel: usize, input: usize, row: usize) -> usize {
        if self.groups_bytes() {
            let groups = m.k.div_ceil(GROUP);
            return ((panel * groups + input / GROUP) * PANEL + row) * GROUP + input % GROUP;
        }
        (panel * m.k + input) * PANEL + row
    }

    /// As `move_elements`, for bytes; unsigned ones are stored with the top bit flipped.
    fn move_bytes(self, m: Matrix, flip: u8, from: &[u8], to: &mut [u8], direction: Direction) {
        for panel in 0..m.n.div_ceil(PANEL) {
            let rows = panel * PANEL..m.n.min((panel + 1) * PANEL);
            for input in 0..m.k {
                for row in rows.clone() {
                    let plain = if self == Layout::PanelI8Kn { input * m.n + row } else { row * m.k + input };
                    let packed = self.packed_index(m, panel, input, row % PANEL);
                    match direction {
                        Direction::Pack => to[packed] = from[plain] ^ flip,
                        Direction::Unpack => to[plain] = from[packed] ^ flip,
                    }
                }
            }
        }
    }

    /// Whether four inputs of an output lie side by side.
    fn groups_bytes(self) -> bool {
        matches!(self, Layout::PanelI8 | Layout::PanelI8Kn)
    }
}

/// `to[columns, rows]` of `from[rows, columns]`, by squares that fit the cache nearest to the processor.
fn transpose<const W: usize>(rows: usize, columns: usize, from: &[u8], to: &mut [u8]) {
    const SQUARE: usize = 32;
    let (from, _) = from.as_chunks::<W>();
    let (to, _) = to.as_chunks_mut::<W>();
    for row in (0..rows).step_by(SQUARE) {
        for column in (0..columns).step_by(SQUARE) {
            for c in column..columns.min(column + SQUARE) {
                for r in row..rows.min(row + SQUARE) {
                    to[c * rows + r] = from[r * columns + c];
                }
            }
        }
    }
}

/// Eight 4-bit codes in order, moved to halves of bytes 0..4 (the first four) and the other halves (the last four).
fn interleave(group: [u8; GROUP]) -> [u8; GROUP] {
    let code = |i: usize| group[i / 2] >> (i % 2 * 4) & 15;
    std::array::from_fn(|j| code(j) | code(GROUP + j) << 4)
}

/// The inverse of [`interleave`].
fn deinterleave(group: [u8; GROUP]) -> [u8; GROUP] {
    let code = |i: usize| group[i % GROUP] >> (i / GROUP * 4) & 15;
    std::array::from_fn(|j| code(2 * j) | code(2 * j + 1) << 4)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Pack,
    Unpack,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_can_be_undone() {
        let cases = [
            (Layout::RowMajor, DType::I64, vec![3, 5]),
            (Layout::Transposed, DType::F32, vec![33, 70]),
            (Layout::Transposed, DType::F16, vec![2, 3, 5]),
            (Layout::Panel16, DType::F32, vec![33, 7]),
            (Layout::Panel16, DType::BF16, vec![2, 3, 16, 5]),
            (Layout::Panel16Kn, DType::F16, vec![4, 9, 19]),
            (Layout::PanelI8, DType::I8, vec![17, 6]),
            (Layout::PanelI8, DType::U8, vec![3, 17, 6]),
            (Layout::PanelI8Kn, DType::U8, vec![9, 18]),
            (Layout::Nibbles16, DType::U8, vec![19, 3, 8]),
            (Layout::Nibbles16, DType::U8, vec![2, 4]),
            (Layout::Conv16, DType::F32, vec![20, 3, 5, 5]),
            (Layout::Panel16, DType::F32, vec![0, 7]),
        ];
        for (layout, dtype, dims) in cases {
            let len = Layout::RowMajor.bytes(dtype, &dims).unwrap();
            let plain: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let packed = layout.pack(dtype, &dims, &plain).unwrap();
            assert_eq!(Some(packed.len()), layout.bytes(dtype, &dims));
            assert_eq!(layout.unpack(dtype, &dims, &packed).unwrap(), plain, "{layout:?} {dims:?}");
        }
    }

    #[test]
    fn a_panel_holds_sixteen_outputs_side_by_side() {
        let plain: Vec<u8> = (0..34u8).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let packed = Layout::Panel16.pack(DType::F32, &[17, 2], &plain).unwrap();
        let packed: Vec<f32> = packed.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(&packed[..3], [0.0, 2.0, 4.0]);
        assert_eq!(&packed[16..19], [1.0, 3.0, 5.0]);
        assert_eq!(&packed[32..34], [32.0, 0.0]);
    }

    #[test]
    fn transposed_matrices_have_columns_for_rows() {
        let plain: Vec<u8> = (0..6u8).flat_map(|i| [i, 0]).collect();
        let packed = Layout::Transposed.pack(DType::F16, &[2, 3], &plain).unwrap();
        assert_eq!(packed, [0u8, 3, 1, 4, 2, 5].map(|i| [i, 0]).as_flattened());
    }

    #[test]
    fn a_group_of_eight_codes_is_split_into_low_and_high_halves() {
        let packed = Layout::Nibbles16.pack(DType::U8, &[1, 4], &[0x10, 0x32, 0x54, 0x76]).unwrap();
        assert_eq!(packed[..4], [0x40, 0x51, 0x62, 0x73]);
        assert!(packed[4..].iter().all(|b| *b == 0));
    }

    #[test]
    fn unsigned_bytes_are_stored_less_128() {
        let packed = Layout::PanelI8Kn.pack(DType::U8, &[2, 1], &[128, 130]).unwrap();
        assert_eq!(packed[..4], [0, 2, 0, 0]);
    }

    #[test]
    fn a_layout_that_does_not_apply_says_so() {
        assert_eq!(Layout::Nibbles16.bytes(DType::U8, &[4, 3, 2]), None);
        assert_eq!(Layout::Panel16.bytes(DType::I64, &[4, 4]), None);
        assert_eq!(Layout::Panel16.bytes(DType::F32, &[4]), None);
        assert_eq!(Layout::RowMajor.bytes(DType::F32, &[1 << 40, 1 << 40]), None);
    }
}
