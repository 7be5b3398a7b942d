//! Patterns written in the text form of the IR itself.
//!
//! ```text
//! %s = sigmoid(%x)
//! %y = mul(%x, %s)
//! ```

use ir::attr::Attrs;
use ir::graph::{Graph, NodeId, Value};
use ir::ops::Op;
use ir::text::{Stmt, parse_stmts};
use ir::{DType, Tensor, ValueType};

/// Statements in order, the last one is the root. A name that is never assigned matches any value.
pub(crate) struct Pattern {
    names: Vec<String>,
    /// By name: what its value must be; `None` for any value.
    goals: Vec<Option<Goal>>,
    root: usize,
}

enum Goal {
    /// A constant of one element near this number.
    Constant(f64),
    Op {
        name: String,
        operands: Vec<Option<usize>>,
        attrs: Attrs,
    },
}

/// What each `%name` of a pattern stands for.
pub struct Match<'p> {
    pattern: &'p Pattern,
    values: Vec<Option<Value>>,
}

impl std::ops::Index<&str> for Match<'_> {
    type Output = Value;

    /// Panics when the pattern has no such name.
    fn index(&self, name: &str) -> &Value {
        let at = self.pattern.names.iter().position(|n| n == name).expect("the pattern has this name");
        self.values[at].as_ref().expect("a match binds every name")
    }
}

impl Match<'_> {
    /// The operator nodes that the pattern's statements stand for.
    pub fn nodes(&self) -> Vec<NodeId> {
        let goals = self.pattern.goals.iter().zip(&self.values);
        goals.filter(|(g, _)| matches!(g, Some(Goal::Op { .. }))).filter_map(|(_, v)| Some((*v)?.node)).collect()
    }
}

impl Pattern {
    /// Panics on a bad pattern: patterns are constants, and a test of each pass parses every one.
    pub(crate) fn new(text: &str) -> Pattern {
        let stmts = parse_stmts(text).unwrap_or_else(|e| panic!("bad pattern, {e}:\n{text}"));
        let mut pattern = Pattern { names: vec![], goals: vec![], root: 0 };
        for stmt in &stmts {
            pattern.add(stmt);
        }
        pattern
    }

    fn add(&mut self, stmt: &Stmt) {
        let goal = match &stmt.constant {
            Some(text) => Goal::Constant(text.trim().parse().expect("a pattern's constant is a number")),
            None => {
                let operands = stmt.operands.iter().map(|o| o.as_ref().map(|name| self.index(name))).collect();
                Goal::Op { name: stmt.op.clone(), operands, attrs: stmt.attrs.clone() }
            }
        };
        let at = self.index(&stmt.results[0]);
        self.goals[at] = Some(goal);
        self.root = at;
    }

    fn index(&mut self, name: &str) -> usize {
        if let Some(at) = self.names.iter().position(|n| n == name) {
            return at;
        }
        self.names.push(name.to_string());
        self.goals.push(None);
        self.names.len() - 1
    }

    /// The operator that the root must be.
    pub(crate) fn root_op(&self) -> &str {
        match &self.goals[self.root] {
            Some(Goal::Op { name, .. }) => name,
            _ => panic!("a pattern's root is an operator"),
        }
    }

    pub(crate) fn matches(&self, graph: &Graph, root: Value) -> Option<Match<'_>> {
        let mut values = vec![None; self.names.len()];
        let found = self.solve(graph, &mut vec![(self.root, root)], &mut values);
        found.then_some(Match { pattern: self, values })
    }

    /// Binds every pending (name, value), trying both operand orders of commutative operators.
    fn solve(&self, graph: &Graph, pending: &mut Vec<(usize, Value)>, values: &mut Vec<Option<Value>>) -> bool {
        while let Some((at, v)) = pending.pop() {
            if let Some(bound) = values[at] {
                if bound != v {
                    return false;
                }
                continue;
            }
            if *graph.ty(v) == ValueType::Absent {
                return false;
            }
            values[at] = Some(v);
            let (name, operands, attrs) = match &self.goals[at] {
                None => continue,
                Some(Goal::Constant(wanted)) => {
                    if graph.constant_of(v).is_some_and(|t| is_near(t, *wanted)) {
                        continue;
                    }
                    return false;
                }
                Some(Goal::Op { name, operands, attrs }) => (name, operands, attrs),
            };
            let Some(op) = graph.op(v.node) else { return false };
            if op.name() != name || v.result != 0 || !has_attrs(op, attrs) {
                return false;
            }
            let found = graph.operands(v.node);
            let present = |i: usize| found.get(i).is_some_and(|v| *graph.ty(*v) != ValueType::Absent);
            let count = operands.len().max(found.len());
            if (0..count).any(|i| present(i) != operands.get(i).is_some_and(Option::is_some)) {
                return false;
            }
            let pairs = || operands.iter().zip(&found).filter_map(|(at, v)| Some(((*at)?, *v)));
            if operands.len() == 2 && is_commutative(name) {
                let (mut swapped, mut trial) = (pending.clone(), values.clone());
                swapped.extend(pairs().map(|(at, _)| at).zip(found.iter().rev().copied()));
                pending.extend(pairs());
                let (mut direct, saved) = (pending.clone(), values.clone());
                if self.solve(graph, &mut direct, values) {
                    return true;
                }
                *values = saved;
                if self.solve(graph, &mut swapped, &mut trial) {
                    *values = trial;
                    return true;
                }
                return false;
            }
            pending.extend(pairs());
        }
        true
    }
}

