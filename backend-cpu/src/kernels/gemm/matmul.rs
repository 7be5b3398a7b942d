//! Batched products of matrices with any strides: attention scores and mixes, weights that stay row-major.
//!
//! With few rows the second operand is read in place, once: as dot products where `k` is contiguous, as sums of scaled
//! rows where `n` is. With more rows it pays to pack blocks of it as panels into the thread's scratch and to go on as
//! with packed weights.

use super::super::pack::PANEL;
use super::super::pool::{MatMut, Pool, Tile};
use super::simd::{Element, Kernel, Simd};
use super::tile::{Sums, pack_rows, tile_rows};
use super::{Epilogue, K_BLOCK, PACKED_ELEMS, Place, Ready, load_part, multiply, pack_row_tiles};

/// Rows up to which the second operand is read in place.
const DIRECT_ROWS: usize = 16;
/// Packed elements of the second operand per thread (at least 64 columns).
const B_ELEMS: usize = 1 << 17;

/// A grid of equal matrices in one slice, with any strides; a stride may be 0.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a, E> {
    /// The elements.
    pub data: &'a [E],
    /// From one matrix to the next, for the two batch axes of the output.
    pub batch_strides: [usize; 2],
    /// From one row to the next, from one column to the next.
    pub strides: [usize; 2],
}

impl<'a, E: Element> Strided<'a, E> {
    /// A dense row-major matrix of `cols` columns, the same for all of a batch.
    pub fn matrix(data: &'a [E], cols: usize) -> Self {
        Self { data, batch_strides: [0, 0], strides: [cols, 1] }
    }

    /// The transposed matrices.
    pub fn transposed(self) -> Self {
        Self { strides: [self.strides[1], self.strides[0]], ..self }
    }

    fn check(&self, batch: [usize; 2], [rows, cols]: [usize; 2]) {
        let axes = [
            (batch[0], self.batch_strides[0]),
            (batch[1], self.batch_strides[1]),
            (rows, self.strides[0]),
            (cols, self.strides[1]),
        ];
        if axes.iter().all(|&(count, _)| count > 0) {
            let last: usize = axes.iter().map(|&(count, stride)| (count - 1) * stride).sum();
            assert!(last < self.data.len(), "an operand needs {} elements, not {}", last + 1, self.data.len());
        }
    }

    /// The data from the first element of a matrix on.
    #[inline(always)]
    fn of(&self, batch: [usize; 2]) -> &'a [E] {
        self.data.get(batch[0] * self.batch_strides[0] + batch[1] * self.batch_strides[1]..).unwrap_or_default()
    }
}

#[derive(Clone, Copy)]
enum Path {
    Dot,
    Direct,
    Packed,
}

impl Path {
    fn new(m: usize, a: [usize; 2], b: [usize; 2]) -> Self {
        match (m <= DIRECT_ROWS, a, b) {
            (true, [_, 1], [1, _]) => Self::Dot,
            (true, _, [_, 1]) => Self::Direct,
            _ => Self::Packed,
        }
    }
}

/// Elements of scratch that [`matmul`] needs for `m x k` by `k x n`, whatever the strides and the batch.
pub fn matmul_scratch(pool: &Pool, m: usize, n: usize, k: usize) -> usize {
    let [rows, cols] = largest_block(m, n, k);
    // Whole vectors, so that every thread's columns are aligned where the caller's scratch is.
    pool.threads() * ((rows + cols) * k).next_multiple_of(PANEL)
}

