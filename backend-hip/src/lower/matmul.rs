//! `matmul`: numpy's product, with leading dimensions that broadcast.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, output};
use kernels::{Element, table};

struct Product {
    element: Element,
}

pub(super) fn matmul(types: &Types<'_>) -> Chosen {
    let rank = types.dims(0)?.len().max(types.dims(1)?.len());
    if rank > 6 {
        return Err("it has more than 4 batch dimensions");
    }
    Ok(Box::new(Product { element: types.one_float()? }))
}

/// Batch dimensions of both operands, merged where one step of the outer is a whole walk of the inner: sizes, and strides
/// in matrices of a and of b.
pub(super) fn batches(a: &[usize], b: &[usize]) -> Vec<(usize, i64, i64)> {
    let rank = a.len().max(b.len());
    let strides = |dims: &[usize]| {
        let padded: Vec<usize> = std::iter::repeat_n(1, rank - dims.len()).chain(dims.iter().copied()).collect();
        let mut step = 1;
        let mut found: Vec<(usize, i64)> = vec![];
        for size in padded.iter().rev() {
            found.push((*size, if *size == 1 { 0 } else { step }));
            step *= *size as i64;
        }
        found.reverse();
        found
    };
    let mut merged: Vec<(usize, i64, i64)> = vec![];
    for ((na, sa), (nb, sb)) in strides(a).into_iter().zip(strides(b)) {
        let size = if na == 1 { nb } else { na };
        if size == 1 {
            continue;
        }
        match merged.last_mut() {
            Some((n, oa, ob)) if *oa == sa * size as i64 && *ob == sb * size as i64 => {
                (*n, *oa, *ob) = (*n * size, sa, sb);
            }
            _ => merged.push((size, sa, sb)),
        }
    }
    merged
}

impl Lowering for Product {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn files(&self) -> &'static [&'static str] {
        &["matmul"]
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
        let count = |dims: &[usize]| dims.iter().product::<usize>() as i64;
        let (m, n, k) = (m as i64, n as i64, k as i64);
        let batches = groups.iter().map(|(n, ..)| *n as i64).product();
        Ok(vec![call(table::matmul(
            self.element,
            self.element,
            input(0),
            input(1),
            input(0),
            input(0),
            output(0),
            m,
            n,
            k,
            batches,
            k,
            1,
            n,
            1,
            count(a),
            count(b),
            0,
            0,
            shape,
        ))])
    }
}

#[cfg(test)]
mod tests {
    use super::batches;

    #[test]
    fn batches_that_walk_together_are_one() {
        assert_eq!(batches(&[2, 3], &[2, 3]), [(6, 1, 1)]);
        assert_eq!(batches(&[2, 3], &[]), [(6, 1, 0)]);
        assert_eq!(batches(&[2, 3], &[3]), [(2, 3, 0), (3, 1, 1)]);
        assert_eq!(batches(&[1, 4], &[5, 1]), [(5, 0, 1), (4, 1, 0)]);
        assert_eq!(batches(&[], &[]), []);
    }
}
