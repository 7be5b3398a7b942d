//! One element of a mask as an expression: of its coordinates, of sizes, and of data.
//!
//! However an exporter writes a mask (ranges compared, triangles cut, sums of masks compared with zero), element
//! `[b, h, i, j]` is a function of these; what does not matter to the question (expansions, transpositions, the order of
//! operations) is gone.

use crate::axes::equal;
use ir::dim::{Dim, Truth};
use ir::graph::{Graph, Kind, Value};
use ir::ops::{Binary, Compare, CoreOp, Op, Select, Slice, Unary};
use ir::scalar::{BinaryFn, CompareFn, UnaryFn};
use ir::{DType, Tensor};
use std::rc::Rc;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Term {
    /// A number of this type; truth values are 0 and 1.
    Number(f64, DType),
    /// A whole number.
    Index(Dim),
    /// Whether the expression is at most 0.
    AtMostZero(Dim),
    /// Whether the expression is 0.
    IsZero(Dim),
    /// An element of a tensor.
    Read(Value, Vec<Dim>, DType),
    /// A function of other terms.
    Apply(Function, Vec<Rc<Term>>),
}

/// An elementwise operator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    Unary(UnaryFn),
    Binary(BinaryFn),
    Compare(CompareFn),
    Cast(DType),
    Select,
}

pub(super) const TRUE: Term = Term::Number(1.0, DType::Bool);
pub(super) const FALSE: Term = Term::Number(0.0, DType::Bool);

/// The coordinates: batch, head, query, key.
pub(super) fn coordinate(axis: usize) -> Dim {
    Dim::sym(["@batch", "@head", "@query", "@key"][axis])
}

/// Operators that one mask is followed through at most.
const MAX_VISITS: usize = 512;

/// The element of `v` at `index`.
pub(super) fn element(graph: &Graph, v: Value, index: &[Dim]) -> Option<Term> {
    Reader { graph, visits: 0 }.element(v, index)
}

struct Reader<'g> {
    graph: &'g Graph,
    visits: usize,
}

