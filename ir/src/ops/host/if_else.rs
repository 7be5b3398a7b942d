use super::bodies::{self, Outside};
use super::{DType, Datum, EvalError, Graph, OpSpec, Operands, RunBody, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{invalid, tensor};
use std::sync::Arc;

op! {
    /// `if(condition, captures...) {then_branch, else_branch}`: the results of one of two bodies. The captures are the
    /// inputs of `then_branch`, followed by those of `else_branch`.
    pub struct If { then_branch: Arc<Graph>, else_branch: Arc<Graph> }
}

impl OpSpec for If {
    const NAME: &'static str = "if";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%c: bool[], %x: f32[N], %y: f32[N]) { %z = if(%c, %x, %x, %y) {then_branch = graph @a(%p: f32[N]) { %q = exp(%p) return %q }, else_branch = graph @b(%p: f32[N], %q: f32[N]) { %r = add(%p, %q) return %r }} return %z }",
        "graph @g(%c: bool[1], %x: f32[N, 4]) { %z = if(%c, %x) {then_branch = graph @a(%p: f32[N, 4]) { return %p }, else_branch = graph @b() { %r = const [1.0] : f32[1] return %r }} return %z }",
        "graph @g(%c: bool[], %x: f32[N, 2, 6], %w: f32[3, 2, 2]) { %z = if(%c, %x, %w, %w, %x) {then_branch = graph @a(%p: f32[N, 2, 6], %k: f32[3, 2, 2]) { %q = conv(%p, %k) {strides = [1], pads = [1, 0], dilations = [1], group = 1} return %q }, else_branch = graph @b(%k: f32[3, 2, 2], %p: f32[N, 2, 6]) { %m = conv(%p, %k) {strides = [1], pads = [1, 0], dilations = [1], group = 1} %q = neg(%m) return %q }} return %z }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, usize::MAX)?;
        if operands.dtype(0)? != DType::Bool {
            return Err(operands.wrong(0, "a condition is bool"));
        }
        let (a, b) = (bodies::results(&self.then_branch), bodies::results(&self.else_branch));
        let captures = self.then_branch.inputs.len() + self.else_branch.inputs.len();
        operands.arity(1 + captures, 1 + captures)?;
        if a.len() != b.len() {
            return Err(TypeError::Invalid(format!("one branch has {} results, the other {}", a.len(), b.len())));
        }
        let outside = Outside::new(operands);
        let merge = |(a, b)| {
            let (a, b) = (outside.see(a), outside.see(b));
            let merged = bodies::merge_types(&a, &b, &mut |_| operands.late_dim());
            merged.ok_or_else(|| TypeError::Invalid(format!("one branch gives {a}, the other {b}")))
        };
        a.iter().zip(&b).map(merge).collect()
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        self.eval_with(operands, &mut |body, inputs| match body {
            "then_branch" => bodies::run(&self.then_branch, inputs),
            _ => bodies::run(&self.else_branch, inputs),
        })
    }

    fn eval_with(&self, operands: &[&Datum], run: RunBody<'_>) -> Result<Vec<Datum>, EvalError> {
        let [holds] = tensor(operands, 0)?.to_bools()?[..] else {
            return Err(invalid("a condition is one truth value"));
        };
        let captures: Vec<Datum> = operands[1..].iter().map(|d| (*d).clone()).collect();
        let split = self.then_branch.inputs.len();
        match holds {
            true => run("then_branch", &captures[..split]),
            false => run("else_branch", &captures[split..]),
        }
    }
}
