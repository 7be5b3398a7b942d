//! Walks from the weights of an attention back to the product of queries and keys.

use crate::axes::equal;
use crate::edit::Edit;
use crate::pass::Miss;
use ir::graph::{NodeId, Value};
use ir::ops::{Binary, CoreOp, Op, Unary, Unseen};
use ir::scalar::{BinaryFn, UnaryFn};

/// What lies between the product of queries and keys and the weights.
pub(super) struct Found {
    /// `[.., S, D]` and `[.., D, T]`.
    pub product: [Value; 2],
    /// What scores are multiplied by.
    pub scale: f64,
    /// `c` of `c tanh(s / c)`.
    pub cap: Option<f64>,
    /// What is added, or a bool.
    pub masks: Vec<Mask>,
    /// What a row gives that a bool mask hides.
    pub unseen: Option<Unseen>,
    /// Whether weights that are not numbers become 0.
    pub guard: bool,
    /// The nodes on the way.
    pub nodes: Vec<NodeId>,
}

/// A mask and where it meets the scores.
pub(super) struct Mask {
    pub value: Value,
    /// The scores there, `[.., S, T]`.
    pub scores: Value,
    /// Whether it is true where a key is hidden, not where it is kept.
    pub hides: bool,
}

/// What a chain of operators on scores is followed through at most.
const MAX_STEPS: usize = 16;

/// The scores behind a matrix of weights.
pub(super) fn find(edit: &mut Edit<'_>, weights: Value) -> Result<Found, Miss> {
    let (softmax, guard, mut nodes) = softmax_behind(edit, weights)?;
    nodes.push(softmax.node);
    let scores = edit.graph.operands(softmax.node)[0];
    let mut found = walk(edit, scores, MAX_STEPS)?;
    // The guard reads the softmax twice.
    let readers = if guard { 2 } else { 1 };
    let is_alone = |n: &NodeId| edit.graph.use_count((*n).into()) == if *n == softmax.node { readers } else { 1 };
    let alone = nodes.iter().chain(&found.nodes).all(is_alone);
    edit.require(alone, "the weights or scores of the attention have another reader")?;
    found.nodes.extend(nodes);
    found.guard = guard;
    Ok(found)
}

/// The softmax that made a value, through casts and `where(isnan(w), 0, w)`; nodes on the way that read it alone.
fn softmax_behind(edit: &Edit<'_>, weights: Value) -> Result<(Value, bool, Vec<NodeId>), Miss> {
    let (mut v, mut guard, mut nodes) = (weights, false, vec![]);
    for _ in 0..4 {
        let operands = edit.graph.operands(v.node);
        match edit.graph.op(v.node) {
            Some(Op::CoreOp(CoreOp::Cast(_))) if edit.dtype(operands[0]).is_some_and(|d| d.is_float()) => {
                nodes.push(v.node);
                v = operands[0];
            }
            Some(Op::CoreOp(CoreOp::Reshape(_))) if keeps_matrices(edit, operands[0], v) => {
                nodes.push(v.node);
                v = operands[0];
            }
            Some(Op::CoreOp(CoreOp::Select(_))) if is_nan_of(edit, operands[0], operands[2]) => {
                if number(edit, operands[1]) != Some(0.0) {
                    return Err(Miss::NoEffect);
                }
                guard = true;
                nodes.extend([v.node, operands[0].node]);
                v = operands[2];
            }
            Some(Op::CoreOp(CoreOp::Softmax(op))) if !op.log => {
                let rank = edit.rank(v).ok_or(Miss::Refused("the rank of the scores is not known"))? as i64;
                edit.require(op.axis == -1 || op.axis == rank - 1, "the softmax is not over the keys")?;
                return Ok((v, guard, nodes));
            }
            _ => return Err(Miss::NoEffect),
        }
    }
    Err(Miss::NoEffect)
}

/// Whether a reshape leaves the last two dimensions as they are.
fn keeps_matrices(edit: &Edit<'_>, from: Value, to: Value) -> bool {
    let dims = |v: Value| edit.graph.tensor_ty(v).and_then(|t| t.dims());
    match (dims(from), dims(to)) {
        (Some([.., a, b]), Some([.., c, d])) => equal(edit.graph, a, c) && equal(edit.graph, b, d),
        _ => false,
    }
}

fn is_nan_of(edit: &Edit<'_>, condition: Value, of: Value) -> bool {
    let is_nan = matches!(edit.graph.op(condition.node), Some(Op::CoreOp(CoreOp::Unary(Unary { f: UnaryFn::IsNan }))));
    is_nan && edit.graph.operands(condition.node)[0] == of
}

