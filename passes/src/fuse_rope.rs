//! Recognises rotary position embeddings that exporters spell out.
//!
//! `x cos + rotate_half(x) sin` reads x three times and copies it twice; `rope` reads it once. Tables of exporters hold every
//! angle twice, those of `rope` once, so the two halves of a table must be known to be equal. A rotation of the first elements
//! of each head alone, joined with the others, is a `rope` too.
//!
//! ```ir before
//! graph @rotary(%x: f32[B, 4, S, 8], %angles: f32[B, S, 4]) {
//!   %twice = concat(%angles, %angles) {axis = -1} : f32[B, S, 8]
//!   %cos = cos(%twice) : f32[B, S, 8]
//!   %sin = sin(%twice) : f32[B, S, 8]
//!   %cos4 = reshape(%cos) {shape = [B, 1, S, 8]} : f32[B, 1, S, 8]
//!   %sin4 = reshape(%sin) {shape = [B, 1, S, 8]} : f32[B, 1, S, 8]
//!   %low = slice(%x) {axes = [3], ends = [4], starts = [0], steps = [1]} : f32[B, 4, S, 4]
//!   %high = slice(%x) {axes = [3], ends = [8], starts = [4], steps = [1]} : f32[B, 4, S, 4]
//!   %minus = neg(%high) : f32[B, 4, S, 4]
//!   %turned = concat(%minus, %low) {axis = -1} : f32[B, 4, S, 8]
//!   %a = mul(%x, %cos4) : f32[B, 4, S, 8]
//!   %b = mul(%turned, %sin4) : f32[B, 4, S, 8]
//!   %y = add(%a, %b) : f32[B, 4, S, 8]
//!   return %y
//! }
//! ```
//! ```ir after
//! graph @rotary(%x: f32[B, 4, S, 8], %angles: f32[B, S, 4]) {
//!   %y.1 = cos(%angles) : f32[B, S, 4]
//!   %y.3 = sin(%angles) : f32[B, S, 4]
//!   %y = rope(%x, %y.1, %y.3) : f32[B, 4, S, 8]
//!   return %y
//! }
//! ```

mod tables;

use self::tables::Tables;
use crate::edit::Edit;
use crate::pass::{Body, Context, Miss, Pass};
use crate::pattern::{Match, Pattern};
use ir::dim::Dim;
use ir::graph::{Graph, Value};
use ir::ops::{CoreOp, Op, Reshape, Rope};

/// See the module.
pub const PASS: Pass = Pass { name: "fuse-rope", body: Body::Whole(fuse) };

/// A pattern and what is made of it.
struct Form {
    name: &'static str,
    pattern: &'static str,
    rewrite: fn(&mut Edit<'_>, &Match<'_>, &mut Tables) -> Result<Value, Miss>,
}

const FORMS: [Form; 3] = [
    Form {
        name: "rotate-half",
        pattern: "%b = slice(%x) %a = slice(%x) %n = neg(%b) %r = concat(%n, %a) %t = mul(%r, %sin) %c = mul(%x, %cos)
                  %y = add(%c, %t)",
        rewrite: rotate_half,
    },
    Form {
        name: "rotate-pairs",
        pattern: "%a = slice(%x) %b = slice(%x) %ac = mul(%a, %cos) %bs = mul(%b, %sin) %first = sub(%ac, %bs)
                  %bc = mul(%b, %cos) %as = mul(%a, %sin) %second = add(%bc, %as) %y = concat(%first, %second)",
        rewrite: rotate_pairs,
    },
    Form {
        name: "partial",
        pattern: "%p = slice(%x) %q = slice(%x) %r = rope(%p, %cos, %sin) %y = concat(%r, %q)",
        rewrite: partial,
    },
];

