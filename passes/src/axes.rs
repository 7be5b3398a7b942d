//! Follows the dimensions of a value through reshapes, transpositions and expansions.
//!
//! A dimension is a product of [`Part`]s, as in einsum notation: `[B, 2, T, D]`, expanded to `[B, 2, 3, T, D]` and reshaped to
//! `[B, 6, T, D]`, is `[b, h r, t, d]`, where r repeats. So `repeat_kv` of any exporter is seen for what it is.

use ir::dim::{Dim, Truth};
use ir::graph::{Graph, Value};
use ir::ops::{CoreOp, Op};
use std::collections::VecDeque;

/// A factor of a dimension. A dimension of 1 has none.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    id: usize,
    /// How many elements it runs over.
    pub size: Dim,
    /// Whether the same data is seen again and again along it.
    pub repeats: bool,
}

/// What the dimensions of `to` are in terms of those of `from`.
#[derive(Clone, Debug)]
pub(crate) struct Axes {
    /// Dimensions of what goes in.
    pub from: Vec<Vec<Part>>,
    /// Dimensions of what comes out.
    pub to: Vec<Vec<Part>>,
    parts: usize,
}

/// Whether two sizes are equal for every binding that the graph accepts.
pub(crate) fn equal(graph: &Graph, a: &Dim, b: &Dim) -> bool {
    if a == b || a.same(b) == Truth::Yes {
        return true;
    }
    let apart = a - b;
    graph.constraints.iter().any(|c| apart == &c.left - &c.right || apart == &c.right - &c.left)
}

impl Axes {
    /// A value as it is.
    pub fn of(dims: &[Dim]) -> Axes {
        let part = |(id, size): (usize, &Dim)| match size.as_const() {
            Some(1) => vec![],
            _ => vec![Part { id, size: size.clone(), repeats: false }],
        };
        let from: Vec<_> = dims.iter().enumerate().map(part).collect();
        Axes { to: from.clone(), from, parts: dims.len() }
    }

    /// The value `x` seen as the operand of `reader`, a reshape, transposition or expansion. `None` where parts do not fit.
    pub fn through(&mut self, graph: &Graph, reader: Value) -> Option<()> {
        let dims = graph.tensor_ty(reader)?.dims()?;
        match graph.op(reader.node)? {
            Op::CoreOp(CoreOp::Transpose(op)) => {
                let perm: Option<Vec<usize>> = op.perm.iter().map(|p| usize::try_from(*p).ok()).collect();
                self.to = perm?.into_iter().map(|p| self.to.get(p).cloned()).collect::<Option<_>>()?;
            }
            Op::CoreOp(CoreOp::Reshape(_)) => self.reshape(graph, dims)?,
            Op::CoreOp(CoreOp::Expand(_)) => self.expand(graph, dims)?,
            _ => return None,
        }
        Some(())
    }

    fn fresh(&mut self, size: Dim, repeats: bool) -> Part {
        self.parts += 1;
        Part { id: self.parts - 1, size, repeats }
    }

    fn reshape(&mut self, graph: &Graph, dims: &[Dim]) -> Option<()> {
        let mut parts: VecDeque<Part> = self.to.drain(..).flatten().collect();
        let mut to = vec![];
        for dim in dims {
            let (mut need, mut group) = (dim.clone(), vec![]);
            while need.as_const() != Some(1) {
                let part = parts.pop_front()?;
                if equal(graph, &part.size, &need) {
                    need = Dim::constant(1);
                    group.push(part);
                } else if let Some(rest) = need.exact_div(&part.size) {
                    need = rest;
                    group.push(part);
                } else {
                    let rest = part.size.exact_div(&need)?;
                    let (outer, inner) = (self.fresh(need, part.repeats), self.fresh(rest, part.repeats));
                    self.split(&part, [outer.clone(), inner.clone()]);
                    need = Dim::constant(1);
                    group.push(outer);
                    parts.push_front(inner);
                }
            }
            to.push(group);
        }
        self.to = to;
        parts.is_empty().then_some(())
    }

    fn split(&mut self, part: &Part, pieces: [Part; 2]) {
        for group in &mut self.from {
            if let Some(at) = group.iter().position(|p| p.id == part.id) {
                group.splice(at..=at, pieces.clone());
            }
        }
    }

