//! The program of a scalar expression, as kernels/hip/map.hip interprets it.

use ir::DType;
use ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use ir::scalar_expr::{Arg, ScalarExpr, Step};

/// Operands that the kernel takes.
pub(super) const MOST_INPUTS: usize = 8;
/// Steps that it takes.
const MOST_STEPS: usize = 32;

/// Operations, in the order of map.hip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Code {
    ConstF,
    ConstI,
    NegF,
    AbsF,
    SignF,
    Exp,
    Log,
    Sqrt,
    Rsqrt,
    Reciprocal,
    Sin,
    Cos,
    Tan,
    Tanh,
    Sigmoid,
    Silu,
    Erf,
    Gelu,
    GeluTanh,
    ReluF,
    Softplus,
    Softsign,
    HardSwish,
    Mish,
    Floor,
    Ceil,
    Round,
    IsNan,
    IsInf,
    NegI,
    AbsI,
    SignI,
    NotB,
    BitNot,
    ReluI,
    AddF,
    SubF,
    MulF,
    DivF,
    PowF,
    MinF,
    MaxF,
    FmodF,
    ModF,
    AddI,
    SubI,
    MulI,
    MinI,
    MaxI,
    BitAnd,
    BitOr,
    BitXor,
    EqF,
    NeF,
    LtF,
    LeF,
    GtF,
    GeF,
    EqI,
    NeI,
    LtI,
    LeI,
    GtI,
    GeI,
    Select,
    FToI,
    FToI32,
    IToF,
    FToB,
    IToB,
    WrapI32,
    WrapU8,
}

/// A program.
pub(super) struct Program {
    inputs: usize,
    /// Operation and registers, and a constant's bits.
    steps: Vec<[u32; 2]>,
    /// Of operands, then of the result.
    types: Vec<u32>,
}

/// How memory of this type becomes a register.
fn load(dtype: DType) -> Result<u32, &'static str> {
    Ok(match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        DType::I64 => 3,
        DType::I32 => 4,
        DType::U8 | DType::Bool => 5,
        _ => return Err("the kernel does not take its element type"),
    })
}

