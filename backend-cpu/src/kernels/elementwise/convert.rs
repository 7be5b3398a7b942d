//! Conversion between element types.
//!
//! Integers wrap when narrowed; a float becomes the nearest integer towards zero, saturated at the ends, NaN 0;
//! anything but zero is true; f16 and bf16 round to the nearest, ties to even.

use bytemuck::{AnyBitPattern, NoUninit};
use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::kernels::element::Element;

/// Any value without loss.
enum Wide {
    Float(f64),
    Signed(i64),
    Unsigned(u64),
}

/// A stored type that can be widened and narrowed; both vanish once inlined.
trait Scalar: AnyBitPattern + NoUninit {
    fn widen(self) -> Wide;
    fn narrow(wide: Wide) -> Self;
}

macro_rules! scalar {
    ($t:ty, $variant:ident, $wide:ty) => {
        impl Scalar for $t {
            #[inline(always)]
            fn widen(self) -> Wide {
                Wide::$variant(self as $wide)
            }

            #[inline(always)]
            fn narrow(wide: Wide) -> Self {
                match wide {
                    Wide::Float(x) => x as $t,
                    Wide::Signed(x) => x as $t,
                    Wide::Unsigned(x) => x as $t,
                }
            }
        }
    };
}
scalar!(f64, Float, f64);
scalar!(f32, Float, f64);
scalar!(i64, Signed, i64);
scalar!(i32, Signed, i64);
scalar!(i16, Signed, i64);
scalar!(i8, Signed, i64);
scalar!(u64, Unsigned, u64);
scalar!(u32, Unsigned, u64);
scalar!(u16, Unsigned, u64);
scalar!(u8, Unsigned, u64);

macro_rules! half_scalar {
    ($t:ty) => {
        impl Scalar for $t {
            #[inline(always)]
            fn widen(self) -> Wide {
                Wide::Float(self.to_f64())
            }

            #[inline(always)]
            fn narrow(wide: Wide) -> Self {
                <$t>::from_f64(f64::narrow(wide))
            }
        }
    };
}
half_scalar!(f16);
half_scalar!(bf16);

/// A boolean as it is stored.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Flag(u8);

// `Flag` is a `u8`: views are taken as bytes and wrapped.
fn flags_to<D: Scalar>(x: &[u8], y: &mut [D]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = D::narrow(Flag(x).widen());
    }
}

fn to_flags<S: Scalar>(x: &[S], y: &mut [u8]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = match x.widen() {
            Wide::Float(x) => x != 0.0,
            Wide::Signed(x) => x != 0,
            Wide::Unsigned(x) => x != 0,
        } as u8;
    }
}

impl Flag {
    #[inline(always)]
    fn widen(self) -> Wide {
        Wide::Unsigned((self.0 != 0) as u64)
    }
}

fn each<S: Scalar, D: Scalar>(x: &[S], y: &mut [D]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = D::narrow(x.widen());
    }
}

/// Names the Rust type of a numeric element, bool apart.
macro_rules! typed {
    ($element:expr, bool => $bool:expr, $T:ident => $body:expr) => {
        match $element {
            Element::F64 => {
                type $T = f64;
                $body
            }
            Element::F32 => {
                type $T = f32;
                $body
            }
            Element::F16 => {
                type $T = f16;
                $body
            }
            Element::BF16 => {
                type $T = bf16;
                $body
            }
            Element::I64 => {
                type $T = i64;
                $body
            }
            Element::I32 => {
                type $T = i32;
                $body
            }
            Element::I16 => {
                type $T = i16;
                $body
            }
            Element::I8 => {
                type $T = i8;
                $body
            }
            Element::U64 => {
                type $T = u64;
                $body
            }
            Element::U32 => {
                type $T = u32;
                $body
            }
            Element::U16 => {
                type $T = u16;
                $body
            }
            Element::U8 => {
                type $T = u8;
                $body
            }
            Element::Bool => $bool,
        }
    };
}