fn fuse(graph: &mut Graph, cx: &mut Context) {
    let patterns: Vec<Pattern> = FORMS.iter().map(|f| Pattern::new(f.pattern)).collect();
    let mut tables = Tables::default();
    for id in graph.order() {
        let Some(name) = graph.op(id).map(Op::name) else { continue };
        for (form, pattern) in FORMS.iter().zip(&patterns).filter(|(_, p)| p.root_op() == name) {
            let root = Value::from(id);
            let Some(found) = pattern.matches(graph, root) else { continue };
            let mut edit = Edit::new(graph, root, found.nodes());
            match (form.rewrite)(&mut edit, &found, &mut tables).and_then(|new| edit.settle(new)) {
                Ok(new) => {
                    cx.note(form.name, graph, new, Ok(()));
                    break;
                }
                Err(miss) => {
                    edit.abandon();
                    if miss != Miss::NoEffect {
                        cx.note(form.name, graph, root, Err(miss));
                    }
                }
            }
        }
    }
}

/// Start and end of a slice of the last dimension alone.
fn piece(edit: &Edit<'_>, v: Value) -> Result<[i64; 2], Miss> {
    let Some(Op::CoreOp(CoreOp::Slice(op))) = edit.graph.op(v.node) else { return Err(Miss::NoEffect) };
    let x = edit.graph.operands(v.node)[0];
    let width = width(edit, x)?;
    let last = edit.rank(x).ok_or(Miss::NoEffect)? as i64 - 1;
    let ([axis], [start], [end], [1]) = (&op.axes[..], &op.starts[..], &op.ends[..], &op.steps[..]) else {
        return Err(Miss::NoEffect);
    };
    let bound = |d: &Dim| d.as_const().map(|n| if n < 0 { (n + width).max(0) } else { n.min(width) });
    match (bound(start), bound(end)) {
        (Some(start), Some(end)) if *axis == -1 || *axis == last => Ok([start, end]),
        _ => Err(Miss::NoEffect),
    }
}

/// Elements along the last dimension.
fn width(edit: &Edit<'_>, v: Value) -> Result<i64, Miss> {
    let dims = edit.graph.tensor_ty(v).and_then(|t| t.dims()).ok_or(Miss::NoEffect)?;
    dims.last().and_then(Dim::as_const).ok_or(Miss::NoEffect)
}

/// Whether a concatenation is along the last dimension.
fn joins_last(edit: &Edit<'_>, v: Value) -> bool {
    let rank = edit.rank(v).map_or(0, |r| r as i64);
    matches!(edit.graph.op(v.node), Some(Op::CoreOp(CoreOp::Concat(op))) if op.axis == -1 || op.axis == rank - 1)
}

/// The two slices are the halves of `x`.
fn halves(edit: &Edit<'_>, m: &Match<'_>) -> Result<i64, Miss> {
    let (first, second, width) = (piece(edit, m["a"])?, piece(edit, m["b"])?, width(edit, m["x"])?);
    edit.require(
        width % 2 == 0 && first == [0, width / 2] && second == [width / 2, width],
        "what is turned are not the halves of a head",
    )?;
    Ok(width)
}

fn rotate_half(edit: &mut Edit<'_>, m: &Match<'_>, tables: &mut Tables) -> Result<Value, Miss> {
    if !joins_last(edit, m["r"]) {
        return Err(Miss::NoEffect);
    }
    let width = halves(edit, m)?;
    let twice = [m["cos"], m["sin"]].iter().all(|t| tables.repeats(edit.graph, *t, width));
    edit.require(twice, "the halves of the table of cosines or sines are not known to be equal")?;
    let [cos, sin] = [tables.half(edit, m["cos"], width)?, tables.half(edit, m["sin"], width)?];
    rope(edit, m["x"], cos, sin)
}

fn rotate_pairs(edit: &mut Edit<'_>, m: &Match<'_>, _: &mut Tables) -> Result<Value, Miss> {
    if !joins_last(edit, m["y"]) {
        return Err(Miss::NoEffect);
    }
    let width = halves(edit, m)?;
    let fits = [m["cos"], m["sin"]].iter().all(|t| self::width(edit, *t) == Ok(width / 2));
    edit.require(fits, "the tables do not have half the width of a head")?;
    rope(edit, m["x"], m["cos"], m["sin"])
}

