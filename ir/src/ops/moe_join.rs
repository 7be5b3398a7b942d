use super::moe::Gating;
use super::moe_gemm::MoeGemm;
use super::{CoreOp, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::Graph;
use crate::op;
use crate::types::ValueType;

op! {
    /// `moe_join(x, rows, offsets, w, bias?, weights, shared?, gate?, residual?, scale?) {kn, eps}`: where experts, a shared expert and
    /// the hidden states meet, for devices where a launch costs more than what it saves to be apart.
    ///
    /// `x[P, k]`, `rows`, `offsets`, `w`, `bias` and `weights[T, P / T]` as in `moe_gemm`, one row of `x` per pair. To the sum of
    /// each token, `[T, n]`, is added `sigmoid(gate[T, 1]) * shared[T, n]` (`shared` alone without `gate`), and `residual[.., n]`,
    /// whose type the result has. With `scale[n]` a second result is the `rms_norm` of the first over its last dimension, with `eps`.
    pub struct MoeJoin { kn: bool, eps: f32 }
}

impl MoeJoin {
    /// Operands.
    pub const WEIGHTS: usize = 5;
    /// The shared expert.
    pub const SHARED: usize = 6;
    /// What weighs the shared expert.
    pub const GATE: usize = 7;
    /// Hidden states from before the experts.
    pub const RESIDUAL: usize = 8;
    /// The scale of the normalisation.
    pub const SCALE: usize = 9;

    /// The product of experts that this begins with.
    fn gemm(&self) -> MoeGemm {
        let MoeJoin { kn, .. } = *self;
        MoeGemm { repeat: 1, kn, gating: Gating::None, act: None, alpha: None, beta: None, limit: None }
    }
}

impl OpSpec for MoeJoin {
    const NAME: &'static str = "moe_join";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%x: f32[2*T, 24], %i: i32[T, 2], %w: f32[3, 36, 24], %wb: f32[3, 36], %s: f32[T, 2], %e: f32[T, 36], %g: f32[T, 1], %h: f32[T, 36], %n: f32[36]) { %r, %o = expert_index(%i) {experts = 3} %y, %z = moe_join(%x, %r, %o, %w, %wb, %s, %e, %g, %h, %n) {eps = 1e-6} return %y, %z }",
        "graph @g(%x: bf16[2*B*S, 64], %i: i32[B*S, 2], %w: bf16[5, 64, 48], %s: bf16[B*S, 2], %h: bf16[B, S, 48], %n: bf16[48]) { %r, %o = expert_index(%i) {experts = 5} %y, %z = moe_join(%x, %r, %o, %w, _, %s, _, _, %h, %n) {kn = true, eps = 1e-5} return %y, %z }",
        "graph @g(%x: f16[T, 32], %i: i32[T, 1], %w: f16[3, 16, 32], %s: f16[T, 1], %e: f16[T, 16]) { %r, %o = expert_index(%i) {experts = 3} %y = moe_join(%x, %r, %o, %w, _, %s, %e) {eps = 0.0} return %y }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(6, 10)?;
        let x = operands.tensor(0)?;
        let gemm = CoreOp::MoeGemm(self.gemm()).into();
        // The gates' weight and bias, which `moe_gemm` has in between, are not there.
        let summed = operands.infer_with(&gemm, &[0, 1, 2, 3, 4])?;
        let Some([_, n]) = summed[0].as_tensor().and_then(|t| t.dims()) else {
            return Err(operands.wrong(0, "experts give rows"));
        };
        let (Some([tokens, each]), Some([pairs])) = (operands.dims(Self::WEIGHTS)?, operands.dims(1)?) else {
            return Err(operands.wrong(Self::WEIGHTS, "weights are one per token and expert"));
        };
        operands.assume_same(&(tokens.clone() * each.clone()), pairs)?;
        for i in (Self::WEIGHTS..=Self::SCALE).filter(|i| operands.has(*i)) {
            if operands.dtype(i)? != x.dtype {
                return Err(operands.wrong(i, format!("it is not of {}", x.dtype)));
            }
        }
        let one = Dim::constant(1);
        for (i, dims) in [(Self::SHARED, vec![tokens, n]), (Self::GATE, vec![tokens, &one]), (Self::SCALE, vec![n])] {
            if !operands.has(i) {
                continue;
            }
            let found = operands.dims(i)?.filter(|found| found.len() == dims.len());
            let found = found.ok_or_else(|| operands.wrong(i, "its rank is another"))?;
            found.iter().zip(dims).try_for_each(|(a, b)| operands.assume_same(a, b))?;
        }
        let mut types = vec![crate::types::TensorType::new(x.dtype, [tokens.clone(), n.clone()])];
        if operands.has(Self::RESIDUAL) {
            let residual = operands.tensor(Self::RESIDUAL)?;
            let Some([lead @ .., last]) = residual.dims() else {
                return Err(operands.wrong(Self::RESIDUAL, "it has no rows"));
            };
            operands.assume_same(last, n)?;
            operands.assume_same(&lead.iter().cloned().product::<Dim>(), tokens)?;
            types = vec![residual.clone()];
        }
        if operands.has(Self::SCALE) {
            types.push(types[0].clone());
        }
        Ok(types.into_iter().map(Into::into).collect())
    }

    fn definition(&self, operands: &[ValueType]) -> Option<Graph> {
        let names = ["x", "rows", "offsets", "w", "bias", "weights", "shared", "gate", "residual", "scale"];
        let has = |i: usize| operands.get(i).is_some_and(|t| *t != ValueType::Absent);
        let inputs = names.iter().enumerate().filter(|(i, _)| has(*i)).map(|(i, n)| format!("%{n}: {}", operands[i]));
        let bias = if has(4) { "%bias" } else { "_" };
        let MoeJoin { kn, eps } = self;
        let mut body = format!("%y0 = moe_gemm(%x, %rows, %offsets, %w, {bias}, _, _, %weights) {{repeat = 1, kn = {kn}, gating = none}}\n");
        let mut last = 0;
        let mut then = |body: &mut String, made: &dyn Fn(usize) -> String| {
            body.push_str(&format!("%y{} = {}\n", last + 1, made(last)));
            last += 1;
        };
        if has(Self::GATE) {
            body.push_str("%open = sigmoid(%gate)\n%weighed = mul(%open, %shared)\n");
        }
        if has(Self::SHARED) {
            let shared = if has(Self::GATE) { "weighed" } else { "shared" };
            then(&mut body, &|y| format!("add(%y{y}, %{shared})"));
        }
        if has(Self::RESIDUAL) {
            let dims = operands[Self::RESIDUAL].as_tensor()?.dims()?;
            let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
            then(&mut body, &|y| format!("reshape(%y{y}) {{shape = [{}]}}", dims.join(", ")));
            then(&mut body, &|y| format!("add(%y{y}, %residual)"));
        }
        let mut results = format!("%y{last}");
        if has(Self::SCALE) {
            body.push_str(&format!("%z = rms_norm(%y{last}, %scale) {{axis = -1, eps = {eps:?}}}\n"));
            results.push_str(", %z");
        }
        let inputs: Vec<String> = inputs.collect();
        crate::text::parse(&format!("graph @moe_join({}) {{ {body} return {results} }}", inputs.join(", "))).ok()
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        let products = self.gemm().flops(&operands[..5.min(operands.len())], results);
        products + results.iter().filter_map(|t| t.as_tensor()?.shape.elements()).sum::<Dim>() * 4
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        self.gemm().tolerance(dtype)
    }
}
