//! How far from the reference a kernel may be.

use crate::dtype::DType;

/// How far a kernel may be from the reference, for one element type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Relative part.
    pub relative: f64,
    /// Absolute part, in units of the largest magnitude that entered the sum.
    pub absolute: f64,
}

impl Tolerance {
    /// Only the same bits.
    pub const EXACT: Tolerance = Tolerance { relative: 0.0, absolute: 0.0 };

    /// A few roundings of `dtype`.
    pub fn roundings(dtype: DType, n: f64) -> Tolerance {
        let unit = match dtype {
            DType::F64 => f64::EPSILON,
            DType::F32 => f32::EPSILON as f64,
            DType::F16 => 2f64.powi(-10),
            DType::BF16 => 2f64.powi(-7),
            d if d.is_float() => 0.25,
            _ => 0.0,
        };
        Tolerance { relative: n * unit, absolute: n * unit }
    }
}
