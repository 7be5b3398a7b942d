//! Elementwise programs: their instructions, their typing, and the assignment of block buffers.

use super::functions::{BinaryFn, CompareFn, UnaryFn};
use super::{BLOCK, MAX_INPUTS};
use crate::kernels::element::Element;

/// The type in which values are computed. Storage types widen to one when loaded and wrap back when stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum Register {
    F32,
    F64,
    I64,
    I32,
    Bool,
}

impl Register {
    /// The register type that computes values stored as `element`. A u64 is computed as i64: the same bits, so that
    /// only its division and order differ, and only from 2^63 up.
    pub const fn of(element: Element) -> Register {
        match element {
            Element::F64 => Register::F64,
            Element::F32 | Element::F16 | Element::BF16 => Register::F32,
            Element::I64 | Element::U64 | Element::U32 => Register::I64,
            Element::I32 | Element::I16 | Element::I8 | Element::U16 | Element::U8 => Register::I32,
            Element::Bool => Register::Bool,
        }
    }

    /// The storage type with the same representation.
    pub const fn element(self) -> Element {
        match self {
            Register::F32 => Element::F32,
            Register::F64 => Element::F64,
            Register::I64 => Element::I64,
            Register::I32 => Element::I32,
            Register::Bool => Element::Bool,
        }
    }
}

/// A value of a program: first its inputs, then the result of each instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub usize);

/// A scalar written in a program.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the types")]
pub enum Constant {
    F32(f32),
    F64(f64),
    I64(i64),
    I32(i32),
    Bool(bool),
}

/// One instruction; it defines the next slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Instr {
    /// `f(x)`
    Unary(UnaryFn, Slot),
    /// `f(a, b)`
    Binary(BinaryFn, Slot, Slot),
    /// `a ? b`
    Compare(CompareFn, Slot, Slot),
    /// `condition ? yes : no`
    Select {
        /// A boolean.
        condition: Slot,
        /// The value where it holds.
        yes: Slot,
        /// The value elsewhere.
        no: Slot,
    },
    /// A scalar.
    Const(Constant),
    /// The value in another register type, as [`super::cast`] converts.
    Cast(Register, Slot),
    /// The value rounded or wrapped to a narrower storage type, still in its register.
    Narrow(Element, Slot),
}

/// Why a program cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// More inputs than one program can read.
    #[error("{0} inputs; one elementwise program reads at most {MAX_INPUTS}")]
    TooManyInputs(usize),
    /// A slot that no earlier input or instruction defines.
    #[error("instruction {instr} reads slot {slot}, which is not defined before it")]
    Undefined {
        /// Index of the instruction; the number of instructions for the program's output.
        instr: usize,
        /// The slot it names.
        slot: usize,
    },
    /// A function that does not exist for its operand types.
    #[error("instruction {instr} ({text}) has no form for operands of type {operands}")]
    Untyped {
        /// Index of the instruction.
        instr: usize,
        /// The instruction.
        text: String,
        /// Its operands' register types.
        operands: String,
    },
}

/// One instruction with the buffer that holds its result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub instr: Instr,
    pub slot: usize,
}

/// A checked elementwise program; see [`super`].
#[derive(Clone, Debug)]
pub struct Program {
    pub(super) inputs: Vec<Element>,
    pub(super) output_element: Element,
    /// Instructions to run per block.
    pub(super) steps: Vec<Step>,
    /// Scalars to write once per run.
    pub(super) constants: Vec<(usize, Constant)>,
    /// Per slot: its register type.
    pub(super) registers: Vec<Register>,
    /// Per slot: its block buffer.
    pub(super) buffers: Vec<usize>,
    pub(super) output: usize,
    /// The last step writes the output's memory itself.
    pub(super) writes_output: bool,
    pub(super) buffer_count: usize,
    /// 8-byte words of one block buffer.
    pub(super) buffer_words: usize,
}

impl Program {
    /// Checks a program and assigns its buffers. `inputs` are the storage types of its inputs, `output` the slot that
    /// is stored as `output_element`.
    pub fn new(
        inputs: &[Element],
        instrs: &[Instr],
        output: Slot,
        output_element: Element,
    ) -> Result<Program, ProgramError> {
        if inputs.len() > MAX_INPUTS {
            return Err(ProgramError::TooManyInputs(inputs.len()));
        }
        let mut registers: Vec<Register> = inputs.iter().map(|&e| Register::of(e)).collect();
        for (i, instr) in instrs.iter().enumerate() {
            let defined = registers.len();
            if let Some(slot) = instr.operands().find(|slot| slot.0 >= defined) {
                return Err(ProgramError::Undefined { instr: i, slot: slot.0 });
            }
            let result = instr.result(&registers).ok_or_else(|| ProgramError::Untyped {
                instr: i,
                text: format!("{instr:?}"),
                operands: instr.operands().map(|s| format!("{:?}", registers[s.0])).collect::<Vec<_>>().join(", "),
            })?;
            registers.push(result);
        }
        if output.0 >= registers.len() {
            return Err(ProgramError::Undefined { instr: instrs.len(), slot: output.0 });
        }
        let mut program = Program {
            inputs: inputs.to_vec(),
            output_element,
            steps: Vec::new(),
            constants: Vec::new(),
            registers,
            buffers: Vec::new(),
            output: output.0,
            writes_output: false,
            buffer_count: 0,
            buffer_words: 0,
        };
        program.assign_buffers(instrs);
        Ok(program)
    }

