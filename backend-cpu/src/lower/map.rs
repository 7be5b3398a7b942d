//! `map`: its scalar expression as a program, an instruction for each step.

use super::elementwise::{Elementwise, binary_fn, compare_fn, constant, unary_fn};
use crate::kernel::{Chosen, Types, element};
use crate::kernels::element::Element;
use crate::kernels::elementwise::{Instr, Register, Slot};
use ir::DType;
use ir::ops::Map;
use ir::scalar::BinaryFn;
use ir::scalar_expr::{Arg, Step};

pub(super) fn map(op: &Map, types: &Types<'_>) -> Chosen {
    let dtypes: Vec<DType> = types.ins.iter().map(|t| Some(t.as_ref()?.dtype)).collect::<Option<_>>()?;
    let results = op.expr.types(&dtypes).ok()?;
    let mut program = Lowered { inputs: dtypes.len(), instrs: vec![], slots: vec![] };
    for (step, dtype) in op.expr.steps().iter().zip(&results) {
        let args: Vec<DType> = step.args().iter().map(|a| program.dtype(*a, &dtypes, &results)).collect();
        let slot = program.lower(step, *dtype, &args)?;
        program.slots.push(slot);
    }
    let result = *program.slots.last()?;
    Elementwise::chosen("map", types, &program.instrs, result)
}

struct Lowered {
    inputs: usize,
    instrs: Vec<Instr>,
    /// Where the result of each step is.
    slots: Vec<Slot>,
}

impl Lowered {
    fn dtype(&self, arg: Arg, inputs: &[DType], steps: &[DType]) -> DType {
        match arg {
            Arg::Input(n) => inputs[n],
            Arg::Step(s) => steps[s],
        }
    }

    fn slot(&self, arg: Arg) -> Slot {
        match arg {
            Arg::Input(n) => Slot(n),
            Arg::Step(s) => self.slots[s],
        }
    }

    fn push(&mut self, instr: Instr) -> Slot {
        self.instrs.push(instr);
        Slot(self.inputs + self.instrs.len() - 1)
    }

    /// `None` where the engine's rules are not those of the reference.
    fn lower(&mut self, step: &Step, dtype: DType, args: &[DType]) -> Option<Slot> {
        let to = element(dtype)?;
        if dtype == DType::U64 || args.contains(&DType::U64) {
            return None;
        }
        let instr = match *step {
            Step::Constant(_, v) => Instr::Const(constant(Register::of(to), v)),
            Step::Unary(f, a) => Instr::Unary(unary_fn(f, element(args[0])?)?, self.slot(a)),
            Step::Binary(BinaryFn::ShiftLeft | BinaryFn::ShiftRight, ..) => return None,
            Step::Binary(BinaryFn::Div | BinaryFn::Mod | BinaryFn::Fmod | BinaryFn::Pow, ..) if !dtype.is_float() => {
                return None;
            }
            Step::Binary(f, a, b) => Instr::Binary(binary_fn(f), self.slot(a), self.slot(b)),
            Step::Compare(f, a, b) => Instr::Compare(compare_fn(f), self.slot(a), self.slot(b)),
            Step::Select(c, a, b) => Instr::Select { condition: self.slot(c), yes: self.slot(a), no: self.slot(b) },
            Step::Cast(_, a) => return self.cast(a, element(args[0])?, to),
        };
        let slot = self.push(instr);
        match step {
            Step::Unary(..) | Step::Binary(..) => Some(self.wrapped(slot, to)),
            _ => Some(slot),
        }
    }

    fn cast(&mut self, a: Arg, from: Element, to: Element) -> Option<Slot> {
        // Floats saturate at the ends of a narrow integer, which a register does not know.
        if from.is_float() && is_narrow_int(to) {
            return None;
        }
        let mut slot = self.slot(a);
        if Register::of(from) != Register::of(to) {
            slot = self.push(Instr::Cast(Register::of(to), slot));
        }
        Some(self.wrapped(slot, to))
    }

    /// Integers narrower than their register wrap after every step; floats are not rounded inside an expression.
    fn wrapped(&mut self, slot: Slot, to: Element) -> Slot {
        if is_narrow_int(to) { self.push(Instr::Narrow(to, slot)) } else { slot }
    }
}

fn is_narrow_int(e: Element) -> bool {
    matches!(e, Element::I16 | Element::I8 | Element::U32 | Element::U16 | Element::U8)
}
