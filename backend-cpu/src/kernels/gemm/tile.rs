//! The inner loops: a few rows of `x` against a few panels of weights, all sums in registers.

use super::simd::{Element, Simd};

/// Rows of the largest tile.
pub(super) const MAX_ROWS: usize = 12;

/// Vectors of weights to ask for ahead of the current one. The first tile of rows finds none of its weights in the L2 cache, and a
/// hint costs the others little.
const PREFETCH: usize = 32;

/// The sums of one tile, `[row][panel]` packed without gaps.
pub(in super::super) type Sums = [[f32; 16]; 24];

/// Rows of a tile for `m` rows in all: equal tiles, as large as the registers allow.
pub(in super::super) fn tile_rows<S: Simd>(m: usize) -> usize {
    let most = if S::WIDE { MAX_ROWS } else { 6 };
    m.div_ceil(m.div_ceil(most).max(1)).max(1)
}

/// Panels of a tile of `rows` rows.
pub(in crate::kernels) fn tile_panels<S: Simd>(rows: usize) -> usize {
    match (S::WIDE, rows) {
        (true, 0..=6) | (false, 0..=1) => 4,
        (true, _) | (false, 2..=3) => 2,
        (false, _) => 1,
    }
}

/// `sums[row][panel] = sum over p of a[p][row] * b[panel][p]` for `a` packed `[k][rows]` and panels packed `[k][16]`,
/// which lie `panel_stride` vectors apart.
#[inline(always)]
pub(in crate::kernels) fn tile<S: Simd, E: Element>(
    simd: S,
    rows: usize,
    panels: usize,
    a: &[f32],
    b: &[[E; 16]],
    panel_stride: usize,
    sums: &mut Sums,
) {
    macro_rules! pick {
        ($($rows:literal x $panels:literal),*) => {
            match (rows, panels) {
                $(($rows, $panels) => accumulate::<S, E, $rows, $panels>(simd, a, b, panel_stride, sums),)*
                _ => unreachable!("no tile of {rows} rows and {panels} panels"),
            }
        };
    }
    if S::WIDE {
        pick!(
            1 x 4, 2 x 4, 3 x 4, 4 x 4, 5 x 4, 6 x 4,
            1 x 2, 2 x 2, 3 x 2, 4 x 2, 5 x 2, 6 x 2, 7 x 2, 8 x 2, 9 x 2, 10 x 2, 11 x 2, 12 x 2,
            1 x 1, 2 x 1, 3 x 1, 4 x 1, 5 x 1, 6 x 1, 7 x 1, 8 x 1, 9 x 1, 10 x 1, 11 x 1, 12 x 1
        );
    } else {
        pick!(1 x 4, 1 x 2, 2 x 2, 3 x 2, 1 x 1, 2 x 1, 3 x 1, 4 x 1, 5 x 1, 6 x 1);
    }
}

#[inline(always)]
fn accumulate<S: Simd, E: Element, const ROWS: usize, const PANELS: usize>(
    simd: S,
    a: &[f32],
    b: &[[E; 16]],
    panel_stride: usize,
    sums: &mut Sums,
) {
    let (a, _) = a.as_chunks::<ROWS>();
    let k = a.len();
    let mut panels = [&b[..k]; PANELS];
    for panel in 1..PANELS {
        panels[panel] = &b[panel * panel_stride..][..k];
    }
    let mut acc = [[simd.splat(0.0); PANELS]; ROWS];
    for p in 0..k {
        let mut w = [simd.splat(0.0); PANELS];
        for panel in 0..PANELS {
            w[panel] = E::load(simd, &panels[panel][p]);
            simd.prefetch(panels[panel].as_ptr().wrapping_add(p + PREFETCH));
        }
        for row in 0..ROWS {
            let x = simd.splat(a[p][row]);
            for panel in 0..PANELS {
                acc[row][panel] = simd.fma(x, w[panel], acc[row][panel]);
            }
        }
    }
    for row in 0..ROWS {
        for panel in 0..PANELS {
            simd.store(acc[row][panel], &mut sums[row * PANELS + panel]);
        }
    }
}

/// Packs `rows` (1 to 16) rows of `k` elements as `[k][rows]`: `at(row)` gives a row with unit stride.
#[inline(always)]
pub(in super::super) fn pack_rows<'a, S: Simd, E: Element>(
    simd: S,
    rows: usize,
    k: usize,
    at: impl Fn(usize) -> &'a [E],
    to: &mut [f32],
) {
    // A missing row repeats the first one, so that the inner loop has no conditions.
    let mut from = [at(0).as_chunks::<16>().0; 16];
    for (row, from) in from.iter_mut().enumerate().take(rows) {
        *from = &at(row).as_chunks::<16>().0[..k / 16];
    }
    for chunk in 0..k / 16 {
        let mut block = [simd.splat(0.0); 16];
        for row in 0..16 {
            block[row] = E::load(simd, &from[row][chunk]);
        }
        store_columns(simd, rows, block, &mut to[chunk * 16 * rows..]);
    }
    for row in 0..rows {
        let from = at(row);
        for p in k / 16 * 16..k {
            to[p * rows + row] = from[p].widen();
        }
    }
}

/// Stores the first `rows` lanes of 16 columns of a block, one column after the other.
#[inline(always)]
pub(in super::super) fn store_columns<S: Simd>(simd: S, rows: usize, block: [S::V; 16], to: &mut [f32]) {
    let block = simd.transpose(block);
    for p in 0..16 {
        // The lanes after `rows` land where the next column goes, which is written later.
        let to = &mut to[p * rows..];
        match to.first_chunk_mut::<16>() {
            Some(to) => simd.store(block[p], to),
            None => {
                let mut all = [0.0; 16];
                simd.store(block[p], &mut all);
                to[..rows].copy_from_slice(&all[..rows]);
            }
        }
    }
}
