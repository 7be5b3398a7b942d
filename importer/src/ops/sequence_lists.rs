//! Sequences and optional values.

use ir::graph::Value;
use ir::ops::host::{
    ConcatFromSequence, Optional, OptionalGet, OptionalHas, SequenceAt, SequenceConstruct, SequenceErase,
    SequenceInsert, SequenceLength, SequenceMap, SplitToSequence,
};
use ir::types::{TensorType, ValueType};

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("", "ConcatFromSequence", concat_from_sequence),
    ("", "Optional", optional),
    ("", "OptionalGetElement", |cx| cx.one(OptionalGet {}, &[cx.input(0)?])),
    ("", "OptionalHasElement", optional_has),
    ("", "SequenceAt", |cx| cx.one(SequenceAt {}, &[cx.input(0)?, cx.input(1)?])),
    ("", "SequenceConstruct", sequence_construct),
    ("", "SequenceEmpty", sequence_empty),
    ("", "SequenceErase", sequence_erase),
    ("", "SequenceInsert", sequence_insert),
    ("", "SequenceLength", |cx| cx.one(SequenceLength {}, &[cx.input(0)?])),
    ("", "SequenceMap", sequence_map),
    ("", "SplitToSequence", split_to_sequence),
];

fn concat_from_sequence(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let axis = cx.opt_i64("axis")?.ok_or_else(|| NodeError::wrong("attribute `axis` is missing"))?;
    cx.one(ConcatFromSequence { axis, new_axis: cx.attr_bool("new_axis", false)? }, &[cx.input(0)?])
}

fn optional(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    match cx.opt(0) {
        Some(v) => cx.one(Optional { of: None }, &[v]),
        None => {
            let of = cx.opt_type("type")?;
            cx.one(Optional { of }, &[])
        }
    }
}

fn optional_has(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let v = cx.or_absent(0);
    cx.one(OptionalHas {}, &[v])
}

fn sequence_construct(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let items = cx.inputs()?;
    cx.one(SequenceConstruct { of: None }, &items)
}

fn sequence_empty(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let dtype = cx.opt_dtype("dtype")?.unwrap_or(ir::dtype::DType::F32);
    cx.one(SequenceConstruct { of: Some(TensorType::unranked(dtype).into()) }, &[])
}

fn sequence_erase(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let operands = [cx.input(0)?, cx.or_absent(1)];
    cx.one(SequenceErase {}, &operands)
}

fn sequence_insert(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let operands = [cx.input(0)?, cx.input(1)?, cx.or_absent(2)];
    cx.one(SequenceInsert {}, &operands)
}

fn sequence_map(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let operands = cx.inputs()?;
    // Items of one list may differ: what is late about them is bound anew for each.
    let types: Vec<ValueType> = operands.iter().map(|v| cx.ty(*v).clone()).collect();
    let item = |ty: &ValueType, cx: &mut NodeCx<'_>| match ty {
        ValueType::Sequence(of) => {
            let graph = std::cell::RefCell::new(&mut *cx.graph);
            of.map_dims(&|d| if d.as_const().is_some() { d.clone() } else { graph.borrow_mut().fresh_late_dim() })
        }
        other => other.clone(),
    };
    let types: Vec<ValueType> = types.iter().map(|ty| item(ty, cx)).collect();
    let body = cx.body("body", &types)?;
    let n = body.graph.outputs.len();
    let all = [&operands[..], &body.captures[..]].concat();
    cx.push_n(SequenceMap { body: body.graph }, &all, n)
}

fn split_to_sequence(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let op = SplitToSequence { axis: cx.attr_i64("axis", 0)?, keep: cx.attr_bool("keepdims", true)? };
    let operands = [cx.input(0)?, cx.or_absent(1)];
    cx.one(op, &operands)
}
