//! Einsum; a product of matrices in disguise becomes one.

use ir::graph::Value;
use ir::ops::host::Einsum;
use ir::ops::{MatMul, Transpose};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "Einsum", einsum)];

fn einsum(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let equation = cx.opt_str("equation")?.ok_or_else(|| NodeError::wrong("attribute `equation` is missing"))?;
    let operands = cx.inputs()?;
    if let [a, b] = operands[..]
        && let Some(product) = Product::new(cx, &equation, a, b)
    {
        return product.push(cx);
    }
    cx.one(Einsum { equation }, &operands)
}

/// `bts,bcs->bct`: letters of both operands and the result (`b`), one of each operand and the result (`t`, `c`), one that is
/// summed over (`s`).
struct Product {
    left: Value,
    right: Value,
    /// The left operand as rows, the right one as columns, the product as the result.
    perms: [Vec<i64>; 3],
}

impl Product {
    fn new(cx: &NodeCx<'_>, equation: &str, a: Value, b: Value) -> Option<Product> {
        let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (operands, result) = text.split_once("->")?;
        let (x, y) = operands.split_once(',')?;
        let [x, y, z] = [x, y, result].map(|term| term.chars().collect::<Vec<char>>());
        let plain =
            |term: &Vec<char>| term.iter().enumerate().all(|(i, c)| c.is_alphabetic() && !term[..i].contains(c));
        let float = cx.dtype(a).ok()?.is_float() && cx.dtype(a).ok() == cx.dtype(b).ok();
        let (from, to) = (cx.dims(a)?, cx.dims(b)?);
        if !float || ![&x, &y, &z].into_iter().all(plain) || from.len() != x.len() || to.len() != y.len() {
            return None;
        }
        let batch: Vec<char> = z.iter().copied().filter(|c| x.contains(c) && y.contains(c)).collect();
        let only = |of: &[char], other: &[char]| {
            let mut found = of.iter().copied().filter(|c| !other.contains(c));
            found.next().filter(|_| found.next().is_none())
        };
        let (m, n) = (only(&x, &y)?, only(&y, &x)?);
        let summed = only(&x, &[&z[..], &[m]].concat())?;
        if [x.len(), y.len(), z.len()] != [batch.len() + 2; 3] || !z.contains(&m) || !z.contains(&n) {
            return None;
        }
        let place = |term: &[char], c: char| term.iter().position(|own| *own == c);
        // A letter may stand for 1 in one operand and for more in the other.
        let one = |dims: &[ir::Dim], term: &[char]| Some(dims[place(term, summed)?].as_const() == Some(1));
        if one(&from, &x)? != one(&to, &y)? {
            return None;
        }
        let swapped = place(&z, m)? > place(&z, n)?;
        let (left, right, x, y, m, n) = if swapped { (b, a, y, x, n, m) } else { (a, b, x, y, m, n) };
        let perm = |of: &[char], order: &[char]| {
            order.iter().map(|c| place(of, *c).map(|at| at as i64)).collect::<Option<Vec<i64>>>()
        };
        let rows = perm(&x, &[&batch[..], &[m, summed]].concat())?;
        let columns = perm(&y, &[&batch[..], &[summed, n]].concat())?;
        let back = perm(&[&batch[..], &[m, n]].concat(), &z)?;
        Some(Product { left, right, perms: [rows, columns, back] })
    }

    fn push(self, cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
        let [rows, columns, back] = self.perms;
        let mut moved = |v: Value, perm: Vec<i64>| match perm.is_sorted() {
            true => Ok(v),
            false => cx.push(Transpose { perm }, &[v]),
        };
        let (left, right) = (moved(self.left, rows)?, moved(self.right, columns)?);
        let y = cx.push(MatMul {}, &[left, right])?;
        match back.is_sorted() {
            true => Ok(vec![y]),
            false => cx.one(Transpose { perm: back }, &[y]),
        }
    }
}
