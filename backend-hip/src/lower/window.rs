//! Sliding windows as kernels take them: three axes, depth, height and width, however many there are.

use super::Sizes;
use ir::ops::window::{Axis, Window};

/// The axes of a window over the spatial dimensions of operand 0, outer ones of 1 before them.
pub(super) fn three(window: &Window<'_>, sizes: &Sizes<'_>) -> Result<[Axis; 3], String> {
    let found = window.axes(&sizes.ins[0][2..]).map_err(|e| e.to_string())?;
    let mut all = [Axis::UNIT; 3];
    let first = 3usize.checked_sub(found.len()).ok_or("more than 3 spatial dimensions")?;
    all[first..].copy_from_slice(&found);
    Ok(all)
}

/// Sizes of the input, of the result and of the window, strides, dilations, padding before and after, three of each.
pub(super) fn words(axes: &[Axis; 3]) -> Result<[u32; 21], String> {
    let mut words = [0; 21];
    for (i, a) in axes.iter().enumerate() {
        let of = [a.input, a.output, a.kernel, a.stride, a.dilation].map(|n| n as i64);
        for (j, n) in of.into_iter().chain([a.before, a.after]).enumerate() {
            // The kernels add a few of them in 32 bits.
            let narrow = i32::try_from(n).ok().filter(|n| n.unsigned_abs() < 1 << 28);
            words[3 * j + i] = narrow.ok_or_else(|| format!("{n} is too large for the kernel"))? as u32;
        }
    }
    Ok(words)
}

/// Elements of one image of the input, and of the result.
pub(super) fn planes(axes: &[Axis; 3]) -> (i64, i64) {
    let product = |of: fn(&Axis) -> usize| axes.iter().map(of).product::<usize>() as i64;
    (product(|a| a.input), product(|a| a.output))
}
