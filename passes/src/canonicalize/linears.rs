//! Products with constant matrices: `linear`, whichever way the weight lies, with its bias.

use crate::edit::Edit;
use crate::pass::{Miss, Rule};
use crate::pattern::Match;
use ir::graph::{Graph, Kind, Value};
use ir::ops::{CoreOp, Linear, Op, Reshape};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "matmul-transposed-weight",
        pattern: "%t = transpose(%w) {perm = [1, 0]} %y = matmul(%x, %t)",
        rewrite: |e, m| matmul(e, m, false),
    },
    Rule { name: "matmul-weight", pattern: "%y = matmul(%x, %w)", rewrite: |e, m| matmul(e, m, true) },
    Rule {
        name: "transposed-weight",
        pattern: "%t = transpose(%w) {perm = [1, 0]} %y = linear(%x, %t)",
        rewrite: |e, m| flip(e, m, &[]),
    },
    Rule {
        name: "transposed-weight",
        pattern: "%t = transpose(%w) {perm = [1, 0]} %y = linear(%x, %t, %b)",
        rewrite: |e, m| flip(e, m, &["b"]),
    },
    Rule { name: "narrow-weight", pattern: "%t = cast(%w) %y = linear(%x, %t)", rewrite: |e, m| narrow(e, m, &[]) },
    Rule {
        name: "narrow-weight",
        pattern: "%t = cast(%w) %y = linear(%x, %t, %b)",
        rewrite: |e, m| narrow(e, m, &["b"]),
    },
    Rule { name: "column-weight", pattern: "%y = linear(%x, %w)", rewrite: column },
    Rule { name: "bias", pattern: "%l = linear(%x, %w) %y = add(%l, %b)", rewrite: bias },
    Rule { name: "packed-bias", pattern: "%y = add(%a, %b)", rewrite: packed_bias },
];

fn is_weight(graph: &Graph, v: Value) -> bool {
    matches!(graph.node(v.node).kind, Kind::Weight(_))
}

/// A weight, or one that is converted as it is read.
fn is_stored(graph: &Graph, v: Value) -> bool {
    let is_cast = graph.op(v.node).is_some_and(|op| op.name() == "cast");
    is_weight(graph, v) || is_cast && graph.operands(v.node).first().is_some_and(|w| is_weight(graph, *w))
}

fn matmul(edit: &mut Edit<'_>, m: &Match<'_>, kn: bool) -> Result<Value, Miss> {
    let is_float = edit.dtype(m["w"]).is_some_and(|d| d.is_float());
    if !is_float || !is_stored(edit.graph, m["w"]) || edit.rank(m["w"]) != Some(2) {
        return Err(Miss::NoEffect);
    }
    edit.apply(Linear { kn }, &[m["x"], m["w"]])
}

fn kn(graph: &Graph, v: Value) -> Result<bool, Miss> {
    match graph.op(v.node) {
        Some(Op::CoreOp(CoreOp::Linear(op))) => Ok(op.kn),
        _ => Err(Miss::NoEffect),
    }
}

/// A transposed weight is the weight in the other layout.
fn flip(edit: &mut Edit<'_>, m: &Match<'_>, more: &[&str]) -> Result<Value, Miss> {
    if !is_stored(edit.graph, m["w"]) {
        return Err(Miss::NoEffect);
    }
    let kn = kn(edit.graph, m["y"])?;
    let operands: Vec<Value> = [m["x"], m["w"]].into_iter().chain(more.iter().map(|n| m[n])).collect();
    edit.apply(Linear { kn: !kn }, &operands)
}

/// `linear` widens a narrow weight as it reads it.
fn narrow(edit: &mut Edit<'_>, m: &Match<'_>, more: &[&str]) -> Result<Value, Miss> {
    let (from, to) = (edit.dtype(m["w"]), edit.dtype(m["t"]));
    let widens = from.zip(to).is_some_and(|(f, t)| f.is_float() && !f.is_storage_only() && f.bits() < t.bits());
    if !widens || !is_weight(edit.graph, m["w"]) {
        return Err(Miss::NoEffect);
    }
    let kn = kn(edit.graph, m["y"])?;
    let operands: Vec<Value> = [m["x"], m["w"]].into_iter().chain(more.iter().map(|n| m[n])).collect();
    edit.apply(Linear { kn }, &operands)
}

/// A weight of one column is one row.
fn column(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let dims = edit.graph.tensor_ty(m["w"]).and_then(|t| t.dims()).ok_or(Miss::NoEffect)?.to_vec();
    if !kn(edit.graph, m["y"])? || !is_weight(edit.graph, m["w"]) || dims[1].as_const() != Some(1) {
        return Err(Miss::NoEffect);
    }
    let row = edit.apply(Reshape { shape: vec![dims[1].clone(), dims[0].clone()] }, &[m["w"]])?;
    edit.apply(Linear { kn: false }, &[m["x"], row])
}

fn bias(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let bias = row(edit, m["l"], m["b"])?;
    let kn = kn(edit.graph, m["l"])?;
    edit.apply(Linear { kn }, &[m["x"], m["w"], bias])
}

/// The same where the weight is packed; either factor of the sum may be the product.
fn packed_bias(edit: &mut Edit<'_>, m: &Match<'_>) -> Result<Value, Miss> {
    let open = |l: Value| match edit.graph.op(l.node) {
        Some(Op::CoreOp(CoreOp::MatMulNBits(op))) => Some((op.clone(), edit.graph.operands(l.node).to_vec())),
        _ => None,
    };
    let [a, b] = [m["a"], m["b"]];
    let (l, b, (op, mut operands)) =
        open(a).map(|found| (a, b, found)).or_else(|| open(b).map(|found| (b, a, found))).ok_or(Miss::NoEffect)?;
    if operands.get(5).is_some_and(|v| edit.graph.tensor_ty(*v).is_some()) {
        return Err(Miss::NoEffect);
    }
    let bias = row(edit, l, b)?;
    operands.truncate(5);
    operands.resize_with(5, || edit.graph.absent());
    operands.push(bias);
    edit.apply(op, &operands)
}

