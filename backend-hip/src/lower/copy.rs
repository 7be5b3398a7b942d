//! Operators that only move elements: `transpose`, `slice`, `expand`, `concat`, and `reshape` where it is no view. All are one
//! kernel, which walks a shape with strides of the source and of the target.

use super::{Call, Chosen, Lowering, Memory, Sizes, Types, call, input, moved, output};
use ir::Dim;
use ir::ops::{Concat, Slice, Transpose};
use kernels::{Element, table};

/// Dimensions that the kernel walks.
const MOST_DIMS: usize = 6;

enum Move {
    Flat,
    Transpose(Vec<usize>),
    /// Per axis of the operand: its step, and the position of its start among the numbers.
    Slice(Vec<(i64, Option<usize>)>),
    Expand,
    Fill,
    Concat(usize),
}

struct Copy {
    kind: Move,
    name: &'static str,
    element: Element,
    numbers: Vec<Dim>,
}

fn made(kind: Move, name: &'static str, types: &Types<'_>, numbers: Vec<Dim>) -> Chosen {
    let element = moved(types.input(0).ok_or("an operand is missing")?.dtype)?;
    types.dims(0)?;
    Ok(Box::new(Copy { kind, name, element, numbers }))
}

pub(super) fn reshape(types: &Types<'_>) -> Chosen {
    made(Move::Flat, "reshape", types, vec![])
}

pub(super) fn expand(types: &Types<'_>) -> Chosen {
    made(Move::Expand, "expand", types, vec![])
}

pub(super) fn fill(types: &Types<'_>) -> Chosen {
    made(Move::Fill, "fill", types, vec![])
}

pub(super) fn transpose(op: &Transpose, types: &Types<'_>) -> Chosen {
    let perm = op.perm.iter().map(|p| usize::try_from(*p)).collect::<Result<Vec<_>, _>>();
    made(Move::Transpose(perm.map_err(|_| "its permutation is none")?), "transpose", types, vec![])
}

pub(super) fn concat(op: &Concat, types: &Types<'_>) -> Chosen {
    let axis = ir::ops::axis(op.axis, types.dims(0)?.len()).map_err(|_| "its axis does not exist")?;
    made(Move::Concat(axis), "concat", types, vec![])
}

pub(super) fn slice(op: &Slice, types: &Types<'_>) -> Chosen {
    let dims = types.dims(0)?;
    let (mut cuts, mut numbers) = (vec![(1, None); dims.len()], vec![]);
    for (i, axis) in op.axes.iter().enumerate() {
        let at = ir::ops::axis(*axis, dims.len()).map_err(|_| "its axis does not exist")?;
        let (start, _) = Slice::extent(&dims[at], &op.starts[i], &op.ends[i], op.steps[i])
            .ok_or("the sign of a bound depends on the symbols")?;
        cuts[at] = (op.steps[i], Some(numbers.len()));
        numbers.push(start);
    }
    made(Move::Slice(cuts), "slice", types, numbers)
}

/// Row-major strides.
pub(super) fn strides(dims: &[usize]) -> Vec<i64> {
    let mut found = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        found[i - 1] = found[i] * dims[i] as i64;
    }
    found
}

/// Moves a walk over `dims` from one memory (from an element on, with strides) to another.
pub(super) fn walk(
    element: Element,
    source: Memory,
    target: Memory,
    dims: &[usize],
    (from, from_strides): (i64, &[i64]),
    (to, to_strides): (i64, &[i64]),
) -> Result<Option<Call<Memory>>, String> {
    if dims.contains(&0) {
        return Ok(None);
    }
    let merged = merge(dims, from_strides, to_strides);
    if merged.len() > MOST_DIMS {
        return Err(format!("{} dimensions that do not merge are more than {MOST_DIMS}", merged.len()));
    }
    let mut shape = [0u32; 19];
    shape[0] = merged.len() as u32;
    let narrow = |n: i64| i32::try_from(n).map_err(|_| "a stride is too large for the kernel".to_string());
    // The highest element touched; where strides are negative the walk starts there.
    let (mut high, mut highest) = (from, to);
    for (d, (size, a, b)) in merged.iter().enumerate() {
        shape[1 + d] = *size as u32;
        shape[7 + d] = narrow(*a)? as u32;
        shape[13 + d] = narrow(*b)? as u32;
        high += (*size as i64 - 1) * (*a).max(0);
        highest += (*size as i64 - 1) * (*b).max(0);
    }
    let n = dims.iter().product::<usize>() as i64;
    let element = bits(element);
    Ok(Some(call(table::copy(element, source, target, n, from, to, high + 1, highest + 1, shape))))
}

