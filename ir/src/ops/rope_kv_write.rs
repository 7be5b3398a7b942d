use super::kv_write::KvWrite;
use super::rope::Rope;
use super::{CoreOp, Datum, EvalError, Op, OpSpec, Operands, Tolerance, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op;
use crate::types::ValueType;

op! {
    /// `rope_kv_write(slots, lengths, counts, keys, k, values, v, q, cos, sin, positions?) {heads, kv_heads, rotary, interleaved}`:
    /// `rope` of the queries `q` and of the new keys `k`, and `kv_write` of the turned keys and of `v`, for devices where a launch
    /// costs more than what it saves to be apart.
    ///
    /// Results are the next versions of `keys` and `values`, and the turned queries. `heads` and `kv_heads` are needed where `q`
    /// and `k` have rank 3.
    pub struct RopeKvWrite { heads: Option<i64>, kv_heads: Option<i64>, rotary: Option<i64>, interleaved: bool }
}

impl RopeKvWrite {
    /// Rotation of the queries and of the keys.
    fn ropes(&self) -> [Rope; 2] {
        let rope = |heads| Rope { heads, rotary: self.rotary, interleaved: self.interleaved };
        [rope(self.heads), rope(self.kv_heads)]
    }
}

impl OpSpec for RopeKvWrite {
    const NAME: &'static str = "rope_kv_write";
    const SAMPLES: &'static [&'static str] = &[
        "graph @g(%q: f32[2, 6, 4, 8], %k: f32[2, 3, 4, 8], %v: f32[2, 4, 15], %kc: f32[4, 3, 9, 8], %vc: f32[4, 3, 9, 5], %c: f32[50, 4], %si: f32[50, 4], %p: i64[2, 4]) { %s = const [2, 0] : i32[2] %l = const [5, 0] : i32[2] %n = const [4, 3] : i32[2] %k1, %v1, %q1 = rope_kv_write(%s, %l, %n, %kc, %k, %vc, %v, %q, %c, %si, %p) {} return %k1, %v1, %q1 }",
        "graph @g(%q: f16[2, 4, 12], %k: f16[2, 4, 6], %v: f16[2, 4, 6], %kc: f16[4, 1, 9, 6], %vc: f16[4, 1, 9, 6], %c: f16[2, 4, 2], %si: f16[2, 4, 2]) { %s = const [1, 3] : i32[2] %l = const [0, 7] : i32[2] %n = const [4, 2] : i32[2] %k1, %v1, %q1 = rope_kv_write(%s, %l, %n, %kc, %k, %vc, %v, %q, %c, %si) {heads = 2, kv_heads = 1, rotary = 4, interleaved = true} return %k1, %v1, %q1 }",
    ];

    fn infer(&self, operands: &Operands<'_>) -> Result<Vec<ValueType>, TypeError> {
        operands.arity(10, 11)?;
        let [of_q, of_k] = self.ropes().map(|rope| Op::from(CoreOp::Rope(rope)));
        let with = |x: usize| [x, 8, 9, 10].into_iter().filter(|i| *i < operands.len()).collect::<Vec<_>>();
        let turned = operands.infer_with(&of_q, &with(7))?;
        operands.infer_with(&of_k, &with(4))?;
        let caches = operands.infer_with(&CoreOp::KvWrite(KvWrite {}).into(), &[0, 1, 2, 3, 4, 5, 6])?;
        Ok([caches, turned].concat())
    }

    fn eval(&self, operands: &[&Datum]) -> Result<Vec<Datum>, EvalError> {
        let [of_q, of_k] = self.ropes();
        let turn = |rope: &Rope, x: usize| {
            let read: Vec<&Datum> = [x, 8, 9, 10].iter().filter_map(|i| operands.get(*i).copied()).collect();
            rope.eval(&read)
        };
        let (turned, k) = (turn(&of_q, 7)?, turn(&of_k, 4)?);
        let mut written = operands[..7].to_vec();
        written[4] = &k[0];
        Ok([KvWrite {}.eval(&written)?, turned].concat())
    }

    fn flops(&self, operands: &[&ValueType], results: &[ValueType]) -> Dim {
        let [of_q, of_k] = self.ropes();
        of_q.flops(operands, &results[2..]) + of_k.flops(operands, &[operands[4].clone()])
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::roundings(dtype, 8.0)
    }
}
