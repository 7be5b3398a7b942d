//! Views: results that are bytes of an operand, so that nothing needs to be computed.
//!
//! Reshape is one, a slice along the outermost dimension, a transpose that moves only dimensions of 1, an expand or cast
//! that changes nothing. Builder and checker ask the same question here, so an alias that the checker cannot explain is
//! never planned.
//!
//! ```text
//! %y = slice(%x) {axes = [0], starts = [1], ends = [3], steps = [1]}   // %x: f32[5, S]   ->  %y is %x from byte 4*S
//! ```

use ir::ops::{CoreOp, HostOp, Op, Slice};
use ir::{Dim, Graph, NodeId, Truth, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// Proofs about sizes under the constraints of a graph, which hold for every binding that a plan accepts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sizes {
    equal: HashMap<Arc<str>, Dim>,
}

impl Sizes {
    /// Takes what typing assumed of the symbols that are bound before the first step.
    pub fn new(graph: &Graph) -> Sizes {
        let mut sizes = Sizes::default();
        for c in graph.constraints.iter().filter(|c| !c.left.is_late() && !c.right.is_late()) {
            let (left, right) = (sizes.reduce(&c.left), sizes.reduce(&c.right));
            let (symbol, dim) = match (left.as_sym(), right.as_sym()) {
                (Some(s), _) => (Arc::<str>::from(s), right),
                (None, Some(s)) => (Arc::from(s), left),
                (None, None) => continue,
            };
            if dim.symbols().contains(&symbol) {
                continue;
            }
            for old in sizes.equal.values_mut() {
                *old = old.substitute(&|s| (*s == *symbol).then(|| dim.clone()));
            }
            sizes.equal.insert(symbol, dim);
        }
        sizes
    }

    fn reduce(&self, dim: &Dim) -> Dim {
        if self.equal.is_empty() || dim.as_const().is_some() {
            return dim.clone();
        }
        dim.substitute(&|s| self.equal.get(s).cloned())
    }

    /// Whether both are the same number for every binding.
    pub fn same(&self, a: &Dim, b: &Dim) -> bool {
        a == b || a.same(b) == Truth::Yes || self.reduce(a).same(&self.reduce(b)) == Truth::Yes
    }

    /// Whether `len` bytes from `offset` on lie within `whole` bytes for every binding.
    pub fn fits(&self, offset: &Dim, len: &Dim, whole: &Dim) -> bool {
        if offset.as_const() == Some(0) && len == whole {
            return true;
        }
        let positive = |d: &Dim| d.at_least(0) == Truth::Yes || self.reduce(d).at_least(0) == Truth::Yes;
        let left = whole - &(offset + len);
        positive(offset) && positive(&left)
    }
}

/// The bytes of a value whose size is known before it exists.
pub(crate) fn bytes(graph: &Graph, v: Value) -> Option<Dim> {
    let ty = graph.ty(v);
    if !ty.is_plannable() {
        return None;
    }
    ty.as_tensor()?.bytes()
}

/// Where a result lies within an operand, when it is nothing but bytes of it.
pub(crate) fn view_of(graph: &Graph, sizes: &Sizes, result: Value) -> Option<(Value, Dim)> {
    let node = graph.node(result.node);
    let op = node.op()?;
    let of = candidate(op, graph, result.node)?;
    let (len, whole) = (bytes(graph, result)?, bytes(graph, of)?);
    let offset = offset(op, graph, sizes, of, result)?;
    let same_size = sizes.same(&len, &whole);
    let fits = if offset.as_const() == Some(0) && same_size { true } else { sizes.fits(&offset, &len, &whole) };
    fits.then_some((of, offset))
}

/// The operand that a view would be of: the cheap part of the question.
fn candidate(op: &Op, graph: &Graph, node: NodeId) -> Option<Value> {
    match op {
        Op::CoreOp(
            CoreOp::Reshape(_) | CoreOp::Slice(_) | CoreOp::Transpose(_) | CoreOp::Expand(_) | CoreOp::Cast(_),
        )
        | Op::HostOp(HostOp::ReshapeTo(_) | HostOp::SqueezeBy(_) | HostOp::UnsqueezeBy(_)) => {
            graph.operands(node).first().copied()
        }
        _ => None,
    }
}

