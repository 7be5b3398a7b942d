//! Runs an elementwise program over a range of its output, one block after the other.

use bytemuck::{AnyBitPattern, NoUninit, cast_slice as view, cast_slice_mut as view_mut};

use super::program::{Constant, Instr, Program, Register, Slot, Step};
use super::{BLOCK, MAX_INPUTS, UnaryFn, cast, f32_loops, wide_loops};
use crate::kernels::dims::{Dims, Walk, merge};
use crate::kernels::element::Element;

/// An input of a run: its bytes and, per dimension of the output, the stride in elements with which it is read.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    bytes: &'a [u8],
    strides: &'a [usize],
}

impl<'a> Operand<'a> {
    /// `bytes` are aligned for the element type; `strides` has one entry per dimension of the output, 0 where the
    /// operand repeats.
    pub fn new(bytes: &'a [u8], strides: &'a [usize]) -> Self {
        Operand { bytes, strides }
    }
}

/// How the blocks of an operand are found.
enum Access<'a> {
    /// In place: dense, and stored in the register's type.
    Direct,
    /// One element for the whole run, already spread over the operand's buffer.
    Filled,
    /// Copied into the operand's buffer, converted on the way.
    Walked(Walk<'a, 1>),
}

/// Where the values of a block are.
struct Views<'v> {
    program: &'v Program,
    /// Buffers below and above the one being written.
    below: &'v [u64],
    above: &'v [u64],
    written: usize,
    direct: &'v [Option<&'v [u8]>; MAX_INPUTS],
    len: usize,
}

impl<'v> Views<'v> {
    fn get<T: AnyBitPattern + NoUninit>(&self, slot: Slot) -> &'v [T] {
        if let Some(Some(bytes)) = self.direct.get(slot.0).filter(|_| slot.0 < self.program.inputs.len()) {
            return view(bytes);
        }
        let words = self.program.buffer_words;
        let buffer = self.program.buffers[slot.0];
        let start = if buffer < self.written {
            &self.below[buffer * words..][..words]
        } else {
            &self.above[(buffer - self.written - 1) * words..][..words]
        };
        &view(start)[..self.len]
    }
}

impl Program {
    /// Computes the output elements from row-major position `start` on, as many as `out` holds.
    ///
    /// `dims` is the shape of the whole output, `operands` are in the order of the program's inputs, and `scratch` has
    /// [`Program::scratch_words`] words. Ranges of one output may run on several threads, each with its own scratch.
    ///
    /// # Panics
    /// When the number of operands or a length contradicts the program: callers have typed them.
    pub fn run(&self, dims: &[usize], operands: &[Operand<'_>], out: &mut [u8], start: usize, scratch: &mut [u64]) {
        assert_eq!(operands.len(), self.inputs.len(), "one operand per input");
        let (buffers, staging) = scratch.split_at_mut(self.buffer_count * self.buffer_words);
        let (staging, _) = staging.split_at_mut(BLOCK);
        for &(slot, constant) in &self.constants {
            fill(constant, self.buffer_mut(buffers, slot));
        }
        let merged: [(Dims, [Dims; 1]); MAX_INPUTS] = std::array::from_fn(|i| match operands.get(i) {
            Some(operand) => merge(dims, [operand.strides]),
            None => (Dims::new(), [Dims::new()]),
        });
        let mut accesses: [Access<'_>; MAX_INPUTS] = std::array::from_fn(|i| match operands.get(i) {
            Some(operand) => self.access(i, operand, &merged[i], start, buffers, staging),
            None => Access::Filled,
        });

        let bytes = self.output_element.bytes();
        let mut at = start;
        for block in out.chunks_mut(BLOCK * bytes) {
            let len = block.len() / bytes;
            let mut direct = [None; MAX_INPUTS];
            for (i, operand) in operands.iter().enumerate() {
                let element = self.inputs[i];
                match &mut accesses[i] {
                    Access::Direct => direct[i] = Some(&operand.bytes[at * element.bytes()..][..len * element.bytes()]),
                    Access::Filled => {}
                    Access::Walked(walk) => {
                        direct[i] = self.load(i, operand, walk, len, buffers, staging);
                    }
                }
            }
            self.block(len, &direct, buffers, block);
            at += len;
        }
    }

