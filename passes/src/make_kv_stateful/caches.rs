//! Which inputs are caches, and how the graph appends to them and attends over them.

use super::field::{Field, Fields, Pred, axis};
use super::inputs::Inputs;
use crate::pass::Miss;
use ir::dim::{Dim, Truth};
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{Attention, CachedAttention, CoreOp, GroupQueryAttention, Op};

/// A cache as one attention uses it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Append {
    /// The input with what there was.
    pub past: Value,
    /// The rows that come behind it: `[B, H, S, D]`, or `[B, S, H D]`.
    pub rows: Value,
}

/// Heads that are rotated before they are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    pub cos: Value,
    pub sin: Value,
    /// Where rows stand, if not at their place in the sequence.
    pub positions: Option<Value>,
    pub interleaved: bool,
}

/// An attention over caches.
#[derive(Clone, Debug)]
pub(super) struct Attend {
    pub node: NodeId,
    pub op: CachedAttention,
    pub query: Value,
    pub keys: Append,
    pub values: Append,
    pub sinks: Option<Value>,
    pub rotation: Option<Rotation>,
    /// Queries, keys and values lie side by side in `query`: heads of queries, and of keys.
    pub packed: Option<[i64; 2]>,
}

/// Reads an attention over caches; `None` where it has none.
pub(super) fn attend(graph: &Graph, inputs: &Inputs, id: NodeId) -> Result<Option<Attend>, Miss> {
    match graph.op(id) {
        Some(Op::CoreOp(CoreOp::Attention(op))) => attention(graph, inputs, id, op),
        Some(Op::CoreOp(CoreOp::GroupQueryAttention(op))) => group_query(graph, inputs, id, op),
        _ => Ok(None),
    }
}

fn present(graph: &Graph, operands: &[Value], i: usize) -> Option<Value> {
    operands.get(i).copied().filter(|v| graph.tensor_ty(*v).is_some())
}

fn attention(graph: &Graph, inputs: &Inputs, id: NodeId, op: &Attention) -> Result<Option<Attend>, Miss> {
    let operands = graph.operands(id);
    if op.total.is_some() {
        return Ok(None);
    }
    let has = |i: usize| present(graph, &operands, i);
    let is_past = |v: Value| inputs.is_past(v).then_some(v);
    let (keys, values) = match (has(4), has(5)) {
        (Some(k), Some(v)) => {
            let (Some(k), Some(v)) = (is_past(k), is_past(v)) else { return Ok(None) };
            (Append { past: k, rows: operands[1] }, Append { past: v, rows: operands[2] })
        }
        _ => match (appended(graph, inputs, operands[1])?, appended(graph, inputs, operands[2])?) {
            (Some(k), Some(v)) => (k, v),
            (None, None) => return Ok(None),
            _ => return Err(Miss::Refused("only one of keys and values is a cache")),
        },
    };
    if op.scores.is_some() {
        return Err(Miss::Refused("the scores of the attention are a result too"));
    }
    let past = inputs.past_length();
    let mut fields = inputs.fields(graph);
    let lengths = has(6).map(|v| fields.of(v));
    let total = past + &inputs.steps;
    if lengths.as_ref().is_some_and(|l| l.as_ref() != Some(&Field::Int(total.clone()))) {
        return Err(Miss::Refused("the number of valid keys is not the past length and the new rows"));
    }
    let first = match (&op.offset, has(4), &lengths) {
        (Some(first), ..) => first.clone(),
        (None, Some(_), _) | (None, None, Some(_)) => past.clone(),
        (None, None, None) => Dim::constant(0),
    };
    let windowed = op.causal || op.left.is_some() || op.right.is_some();
    if windowed && first.same(past) != Truth::Yes {
        return Err(Miss::Refused("the attention's rows do not stand behind the cache"));
    }
    let mut seen = Window { causal: op.causal || op.right == Some(0), left: op.left };
    if let Some(mask) = has(3) {
        seen.mask(graph, &mut fields, inputs, mask)?;
    }
    if !seen.causal {
        return Err(Miss::Refused("nothing hides later keys from a row: the mask is not causal"));
    }
    let heads = graph.tensor_ty(operands[0]).and_then(|t| t.dims()).filter(|d| d.len() == 3).and(op.q_heads);
    let op = CachedAttention { heads, scale: op.scale, softcap: op.softcap, left: seen.left, smooth: false };
    let (query, sinks, rotation, packed) = (operands[0], None, None, None);
    Ok(Some(Attend { node: id, op, query, keys, values, sinks, rotation, packed }))
}

/// Which keys a row sees.
struct Window {
    causal: bool,
    left: Option<i64>,
}

