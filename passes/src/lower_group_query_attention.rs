//! Says com.microsoft's GroupQueryAttention in the operators that everything else is said in: rotations, then one `attention`
//! over a past that each sequence has filled to its own length.
//!
//! The old rows of a sequence are counted by `last + 1 - S`, or are none where the step is a whole prompt (S = total). Rotations
//! stand at the same places. So that both agree for every input, nothing is assumed about the lengths: they stay data. `main`
//! is lowered after the entry `step` was made of it, which knows more about lengths.
//!
//! ```ir before
//! graph @g(%q: f32[B, S, 32], %k: f32[B, S, 16], %v: f32[B, S, 16], %pk: f32[B, 2, P, 8], %pv: f32[B, 2, P, 8], %last: i32[B], %mask: i64[B, T], %cos: f32[64, 4], %sin: f32[64, 4]) {
//!   %n = dims() {elements = [T]} : i64[1]
//!   %total = cast(%n) {to = i32} : i32[1]
//!   %y, %nk, %nv = group_query_attention(%q, %k, %v, %pk, %pv, %last, %total, %cos, %sin) {heads = 4, kv_heads = 2, rotary = true, window = 9} : f32[B, S, 32], f32[B, 2, max(P, T), 8], f32[B, 2, max(P, T), 8]
//!   return %y, %nk, %nv
//! }
//! ```
//! ```ir after
//! graph @g(%q: f32[B, S, 32], %k: f32[B, S, 16], %v: f32[B, S, 16], %pk: f32[B, 2, P, 8], %pv: f32[B, 2, P, 8], %last: i32[B], %mask: i64[B, T], %cos: f32[64, 4], %sin: f32[64, 4]) {
//!   %y.1 = cast(%last) {to = i64} : i64[B]
//!   %y.2 = const [1] : i64[]
//!   %y.3 = add(%y.1, %y.2) : i64[B]
//!   %y.4 = dims() {elements = [S], scalar = true} : i64[]
//!   %y.5 = sub(%y.3, %y.4) : i64[B]
//!   %y.6 = dims() {elements = [T], scalar = true} : i64[]
//!   %y.7 = eq(%y.4, %y.6) : bool[]
//!   %y.8 = const [0] : i64[]
//!   %y.9 = select(%y.7, %y.8, %y.5) : i64[B]
//!   %y.10 = reshape(%y.9) {shape = [B, 1]} : i64[B, 1]
//!   %y.11 = range() {length = S, start = 0, step = 1} : i64[S]
//!   %y.12 = add(%y.10, %y.11) : i64[B, S]
//!   %y.13 = rope(%q, %cos, %sin, %y.12) {heads = 4, rotary = 8} : f32[B, S, 32]
//!   %y.14 = rope(%k, %cos, %sin, %y.12) {heads = 2, rotary = 8} : f32[B, S, 16]
//!   %y, %nk, %nv = attention(%y.13, %y.14, %v, _, %pk, %pv, %y.3) {causal = true, kv_heads = 2, left = 8, present = true, q_heads = 4, total = T} : f32[B, S, 32], f32[B, 2, max(P, T), 8], f32[B, 2, max(P, T), 8]
//!   return %y, %nk, %nv
//! }
//! ```

use crate::edit::Edit;
use crate::pass::{Body, Context, Miss, Pass};
use ir::dim::{Dim, Truth};
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{
    Attention, Binary, Cast, Compare, CoreOp, Dims, GroupQueryAttention, Op, Range, Reshape, Rope, Select, Slice,
    Unseen,
};
use ir::scalar::{BinaryFn, CompareFn};
use ir::{DType, Tensor};

/// See the module.
pub const PASS: Pass = Pass { name: "lower-group-query-attention", body: Body::Whole(run) };

fn run(graph: &mut Graph, cx: &mut Context) {
    // Layers share where their sequences begin: by last, steps and total.
    let mut known: Vec<(Key, Starts)> = vec![];
    for id in graph.order() {
        let Some(Op::CoreOp(CoreOp::GroupQueryAttention(op))) = graph.op(id).cloned() else { continue };
        let mut edit = Edit::new(graph, id.into(), [id]);
        match lower(&mut edit, id, &op, &mut known).and_then(|y| edit.settle_all(y)) {
            Ok(y) => {
                cx.note("group-query", graph, y, Ok(()));
                graph.prune(id);
            }
            Err(miss) => {
                edit.abandon();
                known
                    .retain(|(_, starts)| graph.contains(starts.lengths.node) && graph.contains(starts.positions.node));
                cx.note("group-query", graph, id.into(), Err(miss));
            }
        }
    }
}

