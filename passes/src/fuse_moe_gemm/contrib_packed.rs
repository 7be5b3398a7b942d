//! The `moe_nbits` operator (com.microsoft's QMoE): router, index and layers over packed weights, which stay packed.

use super::contrib::replace;
use super::emit::{as_shape, trim};
use super::look::{core, dims, product, size};
use crate::edit::Edit;
use crate::pass::{Context, Miss};
use ir::graph::{Graph, Value};
use ir::ops::{
    ActivationFn, Binary, Compare, CoreOp, ExpertIndex, GatherElements, Gating, MoeGemmNBits, MoeNBits, MoeRoute,
    Reduce, ReduceFn, RouterScore, Select,
};
use ir::scalar::{BinaryFn, CompareFn};

/// Puts router, index and layers in the place of the `moe_nbits` at `root`.
pub(super) fn lower(graph: &mut Graph, cx: &mut Context, root: Value) -> Result<Value, Miss> {
    replace(graph, cx, "contrib-packed-moe", root, build)
}

fn build(edit: &mut Edit<'_>, root: Value) -> Result<Value, Miss> {
    let Some(CoreOp::MoeNBits(op)) = core(edit.graph, root) else { return Err(Miss::NoEffect) };
    let op = op.clone();
    let absent = edit.graph.absent();
    let given = edit.graph.operands(root.node);
    let at = |i: usize| given.get(i).copied().unwrap_or(absent);
    let known = Miss::Refused("the shapes of the experts are not known");
    let experts = dims(edit.graph, at(1)).and_then(|d| size(d.get(1)?)).ok_or(known)? as i64;
    let shape = dims(edit.graph, at(0)).ok_or(known)?.to_vec();
    let (h, lead) = shape.split_last().ok_or(known)?;
    let x = as_shape(edit, at(0), vec![product(lead), h.clone()])?;
    let apart = edit.graph.tensor_ty(at(2)).is_some();
    let score = if op.normalize || apart { RouterScore::Chosen } else { RouterScore::Softmax };
    let route = MoeRoute { k: op.k, score, renormalise: false, eps: 0.0, scale: 1.0 };
    let ids = edit.apply(route, &[at(1)])?;
    let weights = if apart { shares(edit, &op, at(2), ids)? } else { Value { node: ids.node, result: 1 } };
    let rows = edit.apply(ExpertIndex { experts }, &[ids])?;
    let offsets = Value { node: rows.node, result: 1 };
    let gated = op.gating != Gating::None;
    let third = edit.graph.tensor_ty(at(11)).is_some();
    let first = MoeGemmNBits {
        bits: [Some(op.bits[0]), op.bits.get(2).copied().filter(|_| third)].into_iter().flatten().collect(),
        repeat: op.k,
        gating: op.gating,
        act: Some(if gated { ActivationFn::Silu } else { op.act }),
        alpha: op.alpha.filter(|_| gated),
        beta: op.beta.filter(|_| gated),
        limit: op.limit.filter(|_| gated),
    };
    let mut operands = vec![x, rows, offsets];
    operands.extend((3..7).chain(11..15).map(at));
    trim(&mut operands, absent);
    let hidden = edit.apply(first, &operands)?;
    let second = MoeGemmNBits {
        bits: vec![op.bits[1]],
        repeat: 1,
        gating: Gating::None,
        act: None,
        alpha: None,
        beta: None,
        limit: None,
    };
    let mut operands = vec![hidden, rows, offsets];
    operands.extend((7..11).map(at));
    operands.extend([absent, absent, absent, absent, weights]);
    let y = edit.apply(second, &operands)?;
    let shape = dims(edit.graph, root).ok_or(known)?.to_vec();
    as_shape(edit, y, shape)
}

/// The shares of the chosen experts where they are given apart from the logits.
fn shares(edit: &mut Edit<'_>, op: &MoeNBits, shares: Value, ids: Value) -> Result<Value, Miss> {
    let chosen = edit.apply(GatherElements { axis: 1 }, &[shares, ids])?;
    if !op.normalize {
        return Ok(chosen);
    }
    let dtype = edit.dtype(shares).ok_or(Miss::NoEffect)?;
    let sum = edit.apply(Reduce { f: ReduceFn::Sum, axes: vec![1], keep: true }, &[chosen])?;
    let (zero, one) = (edit.scalar(dtype, 0.0), edit.scalar(dtype, 1.0));
    let none = edit.apply(Compare { f: CompareFn::Eq }, &[sum, zero])?;
    let by = edit.apply(Select {}, &[none, one, sum])?;
    edit.apply(Binary { f: BinaryFn::Div }, &[chosen, by])
}

#[cfg(test)]
mod tests {
    use super::super::PASS;
    use crate::testing::rewritten;

    const INPUTS: &str = "%x: f32[T, 32], %l: f32[T, 4], %h: f32[T, 4], %a: u8[4, 48, 16], %as: f32[4, 48, 2], %ab: f32[4, 48], \
                          %b: u8[4, 32, 24], %bs: f32[4, 32, 3], %bz: u8[4, 32, 3], %c: u8[4, 48, 8], %cs: f32[4, 48, 1]";

    fn lowered(operands: &str, attrs: &str) -> String {
        rewritten(&PASS, &format!("graph @g({INPUTS}) {{ %y = moe_nbits({operands}) {{k = 2, {attrs}}} return %y }}"))
    }

    #[test]
    fn packed_experts_stay_packed() {
        let made = lowered(
            "%x, %l, _, %a, %as, _, %ab, %b, %bs",
            "act = silu, bits = [4, 4], gating = none, normalize = true",
        );
        assert!(made.contains("score = chosen") && made.matches("moe_gemm_nbits(").count() == 2, "{made}");
        assert!(!made.contains("moe_nbits("), "{made}");
        let made =
            lowered("%x, %l, _, %a, %as, _, _, %b, %bs, _, _, %c, %cs", "act = gelu, bits = [4, 4, 2], gating = none");
        assert!(made.contains("bits = [4, 2]") && made.contains("score = softmax"), "{made}");
    }

    #[test]
    fn shares_that_are_given_apart_are_gathered() {
        let halves = "%x, %l, %h, %a, %as, _, _, %w2, %s2";
        let text = format!(
            "graph @g({INPUTS}, %w2: u8[4, 32, 12], %s2: f32[4, 32, 1]) {{ %y = moe_nbits({halves}) {{k = 2, act = silu, bits = [4, 4], gating = halves, normalize = true}} return %y }}"
        );
        let made = rewritten(&PASS, &text);
        assert!(made.contains("gather_elements(%h") && made.contains("div("), "{made}");
    }
}
