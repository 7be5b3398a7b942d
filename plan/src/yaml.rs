//! plan.yaml: the plan without graphs and weights. The only file that names `serde_yaml`.
//!
//! Steps, buffers, ports and weights are one line each ([`crate::text`]) in block texts, so that thousands parse fast and
//! differences read well. Unknown fields are errors. The last line is a hash of everything before it.
//!
//! ```text
//! version: '1.0'
//! target: cpu
//! entries:
//! - name: main
//!   buffers: |
//!     b0 [256*B] life 0..2
//!   steps: |
//!     %y = linear(in0, %w) -> b0
//! digest: 0f3a...
//! ```

use crate::code::{CodeInfo, CodeObject};
use crate::model::{Entry, Hash, Plan, WeightInfo};
use crate::pace::Pacing;
use crate::store::StoreError;
use crate::text::{Reader, Reason, buffer_line, port_line, weight_line};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// The version that is written: a plan of the same major and a smaller minor version loads too.
pub const VERSION: (u32, u32) = (1, 3);

pub(crate) const FILE: &str = "plan.yaml";
const DIGEST: &str = "\ndigest: ";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    version: String,
    target: String,
    model: String,
    /// Hash of graph.ir.
    graph: String,
    /// Hash over the hashes of all weights, as weights.safetensors has it too.
    content: String,
    /// [`Pacing`] in words where it is not `auto`, since version 1.3.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pacing: String,
    entries: Vec<EntryFile>,
    weights: String,
    /// Code objects, since version 1.2.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    code: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryFile {
    name: String,
    inputs: String,
    outputs: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    states: String,
    slots: u32,
    buffers: String,
    steps: String,
    /// Since version 1.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pace: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    bodies: BTreeMap<String, EntryFile>,
}

#[derive(Deserialize)]
struct AnyVersion {
    version: String,
}

/// A plan as plan.yaml has it: its entries' graphs are still empty.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub target: String,
    pub model_hash: String,
    pub pacing: Pacing,
    pub graph: Hash,
    pub content: Hash,
    pub entries: Vec<Entry>,
    pub weights: BTreeMap<Arc<str>, WeightInfo>,
    pub code: Vec<CodeInfo>,
}

/// The text of plan.yaml.
pub(crate) fn print(plan: &Plan, code: &[CodeObject], graph: Hash, content: Hash) -> String {
    let file = PlanFile {
        version: format!("{}.{}", VERSION.0, VERSION.1),
        target: plan.target.clone(),
        model: plan.model_hash.clone(),
        graph: graph.to_string(),
        content: content.to_string(),
        pacing: Some(plan.pacing).filter(|p| *p != Pacing::Auto).map_or(String::new(), |p| p.to_string()),
        entries: plan.entries.iter().map(print_entry).collect(),
        weights: lines(plan.weights.iter().map(|(key, info)| weight_line(key, info))),
        code: lines(code.iter().map(|object| object.info.to_string())),
        digest: String::new(),
    };
    let body = serde_yaml::to_string(&file).expect("text and numbers can be written");
    let digest = Hash::of(body.as_bytes());
    format!("{}{DIGEST}{digest}\n", body.trim_end_matches('\n'))
}

fn print_entry(entry: &Entry) -> EntryFile {
    EntryFile {
        name: entry.name.clone(),
        inputs: lines(entry.inputs.iter().map(port_line)),
        outputs: lines(entry.outputs.iter().map(port_line)),
        states: lines(entry.states.iter().map(port_line)),
        slots: entry.slots,
        buffers: lines(entry.buffers.iter().enumerate().map(|(id, b)| buffer_line(id, b))),
        steps: lines(entry.steps.iter().map(ToString::to_string)),
        pace: entry.pace,
        bodies: entry.bodies.iter().map(|(key, body)| (key.clone(), print_entry(body))).collect(),
    }
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line + "\n").collect()
}

/// Reads plan.yaml.
pub(crate) fn parse(text: &str) -> Result<Parsed, StoreError> {
    let field = |field: &str, reason: String| StoreError::Field { file: FILE, field: field.to_string(), reason };
    let version: AnyVersion = serde_yaml::from_str(text).map_err(|e| field("version", e.to_string()))?;
    check_version(&version.version)?;
    let (body, digest) = text.rsplit_once(DIGEST).ok_or_else(|| field("digest", "it is missing".into()))?;
    let body = format!("{body}\n");
    if Hash::from_hex(digest.trim_end()) != Some(Hash::of(body.as_bytes())) {
        return Err(StoreError::Changed { file: FILE });
    }
    let file: PlanFile = serde_yaml::from_str(&body).map_err(|e| field("the file", e.to_string()))?;
    let hash =
        |name: &str, text: &str| Hash::from_hex(text).ok_or_else(|| field(name, format!("`{text}` is not a hash")));
    let pacing = match &*file.pacing {
        "" => Pacing::Auto,
        words => words.parse().map_err(|reason| field("pacing", reason))?,
    };
    let mut reader = Reader::default();
    let entries = file.entries.iter().map(|e| entry(&mut reader, e, &format!("entry {}", e.name)));
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    let mut weights = BTreeMap::new();
    for (key, info) in each_line("weights", &file.weights, |_, line| reader.weight(line))? {
        if weights.insert(key.clone(), info).is_some() {
            return Err(field("weights", format!("`{key}` is there twice")));
        }
    }
    let code = each_line("code", &file.code, |_, line| CodeInfo::read(line))?;
    let mut files: Vec<(&str, &str)> = code.iter().map(|c| (&*c.arch, &*c.name)).collect();
    files.sort();
    if let Some(twice) = files.windows(2).find(|w| w[0] == w[1]) {
        return Err(field("code", format!("{} is there twice for {}", twice[0].1, twice[0].0)));
    }
    let (graph, content) = (hash("graph", &file.graph)?, hash("content", &file.content)?);
    Ok(Parsed { target: file.target, model_hash: file.model, pacing, graph, content, entries, weights, code })
}