    fn expand(&mut self, graph: &Graph, dims: &[Dim]) -> Option<()> {
        let lead = dims.len().checked_sub(self.to.len())?;
        let mut to = vec![];
        for (i, dim) in dims.iter().enumerate() {
            let group = i.checked_sub(lead).map(|i| self.to[i].clone()).unwrap_or_default();
            let size = group.iter().map(|p| p.size.clone()).reduce(|a, b| &a * &b).unwrap_or(Dim::constant(1));
            to.push(match (group.is_empty(), dim.as_const()) {
                (true, Some(1)) => vec![],
                (true, _) => vec![self.fresh(dim.clone(), true)],
                (false, _) if equal(graph, &size, dim) => group,
                (false, _) => return None,
            });
        }
        self.to = to;
        Some(())
    }

    /// For each dimension of `to`, the dimension of `from` that it is, repetitions aside; a dimension of 1 gets one of those
    /// that are left. `None` where dimensions were taken apart or put together, or the ranks differ.
    pub fn permutation(&self) -> Option<Vec<usize>> {
        let rank = self.from.len();
        if self.to.len() != rank || self.from.iter().any(|group| group.len() > 1) {
            return None;
        }
        let mut ones = (0..rank).filter(|i| self.from[*i].is_empty());
        let of = |group: &Vec<Part>| -> Option<Option<usize>> {
            let mut own = group.iter().filter(|p| !p.repeats);
            match (own.next(), own.next()) {
                (None, _) => Some(None),
                (Some(part), None) => Some(self.from.iter().position(|g| g.iter().any(|p| p.id == part.id))),
                _ => None,
            }
        };
        let found: Vec<Option<usize>> = self.to.iter().map(of).collect::<Option<_>>()?;
        found.into_iter().map(|axis| axis.or_else(|| ones.next())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The axes of output `y` in terms of `x`, as text: a letter for each part, capital where it repeats.
    fn shown(text: &str) -> String {
        let g = ir::text::parse(text).unwrap();
        let mut chain = vec![g.outputs[0].value];
        while let Some(v) = g.operands(chain[chain.len() - 1].node).first() {
            chain.push(*v);
        }
        let source = chain.pop().unwrap();
        let mut axes = Axes::of(g.tensor_ty(source).unwrap().dims().unwrap());
        for reader in chain.into_iter().rev() {
            if axes.through(&g, reader).is_none() {
                return "?".into();
            }
        }
        let letter = |p: &Part| (if p.repeats { b'A' } else { b'a' } + p.id as u8) as char;
        let show = |dims: &[Vec<Part>]| {
            dims.iter().map(|d| d.iter().map(letter).collect::<String>()).collect::<Vec<_>>().join(",")
        };
        format!("{} -> {} {:?}", show(&axes.from), show(&axes.to), axes.permutation())
    }

    #[test]
    fn repeated_heads_are_seen_through_flat_batches() {
        let text = "graph @g(%x: f32[B, 2, T, 8]) { %a = reshape(%x) {shape = [B, 2, 1, T, 8]} %b = expand(%a) {shape = [B, 2, 3, T, 8]} \
            %c = reshape(%b) {shape = [6*B, T, 8]} %d = transpose(%c) {perm = [0, 2, 1]} %y = reshape(%d) {shape = [B, 6, 8, T]} return %y }";
        assert_eq!(shown(text), "a,b,c,d -> a,bE,d,c Some([0, 1, 3, 2])");
    }

    #[test]
    fn a_dimension_that_is_taken_apart_is_no_permutation() {
        let text = "graph @g(%x: f32[B, S, 32]) { %a = reshape(%x) {shape = [B, S, 4, 8]} %y = transpose(%a) {perm = [0, 2, 1, 3]} return %y }";
        assert_eq!(shown(text), "a,b,de -> a,d,b,e None");
    }

    #[test]
    fn ones_take_the_places_that_are_left() {
        let text = "graph @g(%x: f32[1, S, 1, 8]) { %y = transpose(%x) {perm = [0, 2, 1, 3]} return %y }";
        assert_eq!(shown(text), ",b,,d -> ,,b,d Some([0, 2, 1, 3])");
    }

    #[test]
    fn rows_that_are_mixed_do_not_fit() {
        let text = "graph @g(%x: f32[4, 9]) { %y = reshape(%x) {shape = [6, 6]} return %y }";
        assert_eq!(shown(text), "?");
    }
}
