//! Single operators on the processor, for a backend whose device lacks a kernel for them.
//!
//! The kernel is chosen by the operands' own types, as for a step whose sizes are known only when it runs. Bodies of control
//! flow become plans for the processor, which are kept while the same bodies come again.

use crate::kernel::{Call, CallDims, Types, View, ViewMut};
use crate::kernels::pool::Pool;
use crate::lower;
use crate::program::fact;
use crate::target::Cpu;
use ir::ops::{EvalError, Fact, Operands};
use ir::tensor::Aligned;
use ir::{Datum, Graph, Op, Tensor, TensorType};
use plan::{GraphWeights, Layout, Weights};
use runtime::{Backend, HostExecutor, HostWorker, Session};
use smallvec::SmallVec;
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Plans of bodies that a worker keeps.
const KEPT: usize = 8;

impl HostExecutor for Cpu {
    fn worker(&self, threads: usize) -> Box<dyn HostWorker> {
        let all = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = if threads == 0 { all() } else { threads };
        Box::new(Worker { pool: Pool::new(threads), threads, scratch: vec![], bodies: vec![] })
    }
}

struct Worker {
    pool: Pool,
    threads: usize,
    scratch: Vec<u64>,
    /// The one used last comes last.
    bodies: Vec<(Graph, Box<dyn Session>)>,
}

impl HostWorker for Worker {
    fn run(&mut self, op: &Op, operands: &[Datum]) -> Result<Vec<Datum>, EvalError> {
        if op.has_body() {
            let refs: Vec<&Datum> = operands.iter().collect();
            let attrs = op.attrs();
            return op.eval_with(&refs, &mut |name, inputs| match attrs.get(name) {
                Some(ir::attr::Attr::Graph(body)) => self.body(body, inputs),
                _ => Err(EvalError::Invalid(format!("the operator has no body `{name}`"))),
            });
        }
        if let Some(results) = self.kernel(op, operands)? {
            return Ok(results);
        }
        op.eval(&operands.iter().collect::<Vec<_>>())
    }
}

impl Worker {
    /// Runs the kernel for these operands; `None` where there is none.
    fn kernel(&mut self, op: &Op, operands: &[Datum]) -> Result<Option<Vec<Datum>>, EvalError> {
        let simple = |d: &Datum| matches!(d, Datum::Tensor(_) | Datum::Absent);
        if !operands.iter().all(simple) {
            return Ok(None);
        }
        let facts: Vec<Fact> = operands.iter().map(fact).collect();
        let facts: Vec<&Fact> = facts.iter().collect();
        let next_late = Cell::new(0);
        let types = op.infer(&Operands::new(&facts, &next_late)).map_err(|e| EvalError::Invalid(e.to_string()))?;
        let outs: Option<Vec<TensorType>> = types.iter().map(|t| t.as_tensor().cloned()).collect();
        let Some(outs) = outs else { return Ok(None) };
        let Some(out_dims) = outs.iter().map(|t| t.shape.as_const()).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let of = |d: &Datum| d.as_tensor().map(|t| TensorType::new(t.dtype(), t.dims().iter().copied()));
        let in_types: Vec<Option<TensorType>> = operands.iter().map(of).collect();
        let in_refs: Vec<Option<&TensorType>> = in_types.iter().map(Option::as_ref).collect();
        let out_refs: Vec<&TensorType> = outs.iter().collect();
        let layouts = vec![Layout::RowMajor; operands.len()];
        let constants = vec![false; operands.len()];
        let types = Types { ins: &in_refs, outs: &out_refs, layouts: &layouts, constants: &constants };
        let Some(kernel) = lower::choose(op, &types) else { return Ok(None) };
        let numbers = kernel.numbers().iter().map(|d| d.eval(&|_| None)).collect::<Result<Vec<i64>, _>>()?;
        let ins: SmallVec<[Option<View<'_>>; 4]> = operands
            .iter()
            .map(|d| d.as_tensor().map(|t| View { dtype: t.dtype(), dims: t.dims(), bytes: t.bytes() }))
            .collect();
        let in_dims: SmallVec<[Option<&[usize]>; 4]> = operands.iter().map(|d| Some(d.as_tensor()?.dims())).collect();
        let dims: SmallVec<[&[usize]; 2]> = out_dims.iter().map(|d| &d[..]).collect();
        let words = kernel.scratch_words(&self.pool, &CallDims { ins: &in_dims, outs: &dims });
        if self.scratch.len() < words {
            self.scratch.resize(words, 0);
        }
        let mut memory = vec![];
        for (ty, dims) in outs.iter().zip(&out_dims) {
            memory.push(Aligned::try_zeroed(ty.dtype.bytes(ir::tensor::count(dims)?))?);
        }
        let views = memory.iter_mut().zip(outs.iter().zip(&out_dims));
        let mut views: SmallVec<[ViewMut<'_>; 2]> =
            views.map(|(m, (ty, dims))| ViewMut { dtype: ty.dtype, dims, bytes: m.bytes_mut() }).collect();
        let scratch = &mut self.scratch[..words];
        kernel.run(&mut Call { pool: &self.pool, ins: &ins, outs: &mut views, numbers: &numbers, scratch })?;
        drop(views);
        let tensor = |(m, (ty, dims)): (Aligned, (&TensorType, &Vec<usize>))| {
            let len = ty.dtype.bytes(dims.iter().product());
            Ok(Datum::from(Tensor::from_memory(ty.dtype, dims, Arc::new(m), 0, len)?))
        };
        let results = memory.into_iter().zip(outs.iter().zip(&out_dims)).map(tensor);
        results.collect::<Result<Vec<_>, EvalError>>().map(Some)
    }

    fn body(&mut self, body: &Graph, inputs: &[Datum]) -> Result<Vec<Datum>, EvalError> {
        match self.bodies.iter().position(|(known, _)| known == body) {
            Some(at) => {
                let last = self.bodies.len() - 1;
                self.bodies[at..=last].rotate_left(1);
            }
            None => {
                if self.bodies.len() == KEPT {
                    self.bodies.remove(0);
                }
                let session = session(body, self.threads)?;
                self.bodies.push((body.clone(), session));
            }
        }
        let (_, session) = self.bodies.last_mut().expect("it was just put there");
        session.run(inputs).map(<[Datum]>::to_vec).map_err(|e| EvalError::Invalid(e.to_string()))
    }
}

fn session(body: &Graph, threads: usize) -> Result<Box<dyn Session>, EvalError> {
    fn invalid(e: impl ToString) -> EvalError {
        EvalError::Invalid(e.to_string())
    }
    let verified = ir::verify(body).map_err(invalid)?;
    let plan = plan::build(verified, &Cpu, "").map_err(invalid)?;
    let plan = plan::check(plan).map_err(|found| invalid(&found[0]))?;
    let weights = Weights::from_source(&plan, &GraphWeights::new(&plan)).map_err(invalid)?;
    Ok(Cpu.load(Arc::new(plan), weights).map_err(invalid)?.session(threads))
}
