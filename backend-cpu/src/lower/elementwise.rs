//! `unary`, `binary`, `compare`, `select` and `cast` as one-instruction elementwise programs.

use crate::kernel::{Call, CallDims, Chosen, Kernel, Types, element, grain};
use crate::kernels::dims::{Dims, broadcast_strides};
use crate::kernels::element::Element;
use crate::kernels::elementwise::{BinaryFn, CompareFn, Constant, Instr, Operand, Program, Register, Slot, UnaryFn};
use crate::kernels::pool::Pool;
use ir::ops::{Binary, Cast, Compare, EvalError, Unary};
use ir::scalar;
use smallvec::SmallVec;

/// Elements below which threads are not worth waking.
const LEAST: usize = 8192;

/// An elementwise program over broadcast operands.
pub(super) struct Elementwise {
    name: &'static str,
    program: Program,
    output: Element,
}

impl Elementwise {
    /// A kernel running `instrs`; `None` when the program engine has no form of them.
    pub(super) fn chosen(name: &'static str, types: &Types<'_>, instrs: &[Instr], result: Slot) -> Chosen {
        let ins: Option<Vec<Element>> = types.ins.iter().map(|t| element(t.as_ref()?.dtype)).collect();
        let output = element(types.outs[0].dtype)?;
        let program = Program::new(&ins?, instrs, result, output).ok()?;
        types.row_major().then(|| Box::new(Elementwise { name, program, output }) as Box<dyn Kernel>)
    }
}

impl Kernel for Elementwise {
    fn name(&self) -> &'static str {
        self.name
    }

    fn scratch_words(&self, pool: &Pool, _: &CallDims<'_>) -> usize {
        self.program.scratch_words() * pool.threads()
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let dims = call.outs[0].dims;
        let strides: SmallVec<[Dims; 4]> = call.ins.iter().flatten().map(|v| broadcast_strides(v.dims, dims)).collect();
        let operands: SmallVec<[Operand<'_>; 4]> =
            call.ins.iter().flatten().zip(&strides).map(|(v, s)| Operand::new(v.bytes, s)).collect();
        let width = self.output.bytes();
        let total = call.outs[0].bytes.len() / width;
        let words = self.program.scratch_words();
        if total <= LEAST {
            self.program.run(dims, &operands, call.outs[0].bytes, 0, &mut call.scratch[..words]);
            return Ok(());
        }
        let chunk = grain(total, call.pool.threads() * 4, crate::kernels::elementwise::BLOCK, LEAST);
        let scratch = &mut call.scratch[..words * call.pool.threads()];
        call.pool.chunks_scratch(call.outs[0].bytes, chunk * width, scratch, |scratch, i, part| {
            self.program.run(dims, &operands, part, i * chunk, scratch);
        });
        Ok(())
    }
}

/// The engine's function of this type; `None` where it has no equal.
pub(super) fn unary_fn(f: scalar::UnaryFn, from: Element) -> Option<UnaryFn> {
    use scalar::UnaryFn as F;
    Some(match f {
        // The engine has one `Not`: logical for booleans, of all bits for integers.
        F::Not if from != Element::Bool => return None,
        F::BitNot if from == Element::Bool => return None,
        F::Neg => UnaryFn::Neg,
        F::Abs => UnaryFn::Abs,
        F::Sign => UnaryFn::Sign,
        F::Not | F::BitNot => UnaryFn::Not,
        F::Exp => UnaryFn::Exp,
        F::Log => UnaryFn::Log,
        F::Sqrt => UnaryFn::Sqrt,
        F::Rsqrt => UnaryFn::Rsqrt,
        F::Reciprocal => UnaryFn::Reciprocal,
        F::Sin => UnaryFn::Sin,
        F::Cos => UnaryFn::Cos,
        F::Tan => UnaryFn::Tan,
        F::Asin => UnaryFn::Asin,
        F::Acos => UnaryFn::Acos,
        F::Atan => UnaryFn::Atan,
        F::Sinh => UnaryFn::Sinh,
        F::Cosh => UnaryFn::Cosh,
        F::Tanh => UnaryFn::Tanh,
        F::Asinh => UnaryFn::Asinh,
        F::Acosh => UnaryFn::Acosh,
        F::Atanh => UnaryFn::Atanh,
        F::Sigmoid => UnaryFn::Sigmoid,
        F::Silu => UnaryFn::Silu,
        F::Erf => UnaryFn::Erf,
        F::Gelu => UnaryFn::Gelu,
        F::GeluTanh => UnaryFn::GeluTanh,
        F::Relu => UnaryFn::Relu,
        F::Softplus => UnaryFn::Softplus,
        F::Softsign => UnaryFn::Softsign,
        F::HardSwish => UnaryFn::HardSwish,
        F::Mish => UnaryFn::Mish,
        F::Floor => UnaryFn::Floor,
        F::Ceil => UnaryFn::Ceil,
        F::Round => UnaryFn::Round,
        F::IsNan => UnaryFn::IsNan,
        F::IsInf => UnaryFn::IsInf { negative: true, positive: true },
    })
}

/// The engine's function.
pub(super) fn binary_fn(f: scalar::BinaryFn) -> BinaryFn {
    use scalar::BinaryFn as F;
    match f {
        F::Add => BinaryFn::Add,
        F::Sub => BinaryFn::Sub,
        F::Mul => BinaryFn::Mul,
        F::Div => BinaryFn::Div,
        F::Pow => BinaryFn::Pow,
        F::Min => BinaryFn::Min,
        F::Max => BinaryFn::Max,
        F::Mod => BinaryFn::Mod,
        F::Fmod => BinaryFn::Fmod,
        F::And | F::BitAnd => BinaryFn::And,
        F::Or | F::BitOr => BinaryFn::Or,
        F::Xor | F::BitXor => BinaryFn::Xor,
        F::ShiftLeft => BinaryFn::ShiftLeft,
        F::ShiftRight => BinaryFn::ShiftRight,
    }
}