fn offset(op: &Op, graph: &Graph, sizes: &Sizes, of: Value, result: Value) -> Option<Dim> {
    let (from, to) = (graph.tensor_ty(of)?, graph.tensor_ty(result)?);
    if from.dtype != to.dtype {
        return None;
    }
    match op {
        Op::CoreOp(CoreOp::Slice(slice)) => slice_offset(slice, from.dims()?, from.dtype.bits()),
        Op::CoreOp(CoreOp::Transpose(t)) => keeps_order(&t.perm, from.dims()?).then(|| Dim::constant(0)),
        Op::CoreOp(CoreOp::Reshape(_) | CoreOp::Expand(_) | CoreOp::Cast(_))
        | Op::HostOp(HostOp::ReshapeTo(_) | HostOp::SqueezeBy(_) | HostOp::UnsqueezeBy(_)) => {
            let same = sizes.same(&from.shape.elements()?, &to.shape.elements()?);
            same.then(|| Dim::constant(0))
        }
        _ => None,
    }
}

/// Dimensions of 1 may move anywhere; the others must keep their order.
fn keeps_order(perm: &[i64], dims: &[Dim]) -> bool {
    let large =
        |at: &&i64| usize::try_from(**at).ok().and_then(|i| dims.get(i)).is_some_and(|d| d.as_const() != Some(1));
    perm.iter().filter(large).is_sorted()
}

/// A slice is contiguous when everything inside the cut dimension is whole and everything outside it is one element.
fn slice_offset(slice: &Slice, dims: &[Dim], bits: usize) -> Option<Dim> {
    if bits < 8 || slice.steps.iter().any(|s| *s != 1) {
        return None;
    }
    let mut starts = vec![Dim::constant(0); dims.len()];
    let mut lengths = dims.to_vec();
    for (i, axis) in slice.axes.iter().enumerate() {
        let at = ir::ops::axis(*axis, dims.len()).ok()?;
        (starts[at], lengths[at]) = Slice::extent(&dims[at], slice.starts.get(i)?, slice.ends.get(i)?, 1)?;
    }
    let whole = |at: &usize| starts[*at].as_const() == Some(0) && lengths[*at] == dims[*at];
    let inner = (0..dims.len()).rev().take_while(whole).count();
    let cut = dims.len() - inner;
    if cut > 1 && lengths[..cut - 1].iter().any(|d| d.as_const() != Some(1)) {
        return None;
    }
    let mut stride = Dim::constant(bits as i64 / 8);
    let mut offset = Dim::constant(0);
    for at in (0..dims.len()).rev() {
        offset = offset + &starts[at] * &stride;
        stride = &stride * &dims[at];
    }
    Some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(line: &str) -> Option<String> {
        let text = format!("graph @g(%x: f32[5, S, 4], %o: f32[1, S, 4]) {{\n  %y = {line}\n  return %y\n}}\n");
        let g = ir::text::parse(&text).unwrap();
        let (of, offset) = view_of(&g, &Sizes::new(&g), g.outputs[0].value)?;
        Some(format!("{} + {offset}", g.name(of)))
    }

    #[test]
    fn a_reshape_is_its_operand() {
        assert_eq!(view("reshape(%x) {shape = [S, 20]}").unwrap(), "x + 0");
    }

    #[test]
    fn a_slice_of_the_outer_dimension_starts_within() {
        let slice = "slice(%x) {axes = [0], starts = [1], ends = [3], steps = [1]}";
        assert_eq!(view(slice).unwrap(), "x + 16*S");
        let slice = "slice(%o) {axes = [0, 1], starts = [0, 0], ends = [1, 1], steps = [1, 1]}";
        assert_eq!(view(slice).unwrap(), "o + 0");
    }

    #[test]
    fn a_slice_of_an_inner_dimension_is_not_a_view() {
        assert_eq!(view("slice(%x) {axes = [2], starts = [1], ends = [3], steps = [1]}"), None);
        assert_eq!(view("slice(%x) {axes = [0], starts = [0], ends = [4], steps = [2]}"), None);
    }

    #[test]
    fn a_transpose_of_ones_is_a_view() {
        assert_eq!(view("transpose(%o) {perm = [1, 0, 2]}").unwrap(), "o + 0");
        assert_eq!(view("transpose(%x) {perm = [1, 0, 2]}"), None);
    }

    #[test]
    fn a_constraint_makes_sizes_equal() {
        let text = "graph @g(%x: f32[S, T]) {\n  assume S = T\n  %y = reshape(%x) {shape = [T*T]}\n  return %y\n}\n";
        let g = ir::text::parse(text).unwrap();
        assert!(view_of(&g, &Sizes::new(&g), g.outputs[0].value).is_some());
        let g = ir::text::parse(&text.replace("  assume S = T\n", "")).unwrap();
        assert!(view_of(&g, &Sizes::new(&g), g.outputs[0].value).is_none());
    }
}
