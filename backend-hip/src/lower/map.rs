//! Elementwise operators: a scalar expression of broadcast operands, as a program for the kernel that interprets it.

mod code;

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, element, input, output};
use code::{MOST_INPUTS, Program};
use ir::scalar_expr::{Arg, ScalarExpr, Step};
use ir::{CoreOp, DType};
use kernels::table;

const MOST_DIMS: usize = 6;

struct Map {
    name: &'static str,
    program: Program,
    /// Bytes of an element of each operand, and of the result.
    ins: Vec<i64>,
    out: i64,
    in_place: Option<usize>,
}

pub(super) fn map(op: &CoreOp, types: &Types<'_>) -> Chosen {
    let expr = expression(op)?;
    let dtypes: Option<Vec<DType>> = types.ins.iter().map(|t| Some(t.as_ref()?.dtype)).collect();
    let dtypes = dtypes.ok_or("an operand is missing")?;
    if dtypes.len() > MOST_INPUTS {
        return Err("it has more than 8 operands");
    }
    let out = types.outs[0];
    let program = Program::of(&expr, &dtypes, out.dtype)?;
    let bytes = |dtype: DType| element(dtype).map(|e| e.bytes());
    let ins = dtypes.iter().map(|d| bytes(*d)).collect::<Result<Vec<i64>, _>>()?;
    for i in 0..dtypes.len() {
        types.dims(i)?;
    }
    // Each element is read before it is written, by one thread.
    let in_place = (0..dtypes.len()).find(|i| types.input(*i).is_some_and(|t| t == out));
    Ok(Box::new(Map { name: op.name(), program, ins, out: bytes(out.dtype)?, in_place }))
}

/// What the operator computes of one element.
fn expression(op: &CoreOp) -> Result<ScalarExpr, &'static str> {
    let x = Arg::Input;
    let step = match op {
        CoreOp::Map(op) => return Ok(op.expr.clone()),
        CoreOp::Unary(op) => Step::Unary(op.f, x(0)),
        CoreOp::Binary(op) => Step::Binary(op.f, x(0), x(1)),
        CoreOp::Compare(op) => Step::Compare(op.f, x(0), x(1)),
        CoreOp::Select(_) => Step::Select(x(0), x(1), x(2)),
        CoreOp::Cast(op) => Step::Cast(op.to, x(0)),
        _ => return Err("it is not elementwise"),
    };
    ScalarExpr::new(&[step]).map_err(|_| "it is not a scalar expression")
}

impl Lowering for Map {
    fn name(&self) -> &'static str {
        self.name
    }

    fn files(&self) -> &'static [&'static str] {
        &["map"]
    }

    fn in_place(&self) -> Option<usize> {
        self.in_place
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let y = &sizes.outs[0];
        let n = y.iter().product::<usize>() as i64;
        if n == 0 {
            return Ok(vec![]);
        }
        let dims = merge(y, sizes.ins);
        if dims.len() > MOST_DIMS {
            return Err(format!("{} dimensions that do not merge are more than {MOST_DIMS}", dims.len()));
        }
        let mut shape = [0u32; 55];
        shape[0] = dims.len() as u32;
        for (d, (size, strides)) in dims.iter().enumerate() {
            shape[1 + d] = *size as u32;
            for (j, stride) in strides.iter().enumerate() {
                shape[7 + j * 6 + d] =
                    u32::try_from(*stride).map_err(|_| "a stride is too large for the kernel".to_string())?;
            }
        }
        // Operands that are not there point at the first one, of which nothing is read for them.
        let at = |j: usize| if j < self.ins.len() { input(j) } else { input(0) };
        let bytes = |j: usize| self.ins.get(j).map_or(0, |b| b * sizes.ins[j].iter().product::<usize>() as i64);
        // An expression may have no operand at all.
        let at = |j: usize| if self.ins.is_empty() { output(0) } else { at(j) };
        Ok(vec![call(table::map(
            at(0),
            at(1),
            at(2),
            at(3),
            at(4),
            at(5),
            at(6),
            at(7),
            output(0),
            n,
            bytes(0),
            bytes(1),
            bytes(2),
            bytes(3),
            bytes(4),
            bytes(5),
            bytes(6),
            bytes(7),
            n * self.out,
            shape,
            self.program.words(),
        ))])
    }
}

/// Dimensions of the result with the strides of every operand, those of 1 left out and neighbours that are one walk in all
/// operands made one.
fn merge(y: &[usize], ins: &[Vec<usize>]) -> Vec<(usize, Vec<i64>)> {
    let stride = |x: &[usize], d: usize| {
        let lead = y.len() - x.len();
        if d < lead || x[d - lead] == 1 { 0 } else { x[d - lead + 1..].iter().product::<usize>() as i64 }
    };
    let mut merged: Vec<(usize, Vec<i64>)> = vec![];
    for (d, size) in y.iter().enumerate().filter(|(_, size)| **size != 1) {
        let strides: Vec<i64> = ins.iter().map(|x| stride(x, d)).collect();
        match merged.last_mut() {
            Some((n, outer)) if outer.iter().zip(&strides).all(|(o, s)| *o == s * *size as i64) => {
                (*n, *outer) = (*n * size, strides);
            }
            _ => merged.push((*size, strides)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::merge;

    #[test]
    fn operands_that_walk_together_are_one_dimension() {
        assert_eq!(merge(&[2, 3, 4], &[vec![2, 3, 4], vec![2, 3, 4]]), [(24, vec![1, 1])]);
        assert_eq!(merge(&[2, 3, 4], &[vec![2, 3, 4], vec![4]]), [(6, vec![4, 0]), (4, vec![1, 1])]);
        assert_eq!(merge(&[2, 3], &[vec![]]), [(6, vec![0])]);
        assert_eq!(merge(&[2, 3], &[vec![2, 1]]), [(2, vec![1]), (3, vec![0])]);
    }
}
