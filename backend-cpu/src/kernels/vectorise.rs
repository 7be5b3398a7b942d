//! Compiles one function body for several instruction sets and picks among them at run time.
//!
//! A kernel is written once, as plain loops over slices that the compiler vectorises; `vectorise!` instantiates
//! it for AVX-512, for AVX2 with FMA, and for the baseline of the target, and calls the best one the CPU has.
//! Inside the body `FMA` is a constant that tells whether a fused multiply-add is one instruction:
//!
//! ```ignore
//! vectorise! {
//!     /// `y = a * x + y`, element by element.
//!     pub fn axpy<FMA>(a: f32, x: &[f32], y: &mut [f32]) {
//!         for (y, &x) in y.iter_mut().zip(x) {
//!             *y = fma::<FMA>(a, x, *y);
//!         }
//!     }
//! }
//! ```
//!
//! Helpers called from a body must be `#[inline(always)]`, or they are compiled for the baseline.

use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets the kernels are compiled for, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every CPU of the target has.
    Baseline,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and CD beside AVX2 and FMA.
    Avx512,
}

/// The best level this CPU has; found once, then read from a cache.
#[inline]
pub fn level() -> Level {
    static CACHE: AtomicU8 = AtomicU8::new(u8::MAX);
    match CACHE.load(Ordering::Relaxed) {
        0 => Level::Baseline,
        1 => Level::Avx2,
        2 => Level::Avx512,
        _ => {
            let found = detect();
            CACHE.store(found as u8, Ordering::Relaxed);
            found
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi2");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512cd");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        (false, _) => Level::Baseline,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Baseline
}

/// Whether the baseline of the target multiplies and adds in one instruction.
pub const BASELINE_FMA: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// `a * b + c`, fused where `FMA` says that the instruction exists.
#[inline(always)]
pub fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// See the module comment.
macro_rules! vectorise {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<FMA $(, $g:ident : $bound:path)*>($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    )*) => {$(
        $(#[$meta])*
        $vis fn $name<$($g: $bound),*>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters, reason = "not every body asks for FMA")]
            fn body<const FMA: bool, $($g: $bound),*>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi2")]
                fn avx512<$($g: $bound),*>($($arg: $ty),*) $(-> $ret)? {
                    body::<true, $($g),*>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,f16c,bmi2")]
                fn avx2<$($g: $bound),*>($($arg: $ty),*) $(-> $ret)? {
                    body::<true, $($g),*>($($arg),*)
                }
                use $crate::kernels::vectorise::{Level, level};
                match level() {
                    // SAFETY: `level` found every feature that `avx512` enables.
                    #[allow(unsafe_code, reason = "a call into code compiled for a detected instruction set")]
                    Level::Avx512 => return unsafe { avx512::<$($g),*>($($arg),*) },
                    // SAFETY: `level` found every feature that `avx2` enables.
                    #[allow(unsafe_code, reason = "a call into code compiled for a detected instruction set")]
                    Level::Avx2 => return unsafe { avx2::<$($g),*>($($arg),*) },
                    Level::Baseline => {}
                }
            }
            body::<{ $crate::kernels::vectorise::BASELINE_FMA }, $($g),*>($($arg),*)
        }
    )*};
}
pub(crate) use vectorise;
