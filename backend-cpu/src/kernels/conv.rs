//! Convolution of NCHW tensors in one, two and three spatial dimensions, with groups, strides, dilation and any padding.
//!
//! Weights are packed once, in the panel layout of [`super::pack`]. A convolution is then a matrix product whose rows
//! are output pixels and whose inputs are the pixels' receptive fields; the fields are gathered tile by tile into
//! scratch memory (`implicit`), never as a whole; lanes of vectors are pixels, or channels where pixels are few. One filter per channel is computed directly instead (`depthwise`).
//! Bias, a residual and an activation are applied while a tile of the output is still in the cache.
//!
//! ```
//! use backend_cpu::kernels::{conv::{Conv, ConvEpilogue}, pool::Pool};
//! let pool = Pool::new(1);
//! // One image of one channel, 3 x 3, under one 2 x 2 filter of ones.
//! let conv = Conv::new(1, 1, [1, 1], &[3, 3], &[2, 2]).build()?;
//! let mut packed = vec![0.0; conv.packed_elems()];
//! conv.pack(&[1.0; 4], &mut packed);
//! let mut y = [0.0; 4];
//! let mut scratch = vec![0.0; conv.scratch_elems(&pool)];
//! let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
//! conv.run(&pool, &x, &packed, &ConvEpilogue::default(), &mut y, &mut scratch);
//! assert_eq!(y, [12.0, 16.0, 24.0, 28.0]);
//! # Ok::<(), backend_cpu::kernels::conv::ConvError>(())
//! ```

mod channel_lanes;
mod depthwise;
mod frame;
mod implicit;
mod pixel_lanes;
mod transposed;

pub use transposed::ConvTranspose;

use super::elementwise::{UnaryFn, map_in_place};
use super::math;
use super::pack::{Layout, PANEL, pack_panels, panel_elems};
use super::pool::Pool;
use smallvec::SmallVec;

/// Sizes along depth, height and width; the leading ones are 1 where there are fewer dimensions.
pub type Spatial = [usize; 3];

/// The geometry of a convolution: what its attributes and operand shapes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv {
    batch: usize,
    groups: usize,
    /// Of all groups together.
    in_channels: usize,
    out_channels: usize,
    input: Spatial,
    output: Spatial,
    kernel: Spatial,
    stride: Spatial,
    dilation: Spatial,
    /// Padding before and after.
    pads: [Spatial; 2],
    rank: usize,
    /// Height and width have changed places.
    turned: bool,
}

/// Why a geometry is no convolution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvError {
    /// More spatial dimensions than the kernels have, or none.
    #[error("{0} spatial dimensions; convolutions have 1 to 3")]
    Rank(usize),
    /// An attribute whose length is not the number of spatial dimensions.
    #[error("{name} has {found} elements for {expected} spatial dimensions")]
    Length {
        /// The attribute.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The number of spatial dimensions.
        expected: usize,
    },
    /// A kernel, stride, dilation or group count of zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// Channels that the groups do not divide.
    #[error("{channels} channels do not divide into {groups} groups")]
    Groups {
        /// Input or output channels.
        channels: usize,
        /// The groups.
        groups: usize,
    },
}

impl Conv {
    /// A convolution of stride and dilation 1 without padding; `channels` are those of the input and the output,
    /// `input` and `kernel` the spatial sizes.
    #[allow(clippy::new_ret_no_self, reason = "a convolution is made from its sizes step by step")]
    pub fn new(batch: usize, groups: usize, channels: [usize; 2], input: &[usize], kernel: &[usize]) -> ConvBuilder {
        ConvBuilder {
            batch,
            groups,
            channels,
            rank: input.len(),
            lists: [("input", input), ("kernel", kernel)]
                .map(|(name, list)| (name, List::new(list, 1)))
                .into_iter()
                .collect(),
        }
    }

    /// The spatial sizes of the output.
    pub fn output(&self) -> SmallVec<[usize; 3]> {
        let mut output = self.output;
        if self.turned {
            output.swap(1, 2);
        }
        output[3 - self.rank..].into()
    }

    /// Elements of the output.
    pub fn output_elems(&self) -> usize {
        self.batch * self.out_channels * self.pixels()
    }

    fn pixels(&self) -> usize {
        self.output.iter().product()
    }

    fn input_pixels(&self) -> usize {
        self.input.iter().product()
    }

    fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    fn in_per_group(&self) -> usize {
        self.in_channels / self.groups
    }