impl Reader<'_> {
    fn element(&mut self, v: Value, index: &[Dim]) -> Option<Term> {
        let ty = self.graph.tensor_ty(v)?;
        let opaque = Term::Read(v, index.to_vec(), ty.dtype);
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Some(opaque);
        }
        let known = match &self.graph.node(v.node).kind {
            Kind::Weight(Some(t)) => constant(t, index),
            Kind::Op(Op::CoreOp(op)) => self.operator(v, op, index),
            _ => None,
        };
        Some(known.unwrap_or(opaque))
    }

    /// `None`: an element of this operator's result is data.
    fn operator(&mut self, v: Value, op: &CoreOp, index: &[Dim]) -> Option<Term> {
        let operands = self.graph.operands(v.node);
        if let Some(elements) = &self.graph.fact(v).elements {
            let at = match index {
                [] => 0,
                [at] => usize::try_from(at.as_const()?).ok()?,
                _ => return None,
            };
            return Some(Term::Index(elements.get(at)?.clone()));
        }
        match op {
            CoreOp::Range(op) => Some(Term::Index(&op.start + &(&index[0] * &op.step))),
            CoreOp::Fill(_) => self.element(operands[0], &[Dim::constant(0)]).filter(|t| matches!(t, Term::Number(..))),
            CoreOp::Reshape(_) => {
                let index = self.reshaped(operands[0], v, index)?;
                self.element(operands[0], &index)
            }
            CoreOp::Expand(_) => {
                let index = self.broadcast(operands[0], v, index)?;
                self.element(operands[0], &index)
            }
            CoreOp::Transpose(op) => {
                let mut from = index.to_vec();
                for (i, p) in index.iter().zip(&op.perm) {
                    from[usize::try_from(*p).ok()?] = i.clone();
                }
                self.element(operands[0], &from)
            }
            CoreOp::Slice(op) => {
                let index = self.sliced(operands[0], op, index)?;
                self.element(operands[0], &index)
            }
            CoreOp::Trilu(op) => {
                let [.., row, column] = index else { return None };
                // Below the diagonal: column - row <= diagonal; `upper` keeps column - row >= diagonal.
                let apart = &(column - row) - &op.diagonal;
                let kept = at_most_zero(if op.upper { -&apart } else { apart });
                let x = self.element(operands[0], index)?;
                let zero = Term::Number(0.0, self.graph.tensor_ty(v)?.dtype);
                Some(apply(Function::Select, vec![kept, x, zero]))
            }
            CoreOp::Unary(Unary { f }) => self.apply(Function::Unary(*f), v, &operands, index),
            CoreOp::Binary(Binary { f }) => self.apply(Function::Binary(*f), v, &operands, index),
            CoreOp::Compare(Compare { f }) => self.apply(Function::Compare(*f), v, &operands, index),
            CoreOp::Cast(op) => self.apply(Function::Cast(op.to), v, &operands, index),
            CoreOp::Select(Select {}) => self.apply(Function::Select, v, &operands, index),
            _ => None,
        }
    }

    fn apply(&mut self, f: Function, v: Value, operands: &[Value], index: &[Dim]) -> Option<Term> {
        let indices: Option<Vec<_>> = operands.iter().map(|x| self.broadcast(*x, v, index)).collect();
        let terms = operands.iter().zip(indices?).map(|(x, index)| self.element(*x, &index));
        Some(apply(f, terms.collect::<Option<Vec<_>>>()?))
    }

    /// The index into an operand that is broadcast to `v`.
    fn broadcast(&self, x: Value, v: Value, index: &[Dim]) -> Option<Vec<Dim>> {
        let (from, to) = (self.graph.tensor_ty(x)?.dims()?, self.graph.tensor_ty(v)?.dims()?);
        let lead = to.len().checked_sub(from.len())?;
        let at = |(axis, dim): (usize, &Dim)| match dim.as_const() {
            Some(1) => Some(Dim::constant(0)),
            _ => equal(self.graph, dim, &to[lead + axis]).then(|| index[lead + axis].clone()),
        };
        from.iter().enumerate().map(at).collect()
    }

    /// The index into the operand of a reshape that only adds or removes dimensions of 1.
    fn reshaped(&self, x: Value, v: Value, index: &[Dim]) -> Option<Vec<Dim>> {
        let (from, to) = (self.graph.tensor_ty(x)?.dims()?, self.graph.tensor_ty(v)?.dims()?);
        let is_one = |d: &Dim| d.as_const() == Some(1);
        let mut rest = to.iter().zip(index).filter(|(d, _)| !is_one(d));
        let mut at = vec![];
        for dim in from {
            if is_one(dim) {
                at.push(Dim::constant(0));
                continue;
            }
            let (d, i) = rest.next()?;
            equal(self.graph, d, dim).then_some(())?;
            at.push(i.clone());
        }
        rest.next().is_none().then_some(at)
    }

    fn sliced(&self, x: Value, op: &Slice, index: &[Dim]) -> Option<Vec<Dim>> {
        let dims = self.graph.tensor_ty(x)?.dims()?;
        let mut at = index.to_vec();
        for (i, axis) in op.axes.iter().enumerate() {
            let axis = usize::try_from(if *axis < 0 { axis + dims.len() as i64 } else { *axis }).ok()?;
            let (start, _) = Slice::extent(dims.get(axis)?, &op.starts[i], &op.ends[i], op.steps[i])?;
            at[axis] = &start + &(&at[axis] * op.steps[i]);
        }
        Some(at)
    }
}