    fn buffer_mut<'b>(&self, buffers: &'b mut [u64], slot: usize) -> &'b mut [u64] {
        &mut buffers[self.buffers[slot] * self.buffer_words..][..self.buffer_words]
    }

    fn access<'a>(
        &self,
        input: usize,
        operand: &Operand<'_>,
        (dims, [strides]): &'a (Dims, [Dims; 1]),
        start: usize,
        buffers: &mut [u64],
        staging: &mut [u64],
    ) -> Access<'a> {
        let element = self.inputs[input];
        let native = element == self.registers[input].element();
        if dims.len() == 1 && strides[0] == 1 && native {
            return Access::Direct;
        }
        let mut walk = Walk::new(dims, [strides], start);
        if dims.len() == 1 && strides[0] == 0 && dims[0] > 0 {
            // One element: load a block of it once. The walk may be shorter than a block, the buffer is not.
            let repeated = [BLOCK];
            let mut forever = Walk::new(&repeated, [&[0]], 0);
            self.load(input, operand, &mut forever, BLOCK, buffers, staging);
            return Access::Filled;
        }
        if dims[0] == 0 {
            walk = Walk::new(dims, [strides], 0);
        }
        Access::Walked(walk)
    }

    /// Brings the next `len` elements of an operand into its buffer, or returns them where they lie.
    fn load<'a>(
        &self,
        input: usize,
        operand: &Operand<'a>,
        walk: &mut Walk<'_, 1>,
        len: usize,
        buffers: &mut [u64],
        staging: &mut [u64],
    ) -> Option<&'a [u8]> {
        let element = self.inputs[input];
        let register = self.registers[input].element();
        let size = element.bytes();
        let stride = walk.inner_stride();
        if stride == 1 && walk.inner_left() >= len {
            let bytes = &operand.bytes[walk.offsets[0] * size..][..len * size];
            walk.skip_inner(len);
            if element == register {
                return Some(bytes);
            }
            let buffer = view_mut(self.buffer_mut(buffers, input));
            cast(element, bytes, register, &mut buffer[..len * register.bytes()]);
            return None;
        }
        let native = element == register;
        let gathered = if native { self.buffer_mut(buffers, input) } else { &mut *staging };
        match size {
            1 => gather::<u8>(operand.bytes, walk, &mut view_mut(gathered)[..len]),
            2 => gather::<u16>(view(operand.bytes), walk, &mut view_mut(gathered)[..len]),
            4 => gather::<u32>(view(operand.bytes), walk, &mut view_mut(gathered)[..len]),
            _ => gather::<u64>(view(operand.bytes), walk, &mut gathered[..len]),
        }
        if !native {
            let buffer = view_mut(self.buffer_mut(buffers, input));
            let from = &view::<u64, u8>(staging)[..len * size];
            cast(element, from, register, &mut buffer[..len * register.bytes()]);
        }
        None
    }

    /// Runs every instruction on one block and stores the result in `out`.
    fn block(&self, len: usize, direct: &[Option<&[u8]>; MAX_INPUTS], buffers: &mut [u64], out: &mut [u8]) {
        let words = self.buffer_words;
        for (i, step) in self.steps.iter().enumerate() {
            if self.writes_output && i + 1 == self.steps.len() {
                let views = Views { program: self, below: buffers, above: &[], written: usize::MAX, direct, len };
                self.execute(step, &views, out);
                return;
            }
            let written = self.buffers[step.slot];
            let (below, rest) = buffers.split_at_mut(written * words);
            let (target, above) = rest.split_at_mut(words);
            let target = &mut view_mut(target)[..len * self.registers[step.slot].element().bytes()];
            self.execute(step, &Views { program: self, below, above, written, direct, len }, target);
        }
        let views = Views { program: self, below: buffers, above: &[], written: usize::MAX, direct, len };
        let register = self.registers[self.output].element();
        match register.bytes() {
            1 => cast(register, views.get::<u8>(Slot(self.output)), self.output_element, out),
            4 => cast(register, view(views.get::<u32>(Slot(self.output))), self.output_element, out),
            _ => cast(register, view(views.get::<u64>(Slot(self.output))), self.output_element, out),
        }
    }

    fn execute(&self, step: &Step, v: &Views<'_>, y: &mut [u8]) {
        let register = |slot: Slot| self.registers[slot.0];
        match step.instr {
            Instr::Unary(f @ (UnaryFn::IsNan | UnaryFn::IsInf { .. }), x) => match register(x) {
                Register::F64 => wide_loops::test_f64(f, v.get(x), y),
                _ => f32_loops::test(f, v.get(x), y),
            },
            Instr::Unary(f, x) => match register(x) {
                Register::F32 => f32_loops::unary(f, v.get(x), view_mut(y)),
                Register::F64 => wide_loops::unary_f64(f, v.get(x), view_mut(y)),
                Register::I64 => wide_loops::unary_i64(f, v.get(x), view_mut(y)),
                Register::I32 => wide_loops::unary_i32(f, v.get(x), view_mut(y)),
                Register::Bool => y.iter_mut().zip(v.get::<u8>(x)).for_each(|(y, x)| *y = (*x == 0) as u8),
            },
            Instr::Binary(f, a, b) => match register(a) {
                Register::F32 => f32_loops::binary(f, v.get(a), v.get(b), view_mut(y)),
                Register::F64 => wide_loops::binary_f64(f, v.get(a), v.get(b), view_mut(y)),
                Register::I64 => wide_loops::binary_i64(f, v.get(a), v.get(b), view_mut(y)),
                Register::I32 => wide_loops::binary_i32(f, v.get(a), v.get(b), view_mut(y)),
                Register::Bool => wide_loops::binary_bool(f, v.get(a), v.get(b), y),
            },
            Instr::Compare(f, a, b) => match register(a) {
                Register::F32 => f32_loops::compare(f, v.get(a), v.get(b), y),
                Register::F64 => wide_loops::compare::<f64>(f, v.get(a), v.get(b), y),
                Register::I64 => wide_loops::compare::<i64>(f, v.get(a), v.get(b), y),
                Register::I32 => wide_loops::compare::<i32>(f, v.get(a), v.get(b), y),
                Register::Bool => wide_loops::compare::<u8>(f, v.get(a), v.get(b), y),
            },
            Instr::Select { condition, yes, no } => match register(yes) {
                Register::F32 | Register::I32 => {
                    f32_loops::select(v.get(condition), v.get(yes), v.get(no), view_mut(y));
                }
                Register::F64 | Register::I64 => {
                    wide_loops::select::<u64>(v.get(condition), v.get(yes), v.get(no), view_mut(y));
                }
                Register::Bool => wide_loops::select::<u8>(v.get(condition), v.get(yes), v.get(no), y),
            },
            Instr::Cast(to, x) => convert(v, x, register(x).element(), to.element(), y),
            Instr::Narrow(element, x) => narrow(v, x, register(x), element, y),
            Instr::Const(_) => unreachable!("constants are written once per run"),
        }
    }
}

