//! Functions of one tensor without parameters, and the tests for infinity and truth.

use ir::graph::Value;
use ir::ops::{Binary, Compare, Select, Unary};
use ir::scalar::{BinaryFn, CompareFn, UnaryFn};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "Abs", |cx| unary(cx, UnaryFn::Abs)),
    ("", "Acos", |cx| unary(cx, UnaryFn::Acos)),
    ("", "Acosh", |cx| unary(cx, UnaryFn::Acosh)),
    ("", "Asin", |cx| unary(cx, UnaryFn::Asin)),
    ("", "Asinh", |cx| unary(cx, UnaryFn::Asinh)),
    ("", "Atan", |cx| unary(cx, UnaryFn::Atan)),
    ("", "Atanh", |cx| unary(cx, UnaryFn::Atanh)),
    ("", "BitwiseNot", |cx| unary(cx, UnaryFn::BitNot)),
    ("", "Ceil", |cx| unary(cx, UnaryFn::Ceil)),
    ("", "Cos", |cx| unary(cx, UnaryFn::Cos)),
    ("", "Cosh", |cx| unary(cx, UnaryFn::Cosh)),
    ("", "Erf", |cx| unary(cx, UnaryFn::Erf)),
    ("", "Exp", |cx| unary(cx, UnaryFn::Exp)),
    ("", "Floor", |cx| unary(cx, UnaryFn::Floor)),
    ("", "IsInf", is_inf),
    ("", "IsNaN", |cx| unary(cx, UnaryFn::IsNan)),
    ("", "Log", |cx| unary(cx, UnaryFn::Log)),
    ("", "Neg", |cx| unary(cx, UnaryFn::Neg)),
    ("", "Not", |cx| unary(cx, UnaryFn::Not)),
    ("", "Reciprocal", |cx| unary(cx, UnaryFn::Reciprocal)),
    ("", "Relu", |cx| unary(cx, UnaryFn::Relu)),
    ("", "Round", |cx| unary(cx, UnaryFn::Round)),
    ("", "Sigmoid", |cx| unary(cx, UnaryFn::Sigmoid)),
    ("", "Sign", |cx| unary(cx, UnaryFn::Sign)),
    ("", "Sin", |cx| unary(cx, UnaryFn::Sin)),
    ("", "Sinh", |cx| unary(cx, UnaryFn::Sinh)),
    ("", "Sqrt", |cx| unary(cx, UnaryFn::Sqrt)),
    ("", "Tan", |cx| unary(cx, UnaryFn::Tan)),
    ("", "Tanh", |cx| unary(cx, UnaryFn::Tanh)),
    ("", "Where", select),
];

fn unary(cx: &mut NodeCx<'_>, f: UnaryFn) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    cx.one(Unary { f }, &[x])
}

/// Infinity of either sign, of one, or of none.
fn is_inf(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let either = cx.push(Unary { f: UnaryFn::IsInf }, &[x])?;
    let f = match (cx.attr_bool("detect_negative", true)?, cx.attr_bool("detect_positive", true)?) {
        (true, true) => return Ok(vec![either]),
        (true, false) => CompareFn::Lt,
        (false, true) => CompareFn::Gt,
        (false, false) => return cx.one(Binary { f: BinaryFn::Xor }, &[either, either]),
    };
    let zero = cx.const_like(x, 0.0)?;
    let of_sign = cx.push(Compare { f }, &[x, zero])?;
    cx.one(Binary { f: BinaryFn::And }, &[either, of_sign])
}

fn select(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    cx.one(Select {}, &operands)
}
