use super::{DType, Datum, Dim, EvalError, OpSpec, Operands, Tolerance, TypeError, ValueType};
use crate::ops::reading::{self, invalid, tensor};
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};
use crate::{attr_enum, op};

attr_enum! {
    /// A distribution with two parameters.
    pub enum Distribution {
        /// Between `a` (inclusive) and `b` (exclusive).
        Uniform = "uniform",
        /// Mean `a`, standard deviation `b`.
        Normal = "normal",
    }
}

op! {
    /// `random(like?) {f, a, b, seed, dtype, shape}`: independent numbers of a distribution, of the shape of `like` or of
    /// `shape`. Philox4x32-10 with the seed as key: the same seed gives the same tensor everywhere.
    pub struct Random { f: Distribution, a: f32, b: f32, seed: i64, dtype: DType, shape: Option<Vec<Dim>> }
}

op! {
    /// `multinomial(x) {count, seed, dtype}`: `count` columns drawn for every row of `x`, which holds unnormalised
    /// logarithms of probabilities.
    pub struct Multinomial { count: i64, seed: i64, dtype: DType }
}

/// Uniform numbers in [0, 1) from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
pub(super) struct Philox {
    key: [u32; 2],
    block: u64,
    left: Vec<u32>,
}

impl Philox {
    pub fn new(seed: i64) -> Philox {
        Philox { key: [seed as u32, (seed as u64 >> 32) as u32], block: 0, left: vec![] }
    }

    fn next(&mut self) -> u32 {
        if self.left.is_empty() {
            let mut c = [self.block as u32, (self.block >> 32) as u32, 0, 0];
            let mut k = self.key;
            for _ in 0..10 {
                let (p, q) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
                c = [(q >> 32) as u32 ^ c[1] ^ k[0], q as u32, (p >> 32) as u32 ^ c[3] ^ k[1], p as u32];
                k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
            }
            self.block += 1;
            self.left = c.into_iter().rev().collect();
        }
        self.left.pop().expect("just filled")
    }

    /// 24 bits, which every float type from f32 on holds exactly.
    pub fn uniform(&mut self) -> f64 {
        f64::from(self.next() >> 8) / f64::from(1 << 24)
    }

    /// Box and Muller's transform.
    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }
}

impl OpSpec for Random {
    const NAME: &'static str = "random";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[N, 3]) { %a = random(%x) {f = uniform, a = 0, b = 1, seed = 7, dtype = f32} %b = random() {f = normal, a = 2, b = 0.5, seed = 8, dtype = f64, shape = [N, 5]} return %a, %b }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(0, 1)?;
        let shape = match (&self.shape, operands.has(0)) {
            (Some(shape), false) => Shape::Ranked(shape.clone()),
            (None, true) => operands.tensor(0)?.shape.clone(),
            _ => return Err(TypeError::Invalid("either an operand or an attribute says the shape".into())),
        };
        if !self.dtype.is_float() {
            return Err(TypeError::Invalid(format!("random numbers are floats, not {}", self.dtype)));
        }
        Ok(vec![TensorType { dtype: self.dtype, shape }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let dims = match &self.shape {
            Some(shape) => crate::ops::sizes(shape)?,
            None => tensor(operands, 0)?.dims().to_vec(),
        };
        let (a, b, mut source) = (f64::from(self.a), f64::from(self.b), Philox::new(self.seed));
        let mut draw = || match self.f {
            Distribution::Uniform => a + (b - a) * source.uniform(),
            Distribution::Normal => a + b * source.normal(),
        };
        let values: Vec<f64> = (0..crate::tensor::count(&dims)?).map(|_| draw()).collect();
        Ok(vec![Tensor::from_f64(self.dtype, &dims, &values)?.into()])
    }
}

impl OpSpec for Multinomial {
    const NAME: &'static str = "multinomial";
    const SAMPLES: &'static [&'static str] =
        &["graph @g(%x: f32[N, 3]) { %y = multinomial(%x) {count = 4, seed = 3, dtype = i32} return %y }"];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, 1)?;
        let rows = match operands.dims(0)? {
            Some([rows, _]) => rows.clone(),
            Some(_) => return Err(operands.wrong(0, "expected rows of logarithms")),
            None => operands.late_dim(),
        };
        if !matches!(self.dtype, DType::I32 | DType::I64) || self.count < 0 {
            return Err(TypeError::Invalid(format!("{} samples of {}", self.count, self.dtype)));
        }
        Ok(vec![TensorType::new(self.dtype, [rows, Dim::constant(self.count)]).into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(operands, 0)?;
        let [rows, columns] = *x.dims() else { return Err(invalid("expected rows of logarithms")) };
        if columns == 0 && rows > 0 && self.count > 0 {
            return Err(invalid("there is nothing to draw from"));
        }
        let count = reading::index(self.count, usize::MAX >> 1)?;
        let (v, mut source) = (x.to_f64()?, Philox::new(self.seed));
        let mut drawn = Vec::with_capacity(crate::tensor::count(&[rows, count])?);
        for row in v.chunks_exact(columns.max(1)) {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = row.iter().map(|l| (l - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for _ in 0..count {
                let (mut rest, mut at) = (source.uniform() * total, 0);
                while at + 1 < columns && rest >= weights[at] {
                    rest -= weights[at];
                    at += 1;
                }
                drawn.push(at as i128);
            }
        }
        Ok(vec![Tensor::from_ints(self.dtype, &[rows, count], &drawn)?.into()])
    }

    fn tolerance(&self, _: DType) -> Tolerance {
        Tolerance::EXACT
    }
}