impl Window {
    /// Takes a mask for what it is: causal, perhaps with a window; anything else is refused.
    fn mask(&mut self, graph: &Graph, fields: &mut Fields<'_>, inputs: &Inputs, mask: Value) -> Result<(), Miss> {
        let unknown = Miss::Refused("the mask is not only causal over a mask of ones");
        let rank = graph.tensor_ty(mask).and_then(|t| t.dims()).map_or(0, <[Dim]>::len);
        let keeps = fields.of(mask).and_then(|f| f.keeps()).ok_or(unknown)?;
        let shift = 4usize.checked_sub(rank).ok_or(unknown)?;
        let parts = match keeps {
            Pred::Const(true) => vec![],
            Pred::All(parts) => parts,
            one => vec![one],
        };
        let row = if inputs.steps.as_const() == Some(1) { Dim::constant(0) } else { axis(2 - shift.min(2)) };
        let column = axis(3 - shift.min(3));
        let until = &(inputs.past_length() + &row) - &column;
        for part in parts {
            let Pred::AtLeastZero(d) = part else { return Err(unknown) };
            if d == until {
                self.causal = true;
            } else if let Some(w) = (&d + &until).as_const() {
                // `column - position + w >= 0`.
                self.left = Some(self.left.map_or(w, |l| l.min(w)));
            } else if d != &(&(inputs.past_length() + &inputs.steps) - &column) - &Dim::constant(1) {
                return Err(unknown);
            }
        }
        Ok(())
    }
}

/// com.microsoft's GroupQueryAttention appends, rotates and attends at once.
fn group_query(graph: &Graph, inputs: &Inputs, id: NodeId, op: &GroupQueryAttention) -> Result<Option<Attend>, Miss> {
    let operands = graph.operands(id);
    let has = |i: usize| present(graph, &operands, i);
    let (Some(past_k), Some(past_v)) = (has(3), has(4)) else { return Ok(None) };
    if !inputs.is_past(past_k) || !inputs.is_past(past_v) {
        return Ok(None);
    }
    if has(10).is_some() {
        return Err(Miss::Refused("a bias is added to the scores"));
    }
    let mut fields = inputs.fields(graph);
    let total = inputs.past_length() + &inputs.steps;
    let last = Field::Int(&total - &Dim::constant(1));
    if fields.of(operands[5]) != Some(last) || fields.of(operands[6]) != Some(Field::Int(total)) {
        return Err(Miss::Refused("the lengths are not those of the attention mask"));
    }
    let (packed, keys, values) = match (has(1), has(2)) {
        (Some(k), Some(v)) => (None, k, v),
        _ => (Some([op.heads, op.kv_heads]), operands[0], operands[0]),
    };
    let rotation = match (op.rotary, has(7), has(8)) {
        (true, Some(cos), Some(sin)) => Some(Rotation { cos, sin, positions: has(9), interleaved: op.interleaved }),
        _ => None,
    };
    let left = op.window.filter(|w| *w > 0).map(|w| w - 1);
    let scale = op.scale.filter(|s| *s != 0.0);
    let cached = CachedAttention { heads: Some(op.heads), scale, softcap: op.softcap, left, smooth: op.smooth };
    Ok(Some(Attend {
        node: id,
        op: cached,
        query: operands[0],
        keys: Append { past: past_k, rows: keys },
        values: Append { past: past_v, rows: values },
        sinks: has(11),
        rotation,
        packed,
    }))
}

/// What an attention's keys or values are: a cache with new rows, perhaps with its heads repeated.
fn appended(graph: &Graph, inputs: &Inputs, v: Value) -> Result<Option<Append>, Miss> {
    let v = unrepeated(graph, v);
    let Some(Op::CoreOp(op)) = graph.op(v.node) else { return Ok(None) };
    let operands = graph.operands(v.node);
    let Some(past) = operands.first().copied().filter(|v| inputs.is_past(*v)) else {
        return super::statics::appended(graph, inputs, v);
    };
    match op {
        CoreOp::Concat(concat) if operands.len() == 2 && matches!(concat.axis, 2 | -2) => {
            Ok(Some(Append { past, rows: operands[1] }))
        }
        CoreOp::Concat(_) => Err(Miss::Refused("new rows do not come behind the cache along its third dimension")),
        _ => super::statics::appended(graph, inputs, v),
    }
}

/// The value whose heads are repeated for groups of query heads: `[B, H, T, D] -> [B, H, 1, T, D] -> [B, H, r, T, D] -> [B, H r, T, D]`.
fn unrepeated(graph: &Graph, v: Value) -> Value {
    let dims = |v: Value| graph.tensor_ty(v).and_then(|t| t.dims());
    let source = || {
        let of = |v: Value, name: &str| (graph.op(v.node)?.name() == name).then(|| graph.operands(v.node)[0]);
        let spread = of(v, "reshape")?;
        let one = of(spread, "expand")?;
        let source = of(one, "reshape")?;
        let ([b, h, t, d], [ob, oh, single, ot, od]) = (dims(source)?, dims(one)?) else { return None };
        let ([_, sh, _, st, _], [_, _, vt, vd]) = (dims(spread)?, dims(v)?) else { return None };
        let same = [b, h, t, d] == [ob, oh, ot, od] && [sh, st] == [h, t] && [vt, vd] == [t, d];
        (same && single.as_const() == Some(1)).then_some(source)
    };
    source().unwrap_or(v)
}
