//! Products of 8-bit activations and 8-bit weights, exact in i32.
//!
//! Packed weights are `[ceil(n / 16)][ceil(k / 4)][16][4]` signed bytes: 64 bytes hold 4 inputs of 16 outputs, which is
//! one operand of VNNI's dot product and four of AVX2's. Unsigned weights are stored minus 128, signed activations are
//! read plus 128, and zero points are corrected by sums afterwards:
//!
//! `sum (x - x0)(w - w0) = sum x w - x0 sum w - w0 sum x + k x0 w0`
//!
//! The instruction that saturates (`maddubs` on bytes) is not used, so every instruction set gives the same bits.
//! Sums wrap beyond 31 bits, which takes more than 65,000 inputs.

use super::gemm::simd::{Kernel, Simd};
use super::gemm::{Epilogue, Split, store_columns};
use super::pack::{Layout, PANEL};
use super::pool::{MatMut, Pool, Tile};

/// Inputs that lie side by side in a panel.
const GROUP: usize = 4;

/// Bytes of the packed form of `n` outputs by `k` inputs.
pub const fn int8_panel_elems(n: usize, k: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * k.div_ceil(GROUP) * GROUP
}

/// Packs `src` (dense, `n * k` bytes, i8 or as `unsigned` says u8) into `dst` ([`int8_panel_elems`] bytes) and writes
/// the sum of each output's stored weights to `sums` (`n` of them).
///
/// # Panics
/// When a length is wrong.
pub fn pack_int8(src: &[u8], unsigned: bool, n: usize, k: usize, layout: Layout, dst: &mut [i8], sums: &mut [i32]) {
    assert_eq!((src.len(), sums.len()), (n * k, n), "a weight of {n} x {k}");
    assert_eq!(dst.len(), int8_panel_elems(n, k), "the panels of {n} x {k}");
    let flip = if unsigned { 0x80 } else { 0 };
    let groups = k.div_ceil(GROUP);
    dst.fill(0);
    for (output, sum) in sums.iter_mut().enumerate() {
        *sum = 0;
        let start = output / PANEL * groups * PANEL * GROUP + output % PANEL * GROUP;
        for input in 0..k {
            let from = match layout {
                Layout::Nk => output * k + input,
                Layout::Kn => input * n + output,
            };
            let weight = (src[from] ^ flip) as i8;
            dst[start + input / GROUP * PANEL * GROUP + input % GROUP] = weight;
            *sum += i32::from(weight);
        }
    }
}

/// The sums of packed weights of `k` inputs, one per output.
///
/// # Panics
/// When a length is wrong.
pub fn panel_sums(panels: &[i8], k: usize, sums: &mut [i32]) {
    assert_eq!(panels.len(), int8_panel_elems(sums.len(), k), "the panels of {} x {k}", sums.len());
    sums.fill(0);
    let bytes = (k.div_ceil(GROUP) * PANEL * GROUP).max(1);
    for (panel, sums) in panels.chunks_exact(bytes).zip(sums.chunks_mut(PANEL)) {
        for group in panel.as_chunks::<{ PANEL * GROUP }>().0 {
            for (sum, inputs) in sums.iter_mut().zip(group.as_chunks::<GROUP>().0) {
                *sum += inputs.iter().map(|w| i32::from(*w)).sum::<i32>();
            }
        }
    }
}

/// Weights packed by [`pack_int8`].
#[derive(Clone, Copy, Debug)]
pub struct Int8Panels<'a> {
    data: &'a [i8],
    sums: &'a [i32],
    zero_points: &'a [i32],
    offset: i32,
    n: usize,
    k: usize,
}

impl<'a> Int8Panels<'a> {
    /// Packed weights of `n` outputs and `k` inputs with their sums; `zero_points` are of the weights before packing:
    /// none (all 0), one, or one per output.
    ///
    /// # Panics
    /// When a length is wrong.
    pub fn new(data: &'a [i8], sums: &'a [i32], zero_points: &'a [i32], unsigned: bool, n: usize, k: usize) -> Self {
        assert_eq!((data.len(), sums.len()), (int8_panel_elems(n, k), n), "the panels of {n} x {k}");
        assert!(matches!(zero_points.len(), 0 | 1) || zero_points.len() == n, "one zero point, or one per output");
        Self { data, sums, zero_points, offset: if unsigned { 128 } else { 0 }, n, k }
    }