fn has_attrs(op: &Op, wanted: &Attrs) -> bool {
    if wanted.is_empty() {
        return true;
    }
    let attrs = op.attrs();
    wanted.iter().all(|(name, value)| attrs.get(name) == Some(value))
}

fn is_commutative(op: &str) -> bool {
    matches!(op, "add" | "mul" | "min" | "max" | "and" | "or" | "xor" | "eq" | "ne" | "bit_and" | "bit_or" | "bit_xor")
}

/// Whether a constant is one element that is `wanted`: exactly if that is a short binary fraction like 1 or 0.5, else up to
/// the digits that model files keep of numbers like 0.044715.
fn is_near(t: &Tensor, wanted: f64) -> bool {
    if t.len() != 1 || t.dtype() == DType::Str {
        return false;
    }
    let is_simple = (wanted * 1024.0).fract() == 0.0;
    let relative = match t.dtype() {
        _ if is_simple => 0.0,
        DType::F16 | DType::BF16 => 4e-3,
        d if d.is_float() => 2e-5,
        _ => 0.0,
    };
    let Ok(found) = t.to_f64() else { return false };
    (found[0] - wanted).abs() <= relative * wanted.abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, graph: &str) -> bool {
        let g = ir::text::parse(graph).unwrap();
        Pattern::new(pattern).matches(&g, g.outputs[0].value).is_some()
    }

    #[test]
    fn commutative_operands_match_in_both_orders() {
        let pattern = "%s = sigmoid(%x) %y = mul(%x, %s)";
        assert!(matches(pattern, "graph @g(%a: f32[N]) { %s = sigmoid(%a) %y = mul(%a, %s) return %y }"));
        assert!(matches(pattern, "graph @g(%a: f32[N]) { %s = sigmoid(%a) %y = mul(%s, %a) return %y }"));
        assert!(!matches(pattern, "graph @g(%a: f32[N], %b: f32[N]) { %s = sigmoid(%a) %y = mul(%s, %b) return %y }"));
    }

    #[test]
    fn an_outer_order_is_reconsidered_when_an_inner_match_fails() {
        let pattern = "%a = exp(%x) %b = mul(%a, %x) %y = add(%b, %a)";
        assert!(matches(pattern, "graph @g(%x: f32[N]) { %a = exp(%x) %b = mul(%x, %a) %y = add(%a, %b) return %y }"));
    }

    #[test]
    fn constants_match_by_value() {
        let pattern = "%c = const [2.0] %y = mul(%x, %c)";
        assert!(matches(pattern, "graph @g(%x: f32[N]) { %c = const [2.0] : f32[1] %y = mul(%x, %c) return %y }"));
        assert!(!matches(pattern, "graph @g(%x: f32[N]) { %c = const [2.5] : f32[1] %y = mul(%x, %c) return %y }"));
    }

    #[test]
    fn attributes_and_missing_operands_are_part_of_a_pattern() {
        let graph = "graph @g(%x: f32[N, 3]) { %y = softmax(%x) {axis = 1} return %y }";
        assert!(matches("%y = softmax(%x) {axis = 1}", graph));
        assert!(!matches("%y = softmax(%x) {axis = 0}", graph));
        let graph = "graph @g(%x: f32[N, 3], %w: f32[4, 3], %b: f32[4]) { %y = linear(%x, %w, %b) return %y }";
        assert!(matches("%y = linear(%x, %w, %b)", graph));
        assert!(!matches("%y = linear(%x, %w)", graph));
        assert!(!matches("%y = linear(%x, %w, _)", graph));
    }
}
