//! Steps whose sizes are known only when they run: operands become values, results are allocated.

use super::Frame;
use crate::kernel::{Call, CallDims, View, ViewMut};
use crate::kernels::dims::Dims;
use crate::kernels::pool::Pool;
use crate::program::{Instr, Program, Source, fact};
use ir::ops::{EvalError, Fact, Operands};
use ir::tensor::Memory;
use ir::{DType, Datum, Tensor, ValueType};
use smallvec::SmallVec;
use std::cell::Cell;
use std::sync::Arc;

impl Frame {
    /// A step whose sizes are known only now: operands become values, results are allocated.
    pub(super) fn late_step(
        &mut self,
        program: &Program,
        at: usize,
        pool: &Pool,
        inputs: &[Datum],
    ) -> Result<(), EvalError> {
        let instr = &program.steps[at];
        let results = match self.late_kernel(instr, pool, inputs)? {
            Some(results) => results,
            None => self.evaluate(program, at, pool, inputs)?,
        };
        for (i, (datum, out)) in results.into_iter().zip(&instr.outs).enumerate() {
            self.store(out, datum, at, i)?;
        }
        self.check_late_constraints(program)
    }

    fn check_late_constraints(&self, program: &Program) -> Result<(), EvalError> {
        for c in &program.constraints {
            if let (Ok(left), Ok(right)) = (self.symbols.eval(&c.left), self.symbols.eval(&c.right))
                && left != right
            {
                return Err(EvalError::Invalid(format!("{c} was assumed, but {left} is not {right}")));
            }
        }
        Ok(())
    }

    /// Runs the kernel of a late step on values; `None` when there is none, or result sizes depend on data.
    fn late_kernel(&mut self, instr: &Instr, pool: &Pool, inputs: &[Datum]) -> Result<Option<Vec<Datum>>, EvalError> {
        let Some(kernel) = &instr.kernel else { return Ok(None) };
        let mut operands: SmallVec<[Datum; 4]> = SmallVec::new();
        for o in &instr.ins {
            // A packed weight keeps its panels; everything else is a plain tensor, of a weight the part that the operand is.
            match &o.source {
                Source::Weight(t) if o.packed => operands.push(t.clone().into()),
                _ => operands.push(self.datum(o, inputs)?),
            }
        }
        let facts: Vec<Fact> = operands
            .iter()
            .zip(&instr.ins)
            .map(|(d, o)| match &o.source {
                Source::Weight(_) if o.packed => Fact::of(o.ty.clone()),
                _ => fact(d),
            })
            .collect();
        let facts: Vec<&Fact> = facts.iter().collect();
        let next_late = Cell::new(0);
        let bound = instr.op.bind(&|s| self.symbols.get(s))?;
        let types = bound.infer(&Operands::new(&facts, &next_late)).map_err(|e| EvalError::Invalid(e.to_string()))?;
        let concrete = |t: &ValueType| Some((t.as_tensor()?.dtype, t.as_tensor()?.shape.as_const()?));
        let Some(types) = types.iter().map(concrete).collect::<Option<Vec<(DType, Vec<usize>)>>>() else {
            return Ok(None);
        };
        let numbers: SmallVec<[i64; 4]> =
            instr.numbers.iter().map(|d| self.symbols.eval(d)).collect::<Result<_, _>>()?;
        let in_dims: SmallVec<[Option<Dims>; 4]> = operands
            .iter()
            .zip(&instr.ins)
            .map(|(d, o)| match (&o.source, o.ty.as_tensor()) {
                (Source::Weight(_), Some(ty)) if o.packed => ty.shape.as_const().map(|d| d.into_iter().collect()),
                _ => d.as_tensor().map(|t| t.dims().iter().copied().collect()),
            })
            .collect();
        let ins: SmallVec<[Option<View<'_>>; 4]> = operands
            .iter()
            .zip(&in_dims)
            .map(|(d, dims)| {
                let t = d.as_tensor()?;
                Some(View { dtype: t.dtype(), dims: dims.as_ref()?, bytes: t.bytes() })
            })
            .collect();
        let dims_of: SmallVec<[Option<&[usize]>; 4]> = in_dims.iter().map(|d| d.as_deref()).collect();
        let out_dims: SmallVec<[&[usize]; 2]> = types.iter().map(|(_, d)| &d[..]).collect();
        let words = kernel.scratch_words(pool, &CallDims { ins: &dims_of, outs: &out_dims });
        super::reserve(&mut self.scratch, words)?;
        let mut memory = vec![];
        for (dtype, dims) in &types {
            ir::tensor::ensure_room(dims, dtype.bits().div_ceil(8))?;
            memory.push(ir::tensor::Aligned::zeroed(dtype.bytes(ir::tensor::count(dims)?)));
        }
        let mut outs: SmallVec<[ViewMut<'_>; 2]> = memory
            .iter_mut()
            .zip(&types)
            .map(|(m, (dtype, dims))| ViewMut { dtype: *dtype, dims, bytes: m.bytes_mut() })
            .collect();
        let scratch = super::words(&mut self.scratch, words);
        kernel.run(&mut Call { pool, ins: &ins, outs: &mut outs, numbers: &numbers, scratch })?;
        drop(outs);
        let tensor = |(m, (dtype, dims)): (ir::tensor::Aligned, &(DType, Vec<usize>))| {
            let len = m.bytes().len();
            Ok(Datum::from(Tensor::from_memory(*dtype, dims, Arc::new(m), 0, len)?))
        };
        memory.into_iter().zip(&types).map(tensor).collect::<Result<Vec<_>, EvalError>>().map(Some)
    }
}
