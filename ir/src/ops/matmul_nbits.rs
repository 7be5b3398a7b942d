use super::operand::{ensure, floats, optional, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `matmul_nbits(x, w, scales, zero_points?, groups?, bias?) {bits, block, n, k, accuracy_level?}`: `x[.., k] * dequantised w[n, k]^T + bias[n]`.
    ///
    /// `w` is u8 `[n, blocks, block * bits / 8]`, low bits first, `blocks = ceil(k / block)`; `scales` holds `n * blocks` floats.
    /// An element is `(code - zero) * scale`; zero is `2^(bits-1)`, or from `zero_points`: floats like the scales, or u8 packed
    /// like `w`, each row starting at a byte. `groups[k]` names the block of each column where they are not in order.
    ///
    /// `accuracy_level` is the least accuracy that the model asks for, as in ONNX Runtime: none or 0 and 1 are f32, 2 f16, 3 bf16. At 4 a
    /// backend may round each block of a row of `x` to 8 bits, symmetrically, and multiply integers; more accurate is always right.
    pub struct MatMulNBits { bits: i64, block: i64, n: i64, k: i64, accuracy_level: Option<i64> }
}

impl MatMulNBits {
    /// Blocks per row.
    pub fn blocks(&self) -> usize {
        (self.k as usize).div_ceil(self.block as usize)
    }

    pub(super) fn check(&self) -> Result<(), TypeError> {
        let fits = matches!(self.bits, 2 | 4 | 8)
            && self.block > 0
            && self.block * self.bits % 8 == 0
            && self.n > 0
            && self.k > 0;
        if let Some(level) = self.accuracy_level.filter(|level| !(0..=4).contains(level)) {
            return Err(TypeError::Invalid(format!("accuracy_level {level} is not one of 0 to 4")));
        }
        let found = format!("bits {}, block {}, n {}, k {}", self.bits, self.block, self.n, self.k);
        if fits { Ok(()) } else { Err(TypeError::Invalid(format!("{found} is not a packed weight"))) }
    }

    /// The weight as floats, row-major `[n, k]`.
    pub fn dequantize(&self, operands: &[&Datum]) -> Result<Vec<f64>, EvalError> {
        self.check().map_err(super::operand::invalid)?;
        let (n, k, blocks, bits) = (self.n as usize, self.k as usize, self.blocks(), self.bits as usize);
        let (w, scales) = (tensor(Self::NAME, operands, 1)?, tensor(Self::NAME, operands, 2)?.to_f64()?);
        let row_bytes = blocks * self.block as usize * bits / 8;
        ensure(w.bytes().len() == n * row_bytes && scales.len() == n * blocks, || {
            "the packed weight has the wrong size".into()
        })?;
        let code = |bytes: &[u8], i: usize| (bytes[i * bits / 8] >> (i * bits % 8)) as u32 & ((1u32 << bits) - 1);
        let zero_row = (blocks * bits).div_ceil(8);
        let zeros: Vec<f64> = match optional(operands, 3) {
            None => vec![f64::from(1u32 << (bits - 1)); n * blocks],
            Some(z) if z.dtype().is_float() => z.to_f64()?,
            Some(z) => {
                ensure(z.bytes().len() == n * zero_row, || "the packed zero points have the wrong size".into())?;
                let row =
                    |r: usize| (0..blocks).map(move |b| f64::from(code(&z.bytes()[r * zero_row..][..zero_row], b)));
                (0..n).flat_map(row).collect()
            }
        };
        ensure(zeros.len() == n * blocks, || "one zero point per block is needed".into())?;
        let groups: Vec<usize> = match optional(operands, 4) {
            None => (0..k).map(|i| i / self.block as usize).collect(),
            Some(g) => g.to_i64()?.into_iter().map(|g| g as usize).collect(),
        };
        ensure(groups.len() >= k && groups.iter().all(|g| *g < blocks), || {
            "a column names a block that is not there".into()
        })?;
        let row = |r: usize| {
            let bytes = &w.bytes()[r * row_bytes..][..row_bytes];
            let (scales, zeros, groups) = (&scales[r * blocks..], &zeros[r * blocks..], &groups);
            (0..k).map(move |i| (f64::from(code(bytes, i)) - zeros[groups[i]]) * scales[groups[i]])
        };
        Ok((0..n).flat_map(row).collect())
    }

    /// Whether `x` may be rounded to 8 bits, block by block.
    pub fn rounds_rows(&self) -> bool {
        self.accuracy_level == Some(4)
    }

