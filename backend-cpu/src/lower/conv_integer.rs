//! `conv_integer` by a constant weight, through the f32 convolution, whose sums of small whole numbers are exact.
//!
//! Every sum of whole numbers that stays below 2^24 is exact in f32, in any order. Where `255 * sum |w|` of an output channel
//! may be larger, the weight is written in limbs of fewer bits and each limb is convolved by itself:
//!
//! ```text
//! w = 77   ->   77 = 4 * 16 + 13   ->   y = 16 * conv(x, 4) + conv(x, 13)
//! ```

use super::conv::{Forward, Geometry};
use super::window::Windows;
use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, View};
use crate::kernels::conv::{self, ConvEpilogue};
use crate::kernels::pool::Pool;
use ir::DType;
use ir::ops::{self, EvalError};
use ir::tensor::{Aligned, Memory};

/// The largest magnitude of an operand less its zero point.
const MOST: i64 = 255;
/// Bits of a weight less its zero point, its sign among them.
const BITS: u32 = 9;
/// Whole numbers up to here are exact in f32.
const EXACT: i64 = 1 << 24;

struct ConvInteger {
    geometry: Forward,
    /// Dimensions of the weight.
    dims: Vec<usize>,
    /// By how many bits each limb is shifted, and the limb in the convolution's layout.
    limbs: Vec<(u32, Aligned)>,
}

pub(super) fn conv_integer(op: &ops::ConvInteger, types: &Types<'_>) -> Chosen {
    let windows = Windows::new(&op.strides, &op.dilations, &op.pads, op.same)?;
    let ranked = types.dims(0).is_some_and(|d| (3..=5).contains(&d.len()));
    let dims: Vec<usize> = types.dims(1)?.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect::<Option<_>>()?;
    // Limbs of one bit are exact for so many inputs.
    let inputs: usize = dims.get(1..)?.iter().product();
    let exact = i64::try_from(inputs).is_ok_and(|n| n <= EXACT / MOST);
    let fits = ranked && exact && types.row_major() && types.constant(1) && types.constant(3);
    let geometry = Forward { windows, group: usize::try_from(op.group).ok()? };
    fits.then(|| Box::new(ConvInteger { geometry, dims, limbs: vec![] }) as Box<dyn Kernel>)
}

fn numbers(v: View<'_>) -> impl Iterator<Item = i32> + '_ {
    let signed = v.dtype == DType::I8;
    v.bytes.iter().map(move |b| if signed { i32::from(*b as i8) } else { i32::from(*b) })
}

/// The fewest limbs whose sums over a window are exact, the highest first: shift and numbers.
fn limbs(weights: &[i32], channels: usize) -> Vec<(u32, Vec<f32>)> {
    let window = weights.len() / channels.max(1);
    let exact = |limb: &[f32]| {
        let fits = |w: &[f32]| MOST * w.iter().map(|w| w.abs() as i64).sum::<i64>() <= EXACT;
        limb.chunks(window.max(1)).all(fits)
    };
    for count in 1..=BITS {
        let bits = BITS.div_ceil(count);
        let limb = |i: u32| -> (u32, Vec<f32>) {
            let shift = i * bits;
            let part = |w: &i32| if i + 1 == count { w >> shift } else { w >> shift & ((1 << bits) - 1) };
            (shift, weights.iter().map(|w| part(w) as f32).collect())
        };
        let made: Vec<_> = (0..count).rev().map(limb).collect();
        if made.iter().all(|(_, limb)| exact(limb)) {
            return made;
        }
    }
    vec![]
}

impl ConvInteger {
    fn build(&self, x: &[usize]) -> Result<conv::Conv, EvalError> {
        self.geometry.build(x, &self.dims)
    }
}

impl Kernel for ConvInteger {
    fn name(&self) -> &'static str {
        "conv_integer"
    }

    fn prepare(&mut self, constants: &[Option<View<'_>>]) {
        let at = |i: usize| constants.get(i).copied().flatten();
        let Some(w) = at(1) else { return };
        let zeros: Vec<i32> = at(3).map_or(vec![0], |z| numbers(z).collect());
        let channels = self.dims[0];
        if zeros.len() != 1 && zeros.len() != channels {
            return;
        }
        let window = self.dims[1..].iter().product::<usize>().max(1);
        let weights: Vec<i32> = numbers(w).enumerate().map(|(i, w)| w - zeros[i / window % zeros.len()]).collect();
        // The layout of a packed weight does not depend on the input's sizes.
        let Ok(built) = self.build(&self.geometry.least(&self.dims)) else { return };
        for (shift, limb) in limbs(&weights, channels) {
            let mut packed = Aligned::zeroed(built.packed_elems() * 4);
            built.pack(&limb, bytemuck::cast_slice_mut(packed.bytes_mut()));
            self.limbs.push((shift, packed));
        }
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        let Some(x) = dims.ins[0] else { return 0 };
        let values: usize = x.iter().product::<usize>() + dims.outs[0].iter().product::<usize>();
        self.build(x).map_or(0, |built| (values + built.scratch_elems(pool)).div_ceil(2))
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x = call.input(0);
        let built = self.build(x.dims)?;
        let mut zeros = call.ins.get(2).copied().flatten().into_iter().flat_map(numbers);
        let (zero, more) = (zeros.next(), zeros.next());
        let left_out = call.ins.get(2).is_none_or(Option::is_none);
        if more.is_some() || zero.is_none() && !left_out || self.limbs.is_empty() {
            return Err(EvalError::Invalid("zero points do not fit".into()));
        }
        let zero = zero.unwrap_or(0);
        let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
        let y: &mut [i32] = call.outs[0].as_slice_mut();
        if y.is_empty() {
            return Ok(());
        }
        let (from, scratch) = scratch.split_at_mut(x.bytes.len());
        let (sums, scratch) = scratch.split_at_mut(y.len());
        for (to, v) in from.iter_mut().zip(numbers(x)) {
            *to = (v - zero) as f32;
        }
        y.fill(0);
        for (shift, packed) in &self.limbs {
            let weights = bytemuck::cast_slice(packed.bytes());
            built.run(call.pool, from, weights, &ConvEpilogue::default(), sums, scratch);
            for (y, sum) in y.iter_mut().zip(&*sums) {
                *y = y.wrapping_add((*sum as i32) << shift);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limbs_are_as_few_as_are_exact_and_add_up() {
        for (inputs, size, count) in
            [(9, 255, 1), (258, 255, 1), (300, 255, 2), (300, 200, 1), (5000, 255, 3), (90000, 255, 0)]
        {
            let weights: Vec<i32> = (0..inputs).map(|i| if i % 2 == 0 { size } else { -size }).collect();
            let made = limbs(&weights, 1);
            assert_eq!(made.len(), count, "{inputs} inputs of {size}");
            for (i, w) in weights.iter().enumerate().filter(|_| count > 0) {
                assert_eq!(made.iter().map(|(shift, limb)| (limb[i] as i32) << shift).sum::<i32>(), *w);
            }
        }
    }
}