/// Converts the elements of `x`, stored as `from`, into `y`, stored as `to`; both hold the same number of elements
/// and are aligned for their types. See the module comment for the rules.
pub fn cast(from: Element, x: &[u8], to: Element, y: &mut [u8]) {
    use bytemuck::{cast_slice as view, cast_slice_mut as view_mut};
    debug_assert_eq!(x.len() / from.bytes(), y.len() / to.bytes());
    match (from, to) {
        (Element::Bool, Element::Bool) => y.copy_from_slice(x),
        (a, b) if a == b => y.copy_from_slice(x),
        (Element::F16, Element::F32) => view::<u8, f16>(x).convert_to_f32_slice(view_mut(y)),
        (Element::F32, Element::F16) => view_mut::<u8, f16>(y).convert_from_f32_slice(view(x)),
        (Element::BF16, Element::F32) => {
            for (y, x) in view_mut::<u8, u32>(y).iter_mut().zip(view::<u8, u16>(x)) {
                *y = (*x as u32) << 16;
            }
        }
        (Element::F32, Element::BF16) => {
            for (y, &x) in view_mut::<u8, u16>(y).iter_mut().zip(view::<u8, u32>(x)) {
                *y = round_to_bf16(x);
            }
        }
        _ => typed!(from,
            bool => typed!(to, bool => unreachable!("copied above"), D => flags_to::<D>(x, view_mut(y))),
            S => typed!(to, bool => to_flags::<S>(view(x), y), D => each::<S, D>(view(x), view_mut(y)))),
    }
}

/// The bf16 nearest to the f32 with these bits, ties to even; a NaN stays one.
#[inline(always)]
fn round_to_bf16(bits: u32) -> u16 {
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    let quiet = (bits >> 16) | 0x40;
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    (if nan { quiet } else { rounded }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert<S: Scalar, D: Scalar>(from: Element, x: &[S], to: Element) -> Vec<D> {
        let mut y = vec![D::zeroed(); x.len()];
        cast(from, bytemuck::cast_slice(x), to, bytemuck::cast_slice_mut(&mut y));
        y
    }

    #[test]
    fn floats_saturate_and_integers_wrap() {
        let x = [1.9f32, -1.9, 1e20, f32::NAN, -5.0];
        assert_eq!(convert::<_, i32>(Element::F32, &x, Element::I32), [1, -1, i32::MAX, 0, -5]);
        assert_eq!(convert::<_, u8>(Element::F32, &x, Element::U8), [1, 0, 255, 0, 0]);
        assert_eq!(convert::<_, u8>(Element::I64, &[257i64, -1], Element::U8), [1, 255]);
        assert_eq!(convert::<_, i64>(Element::U64, &[u64::MAX], Element::I64), [-1]);
    }

    #[test]
    fn anything_but_zero_is_true() {
        let x = [0.0f32, -0.0, 0.5, f32::NAN];
        assert_eq!(convert::<_, u8>(Element::F32, &x, Element::Bool), [0, 0, 1, 1]);
        assert_eq!(convert::<_, f32>(Element::Bool, &[0u8, 1], Element::F32), [0.0, 1.0]);
    }

    #[test]
    fn half_types_round_as_the_half_crate_does() {
        let x: Vec<f32> = (0..u32::MAX).step_by(65_521).map(f32::from_bits).collect();
        let b: Vec<bf16> = convert(Element::F32, &x, Element::BF16);
        let h: Vec<f16> = convert(Element::F32, &x, Element::F16);
        for (i, &x) in x.iter().enumerate() {
            assert!(b[i] == bf16::from_f32(x) || x.is_nan() && b[i].is_nan());
            assert!(h[i] == f16::from_f32(x) || x.is_nan() && h[i].is_nan());
        }
        let back: Vec<f32> = convert(Element::BF16, &b, Element::F32);
        assert!(back.iter().zip(&b).all(|(f, b)| *f == b.to_f32() || f.is_nan()));
    }

    #[test]
    fn every_pair_keeps_small_integers() {
        let source: Vec<i64> = vec![0, 1, 2, 100];
        for a in Element::ALL {
            for b in Element::ALL {
                let mut x = vec![0u64; 4];
                let mut y = vec![0u64; 4];
                let mut back = vec![0i64; 4];
                let bytes = |v: usize| 4 * v;
                cast(
                    Element::I64,
                    bytemuck::cast_slice(&source),
                    a,
                    &mut bytemuck::cast_slice_mut(&mut x)[..bytes(a.bytes())],
                );
                cast(
                    a,
                    &bytemuck::cast_slice(&x)[..bytes(a.bytes())],
                    b,
                    &mut bytemuck::cast_slice_mut(&mut y)[..bytes(b.bytes())],
                );
                cast(
                    b,
                    &bytemuck::cast_slice(&y)[..bytes(b.bytes())],
                    Element::I64,
                    bytemuck::cast_slice_mut(&mut back),
                );
                let boolean = a == Element::Bool || b == Element::Bool;
                assert_eq!(back, if boolean { vec![0, 1, 1, 1] } else { source.clone() }, "{a:?} {b:?}");
            }
        }
    }
}