    /// By how much each element of the result may be off for rounded rows: half a step, 1/254 of the largest of a block of `x`, times the
    /// sum of the magnitudes of the weights that meet the block. Nothing where rows are not rounded, or not finite.
    pub fn rounding(&self, operands: &[&Datum]) -> Result<Vec<f64>, EvalError> {
        let (x, w) = (tensor(Self::NAME, operands, 0)?.to_f64()?, self.dequantize(operands)?);
        let (k, block) = (self.k as usize, self.block as usize);
        let largest = |x: &[f64]| x.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let bound = |x: &[f64], w: &[f64]| -> f64 {
            let blocks = x.chunks(block).zip(w.chunks(block));
            blocks.map(|(x, w)| largest(x) / 254.0 * w.iter().map(|w| w.abs()).sum::<f64>()).sum()
        };
        let rounds = |row: &[f64]| self.rounds_rows() && row.iter().all(|x| x.is_finite());
        let row = |row: &[f64]| -> Vec<f64> {
            w.chunks_exact(k).map(|w| if rounds(row) { bound(row, w) } else { 0.0 }).collect()
        };
        Ok(x.chunks_exact(k).flat_map(row).collect())
    }

    /// The result before it is rounded.
    pub(super) fn products(&self, operands: &[&Datum]) -> Result<Vec<f64>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let (n, k) = (self.n as usize, self.k as usize);
        ensure(x.dims().last() == Some(&k), || format!("rows of {:?} are not {k} long", x.dims()))?;
        let (w, bias, xs) = (self.dequantize(operands)?, floats(operands, 5)?, x.to_f64()?);
        let mut y = Vec::with_capacity(xs.len() / k * n);
        for row in xs.chunks_exact(k) {
            let products = w.chunks_exact(k).map(|w| w.iter().zip(row).map(|(a, b)| a * b).sum::<f64>());
            y.extend(products.enumerate().map(|(j, v)| v + bias.as_ref().map_or(0.0, |b| b[j])));
        }
        Ok(y)
    }
}

impl OpSpec for MatMulNBits {
    const NAME: &'static str = "matmul_nbits";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[B, S, 40], %w: u8[6, 3, 8], %ws: f32[18]) { %y = matmul_nbits(%x, %w, %ws) {bits = 4, block = 16, n = 6, k = 40} return %y }",
        "graph @g(%x: f32[B, 32], %w: u8[5, 2, 16], %ws: f32[10], %wz: u8[10], %b: f32[5]) { %y = matmul_nbits(%x, %w, %ws, %wz, _, %b) {bits = 8, block = 16, n = 5, k = 32} return %y }",
        "graph @g(%x: f32[B, 48], %w: u8[5, 3, 4], %ws: f16[15], %wz: u8[5]) { %y = matmul_nbits(%x, %w, %ws, %wz) {bits = 2, block = 16, n = 5, k = 48} return %y }",
        "graph @g(%x: f16[B, 48], %w: u8[5, 2, 16], %ws: f16[10], %wz: f16[10]) { %y = matmul_nbits(%x, %w, %ws, %wz) {bits = 4, block = 32, n = 5, k = 48} return %y }",
        "graph @g(%x: f32[B, 32], %w: u8[5, 2, 8], %ws: f32[10]) { %y = matmul_nbits(%x, %w, %ws) {bits = 4, block = 16, n = 5, k = 32} %t = transpose(%w) {perm = [0, 2, 1]} return %y, %t }",
        "graph @g(%x: f32[B, S, 40], %w: u8[6, 3, 8], %ws: f32[18], %wz: u8[12], %b: f32[6]) { %y = matmul_nbits(%x, %w, %ws, %wz, _, %b) {bits = 4, block = 16, n = 6, k = 40, accuracy_level = 4} return %y }",
        "graph @g(%x: f32[B, 48], %w: u8[5, 2, 16], %ws: f16[10]) { %y = matmul_nbits(%x, %w, %ws) {bits = 4, block = 32, n = 5, k = 48, accuracy_level = 4} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(3, 6)?;
        self.check()?;
        let x = operands.tensor(0)?;
        if !x.dtype.is_float() || operands.dtype(1)? != DType::U8 || !operands.dtype(2)?.is_float() {
            return Err(operands.wrong(1, format!("{} is not a packed weight for {}", operands.dtype(1)?, x.dtype)));
        }
        let size = |i: usize| operands.tensor(i).ok().and_then(|t| t.shape.elements());
        let blocks = self.blocks() as i64;
        for (i, expected) in [(1, self.n * blocks * self.block * self.bits / 8), (2, self.n * blocks)] {
            if let Some(found) = size(i) {
                operands.assume_same(&found, &Dim::constant(expected))?;
            }
        }
        let shape = match x.dims() {
            Some([lead @ .., last]) => {
                operands.assume_same(last, &Dim::constant(self.k))?;
                Shape::Ranked([lead, &[Dim::constant(self.n)]].concat())
            }
            Some([]) => return Err(operands.wrong(0, "a scalar has no rows")),
            None => Shape::Unranked,
        };
        Ok(vec![TensorType { dtype: x.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let (x, y) = (tensor(Self::NAME, operands, 0)?, self.products(operands)?);
        let dims = [&x.dims()[..x.rank() - 1], &[self.n as usize]].concat();
        Ok(vec![Tensor::from_f64(x.dtype(), &dims, &y)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        let out = results[0].as_tensor().and_then(|t| t.shape.elements());
        out.map_or(Dim::constant(0), |out| out * (self.k * 2))
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}
