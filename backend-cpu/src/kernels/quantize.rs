//! Floats to 8-bit integers and back.
//!
//! Quotients are rounded to nearest, ties to even, as ONNX wants; NaN becomes 0.

use super::lanes;
use super::vectorise::vectorise;

/// What one scale and zero point make of floats: `saturate(round(x / scale) + zero)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Divides.
    pub scale: f32,
    /// Added after rounding; a whole number.
    pub zero: f32,
    /// Whether results are -128..=127 rather than 0..=255.
    pub signed: bool,
}

impl Affine {
    /// The scale and zero point that cover a range with 0 in it by 0..=255, as DynamicQuantizeLinear computes them.
    pub fn covering(low: f32, high: f32) -> Affine {
        let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
        let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
        Affine { scale, zero, signed: false }
    }

    /// The zero point as a byte.
    pub fn zero_point(&self) -> u8 {
        self.zero as u8
    }
}

vectorise! {
    /// The least and the largest element, but at most and at least 0; NaN is passed over.
    pub fn range<FMA>(x: &[f32]) -> (f32, f32) {
        let smaller = |a: f32, b: f32| if b < a { b } else { a };
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        (lanes::fold(x, 0.0, smaller, smaller), lanes::fold(x, 0.0, larger, larger))
    }

    /// Writes one byte per element.
    pub fn quantize<FMA>(x: &[f32], by: Affine, y: &mut [u8]) {
        // Added to a small whole number, it leaves the number's two's complement in the low bits.
        const SHIFT: f32 = 12_582_912.0;
        let (low, high) = if by.signed { (-128.0, 127.0) } else { (0.0, 255.0) };
        for (y, &x) in y.iter_mut().zip(x) {
            let v = (x / by.scale).round_ties_even() + by.zero;
            let v = if v < low { low } else { v };
            let v = if v > high { high } else { v };
            let v = if v.is_nan() { 0.0 } else { v };
            *y = (v + SHIFT).to_bits() as u8;
        }
    }

    /// `(x - zero) * scale` of bytes.
    pub fn dequantize<FMA>(x: &[u8], by: Affine, y: &mut [f32]) {
        let flip = if by.signed { 0x80 } else { 0 };
        let zero = if by.signed { by.zero + 128.0 } else { by.zero };
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (f32::from(x ^ flip) - zero) * by.scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_round_to_even_and_ends_saturate() {
        let x = [0.5, 1.5, -0.5, 2.5, 1e30, -1e30, f32::NAN, f32::INFINITY];
        let mut y = [9; 8];
        quantize(&x, Affine { scale: 1.0, zero: 10.0, signed: false }, &mut y);
        assert_eq!(y, [10, 12, 10, 12, 255, 0, 0, 255]);
        quantize(&x, Affine { scale: 1.0, zero: -1.0, signed: true }, &mut y);
        assert_eq!(y.map(|b| b as i8), [-1, 1, -1, 1, 127, -128, 0, 127]);
    }

    #[test]
    fn bytes_come_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        for signed in [false, true] {
            let by = Affine { scale: 0.5, zero: 3.0, signed };
            let (mut x, mut back) = (vec![0.0; 256], vec![0; 256]);
            dequantize(&bytes, by, &mut x);
            assert_eq!(x[3], 0.0);
            quantize(&x, by, &mut back);
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn a_range_holds_zero_and_no_nan() {
        assert_eq!(range(&[2.0, f32::NAN, 5.0]), (0.0, 5.0));
        let long: Vec<f32> = (0..100).map(|i| i as f32 - 70.0).collect();
        assert_eq!(range(&long), (-70.0, 29.0));
        assert_eq!(Affine::covering(0.0, 0.0), Affine { scale: 1.0, zero: 0.0, signed: false });
    }
}