/// The engine's comparison.
pub(super) fn compare_fn(f: scalar::CompareFn) -> CompareFn {
    match f {
        scalar::CompareFn::Eq => CompareFn::Equal,
        scalar::CompareFn::Ne => CompareFn::NotEqual,
        scalar::CompareFn::Lt => CompareFn::Less,
        scalar::CompareFn::Le => CompareFn::LessOrEqual,
        scalar::CompareFn::Gt => CompareFn::Greater,
        scalar::CompareFn::Ge => CompareFn::GreaterOrEqual,
    }
}

pub(super) fn unary(op: &Unary, types: &Types<'_>) -> Chosen {
    let f = unary_fn(op.f, element(types.dtype(0)?)?)?;
    Elementwise::chosen(op.f.name(), types, &[Instr::Unary(f, Slot(0))], Slot(1))
}

pub(super) fn binary(op: &Binary, types: &Types<'_>) -> Chosen {
    use scalar::BinaryFn as F;
    let (a, b) = (element(types.dtype(0)?)?, element(types.dtype(1)?)?);
    let divides = matches!(op.f, F::Div | F::Mod | F::Fmod) && a == b && matches!(a, Element::I64 | Element::I32);
    if divides {
        return division(op, types);
    }
    if !is_exact(op.f, a) {
        return None;
    }
    let f = binary_fn(op.f);
    if Register::of(a) == Register::of(b) {
        return Elementwise::chosen(op.f.name(), types, &[Instr::Binary(f, Slot(0), Slot(1))], Slot(2));
    }
    let instrs = [Instr::Cast(Register::of(a), Slot(1)), Instr::Binary(f, Slot(0), Slot(2))];
    Elementwise::chosen(op.f.name(), types, &instrs, Slot(3))
}

/// Whether the engine's function is that of the IR for every pair of numbers. Integers shift and raise with other rules
/// at the edges, a divisor of zero is an error of the IR, and u64 is ordered as i64.
pub(super) fn is_exact(f: scalar::BinaryFn, of: Element) -> bool {
    use scalar::BinaryFn as F;
    let edges = matches!(f, F::Div | F::Mod | F::Fmod | F::Pow | F::ShiftLeft | F::ShiftRight);
    let order = of == Element::U64 && matches!(f, F::Min | F::Max);
    (of.is_float() || !edges) && !order
}

/// An integer division, which refuses a divisor of zero.
struct Division(Box<dyn Kernel>);

fn division(op: &Binary, types: &Types<'_>) -> Chosen {
    let instr = Instr::Binary(binary_fn(op.f), Slot(0), Slot(1));
    let inner = Elementwise::chosen(op.f.name(), types, &[instr], Slot(2))?;
    Some(Box::new(Division(inner)))
}

impl Kernel for Division {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn scratch_words(&self, pool: &Pool, dims: &CallDims<'_>) -> usize {
        self.0.scratch_words(pool, dims)
    }

    fn run(&self, call: &mut Call<'_, '_>) -> Result<(), EvalError> {
        let divisor = call.input(1);
        let zero = match divisor.dtype {
            ir::DType::I64 => divisor.as_slice::<i64>().contains(&0),
            _ => divisor.as_slice::<i32>().contains(&0),
        };
        if zero && !call.outs[0].bytes.is_empty() {
            return Err(EvalError::Invalid(format!("integer `{}` by zero", self.name())));
        }
        self.0.run(call)
    }
}

pub(super) fn compare(op: &Compare, types: &Types<'_>) -> Chosen {
    if types.dtype(0)? == ir::DType::U64 && !matches!(op.f, scalar::CompareFn::Eq | scalar::CompareFn::Ne) {
        return None;
    }
    Elementwise::chosen(op.f.name(), types, &[Instr::Compare(compare_fn(op.f), Slot(0), Slot(1))], Slot(2))
}

pub(super) fn select(types: &Types<'_>) -> Chosen {
    let instr = Instr::Select { condition: Slot(0), yes: Slot(1), no: Slot(2) };
    Elementwise::chosen("select", types, &[instr], Slot(3))
}

pub(super) fn cast(op: &Cast, types: &Types<'_>) -> Chosen {
    let (from, to) = (element(types.dtype(0)?)?, element(op.to)?);
    // u64 travels as i64, whose sign a float or a comparison with zero would see.
    if from == Element::U64 || to == Element::U64 {
        return None;
    }
    match Register::of(from) == Register::of(to) {
        true => Elementwise::chosen("cast", types, &[Instr::Narrow(to, Slot(0))], Slot(1)),
        false => Elementwise::chosen("cast", types, &[Instr::Cast(Register::of(to), Slot(0))], Slot(1)),
    }
}

/// A constant in the register that computes `dtype`.
pub(super) fn constant(register: Register, v: f64) -> Constant {
    match register {
        Register::F32 => Constant::F32(v as f32),
        Register::F64 => Constant::F64(v),
        Register::I64 => Constant::I64(v as i64),
        Register::I32 => Constant::I32(v as i32),
        Register::Bool => Constant::Bool(v != 0.0),
    }
}
