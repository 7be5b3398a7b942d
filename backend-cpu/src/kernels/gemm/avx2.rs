//! [`Simd`] on AVX2 with FMA and F16C: two registers per vector.
#![allow(unsafe_code, reason = "intrinsics and target features")]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::simd::{Kernel, Simd};

/// AVX2, FMA and F16C were detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let found =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a value of `Avx2` exists only where the features were detected.
        unsafe { enter(kernel) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.call(Lanes(()))
}

/// The features of [`Avx2`] are enabled in the running function.
#[derive(Clone, Copy)]
struct Lanes(());

/// One byte of each pair as a 16-bit number: the even bytes, the odd bytes, for lanes 0..8 and 8..16.
type Halves = [[__m256i; 2]; 2];

impl Lanes {
    #[inline(always)]
    fn transpose8(self, v: [__m256; 8]) -> [__m256; 8] {
        // SAFETY: a value of `Lanes` is made only by `enter`.
        unsafe {
            let mut columns = v;
            let mut fours = v;
            for i in 0..2 {
                for half in 0..2 {
                    let (a, b) = (v[4 * i], v[4 * i + 1]);
                    let (c, d) = (v[4 * i + 2], v[4 * i + 3]);
                    let (a, c) = if half == 0 {
                        (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d))
                    } else {
                        (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d))
                    };
                    fours[4 * i + 2 * half] = _mm256_shuffle_ps::<0x44>(a, c);
                    fours[4 * i + 2 * half + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                }
            }
            for j in 0..4 {
                columns[j] = _mm256_permute2f128_ps::<0x20>(fours[j], fours[4 + j]);
                columns[4 + j] = _mm256_permute2f128_ps::<0x31>(fours[j], fours[4 + j]);
            }
            columns
        }
    }
}

/// Masks of the first `count` lanes of 16, of all where there are no more.
#[inline(always)]
fn first_lanes(count: usize) -> [__m256i; 2] {
    const LANES: [[i32; 16]; 2] = [[-1; 16], [0; 16]];
    let from = &LANES.as_flattened()[16 - count.min(16)..][..16];
    // SAFETY: a load of eight elements each from the sixteen of a slice; callers run with AVX2.
    unsafe { [_mm256_loadu_si256(from.as_ptr().cast()), _mm256_loadu_si256(from.as_ptr().add(8).cast())] }
}