    /// The zero point of an output's stored weights.
    #[inline(always)]
    fn zero_point(&self, output: usize) -> i32 {
        at_or_only(self.zero_points, output, 0) - self.offset
    }

    /// Takes the zero points' share off the sums of the outputs from `first` on.
    #[inline(always)]
    fn correct(&self, sums: &mut [i32], first: usize, x_zero: i32, x_sum: i32) {
        let both = x_zero.wrapping_mul(self.k as i32);
        for (output, sum) in (first..).zip(sums) {
            let w_zero = self.zero_point(output);
            let share =
                x_zero.wrapping_mul(self.sums[output]).wrapping_add(w_zero.wrapping_mul(x_sum.wrapping_sub(both)));
            *sum = sum.wrapping_sub(share);
        }
    }

    fn has_zero_points(&self) -> bool {
        self.offset != 0 || self.zero_points.iter().any(|&zero| zero != 0)
    }
}

/// Rows of 8-bit activations with unit column stride.
#[derive(Clone, Copy, Debug)]
pub struct Int8Rows<'a> {
    /// The elements, signed or not.
    pub data: &'a [u8],
    /// Whether the bytes are i8.
    pub signed: bool,
    /// None (all 0), one, or one per row.
    pub zero_points: &'a [i32],
    /// From one row to the next.
    pub row_stride: usize,
}

impl Int8Rows<'_> {
    /// The zero point of a row as it is multiplied: unsigned.
    #[inline(always)]
    fn zero_point(&self, row: usize) -> i32 {
        at_or_only(self.zero_points, row, 0) + if self.signed { 128 } else { 0 }
    }
}

#[inline(always)]
fn at_or_only<T: Copy>(values: &[T], index: usize, none: T) -> T {
    match values {
        [] => none,
        [only] => *only,
        _ => values[index],
    }
}

/// Elements of scratch that the products here need for `m` rows, `n` outputs and `k` inputs.
pub fn int8_scratch(pool: &Pool, m: usize, n: usize, k: usize) -> usize {
    let split = Split::new(pool, m, n, k.div_ceil(GROUP), GROUP);
    // Each row as groups of 4 bytes, and its sum.
    pool.threads() * split.rows * (k.div_ceil(GROUP) + 1)
}

/// `y = (x - x0)(w - w0)^T`: `y` is `m x n`.
///
/// # Panics
/// When shapes disagree or `scratch` has fewer than [`int8_scratch`] elements.
pub fn linear_int8(pool: &Pool, x: Int8Rows<'_>, w: Int8Panels<'_>, y: MatMut<'_, i32>, scratch: &mut [f32]) {
    run(pool, x, w, &Integers, y, scratch);
}

/// As [`linear_int8`], then `epilogue(y * x_scale * w_scale)` in f32. A scale is one value, or one per row of `x` or
/// output of `w`.
///
/// # Panics
/// As [`linear_int8`], or when a scale or the epilogue does not fit.
pub fn linear_int8_f32(
    pool: &Pool,
    x: Int8Rows<'_>,
    w: Int8Panels<'_>,
    scales: Scales<'_>,
    epilogue: &Epilogue<'_>,
    y: MatMut<'_, f32>,
    scratch: &mut [f32],
) {
    let fits = |scale: &[f32], count: usize| scale.len() == 1 || scale.len() == count;
    assert!(fits(scales.x, y.rows()) && fits(scales.w, y.cols()), "one scale, or one per row or output");
    epilogue.check(y.rows(), y.cols());
    run(pool, x, w, &Floats { scales, epilogue }, y, scratch);
}

/// Scales of both operands.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// Of the activations: one, or one per row.
    pub x: &'a [f32],
    /// Of the weights: one, or one per output.
    pub w: &'a [f32],
}

fn run<O: Output>(
    pool: &Pool,
    x: Int8Rows<'_>,
    w: Int8Panels<'_>,
    output: &O,
    y: MatMut<'_, O::Elem>,
    scratch: &mut [f32],
) {
    let m = y.rows();
    assert_eq!((y.cols(), y.batch()), (w.n, [1, 1]), "shapes of a linear layer");
    let extent = if m == 0 { 0 } else { (m - 1) * x.row_stride + w.k };
    assert!(extent <= x.data.len(), "the rows need {extent} elements, not {}", x.data.len());
    assert!(matches!(x.zero_points.len(), 0 | 1) || x.zero_points.len() == m, "one zero point, or one per row");
    assert!(scratch.len() >= int8_scratch(pool, m, w.n, w.k), "scratch is too short");
    let split = Split::new(pool, m, w.n, w.k.div_ceil(GROUP), GROUP);
    let row_sums = w.has_zero_points();
    pool.tiles(y, [split.rows, split.cols], scratch, |scratch, packed: &mut Option<usize>, y| {
        pool.isa().run_int8(Task { x, w, output, row_sums, y, scratch, packed });
    });
}