    /// 8-byte words of scratch memory that [`Program::run`] needs.
    pub fn scratch_words(&self) -> usize {
        self.buffer_count * self.buffer_words + BLOCK
    }

    /// Inputs and constants keep a buffer for the whole run; results reuse those of slots read for the last time.
    fn assign_buffers(&mut self, instrs: &[Instr]) {
        let first = self.inputs.len();
        let slots = first + instrs.len();
        let mut last_use = vec![0; slots];
        for (i, instr) in instrs.iter().enumerate() {
            instr.operands().for_each(|s| last_use[s.0] = i + 1);
        }
        let output_is_read = last_use[self.output] != 0;
        last_use[self.output] = instrs.len() + 1;

        self.buffers = (0..first).collect();
        self.buffer_count = first;
        let mut free: Vec<usize> = Vec::new();
        for (i, &instr) in instrs.iter().enumerate() {
            let slot = first + i;
            if let Instr::Const(value) = instr {
                self.constants.push((slot, value));
                self.buffers.push(self.buffer_count);
                self.buffer_count += 1;
                continue;
            }
            if last_use[slot] == 0 {
                self.buffers.push(usize::MAX);
                continue;
            }
            let buffer = free.pop().unwrap_or_else(|| {
                self.buffer_count += 1;
                self.buffer_count - 1
            });
            self.buffers.push(buffer);
            self.steps.push(Step { instr, slot });
            let mut released: Vec<usize> = instr
                .operands()
                .filter(|s| s.0 >= first && last_use[s.0] == i + 1)
                .filter(|s| !matches!(instrs[s.0 - first], Instr::Const(_)))
                .map(|s| self.buffers[s.0])
                .collect();
            released.sort_unstable();
            released.dedup();
            free.extend(released);
        }
        let lane_bytes = self.registers.iter().map(|r| r.element().bytes()).max().unwrap_or(1);
        self.buffer_words = BLOCK * lane_bytes / 8;
        self.writes_output = !output_is_read
            && self.steps.last().is_some_and(|step| step.slot == self.output)
            && self.registers[self.output].element() == self.output_element;
    }
}

impl Instr {
    /// The slots it reads.
    pub fn operands(&self) -> impl Iterator<Item = Slot> + use<> {
        let list = match *self {
            Instr::Unary(_, x) | Instr::Cast(_, x) | Instr::Narrow(_, x) => [Some(x), None, None],
            Instr::Binary(_, a, b) | Instr::Compare(_, a, b) => [Some(a), Some(b), None],
            Instr::Select { condition, yes, no } => [Some(condition), Some(yes), Some(no)],
            Instr::Const(_) => [None; 3],
        };
        list.into_iter().flatten()
    }

    /// The register type of the result, when the operands' types have such an instruction.
    fn result(&self, registers: &[Register]) -> Option<Register> {
        use Register::*;
        let of = |slot: Slot| registers[slot.0];
        match *self {
            Instr::Unary(UnaryFn::IsNan | UnaryFn::IsInf { .. }, x) => matches!(of(x), F32 | F64).then_some(Bool),
            Instr::Unary(UnaryFn::Not, x) => matches!(of(x), I64 | I32 | Bool).then_some(of(x)),
            Instr::Unary(f, x) => match of(x) {
                F32 | F64 => Some(of(x)),
                I64 | I32 => f.takes_integers().then_some(of(x)),
                Bool => None,
            },
            Instr::Binary(f, a, b) if of(a) == of(b) => f.takes(of(a)).then_some(of(a)),
            Instr::Compare(_, a, b) => (of(a) == of(b)).then_some(Bool),
            Instr::Select { condition, yes, no } => (of(condition) == Bool && of(yes) == of(no)).then_some(of(yes)),
            Instr::Const(Constant::F32(_)) => Some(F32),
            Instr::Const(Constant::F64(_)) => Some(F64),
            Instr::Const(Constant::I64(_)) => Some(I64),
            Instr::Const(Constant::I32(_)) => Some(I32),
            Instr::Const(Constant::Bool(_)) => Some(Bool),
            Instr::Cast(register, _) => Some(register),
            Instr::Narrow(element, x) => (Register::of(element) == of(x)).then_some(of(x)),
            Instr::Binary(..) => None,
        }
    }
}

impl UnaryFn {
    fn takes_integers(self) -> bool {
        matches!(
            self,
            UnaryFn::Neg
                | UnaryFn::Abs
                | UnaryFn::Sign
                | UnaryFn::Square
                | UnaryFn::Relu
                | UnaryFn::Clip { .. }
                | UnaryFn::LeakyRelu { .. }
                | UnaryFn::Floor
                | UnaryFn::Ceil
                | UnaryFn::Round
                | UnaryFn::Trunc
        )
    }
}

impl BinaryFn {
    fn takes(self, register: Register) -> bool {
        let bits = matches!(self, BinaryFn::And | BinaryFn::Or | BinaryFn::Xor);
        let shift = matches!(self, BinaryFn::ShiftLeft | BinaryFn::ShiftRight);
        match register {
            Register::F32 | Register::F64 => !bits && !shift,
            Register::I64 | Register::I32 => true,
            Register::Bool => bits || matches!(self, BinaryFn::Add | BinaryFn::Mul | BinaryFn::Min | BinaryFn::Max),
        }
    }
}