/// Elements as bits that are moved.
fn bits(element: Element) -> Element {
    match element.bytes() {
        1 => Element::U8,
        2 => Element::U16,
        4 => Element::U32,
        _ => Element::U64,
    }
}

/// Dimensions of 1 left out, and neighbours that are one walk in both made one.
fn merge(dims: &[usize], a: &[i64], b: &[i64]) -> Vec<(usize, i64, i64)> {
    let mut merged: Vec<(usize, i64, i64)> = vec![];
    for ((size, sa), sb) in dims.iter().zip(a).zip(b).filter(|((size, _), _)| **size != 1) {
        match merged.last_mut() {
            Some((n, oa, ob)) if *oa == sa * *size as i64 && *ob == sb * *size as i64 => {
                (*n, *oa, *ob) = (*n * size, *sa, *sb);
            }
            _ => merged.push((*size, *sa, *sb)),
        }
    }
    merged
}

impl Copy {
    /// Moves a walk over `dims` from operand `i` to the result.
    fn walk(
        &self,
        i: usize,
        dims: &[usize],
        from: (i64, &[i64]),
        to: (i64, &[i64]),
    ) -> Result<Option<Call<Memory>>, String> {
        walk(self.element, input(i), output(0), dims, from, to)
    }
}

impl Lowering for Copy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn files(&self) -> &'static [&'static str] {
        &["copy"]
    }

    fn numbers(&self) -> Vec<Dim> {
        self.numbers.clone()
    }

    fn calls(&self, sizes: &Sizes<'_>) -> Result<Vec<Call<Memory>>, String> {
        let (x, y) = (&sizes.ins[0], &sizes.outs[0]);
        let (of_x, of_y) = (strides(x), strides(y));
        let one = match &self.kind {
            Move::Flat => self.walk(0, &[x.iter().product()], (0, &[1]), (0, &[1]))?,
            Move::Transpose(perm) => {
                let from: Vec<i64> = perm.iter().map(|p| of_x[*p]).collect();
                self.walk(0, y, (0, &from), (0, &of_y))?
            }
            Move::Expand => {
                let lead = y.len() - x.len();
                let stride = |d: usize| if d < lead || x[d - lead] == 1 { 0 } else { of_x[d - lead] };
                let from: Vec<i64> = (0..y.len()).map(stride).collect();
                self.walk(0, y, (0, &from), (0, &of_y))?
            }
            Move::Fill if x.iter().product::<usize>() != 1 => {
                return Err(format!("a tensor is filled with one element, not {x:?}"));
            }
            Move::Fill => self.walk(0, y, (0, &vec![0; y.len()]), (0, &of_y))?,
            Move::Slice(cuts) => {
                let mut start = 0;
                let mut from = vec![];
                for (d, (step, number)) in cuts.iter().enumerate() {
                    start += number.map_or(0, |i| sizes.numbers[i]) * of_x[d];
                    from.push(of_x[d] * step);
                }
                self.walk(0, y, (start, &from), (0, &of_y))?
            }
            Move::Concat(axis) => {
                let mut at = 0;
                let mut calls = vec![];
                for (i, part) in sizes.ins.iter().enumerate() {
                    let from = strides(part);
                    calls.extend(self.walk(i, part, (0, &from), (at * of_y[*axis], &of_y))?);
                    at += part[*axis] as i64;
                }
                return Ok(calls);
            }
        };
        Ok(one.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::merge;

    #[test]
    fn a_walk_that_is_contiguous_is_one_dimension() {
        assert_eq!(merge(&[2, 3, 4], &[12, 4, 1], &[12, 4, 1]), [(24, 1, 1)]);
        assert_eq!(merge(&[2, 1, 4], &[1, 0, 2], &[4, 4, 1]), [(2, 1, 4), (4, 2, 1)]);
        assert_eq!(merge(&[1], &[1], &[1]), []);
    }
}
