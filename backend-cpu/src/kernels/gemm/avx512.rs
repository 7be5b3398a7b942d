//! [`Simd`] on AVX-512: one register per vector.
#![allow(unsafe_code, reason = "intrinsics and target features")]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::simd::{Kernel, Simd};

/// AVX-512 F, BW, DQ and VL were detected; the field says whether VNNI was too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512 {
    vnni: bool,
}

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let base = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        base.then(|| Self { vnni: is_x86_feature_detected!("avx512vnni") })
    }

    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a value of `Avx512` exists only where the features were detected.
        unsafe { without_vnni(kernel) }
    }

    pub(super) fn run_int8<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: as in `run`.
        unsafe { if self.vnni { with_vnni(kernel) } else { without_vnni(kernel) } }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn with_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.call(Lanes::<true>(()))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn without_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.call(Lanes::<false>(()))
}

/// The mask of the first `count` lanes, of all where there are no more than 16.
#[inline(always)]
fn first_lanes(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// The features of [`Avx512`] are enabled in the running function.
#[derive(Clone, Copy)]
struct Lanes<const VNNI: bool>(());

// SAFETY of every block below: a value of `Lanes` is made only by the two functions above, with the features that
// the intrinsics need; loads and stores go through references to arrays of the register's size.
impl<const VNNI: bool> Simd for Lanes<VNNI> {
    type V = __m512;
    type I = __m512i;
    type W = __m512i;
    type N = __m512i;
    const WIDE: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; 16]) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; 16]) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; 16]) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> __m512 {
        // SAFETY: see the impl; lanes that the mask leaves out are not read.
        unsafe { _mm512_maskz_loadu_ps(first_lanes(from.len()), from.as_ptr()) }
    }
    #[inline(always)]
    fn store_part(self, v: __m512, to: &mut [f32]) {
        // SAFETY: see the impl; lanes that the mask leaves out are not written.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first_lanes(to.len()), v) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn round_i8(self, a: __m512) -> [i8; 16] {
        let mut to = [0; 16];
        // SAFETY: see the impl.
        unsafe {
            let bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a));
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
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: see the impl.
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    fn transpose(self, v: [__m512; 16]) -> [__m512; 16] {
        // SAFETY: see the impl.
        unsafe {
            let mut pairs = v;
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
            }
            // Vector 4 i + j holds column 4 c + j of rows 4 i .. 4 i + 4 in its quarter c.
            let mut fours = v;
            for i in 0..4 {
                for half in 0..2 {
                    let a = _mm512_castps_pd(pairs[4 * i + half]);
                    let b = _mm512_castps_pd(pairs[4 * i + half + 2]);
                    fours[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                    fours[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                }
            }
            let mut columns = v;
            for j in 0..4 {
                let low = _mm512_shuffle_f32x4::<0x88>(fours[j], fours[4 + j]);
                let high = _mm512_shuffle_f32x4::<0x88>(fours[8 + j], fours[12 + j]);
                columns[j] = _mm512_shuffle_f32x4::<0x88>(low, high);
                columns[8 + j] = _mm512_shuffle_f32x4::<0xdd>(low, high);
                let low = _mm512_shuffle_f32x4::<0xdd>(fours[j], fours[4 + j]);
                let high = _mm512_shuffle_f32x4::<0xdd>(fours[8 + j], fours[12 + j]);
                columns[4 + j] = _mm512_shuffle_f32x4::<0x88>(low, high);
                columns[12 + j] = _mm512_shuffle_f32x4::<0xdd>(low, high);
            }
            columns
        }
    }
    #[inline(always)]
    fn evens(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            let places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            _mm512_permutex2var_ps(a, places, b)
        }
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn store_i32(self, v: __m512i, to: &mut [i32; 16]) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn add_i32(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn to_f32(self, v: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    fn dot4(self, acc: __m512i, x: [u8; 4], w: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe {
            let x = _mm512_set1_epi32(i32::from_ne_bytes(x));
            if VNNI {
                return _mm512_dpbusd_epi32(acc, x, w);
            }
            // maddubs would saturate: multiply the even and the odd bytes as 16-bit numbers.
            let even = _mm512_and_si512(x, _mm512_set1_epi16(0xff));
            let odd = _mm512_srli_epi16::<8>(x);
            let w_even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(w));
            let w_odd = _mm512_srai_epi16::<8>(w);
            let products = _mm512_add_epi32(_mm512_madd_epi16(even, w_even), _mm512_madd_epi16(odd, w_odd));
            _mm512_add_epi32(acc, products)
        }
    }
    #[inline(always)]
    fn load_w(self, from: &[i8; 64]) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_nibbles(self, from: &[u8; 64]) -> [__m512i; 2] {
        // SAFETY: see the impl.
        unsafe {
            let bytes = _mm512_loadu_si512(from.as_ptr().cast());
            let low = _mm512_set1_epi8(15);
            [_mm512_and_si512(bytes, low), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low)]
        }
    }
    #[inline(always)]
    fn dot4_nibbles(self, acc: __m512i, x: [i8; 4], w: __m512i) -> __m512i {
        // SAFETY: see the impl. Two products of at most 15 * 128 do not saturate 16 bits.
        unsafe {
            let x = _mm512_set1_epi32(i32::from_ne_bytes(x.map(|x| x as u8)));
            if VNNI {
                return _mm512_dpbusd_epi32(acc, w, x);
            }
            let products = _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), _mm512_set1_epi16(1));
            _mm512_add_epi32(acc, products)
        }
    }
    #[inline(always)]
    fn unpack_nibbles(self, from: &[u8; 64]) -> [__m512; 8] {
        // SAFETY: see the impl.
        unsafe {
            let bits = _mm512_loadu_si512(from.as_ptr().cast());
            // The permutation looks at the low four bits of each lane only, so no mask is needed.
            let values = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
            [
                _mm512_permutexvar_ps(bits, values),
                _mm512_permutexvar_ps(_mm512_srli_epi32::<8>(bits), values),
                _mm512_permutexvar_ps(_mm512_srli_epi32::<16>(bits), values),
                _mm512_permutexvar_ps(_mm512_srli_epi32::<24>(bits), values),
                _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bits), values),
                _mm512_permutexvar_ps(_mm512_srli_epi32::<12>(bits), values),
                _mm512_permutexvar_ps(_mm512_srli_epi32::<20>(bits), values),
                _mm512_permutexvar_ps(_mm512_srli_epi32::<28>(bits), values),
            ]
        }
    }
}
