//! Says what the mask of an attention means: which conditions on positions it makes, and what else hides a key.

use super::term::{Function, TRUE, Term, coordinate, element, not};
use crate::axes::equal;
use crate::edit::Edit;
use crate::pass::Miss;
use ir::DType;
use ir::dim::{Dim, Truth};
use ir::graph::{Graph, NodeId, Value};
use ir::ops::{Attention, Binary, Cast, Compare, CoreOp, Op, Reshape, Select, Unary, Unseen};

/// What a mask was found to be.
struct Meaning {
    /// Expressions that are at most 0 where a key may be seen.
    conditions: Vec<Dim>,
    /// The number that hides a key; truth values have none.
    hidden: Option<f64>,
    /// What else there is.
    rest: Rest,
}

enum Rest {
    Nothing,
    /// True where a key may be seen.
    Keep(Term),
    Other,
}

/// An attention whose mask is expressed by attributes and a smaller mask.
pub(super) fn explain(edit: &mut Edit<'_>, id: NodeId) -> Result<Value, Miss> {
    let Some(Op::CoreOp(CoreOp::Attention(op))) = edit.graph.op(id).cloned() else { return Err(Miss::NoEffect) };
    let mut operands = edit.graph.operands(id).to_vec();
    let has = |i: usize| operands.get(i).is_some_and(|v| edit.graph.tensor_ty(*v).is_some());
    if !has(3) || op.scores.is_some() || op.causal || op.left.is_some() || op.right.is_some() {
        return Err(Miss::NoEffect);
    }
    let (has_past, has_lengths) = (has(4), has(6));
    let dims = score_dims(edit.graph, &op, &operands).ok_or(Miss::NoEffect)?;
    let index = coordinates(edit.graph, operands[3], &dims).ok_or(Miss::NoEffect)?;
    let term = element(edit.graph, operands[3], &index).ok_or(Miss::NoEffect)?;
    let meaning = meaning(term, edit.dtype(operands[3]).ok_or(Miss::NoEffect)?)?;
    let finite = meaning.hidden.is_some_and(f64::is_finite);
    edit.require(!(finite && has_lengths), "the mask hides keys by a finite number and lengths hide others")?;
    let mut new = op.clone();
    let [_, _, rows, keys] = &dims;
    if !meaning.conditions.is_empty() {
        positions(edit.graph, &mut new, &meaning.conditions, rows, keys, has_past, has_lengths)?;
    }
    if finite {
        new.unseen = Some(Unseen::Mean);
    }
    let mask = match &meaning.rest {
        Rest::Nothing => None,
        Rest::Keep(term) => {
            Some(build(edit, term).ok_or(Miss::Refused("a part of the mask depends on positions in another way"))?)
        }
        Rest::Other => return Err(Miss::NoEffect),
    };
    if mask == Some(operands[3]) && meaning.conditions.is_empty() {
        return Err(Miss::NoEffect);
    }
    if mask.is_none() && !has_lengths && sees_a_key(edit.graph, &new, rows, keys) {
        new.unseen = None;
    }
    operands[3] = mask.unwrap_or_else(|| edit.graph.absent());
    if operands.len() == 4 && mask.is_none() {
        operands.pop();
    }
    edit.apply(new, &operands)
}

/// `[B, H, S, T]` of the scores.
fn score_dims(graph: &Graph, op: &Attention, operands: &[Value]) -> Option<[Dim; 4]> {
    let dims = |i: usize| operands.get(i).and_then(|v| graph.tensor_ty(*v)?.dims());
    let (batch, heads, rows) = match dims(0)? {
        [b, h, s, _] => (b.clone(), h.clone(), s.clone()),
        [b, s, _] => (b.clone(), Dim::constant(op.q_heads?), s.clone()),
        _ => return None,
    };
    let mut keys = match dims(1)? {
        [_, _, t, _] => t.clone(),
        [_, t, _] => t.clone(),
        _ => return None,
    };
    if let Some([_, _, past, _]) = dims(4) {
        keys = past + &keys;
    }
    Some([batch, heads, rows, keys])
}