/// Where exact sums go.
trait Output: Sync {
    type Elem: Send;
    /// Stores the sums of the columns from `col` on in a row.
    fn store<S: Simd>(&self, simd: S, sums: &[i32; PANEL], row: usize, col: usize, y: &mut [Self::Elem]);
}

struct Integers;

impl Output for Integers {
    type Elem = i32;

    #[inline(always)]
    fn store<S: Simd>(&self, _: S, sums: &[i32; PANEL], _: usize, _: usize, y: &mut [i32]) {
        y.copy_from_slice(&sums[..y.len()]);
    }
}

struct Floats<'a> {
    scales: Scales<'a>,
    epilogue: &'a Epilogue<'a>,
}

impl Output for Floats<'_> {
    type Elem = f32;

    #[inline(always)]
    fn store<S: Simd>(&self, simd: S, sums: &[i32; PANEL], row: usize, col: usize, y: &mut [f32]) {
        let x_scale = at_or_only(self.scales.x, row, 1.0);
        let mut values = [0.0; PANEL];
        for (j, value) in values.iter_mut().enumerate().take(y.len()) {
            *value = sums[j] as f32 * (x_scale * at_or_only(self.scales.w, col + j, 1.0));
        }
        let sum = self.epilogue.finish(simd, simd.load(&values), row, col, y.len());
        simd.store(sum, &mut values);
        y.copy_from_slice(&values[..y.len()]);
    }
}

struct Task<'a, 'y, O: Output> {
    x: Int8Rows<'a>,
    w: Int8Panels<'a>,
    output: &'a O,
    row_sums: bool,
    y: Tile<'y, O::Elem>,
    scratch: &'a mut [f32],
    packed: &'a mut Option<usize>,
}

impl<O: Output> Kernel for Task<'_, '_, O> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Self { x, w, output, row_sums, mut y, scratch, packed } = self;
        let groups = w.k.div_ceil(GROUP);
        let rows = tile_rows::<S>(y.rows);
        let (a, x_sums) = scratch.split_at_mut(y.rows * groups);
        let x_sums: &mut [i32] = bytemuck::cast_slice_mut(x_sums);
        if *packed != Some(y.row) {
            let at = |row: usize| &x.data[(y.row + row) * x.row_stride..][..w.k];
            for first in (0..y.rows).step_by(rows) {
                let count = rows.min(y.rows - first);
                let to = &mut a[first * groups..][..count * groups];
                pack_bytes(simd, count, |row| at(first + row), x.signed, to);
            }
            if row_sums {
                for (row, sum) in x_sums[..y.rows].iter_mut().enumerate() {
                    *sum = sum_bytes(at(row), x.signed);
                }
            }
            *packed = Some(y.row);
        }
        let a: &[[u8; GROUP]] = bytemuck::cast_slice(a);
        let (panels, _) = w.data.as_chunks::<{ PANEL * GROUP }>();
        let panel_count = y.cols.div_ceil(PANEL);
        let mut sums = [[0; PANEL]; 24];
        let mut panel = 0;
        while panel < panel_count {
            let group = if rows <= 6 && panel + 4 <= panel_count && S::WIDE {
                4
            } else if panel + 2 <= panel_count && S::WIDE {
                2
            } else {
                1
            };
            let b = &panels[(y.col / PANEL + panel) * groups..];
            for first in (0..y.rows).step_by(rows) {
                let count = rows.min(y.rows - first);
                let a = &a[first * groups..][..count * groups];
                tile(simd, count, group, a, b, groups, &mut sums);
                for row in 0..count {
                    let x_sum = if row_sums { x_sums[first + row] } else { 0 };
                    let (row_index, col0) = (y.row + first + row, y.col);
                    let x_zero = x.zero_point(row_index);
                    let y = &mut y.row(first + row)[panel * PANEL..];
                    let width = y.len().min(group * PANEL);
                    for (j, y) in y[..width].chunks_mut(PANEL).enumerate() {
                        let sums = &mut sums[row * group + j];
                        let col = col0 + (panel + j) * PANEL;
                        let used = &mut sums[..y.len()];
                        if row_sums {
                            w.correct(used, col, x_zero, x_sum);
                        } else if x_zero != 0 {
                            for (sum, w_sum) in used.iter_mut().zip(&w.sums[col..]) {
                                *sum = sum.wrapping_sub(x_zero.wrapping_mul(*w_sum));
                            }
                        }
                        output.store(simd, sums, row_index, col, y);
                    }
                }
            }
            panel += group;
        }
    }
}

