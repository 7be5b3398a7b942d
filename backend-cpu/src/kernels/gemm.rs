//! f32 matrix products over packed weights: `y = act(x * w^T * scale + bias + residual)`.
//!
//! One layout of weights ([`super::pack`]) and one loop nest serve a single row and a large batch. A tile keeps up to
//! 12 x 32 sums (AVX-512) or 6 x 16 (AVX2) in registers; its rows of `x` are packed `[k][rows]` once per thread and row
//! block, its panels of weights are read in place. With one row nothing is packed, four panels stream at a time, and
//! the product runs at the speed of memory: weights are read once, and nothing else is large. With up to some hundred
//! rows weights are still read once from memory, then from the cache for each further tile of rows. f16 and bf16
//! weights are widened in registers, so they cost half the memory traffic and no memory.
//!
//! [`matmul`] multiplies operands that lie anyhow, as those of attention do.
//!
//! Work is split over the pool by panels, or by rows where the weights fit the cache. Nothing is allocated: the caller
//! lends scratch of [`linear_scratch`] elements.

pub mod simd;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod experts;
mod matmul;
mod portable;
pub(in crate::kernels) mod tile;

pub use experts::{ExpertPanels, Finish, Gate, Layer, Pairs, Products, experts, experts_scratch};
pub(crate) use experts::{add_scaled, alternating, gated, single};
pub use matmul::{Strided, matmul, matmul_scratch};
pub use simd::{Element, Isa};

use self::simd::{Kernel, Simd};
pub(super) use self::tile::{Sums, pack_rows, store_columns, tile_rows};
use self::tile::{tile, tile_panels};
use super::pack::{PANEL, panel_elems};
use super::pool::{MatMut, Pool, Tile};

/// Inputs of a tile that are summed before `y` is written: keeps a tile's panels in the L2 cache.
const K_BLOCK: usize = 512;
/// Packed elements of `x` per thread: a row block has at least 48 rows, so that it may exceed this for a huge `k`.
const PACKED_ELEMS: usize = 1 << 20;
/// Weights of at most this many bytes stay in a core's cache, so that each thread may read all of them.
const CACHED_BYTES: usize = 512 << 10;

/// Rows of activations, with unit column stride.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> Rows<'a> {
    /// `rows` rows of `cols` elements, `row_stride` apart (rows may overlap or repeat).
    ///
    /// # Panics
    /// When a row lies outside `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let extent = if rows == 0 { 0 } else { (rows - 1) * row_stride + cols };
        assert!(extent <= data.len(), "the rows need {extent} elements, not {}", data.len());
        Self { data, rows, cols, row_stride }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.row_stride..][..self.cols]
    }
}

/// Weights in the panel layout of [`super::pack`].
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a, E> {
    data: &'a [[E; PANEL]],
    n: usize,
    k: usize,
}

impl<'a, E> Panels<'a, E> {
    /// Packed weights of `n` outputs and `k` inputs.
    ///
    /// # Panics
    /// When `data` has not [`panel_elems`] elements.
    pub fn new(data: &'a [E], n: usize, k: usize) -> Self {
        assert_eq!(data.len(), panel_elems(n, k), "the panels of {n} x {k}");
        Self { data: data.as_chunks().0, n, k }
    }
}

/// What happens to a sum before it is stored: `act(sum * scale + bias + residual)`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Factor of the sum.
    pub scale: f32,
    /// One value per column.
    pub bias: Option<&'a [f32]>,
    /// A matrix that is added, rows counted over the whole output (not for batched products).
    pub residual: Option<Rows<'a>>,
    /// Applied last.
    pub activation: Activation,
}

impl Epilogue<'_> {
    /// Stores the sums as they are.
    pub const NONE: Self = Self { scale: 1.0, bias: None, residual: None, activation: Activation::None };
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self::NONE
    }
}

/// Cheap functions of one value; a NaN stays a NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// The value itself.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, low), high)`.
    Clip(f32, f32),
}

/// Elements of scratch that [`linear`] needs for `m` rows, `n` outputs and `k` inputs.
pub fn linear_scratch(pool: &Pool, m: usize, n: usize, k: usize) -> usize {
    if m <= 1 {
        return 0;
    }
    // The split depends on the weights' element type.
    let rows = [4, 2].map(|bytes| Split::new(pool, m, n, k, bytes).rows);
    pool.threads() * rows[0].max(rows[1]) * k
}