/// The index into a mask for the element of the scores at the coordinates.
fn coordinates(graph: &Graph, mask: Value, scores: &[Dim; 4]) -> Option<Vec<Dim>> {
    let dims = graph.tensor_ty(mask)?.dims()?;
    let lead = 4usize.checked_sub(dims.len())?;
    let at = |(i, d): (usize, &Dim)| match d.as_const() {
        Some(1) => Some(Dim::constant(0)),
        _ => equal(graph, d, &scores[lead + i]).then(|| coordinate(lead + i)),
    };
    dims.iter().enumerate().map(at).collect()
}

/// Whether a number hides a key wherever it is added to a score.
fn hides(v: f64, dtype: DType) -> bool {
    let lowest = match dtype {
        DType::F16 => -65504.0,
        _ => f32::MIN as f64,
    };
    v <= lowest / 2.0
}

/// Takes conditions out of a mask one by one: where one does not hold, the key is hidden whatever else holds.
fn meaning(term: Term, dtype: DType) -> Result<Meaning, Miss> {
    let mut hidden: Option<f64> = None;
    let mut hides_all = |t: &Term| match t.number() {
        Some(v) if dtype == DType::Bool => v == 0.0,
        Some(v) if hides(v, dtype) && hidden.is_none_or(|h| h == v) => {
            hidden = Some(v);
            true
        }
        _ => false,
    };
    let (mut rest, mut conditions) = (term, vec![]);
    'next: loop {
        let mut candidates = vec![];
        rest.conditions(&mut candidates);
        for condition in candidates {
            for holds in [true, false] {
                if hides_all(&rest.where_it(!holds, &condition)) {
                    rest = rest.where_it(holds, &condition);
                    conditions.push(if holds { condition } else { &-&condition + 1 });
                    continue 'next;
                }
            }
        }
        break;
    }
    let rest = match &rest {
        t if *t == TRUE => Rest::Nothing,
        t if dtype == DType::Bool => Rest::Keep(t.clone()),
        Term::Number(0.0, _) => Rest::Nothing,
        Term::Apply(Function::Select, args) => match (args[1].number(), args[2].number()) {
            (Some(0.0), Some(_)) if hides_all(&args[2]) => Rest::Keep((*args[0]).clone()),
            (Some(_), Some(0.0)) if hides_all(&args[1]) => Rest::Keep(not((*args[0]).clone())),
            _ => Rest::Other,
        },
        _ => Rest::Other,
    };
    if matches!(rest, Rest::Other) && !conditions.is_empty() && hidden.is_some_and(f64::is_finite) {
        return Err(Miss::Refused("besides positions, the mask adds other numbers"));
    }
    Ok(Meaning { conditions, hidden, rest })
}

/// Turns conditions into attributes.
fn positions(
    graph: &Graph,
    op: &mut Attention,
    conditions: &[Dim],
    rows: &Dim,
    keys: &Dim,
    has_past: bool,
    has_lengths: bool,
) -> Result<(), Miss> {
    let (query, key) = (coordinate(2), coordinate(3));
    let at = |d: &Dim, i: &Dim, j: &Dim| {
        d.substitute(&|s| match s {
            "@query" => Some(i.clone()),
            "@key" => Some(j.clone()),
            _ => None,
        })
    };
    let zero = Dim::constant(0);
    let (mut causal, mut window) = (None, None);
    for condition in conditions {
        let constant = at(condition, &zero, &zero);
        let shape = condition - &constant;
        let place = if shape == &key - &query {
            &mut causal
        } else if shape == &query - &key {
            &mut window
        } else {
            // A bound on the keys that no key reaches says nothing.
            let last = at(condition, &(rows - 1), &(keys - 1));
            let empty = shape == key && (-&last).at_least(0) == Truth::Yes;
            if empty { continue } else { return Err(Miss::Refused("the mask depends on positions in another way")) }
        };
        if place.replace(constant).is_some() {
            return Err(Miss::Refused("the mask has two conditions of one kind on positions"));
        }
    }
    // j - i + c <= 0 keeps keys up to i - c.
    let ends_last = keys - rows;
    let offset = match &causal {
        Some(c) => -c,
        None => ends_last.clone(),
    };
    let offset = if equal(graph, &offset, &ends_last) { ends_last } else { offset };
    if let Some(c) = window {
        // i - j + c <= 0 keeps keys from i + c.
        let left = (&offset - &c).as_const().filter(|l| *l >= 0);
        op.left = Some(left.ok_or(Miss::Refused("the window of the mask has no fixed width"))?);
    }
    op.causal = causal.is_some();
    let implied = if has_past {
        Some(keys - rows)
    } else if has_lengths {
        None
    } else {
        Some(zero)
    };
    op.offset = (implied.as_ref() != Some(&offset)).then_some(offset);
    Ok(())
}