/// `y = epilogue(a * b)` for each matrix of the batch: `a` is `m x k`, `b` is `k x n`, `y` is `m x n`.
///
/// # Panics
/// When an operand is too short for the shape, or `scratch` for [`matmul_scratch`], or the epilogue has a residual
/// and there is a batch.
pub fn matmul<E: Element>(
    pool: &Pool,
    k: usize,
    a: Strided<'_, f32>,
    b: Strided<'_, E>,
    epilogue: &Epilogue<'_>,
    y: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let (m, n, batch) = (y.rows(), y.cols(), y.batch());
    a.check(batch, [m, k]);
    b.check(batch, [k, n]);
    epilogue.check(m, n);
    assert!(epilogue.residual.is_none() || batch == [1, 1], "a batched product has no residual");
    let path = Path::new(m, a.strides, b.strides);
    let most = match path {
        Path::Dot | Path::Direct => [m, n.next_multiple_of(PANEL)],
        Path::Packed => largest_block(m, n, k),
    };
    assert!(!matches!(path, Path::Packed) || scratch.len() >= matmul_scratch(pool, m, n, k), "scratch is too short");
    let block = split(pool.threads(), batch[0] * batch[1], [m, n], most, matches!(path, Path::Packed));
    pool.tiles(y, block, scratch, |scratch, packed: &mut Packed, y| {
        pool.isa().run(Task { path, k, a, b, epilogue, block, y, scratch, packed });
    });
}

fn largest_block(m: usize, n: usize, k: usize) -> [usize; 2] {
    let rows = (PACKED_ELEMS / k.max(1)).clamp(48, 480).min(m);
    let cols = (B_ELEMS / k.max(1)).clamp(64, 2048) / 32 * 32;
    [rows, cols.min(n.next_multiple_of(PANEL))]
}

/// Halves blocks until there are a few for each thread.
fn split(threads: usize, batch: usize, [m, n]: [usize; 2], most: [usize; 2], split_rows: bool) -> [usize; 2] {
    let [mut rows, mut cols] = most;
    let tasks = |rows: usize, cols: usize| batch * m.div_ceil(rows.max(1)) * n.div_ceil(cols.max(1));
    while threads > 1 && tasks(rows, cols) < 3 * threads {
        if split_rows && rows > cols && rows > 24 {
            rows = rows.div_ceil(2).next_multiple_of(12);
        } else if cols > 2 * PANEL {
            cols = cols.div_ceil(2).next_multiple_of(2 * PANEL);
        } else {
            break;
        }
    }
    [rows, cols]
}

/// What a thread's scratch holds: rows of a matrix, columns of a matrix.
#[derive(Default)]
struct Packed {
    a: Option<([usize; 2], usize)>,
    b: Option<([usize; 2], usize)>,
}

struct Task<'a, 'y, E> {
    path: Path,
    k: usize,
    a: Strided<'a, f32>,
    b: Strided<'a, E>,
    epilogue: &'a Epilogue<'a>,
    block: [usize; 2],
    y: Tile<'y, f32>,
    scratch: &'a mut [f32],
    packed: &'a mut Packed,
}

impl<E: Element> Kernel for Task<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, simd: S) {
        match self.path {
            Path::Dot => self.dot(simd),
            Path::Direct => self.direct(simd),
            Path::Packed => self.pack_and_multiply(simd),
        }
    }
}

impl<E: Element> Task<'_, '_, E> {
    #[inline(always)]
    fn pack_and_multiply<S: Simd>(&mut self, simd: S) {
        let (k, y) = (self.k, &mut self.y);
        let (b_buffer, a_buffer) = self.scratch.split_at_mut(self.block[1].next_multiple_of(PANEL) * k);
        let rows = tile_rows::<S>(y.rows);
        let a_packed = &mut a_buffer[..y.rows * k];
        if self.packed.a != Some((y.batch, y.row)) {
            let a = self.a.of(y.batch);
            let [row_stride, col_stride] = self.a.strides;
            if col_stride == 1 {
                let at = |row: usize| &a[row * row_stride..][..k];
                pack_row_tiles(simd, at, k, [y.row, y.rows, rows], a_packed);
            } else if k > 0 {
                for (index, tile) in a_packed.chunks_mut(rows * k).enumerate() {
                    let count = tile.len() / k;
                    let first = (y.row + index * rows) * row_stride;
                    for (p, to) in tile.chunks_exact_mut(count).enumerate() {
                        for (row, to) in to.iter_mut().enumerate() {
                            *to = a[first + row * row_stride + p * col_stride];
                        }
                    }
                }
            }
            self.packed.a = Some((y.batch, y.row));
        }
        let panels = y.cols.div_ceil(PANEL);
        let b_packed = &mut b_buffer[..panels * PANEL * k];
        if self.packed.b != Some((y.batch, y.col)) {
            pack_columns(simd, self.b.of(y.batch), self.b.strides, k, [y.col, y.cols], b_packed);
            self.packed.b = Some((y.batch, y.col));
        }
        let source = Ready { panels: b_packed.as_chunks().0, k };
        multiply(simd, a_packed, rows, source, k, K_BLOCK, self.epilogue, y);
    }

