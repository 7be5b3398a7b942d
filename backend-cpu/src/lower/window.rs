//! The windows of convolutions and poolings, as numbers, without allocation.

use ir::ops::EvalError;
use ir::ops::window::SamePadding;
use smallvec::SmallVec;

/// One number per spatial dimension.
pub(super) type Spatial = SmallVec<[usize; 3]>;

/// How windows move over the spatial dimensions.
pub(super) struct Windows {
    pub(super) strides: Spatial,
    pub(super) dilations: Spatial,
    /// All beginnings, then all ends; not read when `same` is given.
    pads: SmallVec<[usize; 6]>,
    same: Option<SamePadding>,
}

impl Windows {
    /// `None` where windows cut the input off or there are not 1 to 3 dimensions.
    pub(super) fn new(strides: &[i64], dilations: &[i64], pads: &[i64], same: Option<SamePadding>) -> Option<Windows> {
        let sizes =
            |list: &[i64]| list.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<SmallVec<[usize; 6]>>>();
        let spatial = |list: &[i64]| sizes(list).map(|s| s.iter().copied().collect::<Spatial>());
        let windows = Windows { strides: spatial(strides)?, dilations: spatial(dilations)?, pads: sizes(pads)?, same };
        (1..=3).contains(&strides.len()).then_some(windows)
    }

    /// Padding before and after each dimension of an input under windows of `kernel` elements.
    pub(super) fn padding(&self, input: &[usize], kernel: &[usize]) -> [Spatial; 2] {
        let n = input.len();
        let Some(same) = self.same else {
            return [self.pads[..n].iter().copied().collect(), self.pads[n..].iter().copied().collect()];
        };
        let total = |i: usize| {
            let field = self.dilations[i] * kernel[i].saturating_sub(1) + 1;
            let covered = input[i].div_ceil(self.strides[i]).saturating_sub(1) * self.strides[i] + field;
            covered.saturating_sub(input[i])
        };
        let less: Spatial = (0..n).map(|i| total(i) / 2).collect();
        let more: Spatial = (0..n).map(|i| total(i) - total(i) / 2).collect();
        if same == SamePadding::Upper { [less, more] } else { [more, less] }
    }

    /// Fails where a window does not fit the padded input.
    pub(super) fn check(&self, input: &[usize], kernel: &[usize]) -> Result<(), EvalError> {
        let [before, after] = self.padding(input, kernel);
        for (i, n) in input.iter().enumerate().filter(|_| self.same.is_none()) {
            let field = self.dilations[i] * kernel[i].saturating_sub(1) + 1;
            if field > before[i] + n + after[i] {
                let reason = format!("a window of {field} does not fit {n} + {} + {}", before[i], after[i]);
                return Err(EvalError::Invalid(reason));
            }
        }
        Ok(())
    }
}
