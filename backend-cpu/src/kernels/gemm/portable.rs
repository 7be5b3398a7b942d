//! [`Simd`] in plain Rust: arrays that the compiler maps to whatever registers the target has.

use std::array::from_fn;

use half::{bf16, f16};

use super::simd::Simd;

/// No instruction set beyond the compile target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portable;

impl Simd for Portable {
    type V = [f32; 16];
    type I = [i32; 16];
    type W = [i8; 64];
    type N = [u8; 64];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> [f32; 16] {
        *from
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; 16]) -> [f32; 16] {
        from.map(f16::to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; 16]) -> [f32; 16] {
        from.map(bf16::to_f32)
    }
    #[inline(always)]
    fn store(self, v: [f32; 16], to: &mut [f32; 16]) {
        *to = v;
    }
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> [f32; 16] {
        from_fn(|i| from.get(i).copied().unwrap_or(0.0))
    }
    #[inline(always)]
    fn store_part(self, v: [f32; 16], to: &mut [f32]) {
        to.iter_mut().zip(v).for_each(|(to, x)| *to = x);
    }
    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn abs(self, a: [f32; 16]) -> [f32; 16] {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn round_i8(self, a: [f32; 16]) -> [i8; 16] {
        a.map(|x| x.round_ties_even() as i8)
    }
    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
    #[inline(always)]
    fn sum(self, v: [f32; 16]) -> f32 {
        v.iter().sum()
    }
    #[inline(always)]
    fn transpose(self, v: [[f32; 16]; 16]) -> [[f32; 16]; 16] {
        from_fn(|i| from_fn(|j| v[j][i]))
    }
    #[inline(always)]
    fn evens(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if i < 8 { a[2 * i] } else { b[2 * i - 16] })
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn store_i32(self, v: [i32; 16], to: &mut [i32; 16]) {
        *to = v;
    }
    #[inline(always)]
    fn add_i32(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn to_f32(self, v: [i32; 16]) -> [f32; 16] {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    fn dot4(self, acc: [i32; 16], x: [u8; 4], w: [i8; 64]) -> [i32; 16] {
        from_fn(|i| (0..4).fold(acc[i], |sum, j| sum.wrapping_add(i32::from(x[j]) * i32::from(w[4 * i + j]))))
    }
    #[inline(always)]
    fn load_w(self, from: &[i8; 64]) -> [i8; 64] {
        *from
    }
    #[inline(always)]
    fn load_nibbles(self, from: &[u8; 64]) -> [[u8; 64]; 2] {
        [from.map(|byte| byte & 15), from.map(|byte| byte >> 4)]
    }
    #[inline(always)]
    fn dot4_nibbles(self, acc: [i32; 16], x: [i8; 4], w: [u8; 64]) -> [i32; 16] {
        from_fn(|i| (0..4).fold(acc[i], |sum, j| sum.wrapping_add(i32::from(x[j]) * i32::from(w[4 * i + j]))))
    }
    #[inline(always)]
    fn unpack_nibbles(self, from: &[u8; 64]) -> [[f32; 16]; 8] {
        from_fn(|j| from_fn(|i| f32::from(from[4 * i + j % 4] >> (j / 4 * 4) & 15)))
    }
}
