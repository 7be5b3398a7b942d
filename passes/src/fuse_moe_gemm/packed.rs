//! Writes quantised weights as `moe_gemm_nbits` takes them: codes without sign in the order `[E, n, k]`, low bits first, and a scale
//! for equal blocks of a row's inputs. What lies so already is read as it is; everything else becomes new constants.

use super::look::dims;
use super::quantised::{Parameters, Quantised, Zeros};
use crate::edit::Edit;
use crate::pass::Miss;
use ir::graph::Value;
use ir::{DType, Tensor};

/// Operands of `moe_gemm_nbits`.
pub(super) struct Packed {
    /// Bits of a code.
    pub bits: i64,
    pub codes: Value,
    pub scales: Value,
    /// Absent where every zero point is the middle of the codes.
    pub zeros: Value,
}

const UNKNOWN: Miss = Miss::Refused("the weights of the experts are not constants");

/// Codes of a weight in the order in which they are written.
struct Layout<'q> {
    q: &'q Quantised,
    /// Outputs and inputs of an expert.
    n: usize,
    k: usize,
    /// Whether the matrix is `[k, n]`.
    kn: bool,
    /// Bits of a code where it is written: a row ends at a byte.
    bits: usize,
    /// What is added to a code and its zero point, so that neither is negative.
    shift: i64,
    /// For each block of each row of an expert the place of its scale.
    blocks: Vec<usize>,
}

/// The operands for a weight whose matrices are `[k, n]`, or `[n, k]`, for rows of type `x`.
pub(super) fn pack(edit: &mut Edit<'_>, q: &Quantised, kn: bool, x: DType) -> Result<Packed, Miss> {
    let layout = Layout::new(q, kn)?;
    layout.check_range(edit, x)?;
    let codes = layout.codes(edit)?;
    let scales = layout.scales(edit, x)?;
    let zeros = layout.zeros(edit)?;
    Ok(Packed { bits: layout.bits as i64, codes, scales, zeros })
}

impl<'q> Layout<'q> {
    fn new(q: &'q Quantised, kn: bool) -> Result<Layout<'q>, Miss> {
        let [n, k] = if kn { [q.matrix[1], q.matrix[0]] } else { q.matrix };
        let mut bits = q.dtype.bits();
        while !(k * bits).is_multiple_of(8) {
            bits *= 2;
        }
        let signed = q.dtype.int_range().is_some_and(|(low, _)| low < 0);
        let shift = if signed { 1 << (bits - 1) } else { 0 };
        let mut layout = Layout { q, n, k, kn, bits, shift, blocks: vec![] };
        layout.blocks = layout.places(&q.scale_of()?)?;
        Ok(layout)
    }

    /// Where an element of an expert's matrix lies in memory.
    fn at(&self, row: usize, input: usize) -> usize {
        if self.kn { input * self.n + row } else { row * self.k + input }
    }

    /// The places of the scales of the largest blocks that all rows have.
    fn places(&self, scale_of: &[usize]) -> Result<Vec<usize>, Miss> {
        let scale = |row: usize, input: usize| scale_of[self.at(row, input)];
        let begins = |input: &usize| (0..self.n).any(|row| scale(row, *input) != scale(row, *input - 1));
        let block = (1..self.k).filter(begins).fold(self.k, greatest_common_divisor);
        if block == 1 && self.k > 1 {
            return Err(Miss::Refused("the inputs of quantised experts do not share scales in blocks of one size"));
        }
        Ok((0..self.n).flat_map(|row| (0..self.k).step_by(block).map(move |input| scale(row, input))).collect())
    }

    fn rows(&self) -> usize {
        self.q.experts * self.n
    }

    /// Blocks of a row.
    fn blocks_each(&self) -> usize {
        self.blocks.len() / self.n
    }

    /// Whether every weight is finite in the type of the product, if its scale is: otherwise the model multiplies by infinity.
    fn check_range(&self, edit: &Edit<'_>, x: DType) -> Result<(), Miss> {
        let Some(scales) = edit.graph.constant_of(self.q.scales.value) else { return Ok(()) };
        let largest = if x == DType::F16 { f64::from(half::f16::MAX) } else { f64::from(f32::MAX) };
        let most = ((1u32 << self.q.dtype.bits()) - 1) as f64;
        let scales = scales.to_f64().map_err(|_| UNKNOWN)?;
        let fits = scales.iter().all(|s| !s.is_finite() || s.abs() * most <= largest);
        edit.require(fits, "dequantised weights may be too large for the type of their product")
    }

    fn codes(&self, edit: &mut Edit<'_>) -> Result<Value, Miss> {
        let codes = self.q.codes;
        if self.q.dtype == DType::U8 && self.is_stored(edit, codes, !self.kn, self.k) {
            return Ok(codes);
        }
        let from = edit.graph.constant_of(codes).ok_or(UNKNOWN)?.bytes();
        let (bits, each) = (self.q.dtype.bits(), self.n * self.k);
        let whole = !self.kn && bits == self.bits;
        // The sign bit of every code in a byte.
        let signs =
            if self.shift == 0 { 0 } else { (0..8).step_by(bits).map(|low| 1u8 << (low + bits - 1)).sum::<u8>() };
        let fill = |to: &mut [u8]| {
            if whole {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from ^ signs);
                return;
            }
            for i in 0..self.rows() * self.k {
                let (row, input) = (i / self.k, i % self.k);
                let at = row / self.n * each + self.at(row % self.n, input);
                let code = (from[at * bits / 8] ^ signs) >> (at * bits % 8) & mask(bits);
                // The sign was taken off in the width of the model's codes.
                let moved = if self.shift == 0 { code } else { code + (self.shift - (1 << (bits - 1))) as u8 };
                to[i * self.bits / 8] |= moved << (i * self.bits % 8);
            }
        };
        let dims = [self.q.experts, self.n, self.k * self.bits / 8];
        Ok(edit.constant(Tensor::build(DType::U8, &dims, fill).map_err(|_| UNKNOWN)?))
    }

