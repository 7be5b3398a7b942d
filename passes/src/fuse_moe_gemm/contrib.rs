//! The `moe` operator (com.microsoft's MoE), which has router and experts in one.

use super::look::{core, dims, operand, product, size};
use crate::edit::Edit;
use crate::pass::{Context, Miss};
use ir::graph::{Graph, Value};
use ir::ops::{ActivationFn, CoreOp, ExpertIndex, Gating, MoeGemm, MoeRoute, RouterScore};

/// Puts router, index and layers in the place of the `moe` at `root`.
pub(super) fn lower(graph: &mut Graph, cx: &mut Context, root: Value) -> Result<Value, Miss> {
    replace(graph, cx, "contrib-moe", root, build)
}

/// Puts what `build` makes in the place of `root`.
pub(super) fn replace(
    graph: &mut Graph,
    cx: &mut Context,
    rule: &'static str,
    root: Value,
    build: fn(&mut Edit<'_>, Value) -> Result<Value, Miss>,
) -> Result<Value, Miss> {
    let mut edit = Edit::new(graph, root, [root.node]);
    match build(&mut edit, root).and_then(|new| edit.settle(new)) {
        Ok(new) => {
            edit.finish();
            cx.note(rule, graph, new, Ok(()));
            graph.prune(root.node);
            Ok(new)
        }
        Err(miss) => {
            edit.abandon();
            Err(miss)
        }
    }
}

fn build(edit: &mut Edit<'_>, root: Value) -> Result<Value, Miss> {
    let Some(CoreOp::Moe(op)) = core(edit.graph, root) else { return Err(Miss::NoEffect) };
    let op = op.clone();
    let absent = edit.graph.absent();
    let given = edit.graph.operands(root.node);
    let at = |i: usize| given.get(i).copied().unwrap_or(absent);
    let known = "the shapes of the experts are not known";
    let experts = dims(edit.graph, at(1)).and_then(|d| size(d.get(1)?)).ok_or(Miss::Refused(known))? as i64;
    let shape = dims(edit.graph, at(0)).ok_or(Miss::Refused(known))?.to_vec();
    let (h, lead) = shape.split_last().ok_or(Miss::Refused(known))?;
    let x = super::emit::as_shape(edit, at(0), vec![product(lead), h.clone()])?;
    let score = if op.normalize { RouterScore::Chosen } else { RouterScore::Softmax };
    let route = MoeRoute { k: op.k, score, renormalise: false, eps: 0.0, scale: 1.0 };
    let ids = edit.apply(route, &[at(1)])?;
    let weights = Value { node: ids.node, result: 1 };
    let rows = edit.apply(ExpertIndex { experts }, &[ids])?;
    let offsets = Value { node: rows.node, result: 1 };
    let gated = op.gating != Gating::None;
    let first = MoeGemm {
        repeat: op.k,
        kn: false,
        gating: op.gating,
        act: Some(if gated { ActivationFn::Silu } else { op.act }),
        alpha: op.alpha.filter(|_| gated),
        beta: op.beta.filter(|_| gated),
        limit: op.limit.filter(|_| gated),
    };
    let mut operands = vec![x, rows, offsets, at(2), at(3), at(6), at(7)];
    super::emit::trim(&mut operands, absent);
    let hidden = edit.apply(first, &operands)?;
    let second =
        MoeGemm { repeat: 1, kn: false, gating: Gating::None, act: None, alpha: None, beta: None, limit: None };
    let y = edit.apply(second, &[hidden, rows, offsets, at(4), at(5), absent, absent, weights])?;
    let shape = dims(edit.graph, root).ok_or(Miss::Refused(known))?.to_vec();
    debug_assert!(operand(edit.graph, y, 0) == hidden, "the second layer reads the first");
    super::emit::as_shape(edit, y, shape)
}
