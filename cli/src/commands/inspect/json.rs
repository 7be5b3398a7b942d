//! The facts as one JSON object.

use super::facts::{CodeFacts, EntryFacts, Facts, NodeFacts};
use super::placement::Placement;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Object<'a> {
    model: &'a str,
    inputs: Vec<Port<'a>>,
    outputs: Vec<Port<'a>>,
    symbols: &'a BTreeMap<String, i64>,
    constraints: &'a [String],
    weight_bytes: u64,
    code: &'a [CodeFacts],
    arena_bytes: u64,
    steps: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a Placement>,
    ops: &'a BTreeMap<String, usize>,
    entries: &'a BTreeMap<String, EntryFacts>,
    nodes: &'a [NodeFacts],
}

#[derive(Serialize)]
struct Port<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    ty: &'a str,
}

/// The object as text.
pub fn object(facts: &Facts) -> String {
    fn ports(list: &[(String, String)]) -> Vec<Port<'_>> {
        list.iter().map(|(name, ty)| Port { name, ty }).collect()
    }
    let object = Object {
        model: &facts.title,
        inputs: ports(&facts.inputs),
        outputs: ports(&facts.outputs),
        symbols: &facts.symbols,
        constraints: &facts.constraints,
        weight_bytes: facts.weight_bytes,
        code: &facts.code,
        arena_bytes: facts.arena_bytes,
        steps: facts.steps,
        device: facts.placement.as_ref(),
        ops: &facts.ops,
        entries: &facts.entries,
        nodes: &facts.nodes,
    };
    serde_json::to_string_pretty(&object).expect("plain data has a JSON form")
}