/// `y = epilogue(x * w^T)`: `x` has `m` rows of `k`, `w` has `n` outputs of `k` inputs, `y` is `m x n`.
///
/// # Panics
/// When shapes disagree or `scratch` has fewer than [`linear_scratch`] elements.
pub fn linear<E: Element>(
    pool: &Pool,
    x: Rows<'_>,
    w: Panels<'_, E>,
    epilogue: &Epilogue<'_>,
    y: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    assert_eq!((x.cols, x.rows, w.n), (w.k, y.rows(), y.cols()), "shapes of a linear layer");
    assert_eq!(y.batch(), [1, 1], "a linear layer has one output matrix");
    epilogue.check(y.rows(), y.cols());
    let split = Split::new(pool, x.rows, w.n, w.k, size_of::<E>());
    assert!(x.rows <= 1 || scratch.len() >= pool.threads() * split.rows * w.k, "scratch is too short");
    pool.tiles(y, [split.rows, split.cols], scratch, |scratch, packed: &mut PackedRows, y| {
        pool.isa().run(LinearTile { x, w, epilogue, y, scratch, packed });
    });
}

impl Epilogue<'_> {
    pub(super) fn check(&self, rows: usize, cols: usize) {
        assert!(self.bias.is_none_or(|bias| bias.len() == cols), "a bias has one value per column");
        assert!(self.residual.is_none_or(|x| (x.rows, x.cols) == (rows, cols)), "a residual has the output's shape");
    }

    /// Finishes the sums of `width` columns from `col` on in a row.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(&self, simd: S, sum: S::V, row: usize, col: usize, width: usize) -> S::V {
        let mut sum = simd.mul(sum, simd.splat(self.scale));
        if let Some(bias) = self.bias {
            sum = simd.add(sum, load_part(simd, &bias[col..][..width]));
        }
        if let Some(residual) = self.residual {
            sum = simd.add(sum, load_part(simd, &residual.row(row)[col..][..width]));
        }
        match self.activation {
            Activation::None => sum,
            Activation::Relu => simd.max(simd.splat(0.0), sum),
            Activation::Clip(low, high) => simd.min(simd.splat(high), simd.max(simd.splat(low), sum)),
        }
    }

    /// Stores the sums of `rows` rows and `panels` panels at (`row`, `col`) of `y`, added to what is there unless
    /// `first`, and finished if `last`.
    #[inline(always)]
    pub(super) fn store<S: Simd>(&self, simd: S, sums: &Sums, at: Place, y: &mut Tile<'_, f32>) {
        let (row0, col0) = (y.row + at.row, y.col + at.col);
        for row in 0..at.rows {
            let y = &mut y.row(at.row + row)[at.col..];
            let width = y.len().min(at.panels * PANEL);
            for (panel, y) in y[..width].chunks_mut(PANEL).enumerate() {
                let col = col0 + panel * PANEL;
                let mut sum = simd.load(&sums[row * at.panels + panel]);
                if !at.first {
                    sum = simd.add(sum, load_part(simd, y));
                }
                if at.last {
                    sum = self.finish(simd, sum, row0 + row, col, y.len());
                }
                match y.first_chunk_mut::<PANEL>() {
                    Some(y) => simd.store(sum, y),
                    None => {
                        let mut all = [0.0; PANEL];
                        simd.store(sum, &mut all);
                        y.copy_from_slice(&all[..y.len()]);
                    }
                }
            }
        }
    }
}

/// Up to 16 elements, the missing ones zero.
#[inline(always)]
pub(super) fn load_part<S: Simd>(simd: S, from: &[f32]) -> S::V {
    match from.first_chunk::<PANEL>() {
        Some(from) => simd.load(from),
        None => {
            let mut all = [0.0; PANEL];
            all[..from.len()].copy_from_slice(from);
            simd.load(&all)
        }
    }
}

/// Where the sums of a register tile go, and whether they are the first or the last of their `k` blocks.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) col: usize,
    pub(super) panels: usize,
    pub(super) first: bool,
    pub(super) last: bool,
}