    /// `k` is contiguous in both: four rows of `a` times four columns of `b` at a time.
    #[inline(always)]
    fn dot<S: Simd>(&mut self, simd: S) {
        let (k, y) = (self.k, &mut self.y);
        let (a, b) = (self.a.of(y.batch), self.b.of(y.batch));
        let a_row = |row: usize| &a[row * self.a.strides[0]..][..k];
        let b_col = |col: usize| &b[col * self.b.strides[1]..][..k];
        let mut sums: Sums = [[0.0; 16]; 24];
        // The same place of the next four columns: their lines are too short for the hardware to see a stream.
        let ahead = 4 * self.b.strides[1];
        for col in (0..y.cols).step_by(PANEL) {
            let width = PANEL.min(y.cols - col);
            for part in (0..width).step_by(4) {
                let columns = (width - part).min(4);
                let first = y.col + col + part;
                // A missing column repeats the last one; its sums are not stored.
                let b: [&[E]; 4] = [0, 1, 2, 3].map(|j: usize| b_col(first + j.min(columns - 1)));
                let mut row = 0;
                while row < y.rows {
                    let row0 = y.row + row;
                    row += match y.rows - row {
                        4.. => dots::<S, E, 4>(
                            simd,
                            [0, 1, 2, 3].map(|i| a_row(row0 + i)),
                            b,
                            ahead,
                            part,
                            &mut sums[row..],
                        ),
                        2.. => dots::<S, E, 2>(simd, [0, 1].map(|i| a_row(row0 + i)), b, ahead, part, &mut sums[row..]),
                        _ => dots::<S, E, 1>(simd, [a_row(row0)], b, ahead, part, &mut sums[row..]),
                    };
                }
            }
            let at = Place { row: 0, rows: y.rows, col, panels: 1, first: true, last: true };
            self.epilogue.store(simd, &sums, at, y);
        }
    }

    /// `n` is contiguous in `b`: rows of `b`, scaled by elements of `a`, are summed in registers.
    #[inline(always)]
    fn direct<S: Simd>(&mut self, simd: S) {
        let mut col = 0;
        while col < self.y.cols {
            let left = (self.y.cols - col) / PANEL;
            let mut row = 0;
            let mut panels = 1;
            while row < self.y.rows {
                let rows = self.y.rows - row;
                let mut sums: Sums = [[0.0; 16]; 24];
                let count;
                (count, panels) = match (rows, left) {
                    (4.., 4..) if S::WIDE => self.scaled_rows::<S, 4, 4>(simd, row, col, &mut sums),
                    (2.., 4..) if S::WIDE => self.scaled_rows::<S, 2, 4>(simd, row, col, &mut sums),
                    (_, 4..) => self.scaled_rows::<S, 1, 4>(simd, row, col, &mut sums),
                    (4.., _) => self.scaled_rows::<S, 4, 1>(simd, row, col, &mut sums),
                    (2.., _) => self.scaled_rows::<S, 2, 1>(simd, row, col, &mut sums),
                    _ => self.scaled_rows::<S, 1, 1>(simd, row, col, &mut sums),
                };
                let at = Place { row, rows: count, col, panels, first: true, last: true };
                self.epilogue.store(simd, &sums, at, &mut self.y);
                row += count;
            }
            col += panels * PANEL;
        }
    }

