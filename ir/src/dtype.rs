//! Element types: the names, sizes and classes of everything a tensor can hold.

use std::fmt;
use std::str::FromStr;

/// What kind of number an element is; decides which arithmetic an operator uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Floating point, from 4 to 64 bits.
    Float,
    /// Signed integer.
    Signed,
    /// Unsigned integer.
    Unsigned,
    /// Truth value, one byte.
    Bool,
    /// UTF-8 text.
    Text,
}

macro_rules! dtypes {
    ($($(#[$doc:meta])* $Name:ident $text:literal $bits:literal $class:ident;)+) => {
        /// The type of a tensor's elements.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum DType { $($(#[$doc])* $Name,)+ }

        impl DType {
            /// Every element type, in declaration order.
            pub const ALL: &[DType] = &[$(DType::$Name,)+];

            /// The name in the text form.
            pub fn name(self) -> &'static str { match self { $(DType::$Name => $text,)+ } }

            /// Bits an element takes in memory; below 8 elements are packed, low bits first. Zero for text.
            pub fn bits(self) -> usize { match self { $(DType::$Name => $bits,)+ } }

            /// The arithmetic class.
            pub fn class(self) -> Class { match self { $(DType::$Name => Class::$class,)+ } }
        }
    };
}

dtypes! {
    /// IEEE binary64.
    F64 "f64" 64 Float;
    /// IEEE binary32.
    F32 "f32" 32 Float;
    /// IEEE binary16.
    F16 "f16" 16 Float;
    /// Upper half of binary32.
    BF16 "bf16" 16 Float;
    /// 64-bit signed integer.
    I64 "i64" 64 Signed;
    /// 32-bit signed integer.
    I32 "i32" 32 Signed;
    /// 16-bit signed integer.
    I16 "i16" 16 Signed;
    /// 8-bit signed integer.
    I8 "i8" 8 Signed;
    /// 64-bit unsigned integer.
    U64 "u64" 64 Unsigned;
    /// 32-bit unsigned integer.
    U32 "u32" 32 Unsigned;
    /// 16-bit unsigned integer.
    U16 "u16" 16 Unsigned;
    /// 8-bit unsigned integer.
    U8 "u8" 8 Unsigned;
    /// Truth value in one byte, 0 or 1.
    Bool "bool" 8 Bool;
    /// UTF-8 text; host only.
    Str "string" 0 Text;
    /// ONNX FLOAT8E4M3FN: no infinities, NaN at 0x7f/0xff.
    F8E4M3FN "f8e4m3fn" 8 Float;
    /// ONNX FLOAT8E4M3FNUZ: no infinities, no -0, NaN at 0x80.
    F8E4M3FNUZ "f8e4m3fnuz" 8 Float;
    /// ONNX FLOAT8E5M2: with infinities.
    F8E5M2 "f8e5m2" 8 Float;
    /// ONNX FLOAT8E5M2FNUZ: no infinities, no -0, NaN at 0x80.
    F8E5M2FNUZ "f8e5m2fnuz" 8 Float;
    /// ONNX FLOAT8E8M0: a power of two, NaN at 0xff.
    F8E8M0 "f8e8m0" 8 Float;
    /// ONNX FLOAT4E2M1, two to a byte.
    F4E2M1 "f4e2m1" 4 Float;
    /// 4-bit signed integer, two to a byte.
    I4 "i4" 4 Signed;
    /// 4-bit unsigned integer, two to a byte.
    U4 "u4" 4 Unsigned;
    /// 2-bit signed integer, four to a byte.
    I2 "i2" 2 Signed;
    /// 2-bit unsigned integer, four to a byte.
    U2 "u2" 2 Unsigned;
}

impl DType {
    /// Bytes that `elements` elements take; packed types round up to a whole byte. Saturates.
    pub fn bytes(self, elements: usize) -> usize {
        elements.saturating_mul(self.bits()).div_ceil(8)
    }

    /// Whether arithmetic on this type is floating point.
    pub fn is_float(self) -> bool {
        self.class() == Class::Float
    }

    /// Whether this is a signed or unsigned integer (bool is not).
    pub fn is_int(self) -> bool {
        matches!(self.class(), Class::Signed | Class::Unsigned)
    }

    /// Types that are only stored and converted: below 8 bits, and the 8-bit floats.
    pub fn is_storage_only(self) -> bool {
        use DType::*;
        matches!(self, F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | F4E2M1 | I4 | U4 | I2 | U2)
    }

    /// The range of an integer type; `None` for others.
    pub fn int_range(self) -> Option<(i128, i128)> {
        let bits = self.bits() as u32;
        match self.class() {
            Class::Signed => Some((-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)),
            Class::Unsigned => Some((0, (1i128 << bits) - 1)),
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no element type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an element type")]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;
    fn from_str(s: &str) -> Result<DType, UnknownDType> {
        let found = DType::ALL.iter().find(|d| d.name() == s);
        found.copied().ok_or_else(|| UnknownDType(s.to_string()))
    }
}
