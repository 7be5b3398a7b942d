//! Weights of 2, 4 or 8 bits as the kernels of hip/packed.h take them: codes, scales and zero points behind one another among the
//! operands of a node.

use super::{Memory, Types, element, input};
use ir::DType;
use kernels::Element;

/// Blocks hold at least so many inputs.
const LEAST_BLOCK: i64 = 16;

/// A packed weight of a node.
pub(super) struct Packed {
    /// The operand that holds the codes.
    at: usize,
    bits: i64,
    /// The order of hip/packed.h: f32, f16, bf16.
    scale_kind: i64,
    /// The order of hip/packed.h: none, packed, floats.
    zero_kind: i64,
}

/// A row of a packed weight, as numbers of a call.
#[derive(PartialEq)]
pub(super) struct Row {
    pub(super) bits: i64,
    pub(super) bytes: i64,
    pub(super) blocks: i64,
    /// A block holds `1 << shift` inputs.
    pub(super) shift: i64,
    pub(super) scale_kind: i64,
    pub(super) zero_kind: i64,
}

impl Row {
    /// Whether codes become factors of matrix instructions in registers, for rows of `k` elements of type `x`.
    pub(super) fn in_registers(&self, x: Element, k: i64) -> bool {
        let f16 = x == Element::F16 && self.scale_kind == 1;
        f16 && self.bits == 4 && self.zero_kind <= 1 && k % 128 == 0 && self.shift >= 5 && self.bytes % 16 == 0
    }
}

impl Packed {
    /// The weight whose codes, scales and zero points are operands `at`, `at + 1` and `at + 2`.
    pub(super) fn new(types: &Types<'_>, at: usize, bits: i64) -> Result<Packed, &'static str> {
        let scales = types.input(at + 1).ok_or("an operand is missing")?.dtype;
        let scale_kind = match element(scales)? {
            Element::F32 => 0,
            Element::F16 => 1,
            Element::BF16 => 2,
            _ => return Err("its scales are not f32, f16 or bf16"),
        };
        let zero_kind = match types.input(at + 2).map(|t| t.dtype) {
            None => 0,
            Some(DType::U8) => 1,
            Some(zeros) if zeros == scales => 2,
            Some(_) => return Err("its zero points are neither packed nor of the type of its scales"),
        };
        Ok(Packed { at, bits, scale_kind, zero_kind })
    }

    /// A row of `bytes` bytes, `blocks` blocks of `block` inputs.
    pub(super) fn row(&self, bytes: i64, blocks: i64, block: i64) -> Row {
        // One block is the whole row, however long it is.
        let shift = if blocks == 1 { 31 } else { i64::from(block.trailing_zeros()) };
        let Packed { bits, scale_kind, zero_kind, .. } = *self;
        Row { bits, bytes, blocks, shift, scale_kind, zero_kind }
    }

    /// Codes, scales and zero points. Those that are not there point at the codes, of which nothing is read for them.
    pub(super) fn memory(&self) -> [Memory; 3] {
        let zeros = if self.zero_kind == 0 { self.at } else { self.at + 2 };
        [self.at, self.at + 1, zeros].map(input)
    }

    /// Whether scales fit elements of type `x`, so that weights may be rounded to it.
    pub(super) fn fits(&self, x: Element) -> bool {
        x == Element::BF16 || x == Element::F16 && self.scale_kind == 1
    }
}

/// Fails unless kernels find the block of an input by a shift.
pub(super) fn blocks_fit(blocks: i64, block: i64) -> Result<(), &'static str> {
    match blocks == 1 || block >= LEAST_BLOCK && block & (block - 1) == 0 {
        true => Ok(()),
        false => Err("the inputs that share a scale are no power of two from 16 on"),
    }
}
