use super::{Datum, EvalError, OpSpec, Operands, Tolerance, TypeError, broadcast};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::scalar_expr::{ScalarExpr, Step};
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};

op! {
    /// `map(a, b, ...) {expr = "mul(silu(x0), x1)"}`: one scalar expression of every element of the broadcast operands.
    ///
    /// What the pass fuse-elementwise makes of chains. Floats are not rounded inside; the element type of the result is that of
    /// the expression.
    pub struct Map { expr: ScalarExpr }
}

impl OpSpec for Map {
    const NAME: &'static str = "map";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%a: f32[N, 5], %b: f32[5]) { %y = map(%a, %b) {expr = \"mul(silu(x0), x1)\"} return %y }",
        "graph @g(%a: f32[N, 1], %b: f32[M]) { %y = map(%a, %b) {expr = \"t0 = exp(x0); select(lt(x1, f32(0.5)), div(t0, add(t0, mul(x1, x1))), x0)\"} return %y }",
        "graph @g(%a: f16[N, 4], %b: f32[]) { %y = map(%a, %b) {expr = \"f16(sub(mul(f32(x0), x1), tanh(x1)))\"} return %y }",
        "graph @g(%a: i64[N, 4], %b: bool[4]) { %y = map(%a, %b) {expr = \"and(x1, ge(add(x0, i64(-1)), i64(0)))\"} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(1, ScalarExpr::MAX_INPUTS)?;
        let all: Vec<&TensorType> = (0..operands.len()).map(|i| operands.tensor(i)).collect::<Result<_, _>>()?;
        let dtypes: Vec<DType> = all.iter().map(|t| t.dtype).collect();
        let types = self.expr.types(&dtypes)?;
        let shapes: Vec<&Shape> = all.iter().map(|t| &t.shape).collect();
        let dtype = *types.last().expect("an expression has a step");
        Ok(vec![TensorType { dtype, shape: operands.broadcast(&shapes)? }.into()])
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let tensors: Option<Vec<&Tensor>> = operands.iter().map(|d| d.as_tensor()).collect();
        let tensors = tensors.ok_or_else(|| super::not_tensors(Self::NAME))?;
        let shapes: Vec<&[usize]> = tensors.iter().map(|t| t.dims()).collect();
        let dims = broadcast::shape(&shapes)?;
        let at: Vec<Vec<usize>> = shapes.iter().map(|s| broadcast::indices(s, &dims)).collect();
        Ok(vec![self.expr.eval(&tensors, &at, &dims)?.into()])
    }

    fn flops(&self, _: &[&ValueType], results: &[ValueType]) -> Dim {
        let steps = self.expr.steps().iter().filter(|s| !matches!(s, Step::Constant(..))).count();
        let elements: Dim = results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum();
        elements * steps as i64
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 4.0 * self.expr.steps().len() as f64)
    }
}
