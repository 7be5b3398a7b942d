use super::activation::ActivationFn;
use super::linears::{joined, joined_types};
use super::matmul_nbits::MatMulNBits;
use super::operand::{ensure, tensor};
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::{TensorType, ValueType};

op! {
    /// `linears_nbits(x, residual?, w0, scales0, zeros0?, b0?, w1, ..) {bits, block, k, n}`: several linear layers of the same rows over
    /// packed weights, for devices, as `linears` is over others.
    ///
    /// Layer `i` gives what `matmul_nbits` with `n[i]` does, exact whatever its `accuracy_level` was. With `gate` there are two
    /// layers and one result, `gate(y0) * y1`, both rounded to the type of `x` before. A `residual` has the type of the only result and
    /// is added to it.
    pub struct LinearsNBits { bits: i64, block: i64, k: i64, n: Vec<i64>, gate: Option<ActivationFn> }
}

impl LinearsNBits {
    /// Where weights begin among the operands.
    pub const FIRST: usize = 2;
    /// Operands of a layer: codes, scales, zero points, bias.
    pub const EACH: usize = 4;

    /// A layer on its own.
    fn layer(&self, n: i64) -> MatMulNBits {
        MatMulNBits { bits: self.bits, block: self.block, n, k: self.k, accuracy_level: None }
    }

    /// The first operand of every layer, and its outputs.
    fn layers(&self) -> impl Iterator<Item = (usize, i64)> {
        (Self::FIRST..).step_by(Self::EACH).zip(self.n.iter().copied())
    }
}

impl OpSpec for LinearsNBits {
    const NAME: &'static str = "linears_nbits";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[B, S, 32], %w: u8[20, 2, 8], %ws: f32[40], %b: f32[20], %wk: u8[7, 2, 8], %ks: f32[14], %wv: u8[11, 2, 8], %vs: f32[22]) { %q, %k, %v = linears_nbits(%x, _, %w, %ws, _, %b, %wk, %ks, _, _, %wv, %vs, _, _) {bits = 4, block = 16, k = 32, n = [20, 7, 11]} return %q, %k, %v }",
        "graph @g(%x: f32[B, 40], %r: f32[B, 6], %w: u8[6, 3, 8], %ws: f32[18], %b: f32[6]) { %y = linears_nbits(%x, %r, %w, %ws, _, %b) {bits = 4, block = 16, k = 40, n = [6]} return %y }",
        "graph @g(%x: f16[B, 48], %w: u8[18, 2, 16], %ws: f16[36], %wz: u8[18], %wu: u8[18, 2, 16], %us: f16[36], %uz: u8[18]) { %y = linears_nbits(%x, _, %w, %ws, %wz, _, %wu, %us, %uz) {bits = 4, block = 32, k = 48, n = [18, 18], gate = silu} return %y }",
        "graph @g(%x: bf16[B, 32], %r: bf16[B, 5], %w: u8[5, 2, 16], %ws: bf16[10], %b: bf16[5], %wu: u8[5, 2, 16], %us: bf16[10], %bu: bf16[5]) { %y = linears_nbits(%x, %r, %w, %ws, _, %b, %wu, %us, _, %bu) {bits = 8, block = 16, k = 32, n = [5, 5], gate = gelu} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(4, 14)?;
        let x = operands.tensor(0)?;
        let Some([lead @ .., last]) = x.dims() else { return Err(operands.wrong(0, "it has no rows")) };
        if !x.dtype.is_float() || self.n.is_empty() {
            return Err(operands.wrong(0, format!("{} rows with {} layers", x.dtype, self.n.len())));
        }
        operands.assume_same(last, &Dim::constant(self.k))?;
        let mut results = vec![];
        for (i, n) in self.layers() {
            if operands.dtype(i)? != DType::U8 || !operands.dtype(i + 1)?.is_float() {
                return Err(operands.wrong(i, "packed weights are u8 with float scales"));
            }
            let op = self.layer(n);
            op.check()?;
            let blocks = op.blocks() as i64;
            for (at, expected) in [(i, n * blocks * self.block * self.bits / 8), (i + 1, n * blocks)] {
                if let Some(found) = operands.tensor(at)?.shape.elements() {
                    operands.assume_same(&found, &Dim::constant(expected))?;
                }
            }
            let dims = lead.iter().cloned().chain([Dim::constant(n)]);
            results.push(TensorType::new(x.dtype, dims));
        }
        joined_types(operands, results, self.gate)
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        ensure(x.rank() > 0, || "a scalar has no rows".into())?;
        let mut layers = vec![];
        for (i, n) in self.layers() {
            let of = |at: usize| operands.get(at).copied().unwrap_or(&Datum::Absent);
            let own = [of(0), of(i), of(i + 1), of(i + 2), &Datum::Absent, of(i + 3)];
            layers.push((n as usize, self.layer(n).products(&own)?));
        }
        joined(x, layers, self.gate, operands.get(1).and_then(|d| d.as_tensor()))
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        let dims = operands.first().and_then(|t| t.as_tensor()?.dims());
        let Some([lead @ .., _]) = dims else { return Dim::constant(0) };
        lead.iter().cloned().product::<Dim>() * (2 * self.k * self.n.iter().sum::<i64>())
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}