/// A constant whose elements follow from their index: all the same, counting, or a triangle.
fn constant(t: &Tensor, index: &[Dim]) -> Option<Term> {
    /// Larger constants are data: nobody wants to look at every element for every layer.
    const MAX_ELEMENTS: usize = 1 << 24;
    if t.len() > MAX_ELEMENTS || t.is_empty() || t.dtype() == DType::Str {
        return None;
    }
    let values = t.to_f64().ok()?;
    if values.iter().all(|v| v.to_bits() == values[0].to_bits()) {
        return Some(Term::Number(values[0], t.dtype()));
    }
    let is_counting = |w: &[f64]| w[1] - w[0] == values[1] - values[0] && (w[1] - w[0]).fract() == 0.0;
    let long = t.dims().iter().filter(|d| **d != 1).count();
    if long == 1 && t.dtype().is_int() && values.windows(2).all(is_counting) {
        let axis = t.dims().iter().position(|d| *d != 1)?;
        return Some(Term::Index(&(&index[axis] * (values[1] - values[0]) as i64) + values[0] as i64));
    }
    let [lead @ .., rows, columns] = t.dims() else { return None };
    if lead.iter().any(|d| *d != 1) || rows * columns != t.len() || long != 2 {
        return None;
    }
    // 1 up to the diagonal and 0 beyond: what GPT-2 and its kin keep as `bias`.
    let is_triangle = values.iter().enumerate().all(|(at, v)| *v == f64::from(at % columns <= at / columns));
    let [.., row, column] = index else { return None };
    let kept = at_most_zero(column - row);
    is_triangle.then(|| apply(Function::Cast(t.dtype()), vec![kept]))
}

pub(super) fn at_most_zero(d: Dim) -> Term {
    if d.at_least(1) == Truth::Yes {
        FALSE
    } else if (-&d).at_least(0) == Truth::Yes {
        TRUE
    } else {
        Term::AtMostZero(d)
    }
}

fn is_zero(d: Dim) -> Term {
    match d.same(&Dim::constant(0)) {
        Truth::Yes => TRUE,
        Truth::No => FALSE,
        Truth::Unknown => Term::IsZero(d),
    }
}

impl Term {
    pub(super) fn number(&self) -> Option<f64> {
        if let Term::Number(v, _) = self { Some(*v) } else { None }
    }

    fn dtype(&self) -> DType {
        match self {
            Term::Number(_, dtype) | Term::Read(_, _, dtype) => *dtype,
            Term::Index(_) => DType::I64,
            Term::AtMostZero(_) | Term::IsZero(_) => DType::Bool,
            Term::Apply(f, args) => match f {
                Function::Cast(to) => *to,
                Function::Compare(_) => DType::Bool,
                Function::Unary(f) if f.is_predicate() => DType::Bool,
                Function::Unary(_) | Function::Binary(_) => args[0].dtype(),
                Function::Select => args[1].dtype(),
            },
        }
    }

    fn whole(&self) -> Option<Dim> {
        match self {
            Term::Index(d) => Some(d.clone()),
            Term::Number(v, dtype) if *dtype != DType::Bool && v.fract() == 0.0 && v.abs() < 1e15 => {
                Some(Dim::constant(*v as i64))
            }
            _ => None,
        }
    }

    /// Numbers between which the term surely lies.
    fn bounds(&self) -> Option<(f64, f64)> {
        match self {
            Term::Number(v, _) => (!v.is_nan()).then_some((*v, *v)),
            Term::Apply(Function::Cast(_), args) => args[0].bounds(),
            Term::Apply(Function::Binary(BinaryFn::Add), args) => {
                let ((a, b), (c, d)) = (args[0].bounds()?, args[1].bounds()?);
                Some((a + c, b + d))
            }
            t if t.dtype() == DType::Bool => Some((0.0, 1.0)),
            t if t.dtype().is_int() => Some((-2f64.powi(63), 2f64.powi(64))),
            _ => None,
        }
    }

    /// Conditions on positions that the term depends on.
    pub(super) fn conditions(&self, found: &mut Vec<Dim>) {
        match self {
            Term::AtMostZero(d) if !found.contains(d) => found.push(d.clone()),
            Term::Apply(_, args) => args.iter().for_each(|a| a.conditions(found)),
            _ => {}
        }
    }