/// Rows of a register tile for `m` rows in all.
fn tile_rows<S: Simd>(m: usize) -> usize {
    let most = if S::WIDE { 12 } else { 4 };
    m.div_ceil(m.div_ceil(most).max(1)).max(1)
}

/// Packs rows of bytes, made unsigned, as `[groups][rows][4]`; the missing bytes of a last group are any, as the
/// weights there are zero.
#[inline(always)]
fn pack_bytes<'a, S: Simd>(simd: S, rows: usize, at: impl Fn(usize) -> &'a [u8], signed: bool, to: &mut [f32]) {
    const CHUNK: usize = 16 * GROUP;
    let flip = if signed { 0x8080_8080 } else { 0 };
    let k = at(0).len();
    let mut from = [at(0).as_chunks::<CHUNK>().0; 16];
    for (row, from) in from.iter_mut().enumerate().take(rows) {
        *from = &at(row).as_chunks::<CHUNK>().0[..k / CHUNK];
    }
    for chunk in 0..k / CHUNK {
        let mut block = [simd.splat(0.0); 16];
        for row in 0..16 {
            let words: [u32; 16] = bytemuck::pod_read_unaligned(&from[row][chunk]);
            block[row] = simd.load(&words.map(|word| f32::from_bits(word ^ flip)));
        }
        store_columns(simd, rows, block, &mut to[chunk * 16 * rows..]);
    }
    for row in 0..rows {
        let done = k / CHUNK * 16;
        for (group, from) in at(row)[done * GROUP..].chunks(GROUP).enumerate() {
            let mut word = [0; GROUP];
            word[..from.len()].copy_from_slice(from);
            to[(done + group) * rows + row] = f32::from_bits(u32::from_ne_bytes(word) ^ flip);
        }
    }
}

/// The sum of a row of bytes, made unsigned.
#[inline(always)]
fn sum_bytes(from: &[u8], signed: bool) -> i32 {
    let flip = if signed { 0x80 } else { 0 };
    from.iter().map(|&x| i32::from(x ^ flip)).sum()
}

