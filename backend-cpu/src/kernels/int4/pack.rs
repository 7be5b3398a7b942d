//! The packed form of 4-bit weights: nibbles, and planes of scales and zero points.

use super::super::gemm::simd::{Element, Simd};
use super::super::pack::PANEL;
use super::GROUP;

/// The shape of a 4-bit weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Int4Shape {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Inputs that share a scale: a power of two, at least 16.
    pub block: usize,
}

impl Int4Shape {
    /// Blocks of inputs; the last may be partly used.
    pub const fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// Bytes of the packed nibbles.
    pub const fn nibble_bytes(&self) -> usize {
        self.plane_elems() * self.block / 2
    }

    /// Elements of the packed scales, or zero points.
    pub const fn plane_elems(&self) -> usize {
        self.n.div_ceil(PANEL) * PANEL * self.blocks()
    }

    fn check(&self) {
        assert!(self.block.is_power_of_two() && self.block >= 16, "blocks of {} inputs", self.block);
    }
}

/// Packs the nibbles of ONNX Runtime's MatMulNBits: `src` is `[n, blocks, block / 2]`, the earlier input in the low
/// half. Inputs beyond `k` may hold anything: activations are taken as zero there.
///
/// # Panics
/// When a length is wrong.
pub fn pack_int4(src: &[u8], shape: Int4Shape, dst: &mut [u8]) {
    shape.check();
    let row = shape.blocks() * shape.block / 2;
    assert_eq!(src.len(), shape.n * row, "4-bit weights of {shape:?}");
    assert_eq!(dst.len(), shape.nibble_bytes(), "the panels of {shape:?}");
    dst.fill(0);
    if row == 0 {
        return;
    }
    let groups = row * 2 / GROUP;
    for (output, src) in src.chunks_exact(row).enumerate() {
        for (group, src) in src.chunks_exact(GROUP / 2).enumerate() {
            let start = ((output / PANEL * groups + group) * PANEL + output % PANEL) * 4;
            let nibble = |input: usize| src[input / 2] >> (input % 2 * 4) & 15;
            for (j, dst) in dst[start..start + 4].iter_mut().enumerate() {
                *dst = nibble(j) | nibble(4 + j) << 4;
            }
        }
    }
}

/// Packs one value per output and block (`src` is `[n, blocks]`): scales, or zero points in units of a weight's step.
///
/// # Panics
/// When a length is wrong.
pub fn pack_int4_plane<E: Element>(src: &[E], shape: Int4Shape, dst: &mut [E]) {
    let blocks = shape.blocks();
    assert_eq!(src.len(), shape.n * blocks, "a value per block of {shape:?}");
    assert_eq!(dst.len(), shape.plane_elems(), "the plane of {shape:?}");
    dst.fill(E::ZERO);
    for output in 0..shape.n {
        for block in 0..blocks {
            dst[(output / PANEL * blocks + block) * PANEL + output % PANEL] = src[output * blocks + block];
        }
    }
}

/// Reads MatMulNBits' packed zero points (`[n, ceil(blocks / 2)]` bytes) as `[n, blocks]` values for
/// [`pack_int4_plane`].
///
/// # Panics
/// When a length is wrong.
pub fn unpack_zero_points<E: Element>(src: &[u8], shape: Int4Shape, from: impl Fn(u8) -> E, dst: &mut [E]) {
    let blocks = shape.blocks();
    let row = blocks.div_ceil(2);
    assert_eq!((src.len(), dst.len()), (shape.n * row, shape.n * blocks), "zero points of {shape:?}");
    for (index, dst) in dst.iter_mut().enumerate() {
        let (output, block) = (index / blocks, index % blocks);
        *dst = from(src[output * row + block / 2] >> (block % 2 * 4) & 15);
    }
}

/// Packed 4-bit weights; scales and zero points are f32, f16 or bf16.
#[derive(Clone, Copy, Debug)]
pub struct Int4Panels<'a, E> {
    pub(super) nibbles: &'a [[u8; 64]],
    pub(super) scales: &'a [[E; PANEL]],
    pub(super) zeros: Option<&'a [[E; PANEL]]>,
    pub(super) shape: Int4Shape,
}

impl<'a, E> Int4Panels<'a, E> {
    /// Weights of [`pack_int4`] with planes of [`pack_int4_plane`]; without zero points all are 8.
    ///
    /// # Panics
    /// When a length is wrong.
    pub fn new(nibbles: &'a [u8], scales: &'a [E], zeros: Option<&'a [E]>, shape: Int4Shape) -> Self {
        shape.check();
        assert_eq!(nibbles.len(), shape.nibble_bytes(), "the panels of {shape:?}");
        assert_eq!(scales.len(), shape.plane_elems(), "the scales of {shape:?}");
        assert!(zeros.is_none_or(|zeros| zeros.len() == shape.plane_elems()), "the zero points of {shape:?}");
        let zeros = zeros.map(|zeros| zeros.as_chunks().0);
        Self { nibbles: nibbles.as_chunks().0, scales: scales.as_chunks().0, zeros, shape }
    }

    #[inline(always)]
    pub(super) fn zero<S: Simd>(&self, simd: S, index: usize) -> S::V
    where
        E: Element,
    {
        match self.zeros {
            Some(zeros) => E::load(simd, &zeros[index]),
            None => simd.splat(8.0),
        }
    }
}
