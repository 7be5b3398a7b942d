//! The safety checker: runs the steps of a plan abstractly and proves that they compute the graph.
//!
//! Memory is (place, byte range) -> bytes of a value of the graph. Every read must find exactly the bytes that the
//! node's operand names, through views; every access must fit its buffer for all bindings; buffers that live together
//! must be ordered by `after`; slots are filled before they are read and not read after they are freed; every node is
//! computed once; every output holds its value at the end; across streams, conflicting accesses must be ordered by
//! syncs, and a sync that orders nothing is refused; no stream holds more than the entry's pace. Linear in the steps, but for
//! plans of several streams.
//!
//! ```text
//! main, step 12 (`y`): operand 0 is `x`, but b3 holds `w` there
//! ```

mod order;
mod pace;
pub(crate) mod races;
mod run;

use crate::build::{all_symbols, body_path};
use crate::layout::Layout;
use crate::model::{Entry, Place, Plan, Source, Step, body_key};
use ir::DType;
use ir::attr::Attr;
use ir::verify::verify_within;
use run::Run;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A plan that has been proven safe; nothing else is run.
#[derive(Clone, Debug)]
pub struct CheckedPlan(Plan);

impl CheckedPlan {
    /// The plan, open to changes; then it must be checked again.
    pub fn into_plan(self) -> Plan {
        self.0
    }
}

impl Deref for CheckedPlan {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.0
    }
}

