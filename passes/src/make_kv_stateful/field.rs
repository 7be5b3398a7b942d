//! What a tensor of positions or a mask holds, as a formula of the coordinates.
//!
//! Exporters compute positions and masks from ranges, sizes and the attention mask in many ways: `Range(P, P + S)`,
//! `CumSum(mask) - 1`, triangles cut from a constant, comparisons of ranges gathered from a mask of ones. As a formula of
//! the coordinates `#0`, `#1` ... they are all the same: `P + #1`, or "`P + #2 - #3` is not negative".

use ir::dim::{Dim, Truth};
use ir::graph::{Graph, Kind, Value};
use ir::ops::{CoreOp, CumulateFn, Op, ReduceFn, Slice};
use ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use ir::scalar_expr::{Arg, Step};
use ir::{DType, Tensor, TensorType};
use std::collections::HashMap;

/// Formulas of more parts are not followed.
const MOST_PARTS: usize = 64;

/// One element, as a function of its coordinates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Field {
    /// A whole number.
    Int(Dim),
    /// A float.
    Num(f64),
    /// A truth value.
    Bool(Pred),
    /// One of two.
    Select(Pred, Box<Field>, Box<Field>),
}

/// A condition on coordinates and sizes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pred {
    /// Always or never.
    Const(bool),
    /// The expression is not negative.
    AtLeastZero(Dim),
    /// All of them.
    All(Vec<Pred>),
    /// One of them.
    Any(Vec<Pred>),
}

/// The coordinate along a dimension.
pub(crate) fn axis(i: usize) -> Dim {
    Dim::sym(&format!("#{i}"))
}

fn axis_number(symbol: &str) -> Option<usize> {
    symbol.strip_prefix('#')?.parse().ok()
}

/// Replaces coordinates.
fn at(dim: &Dim, index: &dyn Fn(usize) -> Dim) -> Dim {
    dim.substitute(&|s| axis_number(s).map(index))
}

impl Pred {
    /// `d >= 0`.
    pub fn at_least_zero(d: Dim) -> Pred {
        match d.at_least(0) {
            Truth::Yes => Pred::Const(true),
            Truth::No => Pred::Const(false),
            Truth::Unknown => Pred::AtLeastZero(d),
        }
    }

    fn not(&self) -> Pred {
        match self {
            Pred::Const(b) => Pred::Const(!b),
            Pred::AtLeastZero(d) => Pred::at_least_zero(&Dim::constant(-1) - d),
            Pred::All(parts) => Pred::any(parts.iter().map(Pred::not)),
            Pred::Any(parts) => Pred::all(parts.iter().map(Pred::not)),
        }
    }

    fn all(parts: impl IntoIterator<Item = Pred>) -> Pred {
        let mut found = vec![];
        for part in parts {
            match part {
                Pred::Const(true) => {}
                Pred::Const(false) => return Pred::Const(false),
                Pred::All(more) => found.extend(more),
                other => found.push(other),
            }
        }
        let mut distinct: Vec<Pred> = vec![];
        found.into_iter().for_each(|p| {
            if !distinct.contains(&p) {
                distinct.push(p);
            }
        });
        match distinct.len() {
            0 => Pred::Const(true),
            1 => distinct.remove(0),
            _ => Pred::All(distinct),
        }
    }

    fn any(parts: impl IntoIterator<Item = Pred>) -> Pred {
        let parts: Vec<Pred> = parts.into_iter().map(|p| p.not()).collect();
        match Pred::all(parts) {
            Pred::All(parts) => Pred::Any(parts.iter().map(Pred::not).collect()),
            one => one.not(),
        }
    }

    fn at(&self, index: &dyn Fn(usize) -> Dim) -> Pred {
        match self {
            Pred::Const(b) => Pred::Const(*b),
            Pred::AtLeastZero(d) => Pred::at_least_zero(at(d, index)),
            Pred::All(parts) => Pred::all(parts.iter().map(|p| p.at(index))),
            Pred::Any(parts) => Pred::any(parts.iter().map(|p| p.at(index))),
        }
    }

