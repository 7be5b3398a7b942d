//! The operands of an operator that is being typed: their facts, and the questions that typing rules ask.

use super::{Constraint, Fact, Op, TypeError};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType, ValueType};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};

/// The operands that an operator is typed with.
pub struct Operands<'a> {
    facts: &'a [&'a Fact],
    assumed: RefCell<Vec<Constraint>>,
    next_late: &'a Cell<u32>,
}

impl<'a> Operands<'a> {
    /// Operands with their facts; `next_late` numbers the symbols that results introduce.
    pub fn new(facts: &'a [&'a Fact], next_late: &'a Cell<u32>) -> Operands<'a> {
        Operands { facts, assumed: RefCell::default(), next_late }
    }

    /// How many operands there are, absent ones included.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether there is no operand.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Fails unless the number of operands is within `least..=most`.
    pub fn arity(&self, least: usize, most: usize) -> Result<(), TypeError> {
        if (least..=most).contains(&self.len()) {
            return Ok(());
        }
        let expected = match (least, most) {
            (a, b) if a == b => a.to_string(),
            (a, usize::MAX) => format!("at least {a}"),
            (a, b) => format!("{a} to {b}"),
        };
        Err(TypeError::Arity { expected, found: self.len() })
    }

    /// Whether operand `i` is there and not left out.
    pub fn has(&self, i: usize) -> bool {
        self.facts.get(i).is_some_and(|f| f.ty != ValueType::Absent)
    }

    /// The type of operand `i`.
    pub fn ty(&self, i: usize) -> Result<&'a ValueType, TypeError> {
        match self.facts.get(i) {
            Some(f) if f.ty != ValueType::Absent => Ok(&f.ty),
            _ => Err(TypeError::Operand { operand: i, reason: "it is missing".into() }),
        }
    }

    /// The tensor type of operand `i`.
    pub fn tensor(&self, i: usize) -> Result<&'a TensorType, TypeError> {
        let ty = self.ty(i)?;
        ty.as_tensor().ok_or_else(|| self.wrong(i, format!("{ty} is not a tensor")))
    }

    /// Element type of operand `i`.
    pub fn dtype(&self, i: usize) -> Result<DType, TypeError> {
        Ok(self.tensor(i)?.dtype)
    }

    /// Dimensions of operand `i`; `None` when its rank is unknown.
    pub fn dims(&self, i: usize) -> Result<Option<&'a [Dim]>, TypeError> {
        Ok(self.tensor(i)?.dims())
    }

    /// Symbolic elements of operand `i`, when it is a small integer or bool tensor whose content is known.
    pub fn elements(&self, i: usize) -> Option<&'a [Dim]> {
        self.facts.get(i)?.elements.as_deref()
    }

    /// Data of operand `i`, when it is a constant.
    pub fn constant(&self, i: usize) -> Option<&'a Tensor> {
        self.facts.get(i)?.constant.as_ref()
    }

    /// A new symbol, bound when the result exists.
    pub fn late_dim(&self) -> Dim {
        let n = self.next_late.get();
        self.next_late.set(n + 1);
        Dim::sym(&format!("?{n}"))
    }

    /// Takes two dimensions for equal. Fails when they cannot be; records a constraint when they might not be.
    pub fn assume_same(&self, left: &Dim, right: &Dim) -> Result<(), TypeError> {
        match left.same(right) {
            crate::dim::Truth::Yes => Ok(()),
            crate::dim::Truth::No => Err(TypeError::Invalid(format!("dimension {left} does not equal {right}"))),
            crate::dim::Truth::Unknown => {
                let c = Constraint { left: left.clone(), right: right.clone() };
                let mut assumed = self.assumed.borrow_mut();
                if !assumed.contains(&c) {
                    assumed.push(c);
                }
                Ok(())
            }
        }
    }

    /// Shape after numpy broadcasting of all the given shapes.
    ///
    /// A symbol against a number other than 1 gives the number; an expression of at most 1 is taken for 1, and so is one that is
    /// smaller than its partner unless that is 0; two other different ones are taken for equal.
    pub fn broadcast(&self, shapes: &[&Shape]) -> Result<Shape, TypeError> {
        let Some(all) = shapes.iter().map(|s| s.dims()).collect::<Option<Vec<_>>>() else {
            return Ok(Shape::Unranked);
        };
        let rank = all.iter().map(|d| d.len()).max().unwrap_or(0);
        let one = Dim::constant(1);
        let mut result = vec![one.clone(); rank];
        for dims in all {
            for (at, d) in dims.iter().enumerate() {
                let r = &mut result[rank - dims.len() + at];
                if d.as_const() == Some(1) || *r == *d {
                    continue;
                }
                if r.as_const() == Some(1) {
                    *r = d.clone();
                } else if r.as_const().is_some() && d.as_const().is_none() {
                    // d is the number or 1; either way the result is the number.
                } else if d.as_const().is_some() && r.as_const().is_none() {
                    *r = d.clone();
                } else if d.bounds().1 == Some(1) {
                    // At most 1: min(1, S) of an exporter is 1 unless there is nothing to compute.
                    self.assume_same(d, &one)?;
                } else if r.bounds().1 == Some(1) {
                    self.assume_same(r, &one)?;
                    *r = d.clone();
                } else if is_larger(r, d) {
                    self.assume_same(d, &one)?;
                } else if is_larger(d, r) {
                    self.assume_same(r, &one)?;
                    *r = d.clone();
                } else {
                    self.assume_same(r, d)?;
                    // A symbol known from the start is worth more than one known later.
                    if r.is_late() && !d.is_late() {
                        *r = d.clone();
                    }
                }
            }
        }
        Ok(Shape::Ranked(result))
    }

    /// The error for operand `i`.
    pub fn wrong(&self, i: usize, reason: impl Into<String>) -> TypeError {
        TypeError::Operand { operand: i, reason: reason.into() }
    }

    /// Types that another operator gives for some of these operands.
    pub fn infer_with(&self, op: &Op, which: &[usize]) -> Result<Vec<ValueType>, TypeError> {
        let facts: Vec<&Fact> = which.iter().map(|i| self.facts[*i]).collect();
        let operands = Operands::new(&facts, self.next_late);
        let types = op.infer(&operands)?;
        let mut assumed = self.assumed.borrow_mut();
        for constraint in operands.into_assumed() {
            if !assumed.contains(&constraint) {
                assumed.push(constraint);
            }
        }
        Ok(types)
    }

    /// Elements that another operator gives for some of these operands.
    pub fn elements_with(&self, (op, which): (Op, SmallVec<[usize; 4]>)) -> Option<Vec<Dim>> {
        let facts: Vec<&Fact> = which.iter().map(|i| self.facts[*i]).collect();
        op.elements(&Operands::new(&facts, self.next_late))
    }

    /// What typing took for granted.
    pub fn into_assumed(self) -> Vec<Constraint> {
        self.assumed.into_inner()
    }
}