/// What the old rows of sequences are counted by: last rows, new rows and the longest length.
type Key = (Value, Dim, Dim);

/// Where new rows begin.
#[derive(Clone, Copy)]
struct Starts {
    /// `last + 1`: `[B]`, i64.
    lengths: Value,
    /// Where row i stands, `[B, S]`; of one element where that is `first + i` in every sequence.
    positions: Value,
}

fn lower(
    edit: &mut Edit<'_>,
    id: NodeId,
    op: &GroupQueryAttention,
    known: &mut Vec<(Key, Starts)>,
) -> Result<Value, Miss> {
    let operands = edit.graph.operands(id);
    let has = |edit: &Edit<'_>, i: usize| operands.get(i).copied().filter(|v| edit.graph.tensor_ty(*v).is_some());
    edit.require(
        has(edit, 11).is_none() && !op.smooth,
        "sinks join the softmax's sum, which `attention` does not have: it stays one operator",
    )?;
    edit.require(!op.both_ways, "rows see later keys up to their sequence's end: it stays one operator")?;
    let total = match edit.graph.fact(operands[6]).elements.as_deref() {
        Some([total]) => total.clone(),
        _ => {
            let reason = "the longest length is data; export `total_sequence_length` as the size of the attention mask";
            return Err(Miss::Refused(reason));
        }
    };
    let dims = edit.graph.tensor_ty(operands[0]).and_then(|t| t.dims()).map(<[Dim]>::to_vec);
    let Some([batch, steps, _]) = dims.as_deref() else {
        return Err(Miss::Refused("the rank of the queries is not known"));
    };
    if let Some(bias) = has(edit, 10) {
        let columns = edit.graph.tensor_ty(bias).and_then(|t| t.dims()).and_then(<[Dim]>::last).cloned();
        let fits = columns.is_some_and(|c| c.as_const() == Some(1) || c.same(&total) == Truth::Yes);
        edit.require(fits, "the bias is not known to have a column for every key up to the longest length")?;
    }
    let key = (operands[5], steps.clone(), total.clone());
    let starts = match known.iter().find(|(k, _)| *k == key) {
        Some((_, starts)) => *starts,
        None => {
            let starts = starts(edit, operands[5], [batch, steps, &total])?;
            known.push((key, starts));
            starts
        }
    };
    let [mut q, mut k, v] = match (has(edit, 1), has(edit, 2)) {
        (Some(k), Some(v)) => [operands[0], k, v],
        _ => side_by_side(edit, operands[0], op)?,
    };
    if op.rotary {
        let (Some(cos), Some(sin)) = (has(edit, 7), has(edit, 8)) else {
            return Err(Miss::Refused("the tables of the rotation are missing"));
        };
        let half = edit.graph.tensor_ty(cos).and_then(|t| t.dims()?.last()?.as_const());
        let Some(half) = half else { return Err(Miss::Refused("the width of the rotation is not a number")) };
        let positions = has(edit, 9).unwrap_or(starts.positions);
        let rope = |heads| Rope { heads: Some(heads), rotary: Some(2 * half), interleaved: op.interleaved };
        q = edit.apply(rope(op.heads), &[q, cos, sin, positions])?;
        k = edit.apply(rope(op.kv_heads), &[k, cos, sin, positions])?;
    }
    let attention = Attention {
        causal: true,
        offset: None,
        scale: op.scale.filter(|s| *s != 0.0),
        softcap: op.softcap,
        q_heads: Some(op.heads),
        kv_heads: Some(op.kv_heads),
        left: op.window.filter(|w| *w > 0).map(|w| w - 1),
        right: None,
        present: true,
        scores: None,
        unseen: has(edit, 10).and(Some(Unseen::Nan)),
        guard: false,
        total: Some(total),
    };
    let absent = edit.graph.absent();
    let or_absent = |edit: &Edit<'_>, i: usize| has(edit, i).unwrap_or(absent);
    let operands = [q, k, v, or_absent(edit, 10), or_absent(edit, 3), or_absent(edit, 4), starts.lengths];
    edit.apply(attention, &operands)
}