/// The weight `b`, which is added to the product `l`, as one number per column.
fn row(edit: &mut Edit<'_>, l: Value, b: Value) -> Result<Value, Miss> {
    if !is_weight(edit.graph, b) {
        return Err(Miss::NoEffect);
    }
    let n = edit.graph.tensor_ty(l).and_then(|t| t.dims()?.last().cloned()).ok_or(Miss::NoEffect)?;
    let dims = edit.graph.tensor_ty(b).and_then(|t| t.dims()).ok_or(Miss::NoEffect)?.to_vec();
    let is_vector = dims.last() == Some(&n) && dims.iter().rev().skip(1).all(|d| d.as_const() == Some(1));
    edit.require(is_vector, "what is added is not one number per column")?;
    edit.require(edit.graph.use_count(l) == 1, "the product without bias has another reader")?;
    match (&dims[..], edit.graph.constant_of(b)) {
        ([_], _) => Ok(b),
        (_, Some(t)) => {
            let flat = t.reshaped(&[t.len()]).map_err(|_| Miss::NoEffect)?;
            Ok(edit.constant(flat))
        }
        (_, None) => Err(Miss::NoEffect),
    }
}

#[cfg(test)]
mod tests {
    use crate::canonicalize::PASS;
    use crate::testing::{check_refused, check_unchanged, rewritten};

    fn check(stmts: &str, expected: &str) {
        let text = format!("graph @g(%x: f32[N, 4], %d: f32[4, 3]) {{ {stmts} return %y }}");
        assert_eq!(rewritten(&PASS, &text), expected, "{stmts}");
    }

    #[test]
    fn products_with_weights_are_linear() {
        check("%w = weight : f32[4, 3] %y = matmul(%x, %w)", "%w = weight; %y = linear(%x, %w) {kn = true}");
        check(
            "%w = weight : f32[3, 4] %t = transpose(%w) {perm = [1, 0]} %y = matmul(%x, %t)",
            "%w = weight; %y = linear(%x, %w)",
        );
        check(
            "%w = weight : f16[4, 3] %t = cast(%w) {to = f32} %y = matmul(%x, %t)",
            "%w = weight; %y = linear(%x, %w) {kn = true}",
        );
        check(
            "%w = weight : f32[4, 3] %b = weight : f32[3] %l = matmul(%x, %w) %y = add(%b, %l)",
            "%w = weight; %b = weight; %y = linear(%x, %w, %b) {kn = true}",
        );
        check(
            "%w = weight : f32[4, 3] %t = transpose(%w) {perm = [1, 0]} %y = linear(%x, %t)",
            "%w = weight; %y = linear(%x, %w) {kn = true}",
        );
    }

    #[test]
    fn a_bias_with_leading_ones_is_flattened() {
        check(
            "%w = weight : f32[4, 3] %b = const [1.0, 2.0, 3.0] : f32[1, 3] %l = matmul(%x, %w) %y = add(%l, %b)",
            "%w = weight; %y.1 = const [1.0, 2.0, 3.0]; %y = linear(%x, %w, %y.1) {kn = true}",
        );
    }

    #[test]
    fn a_packed_product_takes_its_bias() {
        let product = |bias: &str| {
            format!(
                "%p = weight : u8[3, 1, 8] %s = weight : f32[3] %l = matmul_nbits(%x, %p, %s{bias}) {{bits = 4, block = 16, k = 4, n = 3}}"
            )
        };
        let expected = "%p = weight; %s = weight; %b = weight; %y = matmul_nbits(%x, %p, %s, _, _, %b) {bits = 4, block = 16, k = 4, n = 3}";
        for sum in ["add(%l, %b)", "add(%b, %l)"] {
            check(&format!("{} %b = weight : f32[3] %y = {sum}", product("")), expected);
        }
        // One that has a bias keeps it.
        let biased = format!("%c = weight : f32[3] {} %b = weight : f32[3] %y = add(%l, %b)", product(", _, _, %c"));
        check(
            &biased,
            "%c = weight; %p = weight; %s = weight; %l = matmul_nbits(%x, %p, %s, _, _, %c) {bits = 4, block = 16, k = 4, n = 3}; %b = weight; %y = add(%l, %b)",
        );
    }

    #[test]
    fn keeps_products_of_two_activations() {
        check("%y = matmul(%x, %d)", "%y = matmul(%x, %d)");
    }

    #[test]
    fn keeps_a_residual_apart() {
        check_unchanged(
            &PASS,
            "
graph @g(%x: f32[N, 4], %r: f32[N, 3]) {
  %w = weight : f32[4, 3]
  %l = linear(%x, %w) {kn = true} : f32[N, 3]
  %y = add(%l, %r) : f32[N, 3]
  return %y
}",
        );
    }

    #[test]
    fn keeps_a_product_that_others_read() {
        let text = "
graph @g(%x: f32[N, 4]) {
  %w = weight : f32[4, 3]
  %b = weight : f32[3]
  %l = linear(%x, %w) {kn = true} : f32[N, 3]
  %y = add(%l, %b) : f32[N, 3]
  return %l, %y
}";
        check_refused(&PASS, text, "the product without bias has another reader");
    }
}
