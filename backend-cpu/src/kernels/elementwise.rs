//! Runs a fused elementwise expression block by block, so that a chain of operations reads memory once.
//!
//! A [`Program`] is a list of scalar instructions over slots: the first slots are the inputs, each instruction adds
//! one. `x * sigmoid(1.702 * x) + r` is
//!
//! ```
//! use backend_cpu::kernels::element::Element::F32;
//! use backend_cpu::kernels::elementwise::{BinaryFn, Constant, Instr, Operand, Program, Slot, UnaryFn};
//! let program = Program::new(
//!     &[F32, F32],
//!     &[
//!         Instr::Const(Constant::F32(1.702)),             // slot 2
//!         Instr::Binary(BinaryFn::Mul, Slot(0), Slot(2)), // slot 3
//!         Instr::Unary(UnaryFn::Sigmoid, Slot(3)),
//!         Instr::Binary(BinaryFn::Mul, Slot(0), Slot(4)),
//!         Instr::Binary(BinaryFn::Add, Slot(5), Slot(1)),
//!     ],
//!     Slot(6),
//!     F32,
//! )?;
//! let (x, r, mut y) = ([1f32, 2.0], [0.5f32], [0f32; 2]);
//! let operands = [Operand::new(bytemuck::bytes_of(&x), &[1]), Operand::new(bytemuck::bytes_of(&r), &[0])];
//! let mut scratch = vec![0; program.scratch_words()];
//! program.run(&[2], &operands, bytemuck::bytes_of_mut(&mut y), 0, &mut scratch);
//! assert!((y[0] - 1.3458).abs() < 1e-3);
//! # Ok::<(), backend_cpu::kernels::elementwise::ProgramError>(())
//! ```
//!
//! Each instruction is a vectorised loop over blocks of [`BLOCK`] elements that stay in the first-level cache.
//! Operands are read through strides, so broadcasting and views need no copy.

mod convert;
mod f32_loops;
mod functions;
mod program;
mod run;
mod wide_loops;

pub use convert::cast;
pub use functions::{BinaryFn, CompareFn, UnaryFn};
pub use program::{Constant, Instr, Program, ProgramError, Register, Slot};
pub use run::Operand;

/// Elements that one instruction handles at a time.
pub const BLOCK: usize = 512;

/// Inputs that a program may have.
pub const MAX_INPUTS: usize = 16;

/// Applies a function with a float result in place.
pub(crate) fn map_in_place(f: UnaryFn, y: &mut [f32]) {
    let mut x = [0f32; 256];
    for y in y.chunks_mut(x.len()) {
        let x = &mut x[..y.len()];
        x.copy_from_slice(y);
        f32_loops::unary(f, x, y);
    }
}

#[cfg(test)]
mod tests;