    #[inline(always)]
    fn scaled_rows<S: Simd, const ROWS: usize, const PANELS: usize>(
        &self,
        simd: S,
        row: usize,
        col: usize,
        sums: &mut Sums,
    ) -> (usize, usize) {
        let y = &self.y;
        let (a, b) = (self.a.of(y.batch), self.b.of(y.batch));
        let ([a_row, a_col], b_row) = (self.a.strides, self.b.strides[0]);
        let (a_start, b_start) = ((y.row + row) * a_row, y.col + col);
        let whole = y.cols - col >= PANELS * PANEL;
        let width = (y.cols - col).min(PANELS * PANEL);
        let mut acc = [[simd.splat(0.0); PANELS]; ROWS];
        for p in 0..self.k {
            let b = &b[p * b_row + b_start..][..width];
            let mut w = [simd.splat(0.0); PANELS];
            if whole {
                let (b, _) = b.as_chunks::<PANEL>();
                for panel in 0..PANELS {
                    w[panel] = E::load(simd, &b[panel]);
                }
            } else {
                let mut all = [E::ZERO; PANEL];
                all[..width].copy_from_slice(b);
                w[0] = E::load(simd, &all);
            }
            for r in 0..ROWS {
                let x = simd.splat(a[a_start + r * a_row + p * a_col]);
                for panel in 0..PANELS {
                    acc[r][panel] = simd.fma(x, w[panel], acc[r][panel]);
                }
            }
        }
        for r in 0..ROWS {
            for panel in 0..PANELS {
                simd.store(acc[r][panel], &mut sums[r * PANELS + panel]);
            }
        }
        (ROWS, PANELS)
    }
}

/// Dot products of `ROWS` rows and four columns of equal length, stored at `part` of each row of sums; columns are
/// asked for `ahead` elements before they are read.
#[inline(always)]
fn dots<S: Simd, E: Element, const ROWS: usize>(
    simd: S,
    a: [&[f32]; ROWS],
    b: [&[E]; 4],
    ahead: usize,
    part: usize,
    sums: &mut [[f32; 16]],
) -> usize {
    let k = b[0].len();
    let mut acc = [[simd.splat(0.0); 4]; ROWS];
    for p in (0..k / 16 * 16).step_by(16) {
        let mut w = [simd.splat(0.0); 4];
        for j in 0..4 {
            w[j] = E::load(simd, b[j][p..].first_chunk().expect("a whole chunk"));
            simd.prefetch(b[j].as_ptr().wrapping_add(p + ahead));
        }
        for row in 0..ROWS {
            let x = simd.load(a[row][p..].first_chunk().expect("a whole chunk"));
            for j in 0..4 {
                acc[row][j] = simd.fma(x, w[j], acc[row][j]);
            }
        }
    }
    if !k.is_multiple_of(16) {
        let p = k / 16 * 16;
        let mut w = [simd.splat(0.0); 4];
        for j in 0..4 {
            let mut all = [E::ZERO; 16];
            all[..k - p].copy_from_slice(&b[j][p..]);
            w[j] = E::load(simd, &all);
        }
        for row in 0..ROWS {
            let x = load_part(simd, &a[row][p..]);
            for j in 0..4 {
                acc[row][j] = simd.fma(x, w[j], acc[row][j]);
            }
        }
    }
    for row in 0..ROWS {
        for j in 0..4 {
            sums[row][part + j] = simd.sum(acc[row][j]);
        }
    }
    ROWS
}

/// Packs columns `first .. first + count` of a `k x n` matrix as panels of f32.
#[inline(always)]
fn pack_columns<S: Simd, E: Element>(
    simd: S,
    b: &[E],
    [k_stride, n_stride]: [usize; 2],
    k: usize,
    [first, count]: [usize; 2],
    to: &mut [f32],
) {
    if k == 0 {
        return;
    }
    for (panel, to) in to.chunks_exact_mut(PANEL * k).enumerate() {
        let col = first + panel * PANEL;
        let width = PANEL.min(first + count - col);
        if width == PANEL && k_stride == 1 {
            pack_rows(simd, PANEL, k, |j| &b[(col + j) * n_stride..][..k], to);
            continue;
        }
        let (rows, _) = to.as_chunks_mut::<PANEL>();
        for (p, to) in rows.iter_mut().enumerate() {
            let from = &b[p * k_stride + col * n_stride..];
            match from.first_chunk::<PANEL>() {
                Some(from) if n_stride == 1 && width == PANEL => simd.store(E::load(simd, from), to),
                _ => {
                    for (j, to) in to.iter_mut().enumerate() {
                        *to = if j < width { from[j * n_stride].widen() } else { 0.0 };
                    }
                }
            }
        }
    }
}