/// `sums[row][panel]` of packed rows `[groups][rows][4]` and panels `panel_stride` vectors apart.
#[inline(always)]
fn tile<S: Simd>(
    simd: S,
    rows: usize,
    panels: usize,
    a: &[[u8; GROUP]],
    b: &[[i8; PANEL * GROUP]],
    panel_stride: usize,
    sums: &mut [[i32; PANEL]; 24],
) {
    macro_rules! pick {
        ($($rows:literal x $panels:literal),*) => {
            match (rows, panels) {
                $(($rows, $panels) => accumulate::<S, $rows, $panels>(simd, a, b, panel_stride, sums),)*
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
        pick!(1 x 1, 2 x 1, 3 x 1, 4 x 1);
    }
}

#[inline(always)]
fn accumulate<S: Simd, const ROWS: usize, const PANELS: usize>(
    simd: S,
    a: &[[u8; GROUP]],
    b: &[[i8; PANEL * GROUP]],
    panel_stride: usize,
    sums: &mut [[i32; PANEL]; 24],
) {
    let (a, _) = a.as_chunks::<ROWS>();
    let groups = a.len();
    let mut panels = [&b[..groups]; PANELS];
    for panel in 1..PANELS {
        panels[panel] = &b[panel * panel_stride..][..groups];
    }
    let mut acc = [[simd.splat_i32(0); PANELS]; ROWS];
    for p in 0..groups {
        let mut w = [simd.load_w(&panels[0][p]); PANELS];
        for panel in 1..PANELS {
            w[panel] = simd.load_w(&panels[panel][p]);
        }
        for row in 0..ROWS {
            for panel in 0..PANELS {
                acc[row][panel] = simd.dot4(acc[row][panel], a[p][row], w[panel]);
            }
        }
    }
    for row in 0..ROWS {
        for panel in 0..PANELS {
            simd.store_i32(acc[row][panel], &mut sums[row * PANELS + panel]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::gemm::{Activation, Isa};
    use super::*;

    /// Bytes that are extreme as often as not.
    fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state >> 60 {
                0..4 => 0x7f,
                4..8 => 0x80,
                8..10 => 0xff,
                10 => 0,
                _ => (state >> 32) as u8,
            }
        };
        (0..len).map(next).collect()
    }

    fn value(byte: u8, signed: bool) -> i64 {
        if signed { i64::from(byte as i8) } else { i64::from(byte) }
    }

    fn case(pool: &Pool, [m, n, k]: [usize; 3], signed: [bool; 2], zeros: [usize; 2], seed: u64) {
        let (x, w) = (bytes(seed, m * (k + 1)), bytes(seed + 1, n * k));
        let zero = |count: usize, signed: bool, seed: u64| -> Vec<i32> {
            bytes(seed, count).into_iter().map(|byte| value(byte, signed) as i32).collect()
        };
        let x_zeros = zero([0, 1, m][zeros[0]], signed[0], seed + 2);
        let w_zeros = zero([0, 1, n][zeros[1]], signed[1], seed + 3);
        let (mut panels, mut sums) = (vec![1; int8_panel_elems(n, k)], vec![1; n]);
        let layout = if seed.is_multiple_of(2) { Layout::Nk } else { Layout::Kn };
        pack_int8(&w, !signed[1], n, k, layout, &mut panels, &mut sums);
        let mut again = vec![7; n];
        panel_sums(&panels, k, &mut again);
        assert_eq!(again, sums);
        let want = |i: usize, j: usize| -> i64 {
            let w_at = |p: usize| w[if layout == Layout::Nk { j * k + p } else { p * n + j }];
            let x_zero = i64::from(at_or_only(&x_zeros, i, 0));
            let w_zero = i64::from(at_or_only(&w_zeros, j, 0));
            (0..k).map(|p| (value(x[i * (k + 1) + p], signed[0]) - x_zero) * (value(w_at(p), signed[1]) - w_zero)).sum()
        };
        let rows = Int8Rows { data: &x, signed: signed[0], zero_points: &x_zeros, row_stride: k + 1 };
        let weights = Int8Panels::new(&panels, &sums, &w_zeros, !signed[1], n, k);
        let mut scratch = vec![f32::NAN; int8_scratch(pool, m, n, k)];
        let mut y = vec![-1; m * n];
        linear_int8(pool, rows, weights, MatMut::new(&mut y, m, n, n), &mut scratch);
        for (i, &y) in y.iter().enumerate() {
            assert_eq!(i64::from(y), want(i / n, i % n), "{i} of {m} x {n} x {k}, {:?}", pool.isa());
        }
        let (x_scale, w_scale) = (vec![0.5; m], vec![0.25; n]);
        let bias: Vec<f32> = (0..n).map(|j| j as f32).collect();
        let epilogue = Epilogue { bias: Some(&bias), activation: Activation::Relu, ..Epilogue::NONE };
        let scales = Scales { x: &x_scale, w: &w_scale };
        let mut floats = vec![f32::NAN; m * n];
        linear_int8_f32(pool, rows, weights, scales, &epilogue, MatMut::new(&mut floats, m, n, n), &mut scratch);
        for i in 0..m * n {
            assert_eq!(floats[i], (y[i] as f32 * 0.125 + bias[i % n]).max(0.0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn sums_are_exact(
            m in 0usize..=40, n in 0usize..=70, k in 0usize..=70, x in any::<bool>(), w in any::<bool>(),
            x_zeros in 0usize..3, w_zeros in 0usize..3, seed in any::<u32>()
        ) {
            for isa in Isa::available() {
                for threads in [1, 3] {
                    case(&Pool::with_isa(threads, isa), [m, n, k], [x, w], [x_zeros, w_zeros], seed.into());
                }
            }
        }
    }

    #[test]
    fn long_sums_of_extremes_are_exact() {
        for isa in Isa::available() {
            let pool = Pool::with_isa(2, isa);
            for signed in [[false, false], [false, true], [true, false], [true, true]] {
                case(&pool, [130, 90, 2050], signed, [1, 2], 11);
            }
        }
    }
}
