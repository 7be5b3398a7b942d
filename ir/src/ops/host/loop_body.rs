use super::bodies::{self, Outside};
use super::{Datum, Dim, EvalError, Graph, OpSpec, Operands, RunBody, TypeError, ValueType};
use crate::op;
use crate::ops::reading::{self, invalid};
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};
use std::sync::Arc;

op! {
    /// `loop(trips?, condition?, carried..., captures...) {body, carried}`: ONNX Loop. The body takes the iteration (i64),
    /// the condition, the carried values and the captures; it gives the next condition, the next carried values, and
    /// values that are stacked over the iterations. Results are the last carried values and the stacks.
    pub struct Loop { body: Arc<Graph>, carried: i64 }
}

impl Loop {
    fn carried(&self) -> Result<usize, TypeError> {
        usize::try_from(self.carried).map_err(|_| TypeError::Invalid(format!("{} carried values", self.carried)))
    }

    /// How often the body runs, when nothing else than the number of trips decides it.
    fn trips(&self, operands: &Operands<'_>) -> Option<Dim> {
        let (body, trips) = (&self.body, reading::known_number(operands, 0)?);
        let holds = |t: &Tensor| t.to_bools().is_ok_and(|b| b == [true]);
        let starts = !operands.has(1) || operands.constant(1).is_some_and(holds);
        let next = body.outputs.first()?.value;
        let goes_on = next == body.inputs.get(1).copied()?.into() || body.constant_of(next).is_some_and(holds);
        (starts && goes_on).then(|| Dim::max(&trips, &Dim::constant(0)))
    }
}

impl OpSpec for Loop {
    const NAME: &'static str = "loop";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N], %y: f32[N]) { %n = const [3] : i64[] %z, %s = loop(%n, _, %x, %y) {carried = 1, body = graph @b(%i: i64[], %c: bool[], %p: f32[N], %q: f32[N]) { %r = add(%p, %q) return %c, %r, %p }} return %z, %s }",
        "graph @g(%n: i64[], %c: bool[], %x: i64[K]) { %z = loop(%n, %c, %x) {carried = 1, body = graph @b(%i: i64[], %c: bool[], %p: i64[?7]) { %r = concat(%p, %p) {axis = 0} return %c, %r }} return %z }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        let carried = self.carried()?;
        operands.arity(2 + carried, usize::MAX)?;
        bodies::check(&self.body, operands.len(), 1 + carried)?;
        let outside = Outside::new(operands);
        let mut types = vec![];
        for i in 0..carried {
            let (given, held) = (operands.ty(2 + i)?, self.body.ty(self.body.inputs[2 + i].into()));
            let next = self.body.ty(self.body.outputs[1 + i].value);
            if !bodies::holds(held, given) || !bodies::holds(held, next) {
                return Err(operands.wrong(2 + i, format!("{given} is carried as {held} and becomes {next}")));
            }
            types.push(outside.see(held));
        }
        let trips = self.trips(operands).unwrap_or_else(|| operands.late_dim());
        for o in &self.body.outputs[1 + carried..] {
            let Some(item) = self.body.tensor_ty(o.value) else {
                return Err(TypeError::Invalid(format!("`{}` is stacked, but is no tensor", o.name)));
            };
            let shape = match item.dims() {
                Some(dims) => Shape::Ranked([std::slice::from_ref(&trips), dims].concat()),
                None => Shape::Unranked,
            };
            types.push(outside.see(&TensorType { dtype: item.dtype, shape }.into()));
        }
        Ok(types)
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        self.eval_with(operands, &mut |_, inputs| bodies::run(&self.body, inputs))
    }

    fn eval_with(&self, operands: &[&Datum], run: RunBody<'_>) -> Result<Vec<Datum>, EvalError> {
        let carried = self.carried().map_err(invalid)?;
        let trips = reading::optional(operands, 0)?.map(reading::number).transpose()?.unwrap_or(i64::MAX);
        let mut goes_on = reading::optional(operands, 1)?.map(truth).transpose()?.unwrap_or(true);
        let mut inputs: Vec<Datum> = operands.iter().map(|d| (*d).clone()).collect();
        let stacked = self.body.outputs.len() - 1 - carried;
        let mut stacks: Vec<Vec<Tensor>> = vec![vec![]; stacked];
        let mut i = 0;
        while i < trips && goes_on {
            inputs[0] = Tensor::scalar(i).into();
            inputs[1] = Tensor::from_bools(&[], &[true])?.into();
            let mut results = run("body", &inputs)?.into_iter();
            goes_on = match results.next() {
                Some(Datum::Tensor(t)) => truth(&t)?,
                _ => return Err(invalid("the body gives no condition")),
            };
            results.by_ref().take(carried).enumerate().for_each(|(j, d)| inputs[2 + j] = d);
            for (stack, item) in stacks.iter_mut().zip(results) {
                let Datum::Tensor(item) = item else { return Err(invalid("only tensors are stacked")) };
                stack.push(item);
            }
            i += 1;
        }
        let mut results: Vec<Datum> = inputs.drain(2..2 + carried).collect();
        for (items, o) in stacks.iter().zip(&self.body.outputs[1 + carried..]) {
            let ty = self.body.tensor_ty(o.value).ok_or_else(|| invalid("only tensors are stacked"))?;
            results.push(stack(items, 0, ty)?.into());
        }
        Ok(results)
    }
}

fn truth(t: &Tensor) -> Result<bool, EvalError> {
    match t.to_bools()?[..] {
        [holds] => Ok(holds),
        _ => Err(invalid("a condition is one truth value")),
    }
}

/// The items side by side along a new axis; of no items, what their type says of them.
pub(crate) fn stack(items: &[Tensor], along: i64, ty: &TensorType) -> Result<Tensor, EvalError> {
    let Some(first) = items.first() else {
        let known = |d: &Dim| d.as_const().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let mut dims: Vec<usize> = ty.dims().unwrap_or_default().iter().map(known).collect();
        dims.insert(reading::axis(along, dims.len() + 1)?, 0);
        return Ok(Tensor::zeros(ty.dtype, &dims)?);
    };
    let at = reading::axis(along, first.rank() + 1)?;
    let mut dims = first.dims().to_vec();
    dims.insert(at, 1);
    let items: Vec<Tensor> = items
        .iter()
        .map(|t| match t.dims() == first.dims() {
            true => Ok(t.reshaped(&dims)?),
            false => Err(invalid(format!("{:?} and {:?} cannot be stacked", first.dims(), t.dims()))),
        })
        .collect::<Result<_, EvalError>>()?;
    crate::ops::concat::join(&items.iter().collect::<Vec<_>>(), at as i64)
}