    fn out_per_group(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Whether each filter reads one channel of a plane.
    fn is_depthwise(&self) -> bool {
        let plane = self.kernel[0] == 1 && self.input[0] == 1 && self.pads[0][0] + self.pads[1][0] == 0;
        self.groups > 1 && self.in_per_group() == 1 && plane
    }

    /// Elements of the packed weights.
    pub fn packed_elems(&self) -> usize {
        if self.is_depthwise() {
            return self.out_channels * self.taps();
        }
        self.groups * panel_elems(self.out_per_group(), self.in_per_group() * self.taps())
    }

    /// Packs `[out_channels, in_channels / groups, kernel..]`. The layout does not depend on the spatial sizes.
    ///
    /// # Panics
    /// When a length is wrong.
    pub fn pack(&self, weights: &[f32], packed: &mut [f32]) {
        assert_eq!(packed.len(), self.packed_elems(), "the packed weights of a convolution");
        if self.is_depthwise() {
            return packed.copy_from_slice(weights);
        }
        let (n, k) = (self.out_per_group(), self.in_per_group() * self.taps());
        assert_eq!(weights.len(), self.groups * n * k, "the weights of a convolution");
        if n * k == 0 {
            return;
        }
        for (from, to) in weights.chunks_exact(n * k).zip(packed.chunks_exact_mut(panel_elems(n, k))) {
            pack_panels(from, n, k, Layout::Nk, to);
        }
    }

    /// Elements of scratch that [`Conv::run`] needs.
    pub fn scratch_elems(&self, pool: &Pool) -> usize {
        let each = if self.is_depthwise() { depthwise::scratch(self) } else { implicit::scratch(self, pool) };
        // Whole vectors, so that every thread's part is aligned where the caller's scratch is.
        pool.threads() * each.next_multiple_of(PANEL)
    }

    /// `y = act(conv(x, weights) + bias + residual)`.
    ///
    /// # Panics
    /// When a length is wrong.
    pub fn run(
        &self,
        pool: &Pool,
        x: &[f32],
        packed: &[f32],
        epilogue: &ConvEpilogue<'_>,
        y: &mut [f32],
        scratch: &mut [f32],
    ) {
        assert_eq!(x.len(), self.batch * self.in_channels * self.input_pixels(), "the input of a convolution");
        assert_eq!(y.len(), self.output_elems(), "the output of a convolution");
        assert_eq!(packed.len(), self.packed_elems(), "the packed weights of a convolution");
        assert!(epilogue.bias.is_none_or(|b| b.len() == self.out_channels), "one bias per output channel");
        assert!(epilogue.residual.is_none_or(|r| r.len() == y.len()), "a residual has the output's shape");
        let scratch = &mut scratch[..self.scratch_elems(pool)];
        if y.is_empty() {
            return;
        }
        if self.is_depthwise() {
            depthwise::run(self, pool, x, packed, epilogue, y, scratch);
        } else {
            implicit::run(self, pool, x, packed, epilogue, y, scratch);
        }
    }
}

/// A short list of sizes, and how many were given.
#[derive(Clone, Copy, Debug)]
struct List {
    sizes: Spatial,
    len: usize,
}

impl List {
    /// Leading dimensions that are not given are `missing`.
    fn new(list: &[usize], missing: usize) -> List {
        let mut sizes = [missing; 3];
        for (to, &from) in sizes.iter_mut().rev().zip(list.iter().rev()) {
            *to = from;
        }
        List { sizes, len: list.len() }
    }
}

/// Collects the attributes of a [`Conv`] or a [`ConvTranspose`].
#[derive(Clone, Debug)]
pub struct ConvBuilder {
    batch: usize,
    groups: usize,
    channels: [usize; 2],
    rank: usize,
    lists: SmallVec<[(&'static str, List); 8]>,
}

impl ConvBuilder {
    /// Steps between neighbouring pixels.
    pub fn strides(mut self, strides: &[usize]) -> Self {
        self.lists.push(("strides", List::new(strides, 1)));
        self
    }

    /// Steps between neighbouring taps.
    pub fn dilations(mut self, dilations: &[usize]) -> Self {
        self.lists.push(("dilations", List::new(dilations, 1)));
        self
    }

    /// Zeros before and after each dimension.
    pub fn pads(mut self, before: &[usize], after: &[usize]) -> Self {
        self.lists.push(("pads before", List::new(before, 0)));
        self.lists.push(("pads after", List::new(after, 0)));
        self
    }

    fn list(&self, name: &str, default: usize) -> Spatial {
        self.lists.iter().rev().find(|(n, _)| *n == name).map_or([default; 3], |(_, list)| list.sizes)
    }

    /// Checks the geometry; the output's size is left to the caller's rule.
    fn geometry(self) -> Result<Conv, ConvError> {
        if !(1..=3).contains(&self.rank) {
            return Err(ConvError::Rank(self.rank));
        }
        if let Some((name, list)) = self.lists.iter().find(|(_, list)| list.len != self.rank) {
            return Err(ConvError::Length { name, found: list.len, expected: self.rank });
        }
        let (kernel, stride, dilation) = (self.list("kernel", 1), self.list("strides", 1), self.list("dilations", 1));
        for (name, zero) in [
            ("a kernel", kernel.contains(&0)),
            ("a stride", stride.contains(&0)),
            ("a dilation", dilation.contains(&0)),
            ("groups", self.groups == 0),
        ] {
            if zero {
                return Err(ConvError::Zero(name));
            }
        }
        if let Some(&channels) = self.channels.iter().find(|&&c| c % self.groups != 0) {
            return Err(ConvError::Groups { channels, groups: self.groups });
        }
        Ok(Conv {
            batch: self.batch,
            groups: self.groups,
            in_channels: self.channels[0],
            out_channels: self.channels[1],
            input: self.list("input", 1),
            output: [1; 3],
            kernel,
            stride,
            dilation,
            pads: [self.list("pads before", 0), self.list("pads after", 0)],
            rank: self.rank,
            turned: false,
        })
    }

    /// The convolution; its output has `floor((input + pads - dilation * (kernel - 1) - 1) / stride) + 1` pixels along
    /// each dimension, none where the kernel does not fit.
    pub fn build(self) -> Result<Conv, ConvError> {
        let mut conv = self.geometry()?;
        // Columns of pixels are rows: where the width is 1 throughout, the same elements are wide instead of high.
        let narrow = conv.input[2] == 1 && conv.kernel[2] == 1 && conv.pads[0][2] + conv.pads[1][2] == 0;
        if narrow && conv.input[1] > 1 {
            let [before, after] = &mut conv.pads;
            for sizes in [&mut conv.input, &mut conv.kernel, &mut conv.stride, &mut conv.dilation, before, after] {
                sizes.swap(1, 2);
            }
            conv.turned = true;
        }
        for i in 0..3 {
            let field = conv.dilation[i] * conv.kernel[i].saturating_sub(1) + 1;
            let padded = conv.input[i] + conv.pads[0][i] + conv.pads[1][i];
            conv.output[i] = padded.checked_sub(field).map_or(0, |rest| rest / conv.stride[i] + 1);
        }
        Ok(conv)
    }
}

/// What happens to a sum before it is stored: `act(sum + bias + residual)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConvEpilogue<'a> {
    /// One value per output channel.
    pub bias: Option<&'a [f32]>,
    /// A tensor of the output's shape.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Option<UnaryFn>,
}

impl ConvEpilogue<'_> {
    fn bias(&self, channel: usize) -> f32 {
        self.bias.map_or(0.0, |bias| bias[channel])
    }