/// The rotation of `x[B, H, S, D]`, or `[B, S, H, D]`, by tables of half the width that broadcast to it.
fn rope(edit: &mut Edit<'_>, x: Value, cos: Value, sin: Value) -> Result<Value, Miss> {
    let dims = |edit: &Edit<'_>, v: Value| edit.graph.tensor_ty(v).and_then(|t| t.dims()).map(<[Dim]>::to_vec);
    let shape = dims(edit, x).ok_or(Miss::NoEffect)?;
    let [batch, d1, d2, width] = &shape[..] else {
        return Err(Miss::Refused("what is rotated does not have four dimensions"));
    };
    let table = dims(edit, cos).ok_or(Miss::NoEffect)?;
    edit.require(dims(edit, sin).as_ref() == Some(&table), "cosines and sines have different shapes")?;
    let one = Dim::constant(1);
    let mut wide = vec![one.clone(); 4usize.saturating_sub(table.len())];
    wide.extend(table);
    let (steps, inside) = match &wide[..] {
        [_, h, _, _] if *h == one => (d2, false),
        [_, _, h, _] if *h == one => (d1, true),
        _ => return Err(Miss::Refused("every head is rotated by its own angles")),
    };
    let cos = tables::rows(edit, cos, [batch, steps])?;
    let sin = tables::rows(edit, sin, [batch, steps])?;
    if !inside {
        return edit.apply(Rope { heads: None, rotary: None, interleaved: false }, &[x, cos, sin]);
    }
    let heads = d2.as_const().ok_or(Miss::Refused("the number of heads is not known"))?;
    let flat = edit.apply(Reshape { shape: vec![batch.clone(), d1.clone(), d2 * width] }, &[x])?;
    let turned = edit.apply(Rope { heads: Some(heads), rotary: None, interleaved: false }, &[flat, cos, sin])?;
    edit.apply(Reshape { shape }, &[turned])
}

