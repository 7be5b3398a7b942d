//! Sixteen f32 lanes, the one vector width of all kernels here, on whatever the machine has.
//!
//! A kernel is written once over [`Simd`] and compiled once per instruction set: [`Isa::run`] enters a function that
//! has the target features enabled, and everything inlined into it uses them. Values of [`Isa`] exist only for
//! instruction sets that were detected, which is what makes their methods safe to call.

use half::{bf16, f16};

use super::portable::Portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// An instruction set of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, BW, DQ and VL, with VNNI where there is.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// What the compiler makes of plain code.
    Portable(Portable),
}

impl Isa {
    /// The fastest instruction set of this machine.
    pub fn best() -> Self {
        Self::available().next().expect("the portable one is always there")
    }

    /// All instruction sets of this machine, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let detected = [Avx512::detect().map(Self::Avx512), Avx2::detect().map(Self::Avx2)];
        #[cfg(not(target_arch = "x86_64"))]
        let detected: [Option<Self>; 0] = [];
        detected.into_iter().flatten().chain([Self::Portable(Portable)])
    }

    /// Runs `kernel` with this instruction set.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.run(kernel),
            Self::Portable(simd) => kernel.call(simd),
        }
    }

    /// As [`Isa::run`], for kernels that use [`Simd::dot4`]: only they gain from VNNI.
    pub fn run_int8<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.run_int8(kernel),
            _ => self.run(kernel),
        }
    }
}

/// Code over any [`Simd`]. `call` must be `#[inline(always)]`, as all that it calls in a hot loop.
pub trait Kernel {
    /// What the kernel returns.
    type Output;
    /// The code.
    fn call<S: Simd>(self, simd: S) -> Self::Output;
}

/// Operations on vectors of 16 lanes. The methods are the machine's: `max(a, b)` is `a > b ? a : b`, so that a NaN
/// in `b` stays.
pub trait Simd: Copy + Send + Sync + 'static {
    /// 16 lanes of f32.
    type V: Copy;
    /// 16 lanes of i32.
    type I: Copy;
    /// Whether there are 32 registers of 16 lanes, so that a tile of 12 x 32 fits.
    const WIDE: bool;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Loads 16 f32.
    fn load(self, from: &[f32; 16]) -> Self::V;
    /// Loads 16 f16, widened.
    fn load_f16(self, from: &[f16; 16]) -> Self::V;
    /// Loads 16 bf16, widened.
    fn load_bf16(self, from: &[bf16; 16]) -> Self::V;
    /// Loads up to 16 f32; the missing lanes are zero.
    fn load_part(self, from: &[f32]) -> Self::V;
    /// Stores 16 f32.
    fn store(self, v: Self::V, to: &mut [f32; 16]);
    /// Stores as many lanes as `to` has room for.
    fn store_part(self, v: Self::V, to: &mut [f32]);
    /// `a * b + c`; one rounding where the machine fuses.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `|a|`.
    fn abs(self, a: Self::V) -> Self::V;
    /// Each lane rounded to nearest, ties to even, for lanes in -128..=127.
    fn round_i8(self, a: Self::V) -> [i8; 16];
    /// Hints that the cache line of an address is read soon; any address will do.
    fn prefetch<T>(self, from: *const T);
    /// The sum of the lanes.
    fn sum(self, v: Self::V) -> f32;
    /// Lane `j` of vector `i` becomes lane `i` of vector `j`.
    fn transpose(self, v: [Self::V; 16]) -> [Self::V; 16];
    /// Lanes 0, 2, 4, .. of `a`, then those of `b`.
    fn evens(self, a: Self::V, b: Self::V) -> Self::V;

    /// All lanes `x`.
    fn splat_i32(self, x: i32) -> Self::I;
    /// Stores 16 i32.
    fn store_i32(self, v: Self::I, to: &mut [i32; 16]);
    /// `a + b`, wrapping.
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each lane as f32, rounded to nearest.
    fn to_f32(self, v: Self::I) -> Self::V;
    /// Lane `i` of the result is `acc[i] + sum over j of x[j] * w[4 i + j]`, exact (wrapping at 32 bits).
    fn dot4(self, acc: Self::I, x: [u8; 4], w: Self::W) -> Self::I;
    /// 16 groups of 4 signed bytes, in a form that `dot4` wants.
    type W: Copy;
    /// Loads 64 weights for `dot4`.
    fn load_w(self, from: &[i8; 64]) -> Self::W;
    /// 16 groups of 4 values 0..=15, in a form that `dot4_nibbles` wants.
    type N: Copy;
    /// The low and the high nibbles of 64 bytes.
    fn load_nibbles(self, from: &[u8; 64]) -> [Self::N; 2];
    /// As `dot4`, for signed `x` and weights 0..=15.
    fn dot4_nibbles(self, acc: Self::I, x: [i8; 4], w: Self::N) -> Self::I;
    /// Eight vectors of 16 weights 0..=15 as f32, out of 16 groups of 4 bytes: lane `i` of vector `j` is the low
    /// nibble of byte `4 i + j` for `j < 4`, the high nibble of byte `4 i + j - 4` else.
    fn unpack_nibbles(self, from: &[u8; 64]) -> [Self::V; 8];
}

/// Element types of weights: stored as they are, multiplied as f32.
pub trait Element: Copy + Send + Sync + 'static {
    /// Zero.
    const ZERO: Self;
    /// Loads 16, widened to f32.
    fn load<S: Simd>(simd: S, from: &[Self; 16]) -> S::V;
    /// One value, widened to f32.
    fn widen(self) -> f32;
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; 16]) -> S::V {
        simd.load(from)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for f16 {
    const ZERO: Self = f16::ZERO;
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; 16]) -> S::V {
        simd.load_f16(from)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; 16]) -> S::V {
        simd.load_bf16(from)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}