/// How a product is cut into tasks: rows and columns of a task.
pub(super) struct Split {
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Split {
    pub(super) fn new(pool: &Pool, m: usize, n: usize, k: usize, element_bytes: usize) -> Self {
        let threads = pool.threads();
        let panels = n.div_ceil(PANEL).max(1);
        let most = (PACKED_ELEMS / k.max(1)).clamp(48, 480);
        let cached = n.saturating_mul(k).saturating_mul(element_bytes) <= CACHED_BYTES;
        if cached && m >= threads * 48 {
            let rows = (m.div_ceil(threads * 4)).clamp(48, most).next_multiple_of(12);
            return Self { rows, cols: panels * PANEL };
        }
        let blocks = m.div_ceil(most).max(1);
        Self { rows: m.div_ceil(blocks).next_multiple_of(12).min(m.max(1)), cols: even_chunk(panels, threads) * PANEL }
    }
}

/// Panels per task, so that all threads end at about the same time yet may take unequal shares.
fn even_chunk(panels: usize, threads: usize) -> usize {
    let chunk = |rounds: usize| panels.div_ceil(threads * rounds).next_multiple_of(2);
    let longest = |rounds: usize| panels.div_ceil(chunk(rounds)).div_ceil(threads) * chunk(rounds);
    (1..=8)
        .rev()
        .map(|rounds| (longest(rounds), chunk(rounds)))
        .min_by_key(|&(longest, _)| longest)
        .map_or(2, |(_, chunk)| chunk)
}

/// Which row block a thread's scratch holds.
#[derive(Default)]
struct PackedRows(Option<usize>);

/// One task of [`linear`].
struct LinearTile<'a, 'y, E> {
    x: Rows<'a>,
    w: Panels<'a, E>,
    epilogue: &'a Epilogue<'a>,
    y: Tile<'y, f32>,
    scratch: &'a mut [f32],
    packed: &'a mut PackedRows,
}

impl<E: Element> Kernel for LinearTile<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Self { x, w, epilogue, mut y, scratch, packed } = self;
        let rows = tile_rows::<S>(y.rows);
        let a = if x.rows == 1 {
            x.row(0)
        } else {
            let a = &mut scratch[..y.rows * w.k];
            if packed.0 != Some(y.row) {
                pack_row_tiles(simd, |row| x.row(row), x.cols, [y.row, y.rows, rows], a);
                packed.0 = Some(y.row);
            }
            a
        };
        let first_panel = y.col / PANEL;
        let source = Ready { panels: &w.data[first_panel * w.k..], k: w.k };
        multiply(simd, a, rows, source, w.k, K_BLOCK, epilogue, &mut y);
    }
}

/// Packs rows `first .. first + count` of `k` elements as tiles of `rows` rows, one after the other.
#[inline(always)]
pub(super) fn pack_row_tiles<'a, S: Simd>(
    simd: S,
    at: impl Fn(usize) -> &'a [f32],
    k: usize,
    [first, count, rows]: [usize; 3],
    to: &mut [f32],
) {
    if k == 0 {
        return;
    }
    for (index, to) in to.chunks_mut(rows * k).enumerate() {
        let start = index * rows;
        pack_rows(simd, rows.min(count - start), k, |row| at(first + start + row), to);
    }
}

/// Panels of weights, made when they are needed or lying ready.
pub(super) trait PanelSource {
    /// The element type.
    type Elem: Element;
    /// Inputs `start .. start + len` of `panels` panels from `panel` on, and how many vectors lie from one panel to
    /// the next.
    fn block<S: Simd>(
        &mut self,
        simd: S,
        panel: usize,
        panels: usize,
        start: usize,
        len: usize,
    ) -> (&[[Self::Elem; PANEL]], usize);
}

/// Packed weights of `k` inputs, from some panel on.
struct Ready<'a, E> {
    panels: &'a [[E; PANEL]],
    k: usize,
}

impl<E: Element> PanelSource for Ready<'_, E> {
    type Elem = E;

    #[inline(always)]
    fn block<S: Simd>(&mut self, _: S, panel: usize, _: usize, start: usize, _: usize) -> (&[[E; PANEL]], usize) {
        (&self.panels[panel * self.k + start..], self.k)
    }
}

/// All of `y` from its packed rows and its panels, of which number 0 starts at `y.col`; `depth` inputs at a time.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one loop nest for all sources of panels")]
pub(super) fn multiply<S: Simd, P: PanelSource>(
    simd: S,
    a: &[f32],
    rows: usize,
    mut source: P,
    k: usize,
    depth: usize,
    epilogue: &Epilogue<'_>,
    y: &mut Tile<'_, f32>,
) {
    let mut sums = [[0.0; 16]; 24];
    let panel_count = y.cols.div_ceil(PANEL);
    let widest = tile_panels::<S>(rows);
    let blocks = k.div_ceil(depth).max(1);
    for block in 0..blocks {
        let start = block * depth;
        let len = depth.min(k - start);
        let mut panel = 0;
        while panel < panel_count {
            let left = panel_count - panel;
            let group = if left >= widest {
                widest
            } else if left >= 2 && widest >= 2 {
                2
            } else {
                1
            };
            let (b, panel_stride) = source.block(simd, panel, group, start, len);
            let mut row = 0;
            while row < y.rows {
                let count = rows.min(y.rows - row);
                let a = &a[row * k + start * count..][..len * count];
                tile(simd, count, group, a, b, panel_stride, &mut sums);
                let (first, last) = (block == 0, block + 1 == blocks);
                let at = Place { row, rows: count, col: panel * PANEL, panels: group, first, last };
                epilogue.store(simd, &sums, at, y);
                row += count;
            }
            panel += group;
        }
    }
}

#[cfg(test)]
mod tests;
