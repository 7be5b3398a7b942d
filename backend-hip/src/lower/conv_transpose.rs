//! `conv_transpose`: a thread per element of the result.

use super::window::words;
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output};
use ir::Dim;
use ir::ops::ConvTranspose;
use ir::ops::window::Axis;
use kernels::{Element, table};

struct Gradient {
    op: ConvTranspose,
    x: Element,
    w: Element,
    has_bias: bool,
}

pub(super) fn conv_transpose(op: &ConvTranspose, types: &Types<'_>) -> Chosen {
    let (x, w) = (types.element(0)?, types.element(1)?);
    let float = |e: Element| matches!(e, Element::F32 | Element::F16 | Element::BF16);
    if !float(x) || !float(w) {
        return Err("the kernel takes f32, f16 and bf16 only");
    }
    if types.input(2).is_some_and(|bias| element(bias.dtype) != Ok(x)) {
        return Err("its bias is of another element type");
    }
    if types.dims(0)?.len() > 5 {
        return Err("it has more than 3 spatial dimensions");
    }
    Ok(Box::new(Gradient { op: op.clone(), x, w, has_bias: types.input(2).is_some() }))
}

impl Lowering for Gradient {
    fn name(&self) -> &'static str {
        "conv_transpose"
    }

    fn files(&self) -> &'static [&'static str] {
        &["conv_transpose"]
    }

    /// Padding before every dimension.
    fn numbers(&self) -> Vec<Dim> {
        self.op.pads[..self.op.pads.len() / 2].to_vec()
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, w, y) = (&sizes.ins[0], &sizes.ins[1], &sizes.outs[0]);
        let groups = self.op.group;
        if x[1] != w[0] || x[1] as i64 % groups != 0 {
            return Err(format!("a weight of {w:?} in {groups} groups does not fit an input of {x:?}"));
        }
        let (n, c, m) = (x[0] as i64, x[1] as i64 / groups, w[1] as i64);
        let mut axes = [Axis::UNIT; 3];
        let lead = 3usize.checked_sub(x.len() - 2).ok_or("more than 3 spatial dimensions")?;
        for (i, axis) in axes[lead..].iter_mut().enumerate() {
            *axis = Axis {
                input: x[2 + i],
                output: y[2 + i],
                kernel: w[2 + i],
                stride: usize::try_from(self.op.strides[i])
                    .ok()
                    .filter(|s| *s > 0)
                    .ok_or("a stride is not positive")?,
                dilation: usize::try_from(self.op.dilations[i]).map_err(|_| "a dilation is negative")?,
                before: sizes.numbers[i],
                after: 0,
            };
        }
        let (image, plane) = super::window::planes(&axes);
        if n * m * plane == 0 {
            return Ok(vec![]);
        }
        let window = w[2..].iter().product::<usize>() as i64;
        let mut at = [0; 18];
        at.copy_from_slice(&words(&axes)?[..18]);
        let bias = if self.has_bias { input(2) } else { input(0) };
        let has_bias = i64::from(self.has_bias);
        let (e, f, out) = (self.x, self.w, output(0));
        let made = table::conv_transpose(
            e,
            f,
            input(0),
            input(1),
            bias,
            out,
            n,
            groups,
            c,
            m,
            image,
            plane,
            window,
            has_bias,
            at,
        );
        Ok(vec![call(made)])
    }
}