/// Whether every row sees a key for sure.
fn sees_a_key(graph: &Graph, op: &Attention, rows: &Dim, keys: &Dim) -> bool {
    let ends_last = keys - rows;
    let offset = op.offset.clone().unwrap_or(Dim::constant(0));
    match (op.causal, op.left) {
        (false, None) => true,
        (true, None) => offset.at_least(0) == Truth::Yes,
        _ => offset.at_least(0) == Truth::Yes && equal(graph, &offset, &ends_last),
    }
}

/// The term as a value `[B or 1, H or 1, S or 1, T or 1]`; `None` where it depends on positions.
fn build(edit: &mut Edit<'_>, term: &Term) -> Option<Value> {
    match term {
        Term::Number(v, dtype) => Some(edit.scalar(*dtype, *v)),
        Term::Read(v, index, _) => read(edit, *v, index),
        Term::Apply(f, args) => {
            let args: Option<Vec<Value>> = args.iter().map(|a| build(edit, a)).collect();
            let args = args?;
            let op: Op = match *f {
                Function::Unary(f) => Unary { f }.into(),
                Function::Binary(f) => Binary { f }.into(),
                Function::Compare(f) => Compare { f }.into(),
                Function::Cast(to) => Cast { to, wrap: false }.into(),
                Function::Select => Select {}.into(),
            };
            edit.reuse(op, &args).ok()
        }
        Term::Index(_) | Term::AtMostZero(_) | Term::IsZero(_) => None,
    }
}

/// A tensor whose dimensions are coordinates, or of 1, with the four dimensions of scores.
fn read(edit: &mut Edit<'_>, v: Value, index: &[Dim]) -> Option<Value> {
    let dims = edit.graph.tensor_ty(v)?.dims()?.to_vec();
    let mut shape = vec![Dim::constant(1); 4];
    let mut next = 0;
    for (dim, at) in dims.iter().zip(index) {
        if dim.as_const() == Some(1) {
            continue;
        }
        let axis = (next..4).find(|axis| *at == coordinate(*axis))?;
        shape[axis] = dim.clone();
        next = axis + 1;
    }
    if dims == shape {
        return Some(v);
    }
    edit.reuse(Reshape { shape }, &[v]).ok()
}

#[cfg(test)]
mod tests {
    use crate::fuse_attention::PASS;
    use crate::testing::{check_refused, rewritten};

    /// An attention of S queries to `P + S` keys whose mask `%mask` is made by `stmts`.
    fn attention(stmts: &str) -> String {
        let inputs = "%q: f32[B, 2, S, 4], %k: f32[B, 2, P + S, 4], %pk: f32[P], %am: i64[B, P + S], %data: f32[B, 1, S, P + S], %n: i64[B]";
        let positions = "%keys = range() {length = P + S, start = 0, step = 1} %rows1 = range() {length = S, start = P, step = 1} \
            %rows = reshape(%rows1) {shape = [S, 1]} %low = const [-3.4028234663852886e38] : f32[] %none = const [0.0] : f32[] \
            %earlier = le(%keys, %rows)";
        let attention = if stmts.contains("%y = ") { "" } else { "%y = attention(%q, %k, %k, %mask) {scale = 0.5}" };
        format!("graph @g({inputs}) {{ {positions} {stmts} {attention} return %y }}")
    }

    fn check(stmts: &str, expected: &str) {
        assert_eq!(rewritten(&PASS, &attention(stmts)), expected, "{stmts}");
    }

    fn refused(stmts: &str, why: &'static str) {
        let mut g = ir::text::parse(&attention(stmts)).unwrap();
        g.remove_dead();
        check_refused(&PASS, &g.to_string(), why);
    }

    const CAUSAL: &str = "%y = attention(%q, %k, %k) {causal = true, offset = P, scale = 0.5}";

