//! `dims` and `shape_of`: small integer vectors made of symbols.

use crate::kernel::{Call, Chosen, Kernel, Types};
use ir::ops::{Dims, EvalError};
use ir::{DType, Dim};

struct DimsKernel {
    elements: Vec<Dim>,
}

pub(super) fn dims(op: &Dims) -> Chosen {
    Some(Box::new(DimsKernel { elements: op.elements.clone() }))
}

impl Kernel for DimsKernel {
    fn name(&self) -> &'static str {
        "dims"
    }

    fn numbers(&self) -> Vec<Dim> {
        self.elements.clone()
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        call.outs[0].as_slice_mut::<i64>().copy_from_slice(call.numbers);
        Ok(())
    }
}

struct ShapeKernel;

pub(super) fn shape_of(types: &Types<'_>) -> Chosen {
    (types.dtype(0)? != DType::Str).then(|| Box::new(ShapeKernel) as Box<dyn Kernel>)
}

impl Kernel for ShapeKernel {
    fn name(&self) -> &'static str {
        "shape_of"
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let dims = call.input(0).dims;
        call.outs[0].as_slice_mut::<i64>().iter_mut().zip(dims).for_each(|(o, d)| *o = *d as i64);
        Ok(())
    }
}
