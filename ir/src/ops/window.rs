//! Geometry of sliding windows: how large the result of a convolution or pooling is, and what each element reads.

use super::{EvalError, TypeError};
use crate::attr_enum;
use crate::dim::Dim;

attr_enum! {
    /// Padding chosen so that a dimension of n gives ceil(n / stride); the odd element goes to the named end.
    pub enum SamePadding { Upper = "upper", Lower = "lower" }
}

/// Sliding windows over spatial dimensions; one entry per dimension in each list.
#[derive(Clone, Debug)]
pub struct Window<'a> {
    /// Elements per window.
    pub kernel: Vec<Dim>,
    /// Distance between windows.
    pub strides: &'a [i64],
    /// Distance between the elements of a window.
    pub dilations: &'a [i64],
    /// Elements added at every beginning, then at every end; not read when `same` is given.
    pub pads: &'a [i64],
    /// Padding that depends on the size.
    pub same: Option<SamePadding>,
    /// Whether a last window that is only partly inside counts.
    pub ceil: bool,
}

/// One dimension with numbers: output `o` reads inputs `o * stride + k * dilation - before` for `k` in `0..kernel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Input elements.
    pub input: usize,
    /// Output elements.
    pub output: usize,
    /// Elements of a window.
    pub kernel: usize,
    /// Distance between windows.
    pub stride: usize,
    /// Distance between the elements of a window.
    pub dilation: usize,
    /// Padding at the beginning; negative cuts.
    pub before: i64,
    /// Padding at the end; negative cuts.
    pub after: i64,
}

impl Axis {
    /// A dimension that windows do not move along.
    pub const UNIT: Axis = Axis { input: 1, output: 1, kernel: 1, stride: 1, dilation: 1, before: 0, after: 0 };

    /// The input element that output `o` reads at window element `k`; `None` in the padding.
    pub fn at(&self, o: usize, k: usize) -> Option<usize> {
        let i = (o * self.stride + k * self.dilation) as i64 - self.before;
        usize::try_from(i).ok().filter(|i| *i < self.input)
    }

    /// The outputs that read inside the input at window element `k`.
    pub fn inside(&self, k: usize) -> std::ops::Range<usize> {
        let shift = self.before - (k * self.dilation) as i64;
        let first = shift.max(0).div_euclid(self.stride as i64) + i64::from(shift.max(0) % self.stride as i64 != 0);
        let end = self.input as i64 + shift;
        let end = if end <= 0 { 0 } else { (end - 1) / self.stride as i64 + 1 };
        let end = end.min(self.output as i64);
        (first.min(end) as usize)..(end as usize)
    }
}