    fn parts(&self) -> usize {
        match self {
            Pred::Const(_) | Pred::AtLeastZero(_) => 1,
            Pred::All(parts) | Pred::Any(parts) => parts.iter().map(Pred::parts).sum(),
        }
    }
}

impl Field {
    fn at(&self, index: &dyn Fn(usize) -> Dim) -> Field {
        match self {
            Field::Int(d) => Field::Int(at(d, index)),
            Field::Num(v) => Field::Num(*v),
            Field::Bool(p) => Field::Bool(p.at(index)),
            Field::Select(p, a, b) => choose(p.at(index), a.at(index), b.at(index)),
        }
    }

    /// The same value everywhere.
    fn is_uniform(&self) -> bool {
        let mut uniform = true;
        let mentions = |d: &Dim| d.symbols().iter().any(|s| axis_number(s).is_some());
        fn dims(f: &Field, visit: &mut dyn FnMut(&Dim)) {
            fn of(p: &Pred, visit: &mut dyn FnMut(&Dim)) {
                match p {
                    Pred::Const(_) => {}
                    Pred::AtLeastZero(d) => visit(d),
                    Pred::All(parts) | Pred::Any(parts) => parts.iter().for_each(|p| of(p, visit)),
                }
            }
            match f {
                Field::Int(d) => visit(d),
                Field::Num(_) => {}
                Field::Bool(p) => of(p, visit),
                Field::Select(p, a, b) => {
                    of(p, visit);
                    dims(a, visit);
                    dims(b, visit);
                }
            }
        }
        dims(self, &mut |d| uniform &= !mentions(d));
        uniform
    }

    fn parts(&self) -> usize {
        match self {
            Field::Int(_) | Field::Num(_) => 1,
            Field::Bool(p) => p.parts(),
            Field::Select(p, a, b) => p.parts() + a.parts() + b.parts(),
        }
    }

    /// The condition under which a mask lets a score through: a bool that is true, or a float that adds 0 and else takes the
    /// key out.
    pub fn keeps(&self) -> Option<Pred> {
        let out = |v: f64| v <= -1e4;
        match self {
            Field::Bool(p) => Some(p.clone()),
            Field::Num(v) if *v == 0.0 => Some(Pred::Const(true)),
            Field::Num(v) if out(*v) => Some(Pred::Const(false)),
            Field::Select(p, a, b) => {
                let (a, b) = (a.keeps()?, b.keeps()?);
                Some(Pred::any([Pred::all([p.clone(), a]), Pred::all([p.not(), b])]))
            }
            Field::Num(_) | Field::Int(_) => None,
        }
    }
}

fn choose(p: Pred, a: Field, b: Field) -> Field {
    match (p, a, b) {
        (Pred::Const(true), a, _) => a,
        (Pred::Const(false), _, b) => b,
        (_, a, b) if a == b => a,
        (p, Field::Bool(a), Field::Bool(b)) => {
            Field::Bool(Pred::any([Pred::all([p.clone(), a]), Pred::all([p.not(), b])]))
        }
        (p, a, b) => Field::Select(p, Box::new(a), Box::new(b)),
    }
}

/// Applies `f` to every pair of alternatives.
fn pairs(a: &Field, b: &Field, f: &dyn Fn(&Field, &Field) -> Option<Field>) -> Option<Field> {
    let made = match (a, b) {
        (Field::Select(p, x, y), b) => choose(p.clone(), pairs(x, b, f)?, pairs(y, b, f)?),
        (a, Field::Select(p, x, y)) => choose(p.clone(), pairs(a, x, f)?, pairs(a, y, f)?),
        (a, b) => f(a, b)?,
    };
    (made.parts() <= MOST_PARTS).then_some(made)
}

/// The formulas of a graph's values.
pub(crate) struct Fields<'g> {
    graph: &'g Graph,
    known: HashMap<Value, Option<Field>>,
}