/// Something that makes a plan unsafe or wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The entry.
    pub entry: String,
    /// The step, when it is about one.
    pub step: Option<usize>,
    /// First result of the node, when it is about one.
    pub node: Option<Arc<str>>,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.entry)?;
        if let Some(step) = self.step {
            write!(f, ", step {step}")?;
        }
        if let Some(node) = &self.node {
            write!(f, " (`{node}`)")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// More would not be read.
const MAX_FINDINGS: usize = 100;

/// Proves a plan safe, or says why not.
pub fn check(plan: Plan) -> Result<CheckedPlan, Vec<Finding>> {
    let mut findings = vec![];
    let mut about = |entry: &str, problem: String| {
        findings.push(Finding { entry: entry.to_string(), step: None, node: None, problem });
    };
    if plan.entries.first().is_none_or(|e| e.name != "main") {
        about("main", "the first entry is not `main`".into());
    }
    let mut names = HashSet::new();
    for entry in plan.entries.iter().filter(|e| !names.insert(&e.name)) {
        about(&entry.name, "two entries have this name".into());
    }
    for (key, info) in &plan.weights {
        let size = info.layout.bytes(info.dtype, &info.dims);
        if size.is_none() && (info.dtype != DType::Str || info.layout != Layout::RowMajor) {
            about(
                "weights",
                format!("`{key}`: {} does not apply to {}{:?}", info.layout.name(), info.dtype, info.dims),
            );
        }
        if info.layout != Layout::RowMajor && matches!(info.source, Source::Linked { .. }) {
            about("weights", format!("`{key}` lies in the model's file, so it cannot be {}", info.layout.name()));
        }
    }
    for entry in plan.entries.iter().filter(|e| !e.states.is_empty()) {
        let first = plan.entries.iter().find(|e| !e.states.is_empty());
        if first.is_some_and(|first| first.states != entry.states) {
            about(&entry.name, "its states are not those of the other entries".into());
        }
    }
    for entry in &plan.entries {
        check_entry(&plan, entry, &BTreeSet::new(), &mut findings);
    }
    findings.truncate(MAX_FINDINGS);
    if findings.is_empty() { Ok(CheckedPlan(plan)) } else { Err(findings) }
}

fn check_entry(plan: &Plan, entry: &Entry, outer: &BTreeSet<Arc<str>>, findings: &mut Vec<Finding>) {
    if findings.len() >= MAX_FINDINGS {
        return;
    }
    let about = |problem: String| Finding { entry: entry.name.clone(), step: None, node: None, problem };
    if let Err(e) = verify_within(&entry.graph, outer) {
        findings.push(about(e.to_string()));
        return;
    }
    let symbols = all_symbols(&entry.graph, outer);
    let before = findings.len();
    if !shape_of_entry(entry, &symbols, findings) {
        return;
    }
    order::check(entry, findings);
    pace::check(entry, findings);
    let mut run = Run::new(plan, entry);
    run.steps();
    run.end();
    findings.append(&mut run.findings);
    if findings.len() == before {
        races::check(entry, findings);
    }
    bodies(plan, entry, &symbols, findings);
}

/// Ids in range, spans of steps, sizes: what everything after this may rely on.
fn shape_of_entry(entry: &Entry, symbols: &BTreeSet<Arc<str>>, findings: &mut Vec<Finding>) -> bool {
    let before = findings.len();
    let mut about = |step: Option<usize>, problem: String| {
        findings.push(Finding { entry: entry.name.clone(), step, node: None, problem });
    };
    let mut sizes = HashSet::new();
    for (id, buffer) in entry.buffers.iter().enumerate() {
        if buffer.first > buffer.last || buffer.last as usize >= entry.steps.len() {
            about(None, format!("b{id} lives from step {} to {}", buffer.first, buffer.last));
        }
        if let Some(above) = buffer.after.iter().find(|b| b.0 as usize >= id) {
            about(None, format!("b{id} is after b{}, which is not before it", above.0));
        }
        let unbound = |s: &Arc<str>| s.starts_with('?') || !symbols.contains(s);
        if sizes.insert(&buffer.bytes)
            && let Some(s) = buffer.bytes.symbols().into_iter().find(unbound)
        {
            about(None, format!("the size of b{id} mentions `{s}`, which has no value when the arena is laid out"));
        }
    }
    for (at, step) in entry.steps.iter().enumerate() {
        for place in places(step).filter(|p| !exists(entry, p)) {
            about(Some(at), format!("there is no {place}"));
        }
    }
    findings.len() == before
}

/// Everything a step names.
fn places(step: &Step) -> impl Iterator<Item = Place> {
    let places: Vec<Place> = match step {
        Step::Launch(launch) => {
            let scratch = launch.scratch.iter().map(|b| Place::Buffer(*b));
            let slots = launch.frees.iter().map(|s| Place::Slot(*s));
            let locs = launch.reads.iter().chain(&launch.writes).map(|loc| loc.place.clone());
            locs.chain(scratch).chain(slots).collect()
        }
        Step::Copy(transfer) => vec![transfer.from.place.clone(), transfer.to.place.clone()],
        Step::Sync(_) => vec![],
    };
    places.into_iter()
}

fn exists(entry: &Entry, place: &Place) -> bool {
    match place {
        Place::Input(i) => (*i as usize) < entry.inputs.len(),
        Place::Output(i) => (*i as usize) < entry.outputs.len(),
        Place::State(i) => (*i as usize) < entry.states.len(),
        Place::Buffer(id) => (id.0 as usize) < entry.buffers.len(),
        Place::Slot(id) => id.0 < entry.slots,
        Place::Weight(_) | Place::None => true,
    }
}

fn bodies(plan: &Plan, entry: &Entry, symbols: &BTreeSet<Arc<str>>, findings: &mut Vec<Finding>) {
    let mut expected = HashSet::new();
    for id in entry.graph.order() {
        let Some(op) = entry.graph.op(id).filter(|op| op.has_body()) else { continue };
        for (attr, value) in op.attrs() {
            let Attr::Graph(graph) = value else { continue };
            let key = body_key(&entry.graph.node(id).names[0], &attr);
            let mut about = |problem: String| {
                findings.push(Finding { entry: entry.name.clone(), step: None, node: None, problem });
            };
            match entry.bodies.get(&key) {
                None => about(format!("the body `{key}` has no plan")),
                Some(body) if body.name != body_path(&entry.name, &key) || body.graph != *graph => {
                    about(format!("the plan of `{key}` is not for that body"));
                }
                Some(body) => check_entry(plan, body, symbols, findings),
            }
            expected.insert(key);
        }
    }
    for key in entry.bodies.keys().filter(|key| !expected.contains(*key)) {
        let problem = format!("there is a plan for `{key}`, but no such body");
        findings.push(Finding { entry: entry.name.clone(), step: None, node: None, problem });
    }
}
