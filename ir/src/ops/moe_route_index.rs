use super::expert_index::ExpertIndex;
use super::moe_route::{MoeRoute, RouterScore};
use super::operand::{ensure, tensor};
use super::{CoreOp, Datum, EvalError, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::{TensorType, ValueType};

op! {
    /// `moe_route_index(logits, bias?) {k, score, renormalise, eps, scale}`: `moe_route` and the `expert_index` of what it chooses, for
    /// devices where a launch costs more than what it saves to be apart: `ids`, `weights`, `rows` and `offsets`.
    pub struct MoeRouteIndex { k: i64, score: RouterScore, renormalise: bool, eps: f32, scale: f32 }
}

impl MoeRouteIndex {
    /// The router.
    pub fn route(&self) -> MoeRoute {
        let MoeRouteIndex { k, score, renormalise, eps, scale } = self.clone();
        MoeRoute { k, score, renormalise, eps, scale }
    }
}

impl From<&MoeRoute> for MoeRouteIndex {
    fn from(route: &MoeRoute) -> MoeRouteIndex {
        let MoeRoute { k, score, renormalise, eps, scale } = route.clone();
        MoeRouteIndex { k, score, renormalise, eps, scale }
    }
}

impl OpSpec for MoeRouteIndex {
    const NAME: &'static str = "moe_route_index";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[T, 8]) { %i, %y, %r, %o = moe_route_index(%x) {k = 2, score = softmax, renormalise = true, eps = 0.0, scale = 1.0} return %i, %y, %r, %o }",
        "graph @g(%x: bf16[T, 60]) { %i, %y, %r, %o = moe_route_index(%x) {k = 4, score = softmax, renormalise = false, eps = 0.0, scale = 1.0} return %i, %y, %r, %o }",
        "graph @g(%x: f32[T, 300], %b: f32[300]) { %i, %y, %r, %o = moe_route_index(%x, %b) {k = 3, score = sigmoid, renormalise = true, eps = 1e-9, scale = 2.5} return %i, %y, %r, %o }",
        "graph @g(%x: f16[70, 4]) { %i, %y, %r, %o = moe_route_index(%x) {k = 4, score = chosen, renormalise = false, eps = 0.0, scale = 1.0} return %i, %y, %r, %o }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        let which: Vec<usize> = (0..operands.len()).collect();
        let routed = operands.infer_with(&CoreOp::MoeRoute(self.route()).into(), &which)?;
        let Some([rows, experts]) = operands.dims(0)? else {
            return Err(operands.wrong(0, "logits are [rows, experts]"));
        };
        let index = [rows * self.k, experts.clone() + Dim::constant(1)];
        let index = index.map(|n| TensorType::new(DType::I32, [n]).into());
        Ok(routed.into_iter().chain(index).collect())
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let routed = self.route().eval(operands)?;
        let logits = tensor(Self::NAME, operands, 0)?;
        ensure(logits.rank() == 2, || format!("logits {:?} are not [rows, experts]", logits.dims()))?;
        let index = ExpertIndex { experts: logits.dims()[1] as i64 }.eval(&[&routed[0]])?;
        Ok([routed, index].concat())
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        self.route().flops(operands, results)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        self.route().tolerance(dtype)
    }
}
