//! Constants in a narrower type: rounded chunk by chunk, and whether that leaves them what they are.

use half::{bf16, f16};
use ir::{DType, Tensor};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Elements that are converted at a time.
const CHUNK: usize = 1 << 16;

/// Constants that were rounded, by the memory of those they were made of; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Narrowed(Arc<Mutex<HashMap<Key, (Tensor, Tensor)>>>);

/// Address, elements, dimensions and type: what makes two constants the same without reading them.
type Key = (usize, Vec<usize>, DType);

impl Narrowed {
    /// The f32 tensor in type `to`: rounded to nearest even, finite elements at most the largest number of the type.
    pub(super) fn narrow(&self, tensor: &Tensor, to: DType) -> Tensor {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tensor.bytes().as_ptr() as usize, tensor.dims().to_vec(), to);
        // The original is kept too, so that no other one comes to lie at its address.
        let (_, narrow) = known.entry(key).or_insert_with(|| (tensor.clone(), convert(tensor, to)));
        narrow.clone()
    }
}

fn convert(tensor: &Tensor, to: DType) -> Tensor {
    let values: &[f32] = tensor.as_slice().expect("only f32 is narrowed");
    let converted = Tensor::build(to, tensor.dims(), |bytes| {
        for (values, bytes) in values.chunks(CHUNK).zip(bytes.chunks_mut(2 * CHUNK)) {
            let words = values.iter().zip(bytes.chunks_exact_mut(2));
            words.for_each(|(v, word)| word.copy_from_slice(&bits(*v, to).to_ne_bytes()));
        }
    });
    converted.expect("half of a tensor that exists fits memory")
}

fn bits(v: f32, to: DType) -> u16 {
    let limited = |max: f32| if v.is_finite() { v.clamp(-max, max) } else { v };
    match to {
        DType::F16 => f16::from_f32(limited(f16::MAX.to_f32())).to_bits(),
        _ => bf16::from_f32(limited(bf16::MAX.to_f32())).to_bits(),
    }
}

/// How a constant meets what an operator computes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A bound, or what padding is made of: the largest number of the type does what a larger one would do, but a guard
    /// against 0 or 1 stays on its side of them.
    Bound,
    /// A factor or divisor: every element counts.
    Factor,
    /// Anything else: an element that is too small to see changes nothing, unless no other is there.
    Term,
}

/// Whether the constant is the same in type `to`, but for rounding.
pub(super) fn fits(tensor: &Tensor, part: Part, to: DType) -> bool {
    let Ok(values) = tensor.as_slice::<f32>() else { return true };
    let (most, least) = match to {
        DType::F16 => (f16::MAX.to_f32(), f16::MIN_POSITIVE.to_f32()),
        _ => (bf16::MAX.to_f32(), bf16::MIN_POSITIVE.to_f32()),
    };
    let is_lost = |v: f32| v != 0.0 && v.abs() < least;
    let keeps_small = match part {
        Part::Bound | Part::Factor => !values.iter().any(|v| is_lost(*v)),
        Part::Term => values.iter().any(|v| !is_lost(*v) && *v != 0.0) || !values.iter().any(|v| is_lost(*v)),
    };
    let keeps_sides = part != Part::Bound || values.iter().all(|v| v.abs() >= 1.0 || rounded(*v, to).abs() < 1.0);
    let keeps_large = part == Part::Bound || values.iter().all(|v| v.abs() <= most || !v.is_finite());
    keeps_small && keeps_sides && keeps_large
}

fn rounded(v: f32, to: DType) -> f32 {
    match to {
        DType::F16 => f16::from_f32(v).to_f32(),
        _ => bf16::from_f32(v).to_f32(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(v: f32, to: DType) -> f64 {
        Narrowed::default().narrow(&Tensor::scalar(v), to).to_f64().unwrap()[0]
    }

    #[test]
    fn finite_numbers_stay_finite() {
        for (to, most) in [(DType::F16, 65504.0), (DType::BF16, bf16::MAX.to_f64())] {
            assert_eq!([one(f32::MAX, to), one(f32::MIN, to)], [most, -most], "{to}");
            assert_eq!([one(f32::INFINITY, to), one(f32::NEG_INFINITY, to)], [f64::INFINITY, f64::NEG_INFINITY]);
            assert!(one(f32::NAN, to).is_nan());
            assert!(one(-0.0, to) == 0.0 && one(-0.0, to).is_sign_negative());
        }
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        let half_way = 1.0 + 1.0 / 2048.0;
        assert_eq!([one(half_way, DType::F16), one(1.0 / 3.0, DType::F16)], [1.0, f16::from_f32(1.0 / 3.0).to_f64()]);
        assert_eq!(one(1.0 / 3.0, DType::BF16), bf16::from_f32(1.0 / 3.0).to_f64());
    }

    #[test]
    fn a_tensor_of_several_chunks_is_converted_whole() {
        let values: Vec<f32> = (0..CHUNK + 3).map(|i| i as f32 / 7.0).collect();
        let narrow = Narrowed::default().narrow(&Tensor::from_slice(&[CHUNK + 3], &values).unwrap(), DType::F16);
        let expected: Vec<f64> = values.iter().map(|v| f16::from_f32(*v).to_f64()).collect();
        assert_eq!(narrow.to_f64().unwrap(), expected);
    }

    #[test]
    fn one_constant_is_converted_once() {
        let (memo, t) = (Narrowed::default(), Tensor::scalar(1.5f32));
        let [a, b] = [memo.narrow(&t, DType::F16), memo.clone().narrow(&t, DType::F16)];
        assert_eq!(a.bytes().as_ptr(), b.bytes().as_ptr());
        assert_ne!(memo.narrow(&t, DType::BF16).dtype(), a.dtype());
    }
}