impl Program {
    pub(super) fn of(expr: &ScalarExpr, inputs: &[DType], out: DType) -> Result<Program, &'static str> {
        let results = expr.types(inputs).map_err(|_| "its element types are mixed")?;
        if results.last() != Some(&out) {
            return Err("its element types are mixed");
        }
        let types = inputs.iter().chain([&out]).map(|d| load(*d)).collect::<Result<Vec<u32>, _>>()?;
        let mut program = Program { inputs: inputs.len(), steps: vec![], types };
        // The register of each step of the expression.
        let mut registers: Vec<usize> = vec![];
        for (step, dtype) in expr.steps().iter().zip(&results) {
            load(*dtype)?;
            let register = |a: Arg| match a {
                Arg::Input(n) => n,
                Arg::Step(s) => registers[s],
            };
            let of = |a: Arg| match a {
                Arg::Input(n) => inputs[n],
                Arg::Step(s) => results[s],
            };
            let args: Vec<usize> = step.args().iter().map(|a| register(*a)).collect();
            let made = match *step {
                Step::Constant(dtype, v) if dtype.is_float() => program.constant(Code::ConstF, (v as f32).to_bits()),
                Step::Constant(_, v) => {
                    let exact = v as i32;
                    if f64::from(exact) != v {
                        return Err("a constant does not fit 32 bits");
                    }
                    program.constant(Code::ConstI, exact as u32)
                }
                Step::Unary(f, a) => program.push(unary(f, of(a))?, &args),
                Step::Binary(f, a, _) => program.push(binary(f, of(a))?, &args),
                Step::Compare(f, a, _) => program.push(compare(f, of(a)), &args),
                Step::Select(..) => program.push(Code::Select, &args),
                Step::Cast(to, a) => program.cast(of(a), to, args[0]),
            };
            let wraps = matches!(step, Step::Unary(..) | Step::Binary(..));
            registers.push(if wraps { program.wrapped(*dtype, made) } else { made });
        }
        // The value is what the last step leaves.
        let last = registers.last().copied().ok_or("it has no step")?;
        if program.steps.is_empty() || last != program.inputs + program.steps.len() - 1 {
            program.push(Code::BitOr, &[last, last]);
        }
        if program.steps.len() > MOST_STEPS {
            return Err("its expression has too many steps for the interpreter");
        }
        Ok(program)
    }

    fn push(&mut self, code: Code, args: &[usize]) -> usize {
        let register = |i: usize| args.get(i).map_or(0, |r| *r as u32);
        self.steps.push([code as u32 | register(0) << 8 | register(1) << 16 | register(2) << 24, 0]);
        self.inputs + self.steps.len() - 1
    }

    fn constant(&mut self, code: Code, bits: u32) -> usize {
        let register = self.push(code, &[]);
        self.steps[register - self.inputs][1] = bits;
        register
    }

    fn cast(&mut self, from: DType, to: DType, a: usize) -> usize {
        match (from.is_float(), to) {
            // Floats are not rounded inside an expression; the last one is when it is stored.
            (true, d) if d.is_float() => a,
            (true, DType::Bool) => self.push(Code::FToB, &[a]),
            (true, DType::I32) => self.push(Code::FToI32, &[a]),
            (true, DType::U8) => {
                let wide = self.push(Code::FToI32, &[a]);
                let (low, high) = (self.constant(Code::ConstI, 0), self.constant(Code::ConstI, 255));
                let above = self.push(Code::MaxI, &[wide, low]);
                self.push(Code::MinI, &[above, high])
            }
            (true, _) => self.push(Code::FToI, &[a]),
            (false, d) if d.is_float() => self.push(Code::IToF, &[a]),
            (false, DType::Bool) => self.push(Code::IToB, &[a]),
            (false, d) => self.wrapped(d, a),
        }
    }

    /// Integers wrap to their type after every step.
    fn wrapped(&mut self, dtype: DType, a: usize) -> usize {
        match dtype {
            DType::I32 => self.push(Code::WrapI32, &[a]),
            DType::U8 => self.push(Code::WrapU8, &[a]),
            _ => a,
        }
    }

    /// As the kernel takes it.
    pub(super) fn words(&self) -> [u32; 75] {
        let mut words = [0; 75];
        words[0] = self.inputs as u32;
        words[1] = self.steps.len() as u32;
        words[2] = self.types[self.inputs];
        words[3..3 + self.inputs].copy_from_slice(&self.types[..self.inputs]);
        for (i, step) in self.steps.iter().enumerate() {
            words[11 + 2 * i..13 + 2 * i].copy_from_slice(step);
        }
        words
    }
}

fn unary(f: UnaryFn, of: DType) -> Result<Code, &'static str> {
    let float = of.is_float();
    Ok(match f {
        UnaryFn::Neg if float => Code::NegF,
        UnaryFn::Abs if float => Code::AbsF,
        UnaryFn::Sign if float => Code::SignF,
        UnaryFn::Relu if float => Code::ReluF,
        UnaryFn::Floor if float => Code::Floor,
        UnaryFn::Ceil if float => Code::Ceil,
        UnaryFn::Round if float => Code::Round,
        UnaryFn::Neg => Code::NegI,
        UnaryFn::Abs => Code::AbsI,
        UnaryFn::Sign => Code::SignI,
        UnaryFn::Relu => Code::ReluI,
        UnaryFn::Not => Code::NotB,
        UnaryFn::BitNot => Code::BitNot,
        UnaryFn::Floor | UnaryFn::Ceil | UnaryFn::Round => return Err("an integer has nothing to round"),
        UnaryFn::Exp => Code::Exp,
        UnaryFn::Log => Code::Log,
        UnaryFn::Sqrt => Code::Sqrt,
        UnaryFn::Rsqrt => Code::Rsqrt,
        UnaryFn::Reciprocal => Code::Reciprocal,
        UnaryFn::Sin => Code::Sin,
        UnaryFn::Cos => Code::Cos,
        UnaryFn::Tan => Code::Tan,
        UnaryFn::Tanh => Code::Tanh,
        UnaryFn::Sigmoid => Code::Sigmoid,
        UnaryFn::Silu => Code::Silu,
        UnaryFn::Erf => Code::Erf,
        UnaryFn::Gelu => Code::Gelu,
        UnaryFn::GeluTanh => Code::GeluTanh,
        UnaryFn::Softplus => Code::Softplus,
        UnaryFn::Softsign => Code::Softsign,
        UnaryFn::HardSwish => Code::HardSwish,
        UnaryFn::Mish => Code::Mish,
        UnaryFn::IsNan => Code::IsNan,
        UnaryFn::IsInf => Code::IsInf,
        UnaryFn::Asin
        | UnaryFn::Acos
        | UnaryFn::Atan
        | UnaryFn::Sinh
        | UnaryFn::Cosh
        | UnaryFn::Asinh
        | UnaryFn::Acosh
        | UnaryFn::Atanh => return Err("the kernel does not have its function"),
    })
}