/// The first elements of each head are rotated, the others pass.
fn partial(edit: &mut Edit<'_>, m: &Match<'_>, _: &mut Tables) -> Result<Value, Miss> {
    let Some(Op::CoreOp(CoreOp::Rope(op))) = edit.graph.op(m["r"].node).cloned() else { return Err(Miss::NoEffect) };
    let (first, second, width) = (piece(edit, m["p"])?, piece(edit, m["q"])?, width(edit, m["x"])?);
    if !joins_last(edit, m["y"]) || op.rotary.is_some() || op.heads.is_some() {
        return Err(Miss::NoEffect);
    }
    let fits = first[0] == 0 && first[1] == second[0] && second[1] == width;
    edit.require(fits, "what is rotated and what is not are not the beginning and the end of a head")?;
    edit.apply(Rope { rotary: Some(first[1]), ..op }, &[m["x"], m["cos"], m["sin"]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_doc_example, check_refused, rewritten};

    #[test]
    fn doc_example() {
        check_doc_example(&PASS, include_str!("fuse_rope.rs"));
    }

    const HALVES: &str = "%a = slice(%x) {axes = [3], ends = [4], starts = [0], steps = [1]} \
        %b = slice(%x) {axes = [-1], ends = [9223372036854775807], starts = [-4], steps = [1]} %n = neg(%b) \
        %r = concat(%n, %a) {axis = 3} %c = mul(%cos, %x) %t = mul(%r, %sin) %y = add(%t, %c)";

    #[test]
    fn rows_of_a_constant_table() {
        let table = "const [0.0, 0.5, 0.0, 0.5] : f32[2, 2]";
        let text = format!(
            "graph @g(%x: f32[B, 3, S, 2], %p: i64[B, S]) {{ %e = {table} \
            %k = gather(%e, %p) {{axis = 0}} %cos = reshape(%k) {{shape = [B, 1, S, 2]}} %sin = reshape(%k) {{shape = [B, 1, S, 2]}} {} return %y }}",
            HALVES.replace("ends = [4]", "ends = [1]").replace("starts = [-4]", "starts = [-1]")
        );
        let repeated = text.replace("[0.0, 0.5, 0.0, 0.5]", "[0.0, 0.0, 0.5, 0.5]");
        let short = "%k = gather(%e, %p) {axis = 0}; %y.1 = slice(%k) {axes = [-1], ends = [1], starts = [0], steps = [1]}; \
            %y = rope(%x, %y.1, %y.1)";
        assert_eq!(rewritten(&PASS, &repeated), format!("%e = const [0.0, 0.0, 0.5, 0.5]; {short}"));
    }

    #[test]
    fn heads_inside_rows() {
        let text = format!(
            "graph @g(%x: f32[B, S, 3, 8], %f: f32[B, S, 1, 4]) {{ %w = concat(%f, %f) {{axis = 3}} %cos = cos(%w) %sin = sin(%w) {HALVES} return %y }}"
        );
        let expected = "%y.1 = cos(%f); %y.2 = sin(%f); %y.3 = reshape(%y.1) {shape = [B, S, 4]}; %y.4 = reshape(%y.2) {shape = [B, S, 4]}; \
            %y.5 = reshape(%x) {shape = [B, S, 24]}; %y.6 = rope(%y.5, %y.3, %y.4) {heads = 3}; %y = reshape(%y.6) {shape = [B, S, 3, 8]}";
        assert_eq!(rewritten(&PASS, &text), expected);
    }

    #[test]
    fn pairs_by_half_tables_for_all_of_a_batch() {
        let text = "graph @g(%x: f32[B, 3, S, 8], %cos: f32[1, 1, S, 4], %sin: f32[1, 1, S, 4]) {
            %a = slice(%x) {axes = [3], ends = [4], starts = [0], steps = [1]} %b = slice(%x) {axes = [3], ends = [8], starts = [4], steps = [1]}
            %ac = mul(%a, %cos) %bs = mul(%b, %sin) %l = sub(%ac, %bs) %bc = mul(%b, %cos) %as = mul(%a, %sin) %r = add(%as, %bc)
            %y = concat(%l, %r) {axis = -1} return %y }";
        let expected = "%y.1 = reshape(%cos) {shape = [1, S, 4]}; %y.2 = expand(%y.1) {shape = [B, S, 4]}; \
            %y.3 = reshape(%sin) {shape = [1, S, 4]}; %y.4 = expand(%y.3) {shape = [B, S, 4]}; %y = rope(%x, %y.2, %y.4)";
        assert_eq!(rewritten(&PASS, text), expected);
    }

    #[test]
    fn the_first_elements_alone() {
        let text = "graph @g(%x: f32[B, 3, S, 8], %cos: f32[B, S, 2], %sin: f32[B, S, 2]) {
            %p = slice(%x) {axes = [3], ends = [4], starts = [0], steps = [1]} %q = slice(%x) {axes = [3], ends = [8], starts = [4], steps = [1]}
            %r = rope(%p, %cos, %sin) %y = concat(%r, %q) {axis = -1} return %y }";
        assert_eq!(rewritten(&PASS, text), "%y = rope(%x, %cos, %sin) {rotary = 4}");
    }

    #[test]
    fn keeps_tables_whose_halves_may_differ() {
        let text = format!(
            "graph @g(%x: f32[B, 3, S, 8], %cos: f32[B, 1, S, 8], %sin: f32[B, 1, S, 8]) {{ {HALVES} return %y }}"
        );
        let text = ir::text::parse(&text).unwrap().to_string();
        check_refused(&PASS, &text, "the halves of the table of cosines or sines are not known to be equal");
    }

    #[test]
    fn keeps_other_parts_than_halves() {
        let slices = HALVES.replace("starts = [-4]", "starts = [-6]").replace("ends = [4]", "ends = [2]");
        let text = format!(
            "graph @g(%x: f32[B, 3, S, 8], %cos: f32[B, 1, S, 8], %sin: f32[B, 1, S, 8]) {{ {slices} return %y }}"
        );
        let text = ir::text::parse(&text).unwrap().to_string();
        check_refused(&PASS, &text, "what is turned are not the halves of a head");
    }

    #[test]
    fn keeps_angles_of_single_heads() {
        let text = format!(
            "graph @g(%x: f32[B, 3, S, 8], %f: f32[B, 3, S, 4]) {{ %w = concat(%f, %f) {{axis = 3}} %cos = cos(%w) %sin = sin(%w) {HALVES} return %y }}"
        );
        let text = ir::text::parse(&text).unwrap().to_string();
        check_refused(&PASS, &text, "every head is rotated by its own angles");
    }
}