/// The nodes that say where new rows begin.
fn starts(edit: &mut Edit<'_>, last: Value, [batch, steps, total]: [&Dim; 3]) -> Result<Starts, Miss> {
    let wide = edit.apply(Cast { to: DType::I64, wrap: false }, &[last])?;
    let last = match edit.rank(wide) {
        Some(1) => wide,
        _ => edit.apply(Reshape { shape: vec![batch.clone()] }, &[wide])?,
    };
    let one = edit.constant(Tensor::scalar(1i64));
    let lengths = edit.apply(Binary { f: BinaryFn::Add }, &[last, one])?;
    let is_prompt = steps.same(total);
    if is_prompt == Truth::Yes {
        let positions = edit.constant(Tensor::from_slice(&[1], &[0i64]).expect("one number is one element"));
        return Ok(Starts { lengths, positions });
    }
    let number = |edit: &mut Edit<'_>, d: &Dim| edit.apply(Dims { elements: vec![d.clone()], scalar: true }, &[]);
    let new = number(edit, steps)?;
    let mut starts = edit.apply(Binary { f: BinaryFn::Sub }, &[lengths, new])?;
    if is_prompt == Truth::Unknown {
        let longest = number(edit, total)?;
        let prompt = edit.apply(Compare { f: CompareFn::Eq }, &[new, longest])?;
        let zero = edit.constant(Tensor::scalar(0i64));
        starts = edit.apply(Select {}, &[prompt, zero, starts])?;
    }
    let column = edit.apply(Reshape { shape: vec![batch.clone(), Dim::constant(1)] }, &[starts])?;
    let row = edit.apply(Range { start: Dim::constant(0), step: Dim::constant(1), length: steps.clone() }, &[])?;
    let positions = edit.apply(Binary { f: BinaryFn::Add }, &[column, row])?;
    Ok(Starts { lengths, positions })
}