fn binary(f: BinaryFn, of: DType) -> Result<Code, &'static str> {
    let float = of.is_float();
    Ok(match f {
        BinaryFn::Add if float => Code::AddF,
        BinaryFn::Sub if float => Code::SubF,
        BinaryFn::Mul if float => Code::MulF,
        BinaryFn::Div if float => Code::DivF,
        BinaryFn::Pow if float => Code::PowF,
        BinaryFn::Min if float => Code::MinF,
        BinaryFn::Max if float => Code::MaxF,
        BinaryFn::Mod if float => Code::ModF,
        BinaryFn::Fmod if float => Code::FmodF,
        BinaryFn::Add => Code::AddI,
        BinaryFn::Sub => Code::SubI,
        BinaryFn::Mul => Code::MulI,
        BinaryFn::Min => Code::MinI,
        BinaryFn::Max => Code::MaxI,
        BinaryFn::And | BinaryFn::BitAnd => Code::BitAnd,
        BinaryFn::Or | BinaryFn::BitOr => Code::BitOr,
        BinaryFn::Xor | BinaryFn::BitXor => Code::BitXor,
        BinaryFn::Div | BinaryFn::Mod | BinaryFn::Fmod | BinaryFn::Pow => {
            return Err("integers are divided on the host, where a zero is an error");
        }
        BinaryFn::ShiftLeft | BinaryFn::ShiftRight => return Err("the kernel does not have its function"),
    })
}

fn compare(f: CompareFn, of: DType) -> Code {
    match (f, of.is_float()) {
        (CompareFn::Eq, true) => Code::EqF,
        (CompareFn::Ne, true) => Code::NeF,
        (CompareFn::Lt, true) => Code::LtF,
        (CompareFn::Le, true) => Code::LeF,
        (CompareFn::Gt, true) => Code::GtF,
        (CompareFn::Ge, true) => Code::GeF,
        (CompareFn::Eq, false) => Code::EqI,
        (CompareFn::Ne, false) => Code::NeI,
        (CompareFn::Lt, false) => Code::LtI,
        (CompareFn::Le, false) => Code::LeI,
        (CompareFn::Gt, false) => Code::GtI,
        (CompareFn::Ge, false) => Code::GeI,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_kernel() {
        let source = kernels::source("map", kernels::Source::Simulator).unwrap();
        let list = source.split("enum {\n  CONST_F").nth(1).unwrap().split("};").next().unwrap();
        let names: Vec<String> = format!("CONST_F{list}")
            .split(',')
            .map(|n| n.trim().replace('_', "").to_lowercase())
            .filter(|n| !n.is_empty())
            .collect();
        assert_eq!(names.len(), Code::WrapU8 as usize + 1);
        for code in [Code::ConstI, Code::Round, Code::BitNot, Code::ModF, Code::BitXor, Code::GeI, Code::IToB] {
            assert_eq!(names[code as usize], format!("{code:?}").to_lowercase());
        }
    }
}