// SAFETY of every block below: a value of `Lanes` is made only by `enter`, with the features that the intrinsics
// need; loads and stores go through references to arrays of two registers' size.
impl Simd for Lanes {
    type V = [__m256; 2];
    type I = [__m256i; 2];
    type W = Halves;
    type N = [__m256i; 2];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; 16]) -> Self::V {
        // SAFETY: see the impl.
        unsafe {
            let from = from.as_ptr().cast::<__m128i>();
            [_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from.add(1)))]
        }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; 16]) -> Self::V {
        // SAFETY: see the impl.
        unsafe {
            let from = from.as_ptr().cast::<__m128i>();
            let low = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from)));
            let high = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(1))));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
    }
    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; 16]) {
        // SAFETY: see the impl.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
        }
    }
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::V {
        let [low, high] = first_lanes(from.len());
        // SAFETY: see the impl; lanes that the mask leaves out are not read.
        unsafe { [_mm256_maskload_ps(from.as_ptr(), low), _mm256_maskload_ps(from.as_ptr().wrapping_add(8), high)] }
    }
    #[inline(always)]
    fn store_part(self, v: Self::V, to: &mut [f32]) {
        let [low, high] = first_lanes(to.len());
        // SAFETY: see the impl; lanes that the mask leaves out are not written.
        unsafe {
            _mm256_maskstore_ps(to.as_mut_ptr(), low, v[0]);
            _mm256_maskstore_ps(to.as_mut_ptr().wrapping_add(8), high, v[1]);
        }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        }
    }
    #[inline(always)]
    fn round_i8(self, a: Self::V) -> [i8; 16] {
        let mut to = [0; 16];
        // SAFETY: see the impl.
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let low = _mm256_castsi256_si128(words);
            let bytes = _mm_packs_epi16(low, _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
        to
    }
    #[inline(always)]
    fn prefetch<T>(self, from: *const T) {
        // SAFETY: a prefetch touches nothing and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let eight = _mm256_add_ps(v[0], v[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn transpose(self, v: [Self::V; 16]) -> [Self::V; 16] {
        let mut columns = v;
        for i in 0..2 {
            for j in 0..2 {
                let mut block = [v[0][0]; 8];
                for (row, block) in block.iter_mut().enumerate() {
                    *block = v[8 * i + row][j];
                }
                let block = self.transpose8(block);
                for (column, &block) in block.iter().enumerate() {
                    columns[8 * j + column][i] = block;
                }
            }
        }
        columns
    }
    #[inline(always)]
    fn evens(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see the impl.
        unsafe {
            // The shuffle leaves the middle quarters of its two operands exchanged.
            let evens = |v: [__m256; 2]| _mm256_castps_pd(_mm256_shuffle_ps::<0x88>(v[0], v[1]));
            [a, b].map(|v| _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(evens(v))))
        }
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        // SAFETY: see the impl.
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    fn store_i32(self, v: Self::I, to: &mut [i32; 16]) {
        // SAFETY: see the impl.
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(8).cast(), v[1]);
        }
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: see the impl.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }
    #[inline(always)]
    fn to_f32(self, v: Self::I) -> Self::V {
        // SAFETY: see the impl.
        unsafe { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }
    }
    #[inline(always)]
    fn dot4(self, acc: Self::I, x: [u8; 4], w: Halves) -> Self::I {
        // SAFETY: see the impl. The products of 16-bit numbers are summed at 32 bits: maddubs would saturate.
        unsafe {
            let x = _mm256_set1_epi32(i32::from_ne_bytes(x));
            let even = _mm256_and_si256(x, _mm256_set1_epi16(0xff));
            let odd = _mm256_srli_epi16::<8>(x);
            let mut acc = acc;
            for half in 0..2 {
                acc[half] = _mm256_add_epi32(acc[half], _mm256_madd_epi16(even, w[half][0]));
                acc[half] = _mm256_add_epi32(acc[half], _mm256_madd_epi16(odd, w[half][1]));
            }
            acc
        }
    }
    #[inline(always)]
    fn load_w(self, from: &[i8; 64]) -> Halves {
        // SAFETY: see the impl.
        unsafe {
            let mut w = [[_mm256_setzero_si256(); 2]; 2];
            for (half, w) in w.iter_mut().enumerate() {
                let bytes = _mm256_loadu_si256(from.as_ptr().cast::<__m256i>().add(half));
                *w = [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)];
            }
            w
        }
    }
    #[inline(always)]
    fn load_nibbles(self, from: &[u8; 64]) -> [[__m256i; 2]; 2] {
        // SAFETY: see the impl.
        unsafe {
            let low = _mm256_set1_epi8(15);
            let from = from.as_ptr().cast::<__m256i>();
            let bytes = [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))];
            [
                bytes.map(|bytes| _mm256_and_si256(bytes, low)),
                bytes.map(|bytes| _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), low)),
            ]
        }
    }
    #[inline(always)]
    fn dot4_nibbles(self, acc: Self::I, x: [i8; 4], w: [__m256i; 2]) -> Self::I {
        // SAFETY: see the impl. Two products of at most 15 * 128 do not saturate 16 bits.
        unsafe {
            let x = _mm256_set1_epi32(i32::from_ne_bytes(x.map(|x| x as u8)));
            let ones = _mm256_set1_epi16(1);
            [
                _mm256_add_epi32(acc[0], _mm256_madd_epi16(_mm256_maddubs_epi16(w[0], x), ones)),
                _mm256_add_epi32(acc[1], _mm256_madd_epi16(_mm256_maddubs_epi16(w[1], x), ones)),
            ]
        }
    }
    #[inline(always)]
    fn unpack_nibbles(self, from: &[u8; 64]) -> [Self::V; 8] {
        // SAFETY: see the impl.
        unsafe {
            let low = _mm256_set1_epi32(15);
            let mut values = [[_mm256_setzero_ps(); 2]; 8];
            for half in 0..2 {
                let bits = _mm256_loadu_si256(from.as_ptr().cast::<__m256i>().add(half));
                let shifted = [
                    bits,
                    _mm256_srli_epi32::<8>(bits),
                    _mm256_srli_epi32::<16>(bits),
                    _mm256_srli_epi32::<24>(bits),
                    _mm256_srli_epi32::<4>(bits),
                    _mm256_srli_epi32::<12>(bits),
                    _mm256_srli_epi32::<20>(bits),
                    _mm256_srli_epi32::<28>(bits),
                ];
                for (value, bits) in values.iter_mut().zip(shifted) {
                    value[half] = _mm256_cvtepi32_ps(_mm256_and_si256(bits, low));
                }
            }
            values
        }
    }
}
