use super::bodies::{self, Outside};
use super::{Datum, EvalError, Graph, OpSpec, Operands, RunBody, TypeError, ValueType};
use crate::op;
use crate::ops::reading::invalid;
use std::sync::Arc;

op! {
    /// `sequence_map(list, others..., captures...) {body}`: the results of a body for every item of a list, as lists. An
    /// operand that is a list gives its item at the same position, any other itself.
    pub struct SequenceMap { body: Arc<Graph> }
}

impl OpSpec for SequenceMap {
    const NAME: &'static str = "sequence_map";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N], %y: f32[N]) { %s = sequence_construct(%x, %y) %t = sequence_map(%s, %y) {body = graph @b(%p: f32[N], %q: f32[N]) { %r = add(%p, %q) return %r }} %n = sequence_length(%t) return %n }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, usize::MAX)?;
        bodies::check(&self.body, operands.len(), 1)?;
        if !matches!(operands.ty(0)?, ValueType::Sequence(_)) {
            return Err(operands.wrong(0, "it is not a sequence"));
        }
        let outside = Outside::new(operands);
        let results = bodies::results(&self.body);
        Ok(results.iter().map(|ty| ValueType::Sequence(Box::new(outside.see(ty)))).collect())
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        self.eval_with(operands, &mut |_, inputs| bodies::run(&self.body, inputs))
    }

    fn eval_with(&self, operands: &[&Datum], run: RunBody<'_>) -> Result<Vec<Datum>, EvalError> {
        let [Datum::Sequence(list), ..] = operands else { return Err(invalid("operand 0 is not a sequence")) };
        let mut results: Vec<Vec<Datum>> = vec![vec![]; self.body.outputs.len()];
        for i in 0..list.len() {
            let at = |d: &&Datum| match d {
                Datum::Sequence(items) => {
                    items.get(i).cloned().ok_or_else(|| invalid(format!("a list has no item {i}")))
                }
                other => Ok((*other).clone()),
            };
            let inputs: Vec<Datum> = operands.iter().map(at).collect::<Result<_, _>>()?;
            let made = run("body", &inputs)?;
            results.iter_mut().zip(made).for_each(|(list, d)| list.push(d));
        }
        Ok(results.into_iter().map(Datum::Sequence).collect())
    }
}
