//! `range`, `fill`, `trilu` and `one_hot`: results that are mostly made rather than moved.

use crate::kernel::{Call, Chosen, Kernel, Types, movable};
use ir::ops::{EvalError, Fill, OneHot, Range, Trilu};
use ir::{DType, Dim};

struct RangeKernel {
    start: Dim,
    step: Dim,
}

pub(super) fn range(op: &Range) -> Chosen {
    Some(Box::new(RangeKernel { start: op.start.clone(), step: op.step.clone() }))
}

impl Kernel for RangeKernel {
    fn name(&self) -> &'static str {
        "range"
    }

    fn numbers(&self) -> Vec<Dim> {
        vec![self.start.clone(), self.step.clone()]
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (start, step) = (call.numbers[0], call.numbers[1]);
        for (i, y) in call.outs[0].as_slice_mut::<i64>().iter_mut().enumerate() {
            *y = start.wrapping_add(step.wrapping_mul(i as i64));
        }
        Ok(())
    }
}

struct FillKernel {
    width: usize,
}

pub(super) fn fill(_: &Fill, types: &Types<'_>) -> Chosen {
    let width = movable(types.outs[0].dtype).filter(|_| types.row_major())?;
    Some(Box::new(FillKernel { width }))
}

impl Kernel for FillKernel {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let value = call.input(0).bytes;
        if value.len() != self.width {
            let found = value.len() / self.width;
            return Err(EvalError::Invalid(format!("a tensor is filled with one element, not {found}")));
        }
        match value.iter().all(|b| *b == value[0]) {
            true => call.outs[0].bytes.fill(value[0]),
            false => call.outs[0].bytes.chunks_exact_mut(self.width).for_each(|y| y.copy_from_slice(value)),
        }
        Ok(())
    }
}

struct TriluKernel {
    upper: bool,
    diagonal: Dim,
    width: usize,
}

pub(super) fn trilu(op: &Trilu, types: &Types<'_>) -> Chosen {
    let width = movable(types.outs[0].dtype).filter(|_| types.row_major())?;
    Some(Box::new(TriluKernel { upper: op.upper, diagonal: op.diagonal.clone(), width }))
}

impl Kernel for TriluKernel {
    fn name(&self) -> &'static str {
        "trilu"
    }

    fn numbers(&self) -> Vec<Dim> {
        vec![self.diagonal.clone()]
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let x = call.input(0);
        let [.., rows, columns] = *x.dims else { unreachable!("typing refused less than two dimensions") };
        let line = columns * self.width;
        if call.outs[0].bytes.is_empty() {
            return Ok(());
        }
        let lines = call.outs[0].bytes.chunks_exact_mut(line).zip(x.bytes.chunks_exact(line));
        for (i, (to, from)) in lines.enumerate() {
            // The first column on or right of the diagonal; below, the first one right of it.
            let at = ((i % rows) as i64).saturating_add(call.numbers[0]).saturating_add(i64::from(!self.upper));
            let at = at.clamp(0, columns as i64) as usize * self.width;
            let (zeros, kept) = if self.upper { (0..at, at..line) } else { (at..line, 0..at) };
            to[zeros].fill(0);
            to[kept.clone()].copy_from_slice(&from[kept]);
        }
        Ok(())
    }
}

struct OneHotKernel {
    axis: i64,
    width: usize,
}

pub(super) fn one_hot(op: &OneHot, types: &Types<'_>) -> Chosen {
    let indices = matches!(types.dtype(0)?, DType::I64 | DType::I32);
    let width = movable(types.outs[0].dtype).filter(|_| types.row_major() && indices)?;
    Some(Box::new(OneHotKernel { axis: op.axis, width }))
}

impl Kernel for OneHotKernel {
    fn name(&self) -> &'static str {
        "one_hot"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let (indices, values) = (call.input(0), call.input(1).bytes);
        if values.len() != 2 * self.width {
            let found = values.len() / self.width;
            return Err(EvalError::Invalid(format!("expected the values for off and on, found {found}")));
        }
        let (off, on) = values.split_at(self.width);
        let dims = call.outs[0].dims;
        let at = self.axis.rem_euclid(dims.len() as i64) as usize;
        let (depth, inner) = (dims[at], dims[at + 1..].iter().product::<usize>());
        let to = &mut *call.outs[0].bytes;
        to.chunks_exact_mut(self.width).for_each(|y| y.copy_from_slice(off));
        let mut mark = |j: usize, i: i64| {
            let i = if i < 0 { i + depth as i64 } else { i };
            if (0..depth as i64).contains(&i) {
                let place = (j / inner * depth + i as usize) * inner + j % inner;
                to[place * self.width..][..self.width].copy_from_slice(on);
            }
        };
        match indices.dtype {
            DType::I32 => indices.as_slice::<i32>().iter().enumerate().for_each(|(j, i)| mark(j, *i as i64)),
            _ => indices.as_slice::<i64>().iter().enumerate().for_each(|(j, i)| mark(j, *i)),
        }
        Ok(())
    }
}
