//! Weight panels: the one layout of packed weights, for matrix-vector and matrix-matrix products alike.
//!
//! A weight of `n` outputs and `k` inputs becomes `[ceil(n / 16)][k][16]`: panel `i` holds outputs `16 i .. 16 i + 16`,
//! and for each input the 16 weights lie side by side, padded with zeros at the end of `n`. The layout does not depend
//! on the instruction set (16 f32 are one AVX-512 register, two of AVX2, four of NEON) and can be undone.

/// Outputs in a panel.
pub const PANEL: usize = 16;

/// How a weight matrix lies in memory before packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[n, k]`: one row per output, as in a linear layer.
    Nk,
    /// `[k, n]`: one row per input, as the second operand of ONNX MatMul.
    Kn,
}

/// Elements of the packed form of `n` outputs by `k` inputs.
pub const fn panel_elems(n: usize, k: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * k
}

/// Packs `src` (dense, `n * k` elements) into `dst` ([`panel_elems`] elements).
///
/// # Panics
/// When a length is wrong.
pub fn pack_panels<E: Copy + Default>(src: &[E], n: usize, k: usize, layout: Layout, dst: &mut [E]) {
    assert_eq!(src.len(), n * k, "a weight of {n} x {k}");
    assert_eq!(dst.len(), panel_elems(n, k), "the panels of {n} x {k}");
    if k == 0 {
        return;
    }
    for (panel, dst) in dst.chunks_exact_mut(PANEL * k).enumerate() {
        let first = panel * PANEL;
        let width = PANEL.min(n - first);
        let (rows, _) = dst.as_chunks_mut::<PANEL>();
        match layout {
            Layout::Kn => {
                for (row, src) in rows.iter_mut().zip(src.chunks_exact(n)) {
                    row[..width].copy_from_slice(&src[first..first + width]);
                    row[width..].fill(E::default());
                }
            }
            Layout::Nk => {
                let src = &src[first * k..(first + width) * k];
                rows.iter_mut().for_each(|row| row[width..].fill(E::default()));
                transpose_into(src, k, rows);
            }
        }
    }
}

/// The inverse of [`pack_panels`].
///
/// # Panics
/// When a length is wrong.
pub fn unpack_panels<E: Copy>(src: &[E], n: usize, k: usize, layout: Layout, dst: &mut [E]) {
    assert_eq!(src.len(), panel_elems(n, k), "the panels of {n} x {k}");
    assert_eq!(dst.len(), n * k, "a weight of {n} x {k}");
    for output in 0..n {
        for input in 0..k {
            let from = (output / PANEL * k + input) * PANEL + output % PANEL;
            let to = match layout {
                Layout::Nk => output * k + input,
                Layout::Kn => input * n + output,
            };
            dst[to] = src[from];
        }
    }
}

/// Writes row `j` of `src` (rows of `k`) to column `j` of `rows`, in blocks of inputs that stay in the cache.
fn transpose_into<E: Copy>(src: &[E], k: usize, rows: &mut [[E; PANEL]]) {
    const BLOCK: usize = 64;
    for (block, rows) in rows.chunks_mut(BLOCK).enumerate() {
        for (column, src) in src.chunks_exact(k).enumerate() {
            let src = &src[block * BLOCK..][..rows.len()];
            for (row, &x) in rows.iter_mut().zip(src) {
                row[column] = x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_pack_to_the_same_panels_and_come_back() {
        for (n, k) in [(0, 0), (0, 5), (5, 0), (1, 1), (16, 3), (17, 70), (40, 129)] {
            let nk: Vec<u32> = (1..=(n * k) as u32).collect();
            let kn: Vec<u32> = (0..n * k).map(|i| nk[i % n * k + i / n]).collect();
            let mut panels = vec![7; panel_elems(n, k)];
            pack_panels(&nk, n, k, Layout::Nk, &mut panels);
            let mut same = vec![9; panel_elems(n, k)];
            pack_panels(&kn, n, k, Layout::Kn, &mut same);
            assert_eq!(panels, same);
            assert_eq!(panels.iter().filter(|&&x| x == 0).count(), panel_elems(n, k) - n * k);
            let mut back = vec![0; n * k];
            unpack_panels(&panels, n, k, Layout::Nk, &mut back);
            assert_eq!(back, nk);
            unpack_panels(&panels, n, k, Layout::Kn, &mut back);
            assert_eq!(back, kn);
        }
    }
}