    /// The term where `condition <= 0` holds, or does not.
    pub(super) fn where_it(&self, holds: bool, condition: &Dim) -> Term {
        match self {
            Term::AtMostZero(d) => {
                // d is condition + k, or k - condition.
                let (same, opposite) = ((d - condition).as_const(), (d + condition).as_const());
                match (holds, same, opposite) {
                    (true, Some(k), _) if k <= 0 => TRUE,
                    (false, Some(k), _) if k >= 0 => FALSE,
                    (true, _, Some(k)) if k >= 1 => FALSE,
                    (false, _, Some(k)) if k <= 1 => TRUE,
                    _ => self.clone(),
                }
            }
            Term::Apply(f, args) => apply(*f, args.iter().map(|a| a.where_it(holds, condition)).collect()),
            _ => self.clone(),
        }
    }
}

/// What a type makes of a number.
fn rounded(v: f64, dtype: DType) -> Option<Term> {
    let t = Tensor::from_f64(dtype, &[], &[v]).ok()?;
    Some(Term::Number(t.to_f64().ok()?[0], dtype))
}

/// A function of terms, simplified.
pub(super) fn apply(f: Function, args: Vec<Term>) -> Term {
    simplified(f, &args).unwrap_or_else(|| Term::Apply(f, args.into_iter().map(Rc::new).collect()))
}

pub(super) fn not(t: Term) -> Term {
    apply(Function::Unary(UnaryFn::Not), vec![t])
}

fn simplified(f: Function, args: &[Term]) -> Option<Term> {
    use Function::*;
    match (f, args) {
        (Select, [c, a, b]) => {
            match c.number() {
                Some(c) => return Some(if c != 0.0 { a.clone() } else { b.clone() }),
                None if a == b => return Some(a.clone()),
                None => {}
            }
            if let Term::Apply(Unary(UnaryFn::Not), inner) = c {
                return Some(apply(Select, vec![(*inner[0]).clone(), b.clone(), a.clone()]));
            }
            (a == &TRUE && b == &FALSE)
                .then(|| c.clone())
                .or_else(|| (a == &FALSE && b == &TRUE).then(|| not(c.clone())))
        }
        (Cast(to), [x]) if x.dtype() == to => Some(x.clone()),
        (Cast(DType::Bool), [Term::Index(d)]) => Some(not(is_zero(d.clone()))),
        (Cast(to), [Term::Index(d)]) if to.is_int() || to.is_float() => Some(Term::Index(d.clone())),
        (Cast(DType::Bool), [Term::Number(v, _)]) => Some(if *v != 0.0 { TRUE } else { FALSE }),
        (Cast(to), [Term::Number(v, _)]) => rounded(if to.is_int() { v.trunc() } else { *v }, to),
        (Cast(to), [x]) if x.dtype() == DType::Bool && (to.is_int() || to.is_float()) => {
            Some(apply(Select, vec![x.clone(), Term::Number(1.0, to), Term::Number(0.0, to)]))
        }
        (Unary(UnaryFn::Not), [x]) => match x {
            Term::Number(v, _) => Some(if *v == 0.0 { TRUE } else { FALSE }),
            Term::AtMostZero(d) => Some(at_most_zero(&-d + 1)),
            Term::Apply(Unary(UnaryFn::Not), inner) => Some((*inner[0]).clone()),
            _ => None,
        },
        (Unary(f), [Term::Number(v, dtype)]) => {
            rounded(f.float(*v), if f.is_predicate() { DType::Bool } else { *dtype })
        }
        (Unary(UnaryFn::Neg), [Term::Index(d)]) => Some(Term::Index(-d)),
        (Binary(f), [a, b]) => binary(f, a, b),
        (Compare(f), [a, b]) => compare(f, a, b),
        _ => None,
    }
    .or_else(|| distributed(f, args))
}

