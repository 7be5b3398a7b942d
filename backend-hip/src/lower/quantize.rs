//! `dynamic_quantize_linear`, `dequantize_linear` and `quantize_linear`: floats to 8-bit integers and back.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output, scratch};
use ir::ops::{DequantizeLinear, QuantizeLinear};
use ir::{DType, Dim};
use kernels::{Element, table};

/// The range of all elements is found in at most so many blocks.
const MOST_BLOCKS: i64 = 256;
/// Bytes of what the blocks find.
pub(super) const RANGE_BYTES: i64 = MOST_BLOCKS * 8;

/// The calls that write `n` elements as codes of one scale and zero point, with `parts` in between.
pub(super) fn dynamic(e: Element, n: i64, x: Memory, parts: Memory, to: [Memory; 3]) -> [Call<Memory>; 2] {
    let blocks = ((n + 255) / 256).clamp(1, MOST_BLOCKS);
    let [y, scale, zero] = to;
    [
        call(table::quantize_range(e, x, parts, n, blocks)),
        call(table::quantize_dynamic(e, x, parts, y, scale, zero, n, blocks)),
    ]
}

struct Dynamic {
    element: Element,
}

pub(super) fn dynamic_quantize_linear(types: &Types<'_>) -> Chosen {
    types.dims(0)?;
    match types.element(0)? {
        element @ (Element::F32 | Element::F16 | Element::BF16) => Ok(Box::new(Dynamic { element })),
        _ => Err("the kernel takes f32, f16 and bf16 only"),
    }
}

impl Lowering for Dynamic {
    fn name(&self) -> &'static str {
        "dynamic_quantize_linear"
    }

    fn files(&self) -> &'static [&'static str] {
        &["quantize"]
    }

    fn scratch(&self) -> Option<Dim> {
        Some(Dim::constant(RANGE_BYTES))
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let n = sizes.ins[0].iter().product::<usize>() as i64;
        Ok(dynamic(self.element, n, input(0), scratch(0), [0, 1, 2].map(output)).into())
    }
}

/// An 8-bit integer: whether it is signed.
pub(super) fn eight_bits(dtype: DType) -> Result<bool, &'static str> {
    match dtype {
        DType::I8 => Ok(true),
        DType::U8 => Ok(false),
        _ => Err("it is not of 8-bit integers"),
    }
}

struct Scaled {
    /// Whether integers become floats, else floats integers.
    to_floats: bool,
    axis: i64,
    float: Element,
    /// The order of hip/quantize.hip: u8, i8, i32.
    kind: i64,
    has_zero: bool,
}

pub(super) fn dequantize_linear(op: &DequantizeLinear, types: &Types<'_>) -> Chosen {
    let dtype = types.input(0).ok_or("an operand is missing")?.dtype;
    let kind = if dtype == DType::I32 { 2 } else { i64::from(eight_bits(dtype)?) };
    scaled(true, kind, dtype, op.to, (op.axis, op.block), types)
}

pub(super) fn quantize_linear(op: &QuantizeLinear, types: &Types<'_>) -> Chosen {
    let dtype = types.input(0).ok_or("an operand is missing")?.dtype;
    if op.precision.is_some_and(|p| p != dtype) {
        return Err("its quotient is of a type of its own");
    }
    scaled(false, i64::from(eight_bits(op.to)?), op.to, dtype, (op.axis, op.block), types)
}

fn scaled(
    to_floats: bool,
    kind: i64,
    integer: DType,
    float: DType,
    (axis, block): (i64, i64),
    types: &Types<'_>,
) -> Chosen {
    let scale = types.input(1).ok_or("an operand is missing")?;
    if block > 0 {
        return Err("it has a scale for every block");
    }
    if scale.dtype != float || types.input(2).is_some_and(|z| z.dtype != integer) {
        return Err("its element types differ");
    }
    let float = match element(float)? {
        known @ (Element::F32 | Element::F16 | Element::BF16) => known,
        _ => return Err("the kernel takes f32, f16 and bf16 only"),
    };
    types.dims(0)?;
    Ok(Box::new(Scaled { to_floats, axis, float, kind, has_zero: types.input(2).is_some() }))
}

impl Lowering for Scaled {
    fn name(&self) -> &'static str {
        if self.to_floats { "dequantize_linear" } else { "quantize_linear" }
    }

    fn files(&self) -> &'static [&'static str] {
        &["quantize"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let product = |dims: &[usize]| dims.iter().product::<usize>() as i64;
        let (x, count, scales) = (&sizes.ins[0], product(&sizes.ins[0]), product(&sizes.ins[1]));
        let mut inner = 1;
        if scales != 1 {
            let axis = ir::ops::axis(self.axis, x.len()).map_err(|e| e.to_string())?;
            inner = product(&x[axis + 1..]);
            if scales != x[axis] as i64 {
                return Err(format!("{scales} scales for a dimension of {}", x[axis]));
            }
        }
        if self.has_zero && product(&sizes.ins[2]) != scales {
            return Err("scale and zero point differ in shape".into());
        }
        if count == 0 {
            return Ok(vec![]);
        }
        // A zero point that is not there points at x, of which nothing is read for it.
        let zero = if self.has_zero { input(2) } else { input(0) };
        let (x, scale, y, has_zero) = (input(0), input(1), output(0), i64::from(self.has_zero));
        let bytes = if self.kind == 2 { 4 } else { 1 };
        Ok(vec![call(match self.to_floats {
            true => {
                let (f, kind) = (self.float, self.kind);
                table::dequantize_linear(f, x, scale, zero, y, count, scales, inner, kind, bytes, has_zero)
            }
            false => table::quantize_linear(self.float, x, scale, zero, y, count, scales, inner, self.kind, has_zero),
        })])
    }
}