    #[test]
    fn truth_values() {
        check("%mask = and(%earlier, %earlier)", CAUSAL);
        check("%later = gt(%keys, %rows) %mask = not(%later)", CAUSAL);
        let padding = "%y.1 = reshape(%am) {shape = [B, 1, 1, P + S]}; %y.2 = cast(%y.1) {to = bool}";
        check(
            "%set2 = cast(%am) {to = bool} %set = reshape(%set2) {shape = [B, 1, 1, P + S]} %mask = and(%earlier, %set)",
            &format!("{padding}; %y = attention(%q, %k, %k, %y.2) {{causal = true, offset = P, scale = 0.5}}"),
        );
    }

    #[test]
    fn positions_behind_a_past_need_no_offset() {
        let text = "graph @g(%q: f32[B, 2, S, 4], %k: f32[B, 2, S, 4], %pk: f32[B, 2, P, 4]) { \
            %keys = range() {length = P + S, start = 0, step = 1} %rows1 = range() {length = S, start = P, step = 1} \
            %rows = reshape(%rows1) {shape = [S, 1]} %mask = le(%keys, %rows) \
            %y, %nk, %nv = attention(%q, %k, %k, %mask, %pk, %pk) {present = true} return %y, %nk, %nv }";
        let expected = "%y, %nk, %nv = attention(%q, %k, %k, _, %pk, %pk) {causal = true, present = true}";
        assert!(rewritten(&PASS, text).starts_with(expected), "{}", rewritten(&PASS, text));
    }

    #[test]
    fn windows_of_the_last_keys() {
        let near =
            "%four = const [4] : i64[] %edge = sub(%rows, %four) %near = gt(%keys, %edge) %mask = and(%near, %earlier)";
        check(near, "%y = attention(%q, %k, %k) {causal = true, left = 3, offset = P, scale = 0.5}");
        let around = "%four = const [4] : i64[] %edge = sub(%rows, %four) %mask = gt(%keys, %edge)";
        check(around, "%y = attention(%q, %k, %k) {left = 3, offset = P, scale = 0.5}");
    }

    #[test]
    fn triangles_kept_as_constants() {
        let triangle = "%t = const [1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1] : u8[4, 4] \
            %r = slice(%t) {axes = [0, 1], ends = [S, S], starts = [0, 0], steps = [1, 1]} %mask = cast(%r) {to = bool}";
        let text = format!(
            "graph @g(%q: f32[B, 2, 3, 4]) {{ {} %y = attention(%q, %q, %q, %mask) {{scale = 0.5}} return %y }}",
            triangle.replace("[S, S]", "[3, 3]")
        );
        assert_eq!(rewritten(&PASS, &text), "%y = attention(%q, %q, %q) {causal = true, scale = 0.5}");
    }

    #[test]
    fn keeps_masks_that_are_data() {
        check(
            "%mask = add(%data, %data)",
            "%mask = add(%data, %data); %y = attention(%q, %k, %k, %mask) {scale = 0.5}",
        );
    }

    #[test]
    fn keeps_masks_that_add_other_numbers_besides() {
        refused("%mask = select(%earlier, %data, %low)", "besides positions, the mask adds other numbers");
    }

    #[test]
    fn keeps_positions_that_no_attribute_says() {
        let five = "%five = const [5] : i64[]";
        refused(&format!("{five} %mask = gt(%rows, %five)"), "the mask depends on positions in another way");
        refused(
            "%set2 = cast(%am) {to = bool} %set = reshape(%set2) {shape = [B, 1, 1, P + S]} %mask = or(%earlier, %set)",
            "a part of the mask depends on positions in another way",
        );
        refused(
            "%start = dims() {elements = [P], scalar = true} %edge = sub(%rows, %start) %near = gt(%keys, %edge) %mask = and(%near, %earlier)",
            "the window of the mask has no fixed width",
        );
    }

    #[test]
    fn keeps_low_numbers_beside_lengths() {
        refused(
            "%mask = select(%earlier, %none, %low) %y = attention(%q, %k, %k, %mask, _, _, %n) {scale = 0.5}",
            "the mask hides keys by a finite number and lengths hide others",
        );
    }
}
