//! The 8- and 4-bit floats of ONNX: decoding and round-to-nearest-even encoding.
//!
//! Formats and their special values: the ONNX specification's "Float stored in 8 bits" and "4 bit integer types" pages.

use crate::dtype::DType;

/// What a small float looks like.
struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    signed: bool,
    specials: Specials,
}

#[derive(Clone, Copy, PartialEq)]
enum Specials {
    /// Highest exponent is infinity and NaN, as IEEE.
    Ieee,
    /// Only the all-ones code is NaN, no infinity.
    AllOnesNan,
    /// Only negative zero's code is NaN, no infinity.
    NegativeZeroNan,
    /// Every code is a number.
    None,
}

fn format(dtype: DType) -> Format {
    let f = |exponent_bits, mantissa_bits, bias, signed, specials| Format {
        exponent_bits,
        mantissa_bits,
        bias,
        signed,
        specials,
    };
    match dtype {
        DType::F8E4M3FN => f(4, 3, 7, true, Specials::AllOnesNan),
        DType::F8E4M3FNUZ => f(4, 3, 8, true, Specials::NegativeZeroNan),
        DType::F8E5M2 => f(5, 2, 15, true, Specials::Ieee),
        DType::F8E5M2FNUZ => f(5, 2, 16, true, Specials::NegativeZeroNan),
        DType::F8E8M0 => f(8, 0, 127, false, Specials::AllOnesNan),
        DType::F4E2M1 => f(2, 1, 1, true, Specials::None),
        other => panic!("{other} is not a small float"),
    }
}

/// The value of element `i` of packed small floats.
pub fn load(dtype: DType, bytes: &[u8], i: usize) -> f64 {
    match dtype.bits() {
        4 => decode(dtype, bytes[i / 2] >> (i % 2 * 4) & 15),
        _ => decode(dtype, bytes[i]),
    }
}

/// Rounds `v` and stores it as element `i`; see [`encode`] for `saturate`.
pub fn store(dtype: DType, out: &mut [u8], i: usize, v: f64, saturate: bool) {
    let code = encode(dtype, v, saturate);
    if dtype.bits() == 4 {
        let shift = i % 2 * 4;
        out[i / 2] = out[i / 2] & !(15 << shift) | code << shift;
    } else {
        out[i] = code;
    }
}

/// The number a code stands for.
pub fn decode(dtype: DType, code: u8) -> f64 {
    let f = format(dtype);
    let magnitude_bits = f.exponent_bits + f.mantissa_bits;
    let magnitude = code as u32 & ((1u32 << magnitude_bits) - 1);
    let negative = f.signed && code >> magnitude_bits & 1 == 1;
    let exponent = magnitude >> f.mantissa_bits;
    let mantissa = magnitude & ((1u32 << f.mantissa_bits) - 1);
    let top = (1u32 << f.exponent_bits) - 1;
    let value = match f.specials {
        Specials::Ieee if exponent == top && mantissa == 0 => f64::INFINITY,
        Specials::Ieee if exponent == top => f64::NAN,
        Specials::AllOnesNan if magnitude == (1u32 << magnitude_bits) - 1 => f64::NAN,
        Specials::NegativeZeroNan if negative && magnitude == 0 => f64::NAN,
        _ => {
            let scale = 2f64.powi(-(f.mantissa_bits as i32));
            match exponent {
                0 if f.signed => mantissa as f64 * scale * 2f64.powi(1 - f.bias),
                _ => (1.0 + mantissa as f64 * scale) * 2f64.powi(exponent as i32 - f.bias),
            }
        }
    };
    if negative && !value.is_nan() { -value } else { value }
}

/// The nearest code, ties to even. Out of range: the largest finite number when `saturate`, else infinity or NaN.
///
/// `F8E8M0` rounds up to the next power of two when not representable, as ONNX's default `round_mode` does.
pub fn encode(dtype: DType, v: f64, saturate: bool) -> u8 {
    let f = format(dtype);
    let magnitude_bits = f.exponent_bits + f.mantissa_bits;
    let sign = if f.signed && v.is_sign_negative() { 1u8 << magnitude_bits } else { 0 };
    let codes = 1u32 << magnitude_bits;
    let nan = match f.specials {
        Specials::Ieee | Specials::AllOnesNan => sign | (codes - 1) as u8,
        Specials::NegativeZeroNan => 1u8 << magnitude_bits,
        Specials::None => sign,
    };
    if v.is_nan() {
        return nan;
    }
    let largest = (0..codes).rev().find(|c| decode(dtype, *c as u8).is_finite()).unwrap_or(0) as u8;
    let top = decode(dtype, largest);
    let magnitude = v.abs();
    let beyond = if saturate {
        sign | largest
    } else {
        match f.specials {
            Specials::Ieee => sign | (((1u32 << f.exponent_bits) - 1) << f.mantissa_bits) as u8,
            Specials::None => sign | largest,
            _ => nan,
        }
    };
    if magnitude.is_infinite() {
        return beyond;
    }
    // Codes ascend with their values, so a binary search finds the last code not above the magnitude.
    let (mut low, mut high) = (0u8, largest);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if decode(dtype, middle) <= magnitude { low = middle } else { high = middle - 1 }
    }
    let below = decode(dtype, low);
    let step = if low == largest { top - decode(dtype, largest - 1) } else { decode(dtype, low + 1) - below };
    let up = if dtype == DType::F8E8M0 {
        magnitude > below
    } else {
        let half = (magnitude - below) - step / 2.0;
        half > 0.0 || half == 0.0 && low & 1 == 1
    };
    let code = match (up, low == largest) {
        (false, _) => low,
        (true, true) => return beyond,
        (true, false) => low + 1,
    };
    if code == 0 && f.specials == Specials::NegativeZeroNan { 0 } else { sign | code }
}