    /// The bounds of an activation that is a clamp, else none at all.
    fn clamp(&self) -> (f32, f32) {
        match self.activation {
            Some(UnaryFn::Relu) => (0.0, f32::INFINITY),
            Some(UnaryFn::Clip { min, max }) => (min, max),
            _ => (f32::NEG_INFINITY, f32::INFINITY),
        }
    }

    /// Finishes a run of sums of one channel that starts at element `at` of the output.
    #[inline(always)]
    fn finish(&self, channel: usize, at: usize, y: &mut [f32]) {
        let bias = self.bias(channel);
        let (low, high) = self.clamp();
        match self.residual {
            Some(residual) => {
                for (y, &r) in y.iter_mut().zip(&residual[at..]) {
                    *y = math::min(math::max(*y + bias + r, low), high);
                }
            }
            None => {
                for y in y.iter_mut() {
                    *y = math::min(math::max(*y + bias, low), high);
                }
            }
        }
        self.finish_activation(y);
    }

    /// Applies an activation that is no clamp.
    #[inline(always)]
    fn finish_activation(&self, y: &mut [f32]) {
        match self.activation {
            None | Some(UnaryFn::Relu | UnaryFn::Clip { .. }) => {}
            Some(f) => map_in_place(f, y),
        }
    }
}

#[cfg(test)]
mod tests;