fn convert(v: &Views<'_>, x: Slot, from: Element, to: Element, y: &mut [u8]) {
    match from.bytes() {
        1 => cast(from, v.get::<u8>(x), to, y),
        4 => cast(from, view(v.get::<u32>(x)), to, y),
        _ => cast(from, view(v.get::<u64>(x)), to, y),
    }
}

/// To the narrower type and back, a few elements at a time.
fn narrow(v: &Views<'_>, x: Slot, register: Register, element: Element, y: &mut [u8]) {
    let wide = register.element();
    convert(v, x, wide, wide, y);
    let mut narrowed = [0u64; 64];
    for chunk in y.chunks_mut(64 * wide.bytes()) {
        let bytes = chunk.len() / wide.bytes() * element.bytes();
        let narrowed = &mut view_mut(&mut narrowed)[..bytes];
        cast(wide, chunk, element, narrowed);
        cast(element, narrowed, wide, chunk);
    }
}

fn fill(constant: Constant, buffer: &mut [u64]) {
    match constant {
        Constant::F32(x) => view_mut(buffer).fill(x),
        Constant::F64(x) => view_mut(buffer).fill(x),
        Constant::I64(x) => view_mut(buffer).fill(x),
        Constant::I32(x) => view_mut(buffer).fill(x),
        Constant::Bool(x) => view_mut::<u64, u8>(buffer).fill(x as u8),
    }
}

/// Copies the elements at the walk's next positions.
fn gather<T: Copy>(from: &[T], walk: &mut Walk<'_, 1>, to: &mut [T]) {
    let stride = walk.inner_stride();
    let mut done = 0;
    while done < to.len() {
        let count = walk.inner_left().min(to.len() - done);
        let (target, offset) = (&mut to[done..done + count], walk.offsets[0]);
        match stride {
            0 => target.fill(from[offset]),
            1 => target.copy_from_slice(&from[offset..offset + count]),
            _ => {
                for (i, t) in target.iter_mut().enumerate() {
                    *t = from[offset + i * stride];
                }
            }
        }
        walk.skip_inner(count);
        done += count;
    }
}