/// Symbols of two dimensions whose being 0 is looked at, one by one.
const MOST_SYMBOLS: usize = 4;

/// Whether `a` is larger than `b` wherever `a` is not 0: `S` and `floordiv(S, 2)` broadcast only where the smaller one is 1.
/// `P + S` and `S` are not: they are equal where there is no past.
fn is_larger(a: &Dim, b: &Dim) -> bool {
    let symbols: Vec<_> = a.symbols().union(&b.symbols()).cloned().collect();
    let larger = |zeros: usize| {
        let value = |s: &str| {
            let at = symbols.iter().position(|known| **known == *s)?;
            Some(if zeros >> at & 1 == 1 { Dim::constant(0) } else { Dim::sym(s) + Dim::constant(1) })
        };
        let a = a.substitute(&value);
        a.as_const() == Some(0) || (a - b.substitute(&value)).at_least(1) == crate::dim::Truth::Yes
    };
    symbols.len() <= MOST_SYMBOLS && (0..1usize << symbols.len()).all(larger)
}

/// Resolves an axis that may count from the end; `rank` is the number of dimensions it may name.
pub fn axis(axis: i64, rank: usize) -> Result<usize, TypeError> {
    let rank_i = rank as i64;
    if (-rank_i..rank_i).contains(&axis) {
        return Ok(axis.rem_euclid(rank_i) as usize);
    }
    Err(TypeError::Invalid(format!("axis {axis} is outside a tensor of rank {rank}")))
}

#[cfg(test)]
mod tests {
    use crate::{Datum, Tensor, eval, text};

    fn ones(n: usize) -> Datum {
        Tensor::from_slice(&[n], &vec![1f32; n]).unwrap().into()
    }

    /// Two rows of half the length each broadcast with the whole where the half is 1.
    #[test]
    fn a_part_broadcasts_with_its_whole_where_it_is_one() {
        let text = "graph @g(%x: f32[S]) { %r = reshape(%x) {shape = [2, floordiv(S, 2)]} %y = add(%r, %x) %z = add(%x, %r) return %y, %z }";
        let g = text::parse(text).unwrap();
        for y in eval::run(&g, &[ones(2)]).unwrap() {
            let Datum::Tensor(y) = y else { unreachable!() };
            assert_eq!((y.dims(), y.to_f64().unwrap()), (&[2, 2][..], vec![2.0; 4]));
        }
        let error = eval::run(&g, &[ones(4)]).unwrap_err().to_string();
        assert!(error.contains("floordiv(S, 2) = 1"), "{error}");
    }

    #[test]
    fn one_less_broadcasts_where_it_is_one() {
        let g = text::parse("graph @g(%x: f32[S], %w: f32[S + 1]) { %y = mul(%x, %w) return %y }").unwrap();
        let Datum::Tensor(y) = &eval::run(&g, &[ones(1), ones(2)]).unwrap()[0] else { unreachable!() };
        assert_eq!(y.dims(), [2]);
        assert!(eval::run(&g, &[ones(2), ones(3)]).is_err());
    }

    #[test]
    fn what_is_equal_without_a_past_is_taken_for_equal() {
        let g = text::parse("graph @g(%p: f32[P], %x: f32[S], %w: f32[P + S]) { %y = mul(%x, %w) return %y }").unwrap();
        assert!(eval::run(&g, &[ones(0), ones(3), ones(3)]).is_ok());
    }
}
