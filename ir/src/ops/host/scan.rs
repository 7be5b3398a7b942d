use super::bodies::{self, Outside};
use super::loop_body::stack;
use super::{Datum, Dim, EvalError, Graph, OpSpec, Operands, RunBody, TypeError, ValueType};
use crate::op;
use crate::ops::Slice;
use crate::ops::reading::{self, invalid, tensor};
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};
use std::sync::Arc;

op! {
    /// `scan(states..., scanned..., captures...) {body, scanned_axes, scanned_backwards, stacked_axes, stacked_backwards}`:
    /// ONNX Scan. The body takes the states, one slice of every scanned tensor and the captures; it gives the next states
    /// and values that are stacked. `scanned_axes` has an entry per scanned tensor, `stacked_axes` one per stack; the
    /// states are what remains of the body's results. Backwards is 1 for tensors read, or stacks written, from the end.
    pub struct Scan {
        body: Arc<Graph>,
        scanned_axes: Vec<i64>,
        scanned_backwards: Vec<i64>,
        stacked_axes: Vec<i64>,
        stacked_backwards: Vec<i64>,
    }
}

impl Scan {
    fn states(&self) -> Result<usize, TypeError> {
        let states = self.body.outputs.len().checked_sub(self.stacked_axes.len());
        states.ok_or_else(|| TypeError::Invalid("the body has fewer results than are stacked".into()))
    }
}

impl OpSpec for Scan {
    const NAME: &'static str = "scan";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%s: f32[M], %x: f32[N, M]) { %z, %y = scan(%s, %x) {body = graph @b(%s: f32[M], %x: f32[M]) { %t = add(%s, %x) return %t, %t }, scanned_axes = [0], scanned_backwards = [0], stacked_axes = [0], stacked_backwards = [0]} return %z, %y }",
        "graph @g(%x: f32[N, M]) { %y = scan(%x) {body = graph @b(%x: f32[N]) { %t = neg(%x) return %t }, scanned_axes = [1], scanned_backwards = [1], stacked_axes = [-1], stacked_backwards = [1]} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        let states = self.states()?;
        let scanned = self.scanned_axes.len();
        let fits = self.scanned_backwards.len() == scanned && self.stacked_backwards.len() == self.stacked_axes.len();
        if scanned == 0 || !fits {
            return Err(TypeError::Invalid("axes and directions of the scan differ in number".into()));
        }
        operands.arity(states + scanned, usize::MAX)?;
        bodies::check(&self.body, operands.len(), states)?;
        let outside = Outside::new(operands);
        let mut types = vec![];
        for i in 0..states {
            let (given, held) = (operands.ty(i)?, self.body.ty(self.body.inputs[i].into()));
            if !held.compatible(given) || !held.compatible(self.body.ty(self.body.outputs[i].value)) {
                return Err(operands.wrong(i, format!("{given} is held as {held} by the body")));
            }
            types.push(outside.see(held));
        }
        let mut length: Option<Dim> = None;
        for (i, axis) in self.scanned_axes.iter().enumerate() {
            if let Some(dims) = operands.dims(states + i)? {
                let n = &dims[crate::ops::axis(*axis, dims.len())?];
                match &length {
                    Some(length) => operands.assume_same(length, n)?,
                    None => length = Some(n.clone()),
                }
            }
        }
        let length = length.unwrap_or_else(|| operands.late_dim());
        for (o, axis) in self.body.outputs[states..].iter().zip(&self.stacked_axes) {
            let Some(item) = self.body.tensor_ty(o.value) else {
                return Err(TypeError::Invalid(format!("`{}` is stacked, but is no tensor", o.name)));
            };
            let mut shape = item.shape.clone();
            if let Shape::Ranked(dims) = &mut shape {
                dims.insert(crate::ops::axis(*axis, dims.len() + 1)?, length.clone());
            }
            types.push(outside.see(&TensorType { dtype: item.dtype, shape }.into()));
        }
        Ok(types)
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        self.eval_with(operands, &mut |_, inputs| bodies::run(&self.body, inputs))
    }

    fn eval_with(&self, operands: &[&Datum], run: RunBody<'_>) -> Result<Vec<Datum>, EvalError> {
        let states = self.states().map_err(invalid)?;
        let mut inputs: Vec<Datum> = operands.iter().map(|d| (*d).clone()).collect();
        let mut lengths = vec![];
        for (i, axis) in self.scanned_axes.iter().enumerate() {
            let x = tensor(operands, states + i)?;
            lengths.push(x.dims()[reading::axis(*axis, x.rank())?]);
        }
        let length = lengths[0];
        if lengths.iter().any(|n| *n != length) {
            return Err(invalid(format!("scanned tensors have {lengths:?} slices")));
        }
        let mut stacks: Vec<Vec<Tensor>> = vec![vec![]; self.stacked_axes.len()];
        for step in 0..length {
            for (i, axis) in self.scanned_axes.iter().enumerate() {
                let at = if self.scanned_backwards[i] != 0 { length - 1 - step } else { step };
                inputs[states + i] = slice(operands[states + i], *axis, at)?;
            }
            let mut results = run("body", &inputs)?.into_iter();
            results.by_ref().take(states).enumerate().for_each(|(i, d)| inputs[i] = d);
            for (stack, item) in stacks.iter_mut().zip(results) {
                let Datum::Tensor(item) = item else { return Err(invalid("only tensors are stacked")) };
                stack.push(item);
            }
        }
        let mut results: Vec<Datum> = inputs.drain(..states).collect();
        for (i, o) in self.body.outputs[states..].iter().enumerate() {
            if self.stacked_backwards[i] != 0 {
                stacks[i].reverse();
            }
            let ty = self.body.tensor_ty(o.value).ok_or_else(|| invalid("only tensors are stacked"))?;
            results.push(stack(&stacks[i], self.stacked_axes[i], ty)?.into());
        }
        Ok(results)
    }
}

fn slice(x: &Datum, axis: i64, at: usize) -> Result<Datum, EvalError> {
    let (starts, ends) = (vec![Dim::from(at)], vec![Dim::from(at + 1)]);
    let part = Slice { axes: vec![axis], starts, ends, steps: vec![1] }.eval(&[x])?;
    let part = tensor(&[&part[0]], 0)?.clone();
    let mut dims = part.dims().to_vec();
    dims.remove(reading::axis(axis, dims.len())?);
    Ok(part.reshaped(&dims)?.into())
}