/// Queries, keys and values that lie side by side, in the last dimension.
fn side_by_side(edit: &mut Edit<'_>, all: Value, op: &GroupQueryAttention) -> Result<[Value; 3], Miss> {
    let width = edit.graph.tensor_ty(all).and_then(|t| t.dims()).and_then(|d| d.last().cloned());
    let each = width.and_then(|w| w.exact_div(&Dim::constant(op.heads + 2 * op.kv_heads)));
    let each = each.ok_or(Miss::Refused("queries, keys and values do not lie side by side"))?;
    let mut from = Dim::constant(0);
    let mut part = |heads: i64| {
        let to = &from + &(&each * heads);
        let slice = Slice { axes: vec![2], starts: vec![from.clone()], ends: vec![to.clone()], steps: vec![1] };
        from = to;
        edit.apply(slice, &[all])
    };
    Ok([part(op.heads)?, part(op.kv_heads)?, part(op.kv_heads)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check_doc_example;

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("lower_group_query_attention.rs"));
    }

    /// A graph of one attention: operands, attributes and the type of its first result.
    fn lowered(operands: &str, attrs: &str) -> Graph {
        let text = format!(
            "graph @g(%q: f32[B, S, 64], %pk: f32[B, 2, P, 8], %pv: f32[B, 2, P, 8], %last: i32[B], %mask: i64[B, T], %bias: f32[B, 1, S, T], %cut: f32[B, 1, S, U], %sinks: f32[4], %data: i32[1], %cos: f32[64, 4], %sin: f32[64, 4], %at: i64[B, S]) {{
              %n = dims() {{elements = [T]}} %total = cast(%n) {{to = i32}}
              %y, %nk, %nv = group_query_attention({operands}) {{heads = 4, kv_heads = 2{attrs}}}
              return %y, %nk, %nv }}"
        );
        let mut g = ir::text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        PASS.run(&mut g, &mut Context::default());
        ir::verify(&g).unwrap_or_else(|e| panic!("{e}\n{g}"));
        g
    }

    /// Inputs: a batch of sequences with that many old rows in a buffer of `p`, then the new ones; what the graph says to it.
    fn answers(g: &Graph, [s, p, total]: [usize; 3], last: &[i32]) -> Result<Vec<ir::Datum>, String> {
        let b = last.len();
        let floats = |dims: &[usize], salt: usize| {
            let n: usize = dims.iter().product();
            let values: Vec<f32> = (0..n).map(|i| ((i * 31 + salt * 17) % 23) as f32 / 11.0 - 1.0).collect();
            ir::Datum::from(Tensor::from_slice(dims, &values).unwrap())
        };
        let positions: Vec<i64> = (0..b * s).map(|i| (i % 9) as i64).collect();
        let inputs = [
            floats(&[b, s, 64], 1),
            floats(&[b, 2, p, 8], 2),
            floats(&[b, 2, p, 8], 3),
            Tensor::from_slice(&[b], last).unwrap().into(),
            Tensor::from_slice(&[b, total], &vec![1i64; b * total]).unwrap().into(),
            floats(&[b, 1, s, total], 4),
            floats(&[b, 1, s, total + 1], 5),
            floats(&[4], 6),
            Tensor::from_slice(&[1], &[total as i32]).unwrap().into(),
            floats(&[64, 4], 7),
            floats(&[64, 4], 8),
            Tensor::from_slice(&[b, s], &positions).unwrap().into(),
        ];
        let inputs: Vec<ir::Datum> = inputs.into();
        ir::eval::run(g, &inputs).map_err(|e| e.to_string())
    }

    /// Every way that sequences lie in buffers: behind all of the past, shorter than it, beyond the longest, prompts with and
    /// without padding, buffers that are larger than what is used, and lengths that are wrong.
    const CASES: [([usize; 3], &[i32]); 9] = [
        ([2, 3, 5], &[4, 4]),
        ([2, 3, 5], &[4, 2, 1]),
        ([1, 7, 5], &[4, 0, 3]),
        ([4, 0, 4], &[3, 1, 0]),
        ([4, 9, 4], &[3, 1]),
        ([1, 0, 1], &[0]),
        ([3, 2, 5], &[1]),
        ([2, 3, 5], &[5]),
        ([1, 2, 4], &[3]),
    ];

    #[test]
    fn every_form_gives_the_same_as_before() {
        let packed = "%q, _, _, %pk, %pv, %last, %total";
        let forms = [
            (packed.to_string(), ""),
            (format!("{packed}, %cos, %sin"), ", rotary = true"),
            (format!("{packed}, %cos, %sin, %at"), ", rotary = true, interleaved = true, window = 2"),
            (format!("{packed}, _, _, _, %bias"), ", softcap = 2.0, scale = 0.5"),
            ("%q, _, _, _, _, %last, %total".to_string(), ", window = 3"),
        ];
        for (operands, attrs) in forms {
            let after = lowered(&operands, attrs);
            assert!(after.to_string().contains(" attention(") && !after.to_string().contains("group_query"), "{after}");
            let mut right = 0;
            for (sizes, last) in CASES {
                let before = {
                    let mut g = lowered(&operands, &format!("{attrs}, smooth = true"));
                    let id =
                        g.order().into_iter().find(|n| g.op(*n).is_some_and(|op| op.name() == "group_query_attention"));
                    let id = id.expect("a smooth softmax stays one operator");
                    let Some(Op::CoreOp(CoreOp::GroupQueryAttention(op))) = g.op(id).cloned() else { unreachable!() };
                    g.set_op(id, GroupQueryAttention { smooth: false, ..op });
                    g
                };
                match (answers(&before, sizes, last), answers(&after, sizes, last)) {
                    (Ok(a), Ok(b)) => {
                        right += 1;
                        for (a, b) in a.iter().zip(&b) {
                            let (ir::Datum::Tensor(a), ir::Datum::Tensor(b)) = (a, b) else { unreachable!() };
                            assert_eq!(a.dims(), b.dims());
                            let pairs = a.to_f64().unwrap().into_iter().zip(b.to_f64().unwrap());
                            assert!(
                                pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5),
                                "{operands} {sizes:?} {last:?}"
                            );
                        }
                    }
                    (Err(_), Err(_)) => {}
                    (a, b) => panic!("{operands} {sizes:?} {last:?}: {a:?} and {b:?}"),
                }
            }
            assert!(right >= 2, "{operands}: {right} cases can be computed");
        }
    }

    fn refusal(operands: &str, attrs: &str) -> &'static str {
        let mut g = lowered(operands, attrs);
        let mut cx = Context::default();
        PASS.run(&mut g, &mut cx);
        assert!(g.to_string().contains("group_query_attention"), "{g}");
        match cx.log.last().map(|e| e.outcome) {
            Some(Err(Miss::Refused(why))) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keeps_sinks() {
        assert!(refusal("%q, _, _, %pk, %pv, %last, %total, _, _, _, _, %sinks", "").contains("sinks"));
        assert!(refusal("%q, _, _, %pk, %pv, %last, %total", ", smooth = true").contains("sinks"));
    }

    #[test]
    fn keeps_rows_that_see_later_keys() {
        assert!(refusal("%q, _, _, %pk, %pv, %last, %total", ", both_ways = true").contains("later keys"));
    }

    #[test]
    fn keeps_a_length_that_is_data() {
        assert!(refusal("%q, _, _, %pk, %pv, %last, %data", "").contains("the longest length is data"));
    }

    #[test]
    fn keeps_a_bias_of_other_columns() {
        assert!(refusal("%q, _, _, %pk, %pv, %last, %total, _, _, _, %cut", "").contains("a column for every key"));
    }
}
