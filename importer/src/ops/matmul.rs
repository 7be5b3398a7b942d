//! Matrix products.

use ir::graph::Value;
use ir::ops::{Binary, Linear, MatMul, Transpose};
use ir::scalar::BinaryFn;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[("", "MatMul", matmul), ("", "Gemm", gemm)];

fn matmul(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let operands = [cx.input(0)?, cx.input(1)?];
    cx.one(MatMul {}, &operands)
}

/// `alpha * A' * B' + beta * C`. A constant C of the right shape is the bias of a linear layer.
pub(super) fn gemm(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let (mut a, b, c) = (cx.input(0)?, cx.input(1)?, cx.opt(2));
    let (alpha, beta) = (cx.attr_f32("alpha", 1.0)?, cx.attr_f32("beta", 1.0)?);
    let kn = !cx.attr_bool("transB", false)?;
    for v in [a, b] {
        if cx.rank(v).is_some_and(|rank| rank != 2) {
            return Err(NodeError::wrong(format!("`{}` is {}, not a matrix", cx.graph.name(v), cx.ty(v))));
        }
    }
    if cx.attr_bool("transA", false)? {
        a = cx.push(Transpose { perm: vec![1, 0] }, &[a])?;
    }
    let float = cx.dtype(a)?.is_float() && cx.rank(b).is_some();
    let mut bias = c.filter(|_| beta != 0.0);
    let mut operands = vec![a, b];
    if let (true, 1.0, 1.0, Some(c)) = (float, alpha, beta, bias) {
        let n = cx.dims(b).and_then(|d| d.get(usize::from(kn)).cloned());
        if cx.dims(c).is_some_and(|d| d.len() == 1 && Some(&d[0]) == n.as_ref()) {
            operands.push(c);
            bias = None;
        }
    }
    let mut y = match (float, kn) {
        (true, _) => cx.push(Linear { kn }, &operands)?,
        (false, true) => cx.push(MatMul {}, &operands)?,
        (false, false) => {
            let b = cx.push(Transpose { perm: vec![1, 0] }, &[b])?;
            cx.push(MatMul {}, &[a, b])?
        }
    };
    if alpha != 1.0 {
        y = scaled(cx, y, alpha)?;
    }
    if let Some(c) = bias {
        let c = if beta == 1.0 { c } else { scaled(cx, c, beta)? };
        y = cx.push(Binary { f: BinaryFn::Add }, &[y, c])?;
    }
    Ok(vec![y])
}

fn scaled(cx: &mut NodeCx<'_>, x: Value, by: f32) -> Result<Value, NodeError> {
    let by = cx.const_like(x, f64::from(by))?;
    cx.push(Binary { f: BinaryFn::Mul }, &[x, by])
}