impl Window<'_> {
    /// Fails unless every list has an entry per spatial dimension, and windows and steps are positive.
    pub fn check(&self, spatial: usize) -> Result<(), TypeError> {
        let pads = if self.same.is_some() { 2 * spatial } else { self.pads.len() };
        let lengths = [self.kernel.len(), self.strides.len(), self.dilations.len()];
        if lengths.iter().any(|n| *n != spatial) || pads != 2 * spatial {
            let found =
                format!("{} kernel, {} strides, {} dilations and {pads} pads", lengths[0], lengths[1], lengths[2]);
            return Err(TypeError::Invalid(format!("{spatial} spatial dimensions do not fit {found}")));
        }
        if self.strides.iter().chain(self.dilations).any(|n| *n < 1) {
            return Err(TypeError::Invalid("strides and dilations are at least 1".into()));
        }
        if let Some(n) = self.kernel.iter().find(|n| n.as_const().is_some_and(|n| n < 1)) {
            return Err(TypeError::Invalid(format!("a window of {n} elements; it has at least 1")));
        }
        Ok(())
    }

    /// From the first to the last element of a window.
    fn extent(&self, i: usize) -> Dim {
        (&self.kernel[i] - 1) * self.dilations[i] + 1
    }

    fn total_same_padding(&self, i: usize, n: &Dim) -> Dim {
        let stride = Dim::constant(self.strides[i]);
        let needed = (n.ceil_div(&stride) - 1) * &stride + self.extent(i) - n;
        Dim::max(&needed, &Dim::constant(0))
    }

    /// Sizes of the result, from those of the input.
    pub fn outputs(&self, input: &[Dim]) -> Result<Vec<Dim>, TypeError> {
        self.check(input.len())?;
        let one = |i: usize| {
            let (n, stride) = (&input[i], Dim::constant(self.strides[i]));
            if self.same.is_some() {
                return Ok(n.ceil_div(&stride));
            }
            let (before, after) = (self.pads[i], self.pads[input.len() + i]);
            let room = n + before + after - self.extent(i);
            if room.as_const().is_some_and(|r| r < 0) {
                let reason = format!("a window of {} does not fit {n} + {before} + {after}", self.extent(i));
                return Err(TypeError::Invalid(reason));
            }
            let whole = room.floor_div(&stride) + 1;
            if !self.ceil || self.strides[i] == 1 {
                return Ok(whole);
            }
            // The last window has to begin inside the input or the padding before it.
            let begins = (n + before - 1).floor_div(&stride) + 1;
            Ok(Dim::min(&(room.ceil_div(&stride) + 1), &begins))
        };
        (0..input.len()).map(one).collect()
    }

    /// Padding before and after each dimension.
    pub fn padding(&self, input: &[Dim]) -> Vec<(Dim, Dim)> {
        let one = |(i, n): (usize, &Dim)| {
            let Some(same) = self.same else {
                return (Dim::constant(self.pads[i]), Dim::constant(self.pads[input.len() + i]));
            };
            let total = self.total_same_padding(i, n);
            let less = total.floor_div(&Dim::constant(2));
            let more = &total - &less;
            if same == SamePadding::Upper { (less, more) } else { (more, less) }
        };
        input.iter().enumerate().map(one).collect()
    }

    /// Everything as numbers, for an input of these sizes; the kernel must be numbers already.
    pub fn axes(&self, input: &[usize]) -> Result<Vec<Axis>, EvalError> {
        let dims: Vec<Dim> = input.iter().map(|n| Dim::from(*n)).collect();
        let outputs = super::sizes(&self.outputs(&dims).map_err(super::operand::invalid)?)?;
        let kernel = super::sizes(&self.kernel)?;
        let padding = self.padding(&dims);
        let one = |i: usize| {
            Ok(Axis {
                input: input[i],
                output: outputs[i],
                kernel: kernel[i],
                stride: self.strides[i] as usize,
                dilation: self.dilations[i] as usize,
                before: padding[i].0.eval(&|_| None)?,
                after: padding[i].1.eval(&|_| None)?,
            })
        };
        (0..input.len()).map(one).collect()
    }
}

/// At most three axes as exactly three: depth, height, width.
pub(crate) fn three(axes: &[Axis]) -> Result<[Axis; 3], EvalError> {
    let mut all = [Axis::UNIT; 3];
    let Some(first) = 3usize.checked_sub(axes.len()) else {
        return Err(EvalError::Invalid(format!("{} spatial dimensions; at most 3 are supported", axes.len())));
    };
    all[first..].copy_from_slice(axes);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: i64, stride: i64, pads: &[i64; 2], same: Option<SamePadding>, ceil: bool) -> Vec<Axis> {
        let (strides, dilations) = ([stride], [1]);
        let w = Window { kernel: vec![kernel.into()], strides: &strides, dilations: &dilations, pads, same, ceil };
        w.axes(&[10]).unwrap()
    }

    #[test]
    fn same_padding_puts_the_odd_element_at_the_named_end() {
        let a = window(4, 1, &[0, 0], Some(SamePadding::Upper), false)[0];
        assert_eq!((a.output, a.before, a.after), (10, 1, 2));
        let a = window(4, 1, &[0, 0], Some(SamePadding::Lower), false)[0];
        assert_eq!((a.output, a.before, a.after), (10, 2, 1));
    }

    #[test]
    fn a_partial_window_must_begin_inside() {
        assert_eq!(window(3, 2, &[0, 0], None, false)[0].output, 4);
        assert_eq!(window(3, 2, &[0, 0], None, true)[0].output, 5);
        assert_eq!(window(1, 3, &[0, 2], None, true)[0].output, 4);
    }

    #[test]
    fn an_empty_window_is_refused() {
        let (pads, one) = ([0, 0], [1]);
        let w = Window { kernel: vec![0.into()], strides: &one, dilations: &one, pads: &pads, same: None, ceil: false };
        assert!(w.outputs(&[10.into()]).is_err() && w.axes(&[10]).is_err());
    }

    #[test]
    fn inside_is_where_at_has_an_answer() {
        for (kernel, stride, pads) in [(3, 1, [1, 1]), (4, 3, [2, 0]), (5, 2, [4, 4]), (2, 1, [-1, 0])] {
            let a = window(kernel, stride, &pads, None, false)[0];
            for k in 0..a.kernel {
                let expected: Vec<usize> = (0..a.output).filter(|o| a.at(*o, k).is_some()).collect();
                assert_eq!(a.inside(k).collect::<Vec<_>>(), expected);
            }
        }
    }
}
