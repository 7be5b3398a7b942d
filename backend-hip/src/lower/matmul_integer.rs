//! `matmul_integer`: products of 8-bit integers with zero points of rows and columns.

use super::matmul::batches;
use super::quantize::eight_bits;
use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output};
use ir::TensorType;
use kernels::table;

struct Product {
    is_signed: [bool; 2],
    has_zero: [bool; 2],
}

pub(super) fn matmul_integer(types: &Types<'_>) -> Chosen {
    let (a, b) = (types.input(0).ok_or("an operand is missing")?, types.input(1).ok_or("an operand is missing")?);
    if types.dims(0)?.len().max(types.dims(1)?.len()) > 6 {
        return Err("it has more than 4 batch dimensions");
    }
    for i in [0, 1] {
        let Some(zero) = types.input(2 + i) else { continue };
        let vector = |t: &TensorType| t.dims().is_some_and(|d| d.len() <= 1);
        if Some(zero.dtype) != types.input(i).map(|t| t.dtype) || !vector(zero) {
            return Err("its zero points are of another type, or neither one nor one per row or column");
        }
    }
    let is_signed = [eight_bits(a.dtype)?, eight_bits(b.dtype)?];
    Ok(Box::new(Product { is_signed, has_zero: [2, 3].map(|i| types.input(i).is_some()) }))
}

impl Lowering for Product {
    fn name(&self) -> &'static str {
        "matmul_integer"
    }

    fn files(&self) -> &'static [&'static str] {
        &["integer"]
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (a, b) = (&sizes.ins[0], &sizes.ins[1]);
        let (lead_a, m, k) = match &a[..] {
            [k] => (&[][..], 1, *k),
            [lead @ .., m, k] => (lead, *m, *k),
            [] => return Err("a scalar has no rows".into()),
        };
        let (lead_b, n) = match &b[..] {
            [_] => (&[][..], 1),
            [lead @ .., _, n] => (lead, *n),
            [] => return Err("a scalar has no rows".into()),
        };
        let count = |dims: &[usize]| dims.iter().product::<usize>() as i64;
        let zeros = |i: usize| if self.has_zero[i] { count(&sizes.ins[2 + i]) } else { 0 };
        for (i, each) in [m, n].into_iter().enumerate() {
            if self.has_zero[i] && zeros(i) != 1 && zeros(i) != each as i64 {
                return Err(format!("{} zero points for {each} rows or columns", zeros(i)));
            }
        }
        if sizes.outs[0].contains(&0) {
            return Ok(vec![]);
        }
        let groups = batches(lead_a, lead_b);
        let mut shape = [0u32; 13];
        shape[0] = groups.len() as u32;
        let stride = |matrices: i64, elements: usize| {
            i32::try_from(matrices * elements as i64).map_err(|_| "an operand is too large for the kernel".to_string())
        };
        for (d, (size, sa, sb)) in groups.iter().enumerate() {
            shape[1 + d] = *size as u32;
            shape[5 + d] = stride(*sa, m * k)? as u32;
            shape[9 + d] = stride(*sb, k * n)? as u32;
        }
        let (m, n, k) = (m as i64, n as i64, k as i64);
        let batches = groups.iter().map(|(n, ..)| *n as i64).product();
        // A zero point that is not there points at a, of which nothing is read for it.
        let zero = |i: usize| if self.has_zero[i] { input(2 + i) } else { input(0) };
        let [a_signed, b_signed] = self.is_signed.map(i64::from);
        Ok(vec![call(table::matmul_integer(
            input(0),
            input(1),
            zero(0),
            zero(1),
            output(0),
            m,
            n,
            k,
            batches,
            count(a),
            count(b),
            zeros(0),
            zeros(1),
            a_signed,
            b_signed,
            shape,
        ))])
    }
}