    fn scales(&self, edit: &mut Edit<'_>, x: DType) -> Result<Value, Miss> {
        let scales = &self.q.scales;
        let wide = edit.dtype(scales.value) == Some(DType::F32) || x != DType::F32;
        if wide && scales.own.is_some() && self.is_stored(edit, scales.value, self.in_order(), self.blocks_each()) {
            return Ok(scales.value);
        }
        let from = edit.graph.constant_of(scales.value).ok_or(UNKNOWN)?;
        let dims = [self.q.experts, self.n, self.blocks_each()];
        let picked = from.pick(&dims, &self.places_of(scales));
        let picked = match wide {
            true => picked,
            false => picked.and_then(|t| Tensor::from_f64(DType::F32, &dims, &t.to_f64()?)),
        };
        Ok(edit.constant(picked.map_err(|_| UNKNOWN)?))
    }

    fn zeros(&self, edit: &mut Edit<'_>) -> Result<Value, Miss> {
        let middle = 1 << (self.bits - 1);
        let (rows, each) = (self.rows(), self.blocks_each());
        let zeros: Vec<i64> = match &self.q.zeros {
            Zeros::All(zero) => vec![zero + self.shift; rows * each],
            Zeros::Each(given) => {
                let bytes = self.q.dtype == DType::U8 && given.own.is_some();
                let stored = bytes && self.is_stored(edit, given.value, self.in_order(), each);
                let Some(from) = edit.graph.constant_of(given.value) else {
                    return if stored { Ok(given.value) } else { Err(UNKNOWN) };
                };
                let from = from.to_i64().map_err(|_| UNKNOWN)?;
                if stored && from.iter().any(|zero| *zero != middle) {
                    return Ok(given.value);
                }
                self.places_of(given).into_iter().map(|at| from[at] + self.shift).collect()
            }
        };
        if zeros.iter().all(|zero| *zero == middle) {
            return Ok(edit.graph.absent());
        }
        let bytes = (each * self.bits).div_ceil(8);
        let fill = |to: &mut [u8]| {
            for (to, zeros) in to.chunks_exact_mut(bytes).zip(zeros.chunks_exact(each)) {
                zeros.iter().enumerate().for_each(|(i, z)| to[i * self.bits / 8] |= (*z as u8) << (i * self.bits % 8));
            }
        };
        let dims = [self.q.experts, self.n, bytes];
        Ok(edit.constant(Tensor::build(DType::U8, &dims, fill).map_err(|_| UNKNOWN)?))
    }

    /// For each block of all rows the place of its scale or zero point in a constant.
    fn places_of(&self, parameters: &Parameters) -> Vec<usize> {
        let each = parameters.own.unwrap_or(0);
        (0..self.q.experts).flat_map(|e| self.blocks.iter().map(move |at| e * each + at)).collect()
    }

    /// Whether an expert's scales lie in the order of its blocks.
    fn in_order(&self) -> bool {
        self.q.scales.own == Some(self.blocks.len()) && self.blocks.iter().enumerate().all(|(i, at)| i == *at)
    }

    /// Whether a constant in that order is `[E, n, last]`.
    fn is_stored(&self, edit: &Edit<'_>, v: Value, ordered: bool, last: usize) -> bool {
        let wanted = [self.q.experts, self.n, last];
        let same = |found: &[ir::Dim]| found.iter().map(super::look::size).eq(wanted.iter().map(|n| Some(*n)));
        ordered && dims(edit.graph, v).is_some_and(same)
    }
}

fn mask(bits: usize) -> u8 {
    ((1u16 << bits) - 1) as u8
}

fn greatest_common_divisor(mut a: usize, mut b: usize) -> usize {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}
