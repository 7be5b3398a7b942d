//! `conv`: tiles of an implicit product of matrices, or a thread per element where a group has few channels, as every group
//! of a depthwise convolution has. Bias, residual and activation are in the same kernel.

use super::activation::activation;
use super::window::{planes, three, words};
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output};
use ir::Dim;
use ir::ops::Conv;
use kernels::{Element, table};

/// Fewer channels of a group than this leave tiles mostly empty.
const FEW_CHANNELS: i64 = 8;
/// Up to so many, tiles are 16 channels high; else 64.
const NARROW: i64 = 32;

struct Convolution {
    op: Conv,
    x: Element,
    w: Element,
    has: [bool; 2],
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
    Ok(Box::new(Convolution { op: op.clone(), x, w, has: [2, 3].map(|i| types.input(i).is_some()) }))
}

impl Lowering for Convolution {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn files(&self) -> &'static [&'static str] {
        &["conv"]
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
        let make = match m {
            _ if m < FEW_CHANNELS || k == 0 => table::conv_direct,
            _ if m <= NARROW => table::conv_narrow,
            _ => table::conv_wide,
        };
        let (act, alpha, beta) = activation(self.op.act, self.op.alpha, self.op.beta);
        // What is not there points at x, of which nothing is read for it.
        let side = |i: usize| if self.has[i - 2] { input(i) } else { input(0) };
        let [has_bias, has_residual] = self.has.map(i64::from);
        let mut at = [0; 18];
        at.copy_from_slice(&words(&axes)?[..18]);
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