impl<'g> Fields<'g> {
    /// Formulas of values, given those of some.
    pub fn new(graph: &'g Graph, known: impl IntoIterator<Item = (Value, Field)>) -> Fields<'g> {
        Fields { graph, known: known.into_iter().map(|(v, f)| (v, Some(f))).collect() }
    }

    /// The formula of a value; `None` where it is data.
    pub fn of(&mut self, v: Value) -> Option<Field> {
        if let Some(known) = self.known.get(&v) {
            return known.clone();
        }
        // A cycle there is not, but a value is asked for many times.
        self.known.insert(v, None);
        let found = self.find(v).filter(|f| f.parts() <= MOST_PARTS);
        self.known.insert(v, found.clone());
        found
    }

    fn find(&mut self, v: Value) -> Option<Field> {
        let ty = self.graph.tensor_ty(v)?;
        if let Some([one]) = self.graph.fact(v).elements.as_deref() {
            return Some(number(one.clone(), ty.dtype));
        }
        match &self.graph.node(v.node).kind {
            Kind::Weight(Some(t)) => constant(t),
            Kind::Op(Op::CoreOp(op)) if v.result == 0 => self.operator(v, op, ty),
            _ => None,
        }
    }

    fn operator(&mut self, v: Value, op: &CoreOp, ty: &TensorType) -> Option<Field> {
        let operands = self.graph.operands(v.node);
        let to = ty.dims()?;
        match op {
            CoreOp::Range(r) => Some(Field::Int(&r.start + &r.step * &axis(0))),
            CoreOp::Fill(_) | CoreOp::Tile(_) | CoreOp::Gather(_) | CoreOp::GatherNd(_) | CoreOp::GatherElements(_) => {
                self.of(operands[0]).filter(Field::is_uniform)
            }
            CoreOp::Reshape(_) => self.reshaped(operands[0], to),
            CoreOp::Expand(_) => self.spread(operands[0], to.len()),
            CoreOp::Transpose(t) => {
                let back = |i: usize| t.perm.iter().position(|p| *p == i as i64).map_or(axis(i), axis);
                Some(self.of(operands[0])?.at(&back))
            }
            CoreOp::Slice(s) => self.sliced(s, operands[0]),
            CoreOp::Concat(_) => {
                let first = self.of(operands[0]).filter(Field::is_uniform)?;
                operands[1..].iter().all(|o| self.of(*o).as_ref() == Some(&first)).then_some(first)
            }
            CoreOp::Cast(_) => cast(&self.of(operands[0])?, ty.dtype),
            CoreOp::Unary(op) => unary(op.f, &self.of(operands[0])?),
            CoreOp::Binary(op) => {
                let (a, b) = (self.spread(operands[0], to.len())?, self.spread(operands[1], to.len())?);
                pairs(&a, &b, &|a, b| binary(op.f, a, b))
            }
            CoreOp::Compare(op) => {
                let (a, b) = (self.spread(operands[0], to.len())?, self.spread(operands[1], to.len())?);
                pairs(&a, &b, &|a, b| compare(op.f, a, b))
            }
            CoreOp::Select(_) => {
                let [c, a, b] = [0, 1, 2].map(|i| self.spread(operands[i], to.len()));
                match c? {
                    Field::Bool(c) => Some(choose(c, a?, b?)),
                    _ => None,
                }
            }
            CoreOp::Map(map) => {
                let inputs: Vec<Option<Field>> = operands.iter().map(|o| self.spread(*o, to.len())).collect();
                expression(map.expr.steps(), &inputs)
            }
            CoreOp::Cumulate(c) if c.f == CumulateFn::Sum && !c.reverse => {
                let along = ir::ops::axis(c.axis, to.len()).ok()?;
                let each = match self.of(operands[0])? {
                    Field::Int(d) if d.as_const().is_some() => d,
                    _ => return None,
                };
                let count = if c.exclusive { axis(along) } else { axis(along) + Dim::constant(1) };
                Some(Field::Int(each * count))
            }
            CoreOp::Reduce(r) => {
                let uniform = self.of(operands[0]).filter(Field::is_uniform)?;
                match (r.f, uniform) {
                    (ReduceFn::Sum, Field::Int(d)) => {
                        let dims = self.graph.tensor_ty(operands[0])?.dims()?;
                        let axes = r.axes.iter().map(|a| ir::ops::axis(*a, dims.len()).ok().map(|a| dims[a].clone()));
                        axes.collect::<Option<Vec<_>>>()
                            .map(|sizes| Field::Int(sizes.into_iter().fold(d, |n, s| n * s)))
                    }
                    (ReduceFn::Max | ReduceFn::Min | ReduceFn::Mean, uniform) => Some(uniform),
                    _ => None,
                }
            }
            CoreOp::Trilu(t) => {
                let inner = self.of(operands[0])?;
                let (row, column) = (axis(to.len().checked_sub(2)?), axis(to.len() - 1));
                let above = &(&column - &row) - &t.diagonal;
                let kept = Pred::at_least_zero(if t.upper { above } else { Dim::constant(0) - above });
                let none = match ty.dtype {
                    DType::Bool => Field::Bool(Pred::Const(false)),
                    d if d.is_float() => Field::Num(0.0),
                    _ => Field::Int(Dim::constant(0)),
                };
                Some(choose(kept, inner, none))
            }
            _ => None,
        }
    }

    /// The formula of an operand in the coordinates of a result that it broadcasts to.
    pub fn spread(&mut self, v: Value, rank: usize) -> Option<Field> {
        let dims = self.graph.tensor_ty(v)?.dims()?.to_vec();
        let lead = rank.checked_sub(dims.len())?;
        let one = |i: usize| dims.get(i).is_none_or(|d| d.as_const() == Some(1));
        Some(self.of(v)?.at(&|i| if one(i) { Dim::constant(0) } else { axis(i + lead) }))
    }

    /// Dimensions of 1 come and go; others keep their order.
    fn reshaped(&mut self, v: Value, to: &[Dim]) -> Option<Field> {
        let field = self.of(v)?;
        if field.is_uniform() {
            return Some(field);
        }
        let from = self.graph.tensor_ty(v)?.dims()?;
        let large =
            |dims: &[Dim]| -> Vec<usize> { (0..dims.len()).filter(|i| dims[*i].as_const() != Some(1)).collect() };
        let (old, new) = (large(from), large(to));
        let same = old.len() == new.len() && old.iter().zip(&new).all(|(o, n)| from[*o].same(&to[*n]) == Truth::Yes);
        same.then(|| field.at(&|i| old.iter().position(|o| *o == i).map_or(Dim::constant(0), |at| axis(new[at]))))
    }

    fn sliced(&mut self, slice: &Slice, v: Value) -> Option<Field> {
        let dims = self.graph.tensor_ty(v)?.dims()?.to_vec();
        let field = self.of(v)?;
        let mut index: Vec<Dim> = (0..dims.len()).map(axis).collect();
        for (i, along) in slice.axes.iter().enumerate() {
            let at = ir::ops::axis(*along, dims.len()).ok()?;
            let step = slice.steps.get(i).copied().unwrap_or(1);
            if step < 1 {
                return None;
            }
            // Only where the beginning is surely what it says: lengths are no concern here.
            let start = slice.starts.get(i)?;
            let start = match (start.at_least(0), (Dim::constant(-1) - start.clone()).at_least(0)) {
                (Truth::Yes, _) => start.clone(),
                (_, Truth::Yes) => &dims[at] + start,
                _ => return None,
            };
            index[at] = &start + &(axis(at) * Dim::constant(step));
        }
        Some(field.at(&|i| index.get(i).cloned().unwrap_or(axis(i))))
    }
}

fn number(d: Dim, dtype: DType) -> Field {
    match (dtype, d.as_const()) {
        (DType::Bool, Some(n)) => Field::Bool(Pred::Const(n != 0)),
        _ => Field::Int(d),
    }
}

fn scalar(dtype: DType, v: f64) -> Field {
    match dtype {
        DType::Bool => Field::Bool(Pred::Const(v != 0.0)),
        d if d.is_float() => Field::Num(v),
        _ => Field::Int(Dim::constant(v as i64)),
    }
}

/// A constant of one value everywhere, or a triangle of truth values.
fn constant(t: &Tensor) -> Option<Field> {
    if t.dtype() == DType::Str || t.is_empty() {
        return None;
    }
    if t.len() == 1 {
        return Some(scalar(t.dtype(), t.to_f64().ok()?[0]));
    }
    let [lead @ .., rows, columns] = t.dims() else { return None };
    if !matches!(t.dtype(), DType::Bool | DType::U8) || lead.iter().any(|n| *n != 1) || rows != columns {
        return None;
    }
    let values = t.bytes();
    let lower = (0..*rows).all(|i| (0..*columns).all(|j| (values[i * columns + j] != 0) == (j <= i)));
    let rank = t.rank();
    lower.then(|| Field::Bool(Pred::at_least_zero(&axis(rank - 2) - &axis(rank - 1))))
}

fn cast(f: &Field, to: DType) -> Option<Field> {
    Some(match (f, to) {
        (Field::Select(p, a, b), _) => choose(p.clone(), cast(a, to)?, cast(b, to)?),
        (Field::Bool(p), DType::Bool) => Field::Bool(p.clone()),
        (Field::Bool(p), to) => choose(p.clone(), scalar(to, 1.0), scalar(to, 0.0)),
        (Field::Int(d), DType::Bool) => Field::Bool(Pred::Const(d.as_const()? != 0)),
        (Field::Int(d), to) if to.is_int() => Field::Int(d.clone()),
        (Field::Int(d), to) => scalar(to, d.as_const()? as f64),
        (Field::Num(v), to) => scalar(to, *v),
    })
}

fn unary(f: UnaryFn, x: &Field) -> Option<Field> {
    Some(match x {
        Field::Select(p, a, b) => choose(p.clone(), unary(f, a)?, unary(f, b)?),
        Field::Bool(p) if f == UnaryFn::Not => Field::Bool(p.not()),
        Field::Int(d) if f == UnaryFn::Neg => Field::Int(Dim::constant(0) - d.clone()),
        Field::Num(v) if f.is_predicate() => Field::Bool(Pred::Const(f.float(*v) != 0.0)),
        Field::Num(v) => Field::Num(f.float(*v)),
        Field::Bool(_) | Field::Int(_) => return None,
    })
}

fn binary(f: BinaryFn, a: &Field, b: &Field) -> Option<Field> {
    use BinaryFn::{Add, And, BitAnd, BitOr, Max, Min, Mul, Or, Sub};
    Some(match (a, b, f) {
        (Field::Int(a), Field::Int(b), Add) => Field::Int(a + b),
        (Field::Int(a), Field::Int(b), Sub) => Field::Int(a - b),
        (Field::Int(a), Field::Int(b), Mul) => Field::Int(a * b),
        (Field::Int(a), Field::Int(b), Min) => Field::Int(Dim::min(a, b)),
        (Field::Int(a), Field::Int(b), Max) => Field::Int(Dim::max(a, b)),
        (Field::Bool(a), Field::Bool(b), And | BitAnd | Min | Mul) => Field::Bool(Pred::all([a.clone(), b.clone()])),
        (Field::Bool(a), Field::Bool(b), Or | BitOr | Max) => Field::Bool(Pred::any([a.clone(), b.clone()])),
        (Field::Num(a), Field::Num(b), f) => Field::Num(f.float(*a, *b)),
        _ => return None,
    })
}

fn compare(f: CompareFn, a: &Field, b: &Field) -> Option<Field> {
    let least = |a: &Dim, b: &Dim| Pred::at_least_zero(a - b);
    let one = Dim::constant(1);
    Some(Field::Bool(match (a, b) {
        (Field::Int(a), Field::Int(b)) => match f {
            CompareFn::Ge => least(a, b),
            CompareFn::Le => least(b, a),
            CompareFn::Gt => least(a, &(b + &one)),
            CompareFn::Lt => least(b, &(a + &one)),
            CompareFn::Eq => Pred::all([least(a, b), least(b, a)]),
            CompareFn::Ne => Pred::any([least(a, &(b + &one)), least(b, &(a + &one))]),
        },
        (Field::Num(a), Field::Num(b)) => Pred::Const(f.holds(a, b)),
        (Field::Bool(a), Field::Bool(Pred::Const(b))) | (Field::Bool(Pred::Const(b)), Field::Bool(a)) => match (f, b) {
            (CompareFn::Eq, true) | (CompareFn::Ne, false) => a.clone(),
            (CompareFn::Eq, false) | (CompareFn::Ne, true) => a.not(),
            _ => return None,
        },
        _ => return None,
    }))
}

/// A fused elementwise expression.
fn expression(steps: &[Step], inputs: &[Option<Field>]) -> Option<Field> {
    let mut made: Vec<Field> = vec![];
    for step in steps {
        let get = |arg: Arg| match arg {
            Arg::Input(i) => inputs.get(i).cloned().flatten(),
            Arg::Step(s) => made.get(s).cloned(),
        };
        let next = match *step {
            Step::Constant(dtype, v) => scalar(dtype, v),
            Step::Unary(f, a) => unary(f, &get(a)?)?,
            Step::Cast(to, a) => cast(&get(a)?, to)?,
            Step::Binary(f, a, b) => pairs(&get(a)?, &get(b)?, &|a, b| binary(f, a, b))?,
            Step::Compare(f, a, b) => pairs(&get(a)?, &get(b)?, &|a, b| compare(f, a, b))?,
            Step::Select(c, a, b) => match get(c)? {
                Field::Bool(c) => choose(c, get(a)?, get(b)?),
                _ => return None,
            },
        };
        made.push(next);
    }
    made.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formula of the only output; `%mask` is all ones and `%pos` counts on from P.
    fn field(body: &str) -> Option<Field> {
        let text =
            format!("graph @g(%mask: i64[B, P + S], %pos: i64[B, S], %x: f32[B, S, P, 4]) {{ {body} return %y }}");
        let g = ir::text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let inputs: Vec<Value> = g.inputs.iter().map(|n| (*n).into()).collect();
        let ones = Field::Int(Dim::constant(1));
        let on = Field::Int(Dim::sym("P") + axis(1));
        Fields::new(&g, [(inputs[0], ones), (inputs[1], on)]).of(g.outputs[0].value)
    }

    fn causal() -> Pred {
        Pred::at_least_zero(Dim::sym("P") + axis(2) - axis(3))
    }

    #[test]
    fn positions_in_every_dress_are_one_formula() {
        let positions = [
            "%y = reshape(%pos) {shape = [B, S]}",
            "%r = range() {start = P, step = 1, length = S} %y = reshape(%r) {shape = [1, S]}",
            "%c = cum_sum(%mask) {axis = 1} %one = const [1] : i64[] %p = sub(%c, %one) %y = slice(%p) {axes = [1], starts = [P], ends = [P + S], steps = [1]}",
            "%a = range() {start = 0, step = 1, length = S} %n = dims() {elements = [P], scalar = true} %s = add(%a, %n) %y = reshape(%s) {shape = [1, S]}",
        ];
        for body in positions {
            assert_eq!(field(body), Some(Field::Int(Dim::sym("P") + axis(1))), "{body}");
        }
    }

    #[test]
    fn causal_masks_in_every_dress_are_one_condition() {
        let ranges = "%k = range() {start = 0, step = 1, length = P + S} %q = range() {start = P, step = 1, length = S} %q1 = reshape(%q) {shape = [1, 1, S, 1]} %k1 = reshape(%k) {shape = [1, 1, 1, P + S]}";
        let masks = [
            format!("{ranges} %y = le(%k1, %q1)"),
            format!("{ranges} %b = cast(%mask) {{to = bool}} %m = reshape(%b) {{shape = [B, 1, 1, P + S]}} %l = ge(%q1, %k1) %y = and(%l, %m)"),
            format!("{ranges} %g = gt(%k1, %q1) %low = const [-3.4e38] : f32[] %zero = const [0.0] : f32[] %y = select(%g, %low, %zero)"),
            "%low = const [-inf] : f32[] %f = fill(%low) {shape = [1, 1, S, P + S]} %y = trilu(%f) {upper = true, diagonal = P + 1}".into(),
        ];
        for body in masks {
            assert_eq!(field(&body).and_then(|f| f.keeps()), Some(causal()), "{body}");
        }
    }

    #[test]
    fn data_has_no_formula() {
        assert_eq!(field("%z = const [0.0] : f32[] %y = add(%x, %z)"), None);
    }
}
