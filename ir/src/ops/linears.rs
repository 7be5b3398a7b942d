use super::activation::ActivationFn;
use super::linear::product;
use super::operand::tensor;
use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::tensor::Tensor;
use crate::types::{TensorType, ValueType};

op! {
    /// `linears(x, residual?, w0, b0?, w1, b1?, ..)`: several linear layers of the same rows, for devices where a launch costs more
    /// than what it saves to be apart.
    ///
    /// Layer `i` gives `x[.., k] * wi[ni, k]^T + bi[ni]`, with `kn` of `wi[k, ni]`: a result `[.., ni]` each. With `gate` there
    /// are two layers and one result, `gate(y0) * y1`, both rounded to the type of `x` before. A `residual` has the type of
    /// the only result and is added to it.
    pub struct Linears { kn: bool, gate: Option<ActivationFn> }
}

impl Linears {
    /// Where weights begin among the operands; each is followed by its bias.
    pub const FIRST: usize = 2;
}

impl OpSpec for Linears {
    const NAME: &'static str = "linears";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[B, S, 9], %w: f32[20, 9], %b: f32[20], %wk: f32[7, 9], %wv: f32[11, 9]) { %q, %k, %v = linears(%x, _, %w, %b, %wk, _, %wv, _) {kn = false} return %q, %k, %v }",
        "graph @g(%x: f32[B, 12], %r: f32[B, 33], %w: f32[12, 33], %b: f32[33]) { %y = linears(%x, %r, %w, %b) {kn = true} return %y }",
        "graph @g(%x: f16[B, 64], %w: f16[64, 18], %wu: f16[64, 18]) { %y = linears(%x, _, %w, _, %wu, _) {kn = true, gate = silu} return %y }",
        "graph @g(%x: bf16[B, 32], %r: bf16[B, 18], %w: bf16[18, 32], %b: bf16[18], %wu: bf16[18, 32], %bu: bf16[18]) { %y = linears(%x, %r, %w, %b, %wu, %bu) {kn = false, gate = gelu} return %y }",
        "graph @g(%x: f32[B, 32], %w: f16[17, 32], %wu: f16[17, 32]) { %y = linears(%x, _, %w, _, %wu, _) {kn = false, gate = relu} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(4, 8)?;
        let x = operands.tensor(0)?;
        let Some([lead @ .., last]) = x.dims() else { return Err(operands.wrong(0, "it has no rows")) };
        let layers: Vec<usize> = (Self::FIRST..operands.len()).step_by(2).collect();
        let mut results = vec![];
        for i in &layers {
            let w = operands.tensor(*i)?;
            let Some([rows, columns]) = w.dims().filter(|_| w.dtype.is_float() && x.dtype.is_float()) else {
                return Err(operands.wrong(*i, format!("{w} is not a matrix of floats")));
            };
            let (n, k) = if self.kn { (columns, rows) } else { (rows, columns) };
            operands.assume_same(last, k)?;
            if operands.has(i + 1) {
                match operands.dims(i + 1)? {
                    Some([b]) => operands.assume_same(b, n)?,
                    _ => return Err(operands.wrong(i + 1, format!("it is not [{n}]"))),
                }
            }
            let dims = lead.iter().chain([n]).cloned();
            results.push(TensorType::new(x.dtype, dims));
        }
        joined_types(operands, results, self.gate)
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let x = tensor(Self::NAME, operands, 0)?;
        let mut layers = vec![];
        for i in (Self::FIRST..operands.len()).step_by(2) {
            let bias = operands.get(i + 1).and_then(|d| d.as_tensor());
            layers.push(product(x, tensor(Self::NAME, operands, i)?, bias, self.kn)?);
        }
        joined(x, layers, self.gate, operands.get(1).and_then(|d| d.as_tensor()))
    }

    fn flops(&self, operands: &[&ValueType], _: &[ValueType]) -> Dim {
        let dims = |i: usize| operands.get(i).and_then(|t| t.as_tensor()?.dims());
        let Some([lead @ .., _]) = dims(0) else { return Dim::constant(0) };
        let rows: Dim = lead.iter().cloned().product();
        let weights = (Self::FIRST..operands.len()).step_by(2).filter_map(dims);
        let elements = weights.fold(Dim::constant(0), |sum, d| sum + d.iter().cloned().product::<Dim>());
        rows * elements * 2
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 16.0)
    }
}

/// The results of layers that give `products`, with a gate and a residual, operand 1.
pub(super) fn joined_types(
    operands: &Operands<'_>,
    mut products: Vec<TensorType>,
    gate: Option<ActivationFn>,
) -> Result<Vec<ValueType>, TypeError> {
    let outputs = |t: &TensorType| t.dims().and_then(|d| d.last().cloned()).expect("ranked");
    if gate.is_some() {
        let [first, second] = &products[..] else { return Err(operands.wrong(0, "a gate has two layers")) };
        operands.assume_same(&outputs(first), &outputs(second))?;
        products.pop();
    }
    if operands.has(1) {
        let residual = operands.tensor(1)?;
        match (&products[..], residual.dims()) {
            ([only], Some(dims)) if residual.dtype == only.dtype && only.dims().map(<[_]>::len) == Some(dims.len()) => {
                let own = only.dims().expect("ranked");
                own.iter().zip(dims).try_for_each(|(a, b)| operands.assume_same(a, b))?;
            }
            _ => return Err(operands.wrong(1, "a residual has the type of the only result")),
        }
    }
    Ok(products.into_iter().map(Into::into).collect())
}

/// What layers of the rows `x` give: each so many outputs and its products.
pub(super) fn joined(
    x: &Tensor,
    mut layers: Vec<(usize, Vec<f64>)>,
    gate: Option<ActivationFn>,
    residual: Option<&Tensor>,
) -> Result<Vec<Datum>, EvalError> {
    if let Some(gate) = gate {
        for (_, y) in &mut layers {
            *y = Tensor::from_f64(x.dtype(), &[y.len()], y)?.to_f64()?;
        }
        let Some((_, up)) = layers.pop() else { return Err(super::not_tensors(Linears::NAME)) };
        let (alpha, beta) = gate.defaults();
        let gated = layers.iter_mut().flat_map(|(_, y)| y.iter_mut()).zip(up);
        // Kernels gate in f32, where what is tiny is zero, which hides no infinity.
        let act = |g: f64| f64::from(gate.float(g, f64::from(alpha), f64::from(beta)) as f32);
        gated.for_each(|(g, u)| *g = act(*g) * u);
    }
    if let Some(residual) = residual {
        let added = layers.iter_mut().flat_map(|(_, y)| y.iter_mut()).zip(residual.to_f64()?);
        added.for_each(|(y, r)| *y += r);
    }
    let lead = &x.dims()[..x.rank() - 1];
    let result = |(n, y): (usize, Vec<f64>)| Ok(Tensor::from_f64(x.dtype(), &[lead, &[n]].concat(), &y)?.into());
    layers.into_iter().map(result).collect()
}