fn check_version(text: &str) -> Result<(), StoreError> {
    let parts = text.split_once('.').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
    match parts {
        Some((major, minor)) if major == VERSION.0 && minor <= VERSION.1 => Ok(()),
        _ => Err(StoreError::Version { found: text.chars().take(40).collect() }),
    }
}

fn entry(reader: &mut Reader, file: &EntryFile, path: &str) -> Result<Entry, StoreError> {
    let field = |name: &str| format!("{path}: {name}");
    let inputs = each_line(&field("inputs"), &file.inputs, |_, line| reader.port(line))?;
    let outputs = each_line(&field("outputs"), &file.outputs, |_, line| reader.port(line))?;
    let states = each_line(&field("states"), &file.states, |_, line| reader.port(line))?;
    let buffers = each_line(&field("buffers"), &file.buffers, |id, line| reader.buffer(id, line))?;
    let steps = each_line(&field("steps"), &file.steps, |_, line| reader.step(line))?;
    if file.slots as usize > steps.len().saturating_mul(64) {
        let reason = format!("{} slots for {} steps", file.slots, steps.len());
        return Err(StoreError::Field { file: FILE, field: field("slots"), reason });
    }
    let mut bodies = BTreeMap::new();
    for (key, body) in &file.bodies {
        bodies.insert(key.clone(), entry(reader, body, &format!("{path}: {key}"))?);
    }
    let (graph, name) = (ir::Graph::default(), file.name.clone());
    let (slots, pace) = (file.slots, file.pace);
    Ok(Entry { name, graph, inputs, outputs, states, buffers, slots, steps, pace, bodies })
}

/// Reads a block of lines; an error says which one.
fn each_line<T>(
    field: &str,
    text: &str,
    mut read: impl FnMut(usize, &str) -> Result<T, Reason>,
) -> Result<Vec<T>, StoreError> {
    let mut out = Vec::with_capacity(text.len() / 32);
    for (at, line) in text.lines().enumerate() {
        out.push(read(at, line).map_err(|reason| {
            let field = format!("{field}, line {}", at + 1);
            StoreError::Field { file: FILE, field, reason }
        })?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(body: &str) -> String {
        format!("{}{DIGEST}{}\n", body.trim_end(), Hash::of(body.as_bytes()))
    }

    #[test]
    fn fields_must_be_known_and_complete() {
        let hash = Hash::of(b"").to_string();
        let body = format!(
            "version: '1.0'\ntarget: cpu\nmodel: m\ngraph: {hash}\ncontent: {hash}\nentries: []\nweights: ''\n"
        );
        assert!(parse(&signed(&body)).is_ok());
        let more = parse(&signed(&(body.clone() + "colour: red\n"))).unwrap_err().to_string();
        assert!(more.contains("colour"), "{more}");
        let less = parse(&signed(&body.replace("target: cpu\n", ""))).unwrap_err().to_string();
        assert!(less.contains("target"), "{less}");
        let edited = parse(&signed(&body).replace("cpu", "gpu")).unwrap_err();
        assert!(matches!(edited, StoreError::Changed { .. }), "{edited}");
        let pacing = |word: &str| parse(&signed(&(body.clone() + "pacing: '" + word + "'\n"))).map(|p| p.pacing);
        assert_eq!(pacing("never").unwrap(), Pacing::Never);
        let wrong = pacing("0").unwrap_err().to_string();
        assert!(wrong.contains("pacing: expected a number of steps"), "{wrong}");
        let newer = parse(&signed(&body.replace("1.0", "2.0"))).unwrap_err().to_string();
        assert!(newer.contains("recompile"), "{newer}");
    }

    #[test]
    fn a_wrong_line_is_named() {
        let hash = Hash::of(b"").to_string();
        let body = format!(
            "version: '1.0'\ntarget: cpu\nmodel: m\ngraph: {hash}\ncontent: {hash}\nentries:\n- name: main\n  inputs: ''\n  outputs: ''\n  slots: 0\n  buffers: ''\n  steps: |\n    %y = f() -> b0\n    %z + 1\nweights: ''\n"
        );
        let error = parse(&signed(&body)).unwrap_err().to_string();
        assert_eq!(error, "plan.yaml: entry main: steps, line 2: expected `=`, found `+ 1`");
    }
}
