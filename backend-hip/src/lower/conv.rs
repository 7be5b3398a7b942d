//! `conv`: tiles of an implicit product of matrices, or a thread per element where a group has few channels, as every group
//! of a depthwise convolution has. Bias, residual and activation are in the same kernel. A result of few tiles, as the last layers
//! of one image have, would leave most of the device without work: its long sums are computed in parts, and added up in order.

use super::activation::activation;
use super::window::{planes, three, words};
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output, scratch};
use ir::Dim;
use ir::ops::Conv;
use kernels::{Element, table};

/// Fewer channels of a group than this leave tiles mostly empty.
const FEW_CHANNELS: i64 = 8;
/// Up to so many, tiles are 16 channels high; else 64.
const NARROW: i64 = 32;
/// Elements of a tile.
const TILE: i64 = 64 * 64;
/// A part of a sum has at least so many products, and a sum at most so many parts.
const LEAST_PART: i64 = 128;
const MOST_PARTS: i64 = 16;

struct Convolution {
    op: Conv,
    x: Element,
    w: Element,
    has: [bool; 2],
    /// Tiles that keep the device busy: a result of half as many is computed in parts.
    busy: i64,
    /// Bytes of the parts of sums, where there may be any.
    parts: Option<Dim>,
}

pub(super) fn conv(op: &Conv, types: &Types<'_>) -> Chosen {
    let (x, w) = (types.element(0)?, types.element(1)?);
    let float = |e: Element| matches!(e, Element::F32 | Element::F16 | Element::BF16);
    if !float(x) || !float(w) {
        return Err("the kernel takes f32, f16 and bf16 only");
    }
    if [2, 3].iter().any(|i| types.input(*i).is_some_and(|t| element(t.dtype) != Ok(x))) {
        return Err("its bias or residual is of another element type");
    }
    if types.dims(0)?.len() > 5 {
        return Err("it has more than 3 spatial dimensions");
    }
    let has = [2, 3].map(|i| types.input(i).is_some());
    Ok(Box::new(Convolution {
        op: op.clone(),
        x,
        w,
        has,
        busy: types.tuning.busy_blocks,
        parts: parts(op.group, types),
    }))
}

/// Bytes for the parts of sums: a result has at most so many elements where it is computed in parts.
fn parts(groups: i64, types: &Types<'_>) -> Option<Dim> {
    let w: Option<Vec<i64>> = types.dims(1).ok()?.iter().map(Dim::as_const).collect();
    let [m, rest @ ..] = &w?[..] else { return None };
    let (k, elements) = (rest.iter().product::<i64>(), types.outs[0].shape.elements()?);
    let most = Dim::min(&(elements * MOST_PARTS), &Dim::constant(types.tuning.busy_blocks * TILE));
    (m / groups > NARROW && k >= 2 * LEAST_PART).then(|| most * 4)
}

/// Into how many parts of how many products the sums of `k` are split, for a result of so many tiles; `None`: not at all.
fn split(k: i64, tiles: i64, busy: i64) -> Option<(i64, i64)> {
    let wanted = (busy / tiles).min(MOST_PARTS).min(k / LEAST_PART);
    if wanted < 2 {
        return None;
    }
    // Parts begin at multiples of the kernel's step of 16.
    let chunk = ((k + wanted - 1) / wanted + 15) / 16 * 16;
    Some(((k + chunk - 1) / chunk, chunk))
}

impl Lowering for Convolution {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn files(&self) -> &'static [&'static str] {
        &["conv"]
    }

    fn scratch(&self) -> Option<Dim> {
        self.parts.clone()
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, w, groups) = (&sizes.ins[0], &sizes.ins[1], self.op.group);
        let window: Vec<Dim> = w.iter().map(|n| Dim::from(*n)).collect();
        let axes = three(&self.op.window(&window), sizes)?;
        let (image, plane) = planes(&axes);
        let (n, c, m) = (x[0] as i64, w[1] as i64, w[0] as i64 / groups);
        if x[1] as i64 != c * groups || m * groups != w[0] as i64 {
            return Err(format!("a weight of {w:?} in {groups} groups does not fit an input of {x:?}"));
        }
        if n * m * plane == 0 {
            return Ok(vec![]);
        }
        let k = c * w[2..].iter().product::<usize>() as i64;
        let (act, alpha, beta) = activation(self.op.act, self.op.alpha, self.op.beta);
        // What is not there points at x, of which nothing is read for it.
        let side = |i: usize| if self.has[i - 2] { input(i) } else { input(0) };
        let [has_bias, has_residual] = self.has.map(i64::from);
        let mut at = [0; 18];
        at.copy_from_slice(&words(&axes)?[..18]);
        let tiles = (n * plane + 63) / 64 * ((m + 63) / 64) * groups;
        if let Some((splits, chunk)) = self.parts.as_ref().and_then(|_| split(k, tiles, self.busy)) {
            let (x, w, p, y) = (input(0), input(1), scratch(0), output(0));
            let channels = groups * m;
            let part = table::conv_part(self.x, self.w, x, w, p, n, groups, c, m, image, plane, k, splits, chunk, at);
            let (bias, residual) = (side(2), side(3));
            let finish = table::conv_finish(
                self.x,
                p,
                bias,
                residual,
                y,
                n,
                channels,
                plane,
                splits,
                has_bias,
                has_residual,
                act,
                alpha,
                beta,
            );
            return Ok(vec![call(part), call(finish)]);
        }
        let make = match m {
            _ if m < FEW_CHANNELS || k == 0 => table::conv_direct,
            _ if m <= NARROW => table::conv_narrow,
            _ => table::conv_wide,
        };
        Ok(vec![call(make(
            self.x,
            self.w,
            input(0),
            input(1),
            side(2),
            side(3),
            output(0),
            n,
            groups,
            c,
            m,
            image,
            plane,
            k,
            has_bias,
            has_residual,
            act,
            alpha,
            beta,
            at,
        ))])
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_PARTS, split};

    const BUSY: i64 = 256;

    #[test]
    fn parts_cover_every_product_and_none_is_empty() {
        for k in [127, 256, 300, 576, 4608, 4609, 100_000] {
            for tiles in [1, 7, 8, 64, 127, 128, 129, 1000] {
                let Some((splits, chunk)) = split(k, tiles, BUSY) else { continue };
                assert!(splits * chunk >= k && (splits - 1) * chunk < k && chunk % 16 == 0, "{k} {tiles}");
                assert!((2..=MOST_PARTS).contains(&splits) && splits * tiles <= BUSY, "{k} {tiles}");
            }
        }
        assert_eq!((split(4608, 8, BUSY), split(4608, 129, BUSY), split(200, 1, BUSY)), (Some((16, 288)), None, None));
    }
}