/// The number that a constant of one element holds.
pub(super) fn number(edit: &Edit<'_>, v: Value) -> Option<f64> {
    let t = edit.graph.constant_of(v).filter(|t| t.len() == 1)?;
    Some(t.to_f64().ok()?[0])
}

fn walk(edit: &Edit<'_>, v: Value, steps: usize) -> Result<Found, Miss> {
    let operands = edit.graph.operands(v.node);
    let steps = steps.checked_sub(1).ok_or(Miss::NoEffect)?;
    let Some(Op::CoreOp(op)) = edit.graph.op(v.node) else { return Err(Miss::NoEffect) };
    let mut found = match op {
        CoreOp::MatMul(_) => {
            let product = [operands[0], operands[1]];
            Found { product, scale: 1.0, cap: None, masks: vec![], unseen: None, guard: false, nodes: vec![] }
        }
        CoreOp::Cast(op) if op.to.is_float() => walk(edit, operands[0], steps)?,
        CoreOp::Reshape(_) if keeps_matrices(edit, operands[0], v) => walk(edit, operands[0], steps)?,
        CoreOp::Binary(Binary { f: BinaryFn::Add }) => {
            let (mut found, mask) = either(edit, [operands[0], operands[1]], steps)?;
            edit.require(found.unseen.is_none(), "one mask is added and another one selects")?;
            found.masks.push(Mask { value: mask, scores: v, hides: false });
            found
        }
        CoreOp::Binary(Binary { f: f @ (BinaryFn::Mul | BinaryFn::Div) }) => {
            let (x, factor) = match (number(edit, operands[0]), number(edit, operands[1])) {
                (Some(c), None) if *f == BinaryFn::Mul => (operands[1], c),
                (None, Some(c)) if *f == BinaryFn::Mul => (operands[0], c),
                (None, Some(c)) => (operands[0], 1.0 / c),
                _ => return Err(Miss::NoEffect),
            };
            if *f == BinaryFn::Mul
                && let Some(capped) = capped(edit, x, factor, steps)?
            {
                capped
            } else {
                let mut found = walk(edit, x, steps)?;
                edit.require(
                    found.masks.is_empty() && found.cap.is_none(),
                    "the scores are scaled after they are masked or capped",
                )?;
                found.scale *= factor;
                found
            }
        }
        CoreOp::Select(_) => {
            let (hides, scores, hidden) = match (number(edit, operands[1]), number(edit, operands[2])) {
                (None, Some(hidden)) => (false, operands[1], hidden),
                (Some(hidden), None) => (true, operands[2], hidden),
                _ => return Err(Miss::NoEffect),
            };
            let mut found = walk(edit, scores, steps)?;
            edit.require(hidden <= HIDDEN, "the number that replaces a score is not low enough to hide its key")?;
            edit.require(found.masks.is_empty(), "one mask is added and another one selects")?;
            found.masks.push(Mask { value: operands[0], scores: v, hides });
            found.unseen = Some(if hidden == f64::NEG_INFINITY { Unseen::Nan } else { Unseen::Mean });
            found
        }
        _ => return Err(Miss::NoEffect),
    };
    found.nodes.push(v.node);
    Ok(found)
}

/// A score of this hides its key: the exponential of its distance to an ordinary score is 0 in f32.
const HIDDEN: f64 = -1e4;

/// The operand that is scores, and the other one.
fn either(edit: &Edit<'_>, [a, b]: [Value; 2], steps: usize) -> Result<(Found, Value), Miss> {
    match walk(edit, a, steps) {
        Ok(found) => Ok((found, b)),
        Err(miss) => match walk(edit, b, steps) {
            Ok(found) => Ok((found, a)),
            Err(Miss::NoEffect) => Err(miss),
            Err(other) => Err(other),
        },
    }
}

/// `c tanh(x / c)` whose product with `c` was found already.
fn capped(edit: &Edit<'_>, tanh: Value, c: f64, steps: usize) -> Result<Option<Found>, Miss> {
    let Some(Op::CoreOp(CoreOp::Unary(Unary { f: UnaryFn::Tanh }))) = edit.graph.op(tanh.node) else { return Ok(None) };
    let inner = edit.graph.operands(tanh.node)[0];
    let mut found = walk(edit, inner, steps)?;
    edit.require(found.masks.is_empty() && found.cap.is_none(), "the scores are capped after they are masked")?;
    // `tanh(scale s)` is `tanh(scale c s / c)`.
    found.scale *= c;
    found.cap = Some(c);
    found.nodes.push(tanh.node);
    Ok(Some(found))
}
