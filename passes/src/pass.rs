//! What a pass is, and the one loop that runs rules.

use crate::edit::Edit;
use crate::narrow_floats::Narrowed;
use crate::pattern::{Match, Pattern};
use ir::graph::{Graph, NodeId, Origin, Value};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Why a rule left a matched place alone. Refusals are shown by `compile --explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// There is nothing to improve here.
    NoEffect,
    /// The place looks right, but a condition does not hold.
    Refused(&'static str),
}

/// A local rewrite.
#[derive(Clone, Copy)]
pub struct Rule {
    /// For the log: `gather-linear`.
    pub name: &'static str,
    /// Statements of the text form; the last one is the root. A name that is never assigned matches any value, `_` an
    /// operand left out, and `const [0.5]` a constant of one element near 0.5. `add`, `mul` and other commutative
    /// operators match in both orders.
    pub pattern: &'static str,
    /// Builds the replacement and returns the value that takes the root's place.
    pub rewrite: fn(&mut Edit<'_>, &Match<'_>) -> Result<Value, Miss>,
}

/// How a pass works.
#[derive(Clone, Copy)]
pub enum Body {
    /// Local rewrites, repeated until none applies.
    Rules(&'static [&'static [Rule]]),
    /// A function of the whole graph.
    Whole(fn(&mut Graph, &mut Context)),
}

/// A named rewrite of graphs.
#[derive(Clone, Copy)]
pub struct Pass {
    /// Verb and object: `fuse-norm`.
    pub name: &'static str,
    /// What it does.
    pub body: Body,
}

/// One line of `compile --explain`.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The rule, or the pass when it has none.
    pub rule: &'static str,
    /// First result of the place.
    pub at: Arc<str>,
    /// ONNX nodes of the place.
    pub origin: Origin,
    /// Whether it was rewritten, and if not, why.
    pub outcome: Result<(), Miss>,
}

/// What a pass knows besides the graph, and where it reports.
#[derive(Debug, Default)]
pub struct Context {
    /// Whether the graph is the body of an `if`, `loop` or `scan`; large constants stay outside of these.
    pub in_body: bool,
    /// What was done and what was refused.
    pub log: Vec<Entry>,
    /// Constants that were rounded to a narrower type.
    pub narrowed: Narrowed,
}

impl Context {
    /// Notes what came of a place.
    pub fn note(&mut self, rule: &'static str, graph: &Graph, at: Value, outcome: Result<(), Miss>) {
        let (at, origin) = (graph.name(at).clone(), graph.node(at.node).origin.clone());
        self.log.push(Entry { rule, at, origin, outcome });
    }
}

impl Pass {
    /// Runs on one graph, not on the bodies inside it. Dead nodes are removed.
    pub fn run(&self, graph: &mut Graph, cx: &mut Context) {
        match self.body {
            Body::Whole(f) => f(graph, cx),
            Body::Rules(groups) => run_rules(groups, graph, cx),
        }
        graph.remove_dead();
    }
}

/// Patterns by the operator of their root.
struct Index {
    patterns: HashMap<String, Vec<(Pattern, Rule)>>,
}

impl Index {
    fn new(groups: &[&[Rule]]) -> Index {
        let mut patterns: HashMap<String, Vec<(Pattern, Rule)>> = HashMap::new();
        for rule in groups.iter().copied().flatten() {
            let pattern = Pattern::new(rule.pattern);
            patterns.entry(pattern.root_op().to_string()).or_default().push((pattern, *rule));
        }
        Index { patterns }
    }
}

/// Visits operands before readers; what a rewrite made is visited again at once, so that one visit reaches the end.
fn run_rules(groups: &[&[Rule]], graph: &mut Graph, cx: &mut Context) {
    let index = Index::new(groups);
    let mut queue: VecDeque<NodeId> = graph.order().into();
    // Rules are meant to end by themselves; this bounds a pair that undoes each other.
    let mut budget = 8 * queue.len() + 64;
    while let Some(node) = queue.pop_front() {
        if budget == 0 || !graph.contains(node) {
            continue;
        }
        if let Some(made) = rewrite_node(&index, graph, node, cx) {
            budget -= 1;
            made.into_iter().rev().for_each(|n| queue.push_front(n));
        }
    }
}

/// Applies the first rule that works; returns the nodes it made.
fn rewrite_node(index: &Index, graph: &mut Graph, node: NodeId, cx: &mut Context) -> Option<Vec<NodeId>> {
    let rules = index.patterns.get(graph.op(node)?.name())?;
    let root = Value::from(node);
    for (pattern, rule) in rules {
        let Some(found) = pattern.matches(graph, root) else { continue };
        let mut edit = Edit::new(graph, root, found.nodes());
        let outcome = (rule.rewrite)(&mut edit, &found).and_then(|new| edit.settle(new));
        match outcome {
            Ok(new) => {
                let made = edit.finish();
                cx.note(rule.name, graph, new, Ok(()));
                graph.prune(node);
                return Some(made.into_iter().filter(|n| graph.contains(*n)).collect());
            }
            Err(miss) => {
                edit.abandon();
                if miss != Miss::NoEffect {
                    cx.note(rule.name, graph, root, Err(miss));
                }
            }
        }
    }
    None
}