fn binary(f: BinaryFn, a: &Term, b: &Term) -> Option<Term> {
    use BinaryFn::*;
    match (f, a.number(), b.number()) {
        (And, Some(0.0), _) | (And, _, Some(0.0)) => return Some(FALSE),
        (And, Some(_), _) | (Or, Some(0.0), _) => return Some(b.clone()),
        (And, _, Some(_)) | (Or, _, Some(0.0)) => return Some(a.clone()),
        (Or, Some(_), _) | (Or, _, Some(_)) => return Some(TRUE),
        (Add, Some(0.0), _) => return Some(b.clone()),
        (Add | Sub, _, Some(0.0)) => return Some(a.clone()),
        (Mul, Some(1.0), _) => return Some(b.clone()),
        (Mul | Div, _, Some(1.0)) => return Some(a.clone()),
        (_, Some(x), Some(y)) if !matches!(f, ShiftLeft | ShiftRight) => return rounded(f.float(x, y), a.dtype()),
        _ => {}
    }
    if !matches!((a, b), (Term::Index(_), _) | (_, Term::Index(_))) {
        return None;
    }
    let (a, b) = (a.whole()?, b.whole()?);
    Some(Term::Index(match f {
        Add => &a + &b,
        Sub => &a - &b,
        Mul => &a * &b,
        Min => Dim::min(&a, &b),
        Max => Dim::max(&a, &b),
        _ => return None,
    }))
}

fn compare(f: CompareFn, a: &Term, b: &Term) -> Option<Term> {
    use CompareFn::*;
    if let (Some(a), Some(b)) = (a.number(), b.number()) {
        return Some(if f.holds(&a, &b) { TRUE } else { FALSE });
    }
    if let (Some(a), Some(b)) = (a.whole(), b.whole()) {
        let (below, above) = (&a - &b, &b - &a);
        return Some(match f {
            Lt => at_most_zero(&below + 1),
            Le => at_most_zero(below),
            Gt => at_most_zero(&above + 1),
            Ge => at_most_zero(above),
            Eq => is_zero(below),
            Ne => not(is_zero(below)),
        });
    }
    if let (Some((low, high)), Some((low_b, high_b))) = (a.bounds(), b.bounds())
        && (high < low_b || high_b < low)
    {
        let a_is_less = high < low_b;
        return Some(if matches!((f, a_is_less), (Ne, _) | (Lt | Le, true) | (Gt | Ge, false)) { TRUE } else { FALSE });
    }
    // Integers compared with 0 as floats, and conditions that ask whether a number is not 0.
    let (x, zero) = if a.number() == Some(0.0) { (b, a) } else { (a, b) };
    if zero.number() != Some(0.0) || !matches!(f, Eq | Ne) {
        return None;
    }
    let x = match x {
        Term::Apply(Function::Cast(to), inner) if to.is_float() && inner[0].dtype().is_int() => &inner[0],
        x => x,
    };
    if !x.dtype().is_int() && x.dtype() != DType::Bool {
        return None;
    }
    let set = apply(Function::Cast(DType::Bool), vec![x.clone()]);
    Some(if f == Ne { set } else { not(set) })
}

/// `f(select(c, 2, 3), 5)` is `select(c, f(2, 5), f(3, 5))`.
fn distributed(f: Function, args: &[Term]) -> Option<Term> {
    let is_choice = |t: &Term| match t {
        Term::Apply(Function::Select, a) => a[1].number().is_some() && a[2].number().is_some(),
        _ => false,
    };
    let at = args.iter().position(is_choice)?;
    let simple = args.iter().enumerate().all(|(i, a)| i == at || a.number().is_some());
    if f == Function::Select || !simple {
        return None;
    }
    let Term::Apply(_, choice) = &args[at] else { return None };
    let with = |branch: usize| {
        let mut args = args.to_vec();
        args[at] = (*choice[branch]).clone();
        apply(f, args)
    };
    Some(apply(Function::Select, vec![(*choice[0]).clone(), with(1), with(2)]))
}
