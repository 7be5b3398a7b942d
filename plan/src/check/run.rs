//! Abstract execution of one entry: what every place holds, step by step.

use super::{Finding, MAX_FINDINGS, exists};
use crate::build::weight_path;
use crate::layout::Layout;
use crate::model::{COPY, Entry, Launch, Loc, Place, Plan, Port, Step};
use crate::view::{Sizes, bytes, view_of};
use ir::graph::{Kind, Output};
use ir::{Dim, Graph, NodeId, Value};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Bytes of a value that is not a view: what a view or the value itself shows.
#[derive(Clone, Debug)]
struct Content {
    root: Value,
    offset: Dim,
}

/// A value's bytes at some offset of a place.
struct Held {
    at: Dim,
    len: Dim,
    content: Content,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotState {
    Empty,
    Holds(Value),
    Freed,
}

/// Abstract execution of one entry.
pub(super) struct Run<'a> {
    plan: &'a Plan,
    entry: &'a Entry,
    graph: &'a Graph,
    sizes: Sizes,
    by_name: HashMap<&'a str, Value>,
    content: HashMap<Value, Content>,
    computed: HashSet<NodeId>,
    buffers: Vec<Vec<Held>>,
    outputs: Vec<Vec<Held>>,
    states: Vec<Vec<Held>>,
    slots: Vec<SlotState>,
    step: Option<usize>,
    node: Option<Arc<str>>,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Run<'a> {
    pub(super) fn new(plan: &'a Plan, entry: &'a Entry) -> Run<'a> {
        let graph = &entry.graph;
        let sizes = Sizes::new(graph);
        let mut by_name = HashMap::with_capacity(graph.node_count());
        let mut content: HashMap<Value, Content> = HashMap::with_capacity(graph.node_count());
        for id in graph.order() {
            for v in graph.results(id) {
                by_name.insert(&**graph.name(v), v);
                let shown = match view_of(graph, &sizes, v) {
                    Some((of, offset)) => {
                        let of = &content[&of];
                        Content { root: of.root, offset: &of.offset + &offset }
                    }
                    None => Content { root: v, offset: Dim::constant(0) },
                };
                content.insert(v, shown);
            }
        }
        let buffers = entry.buffers.iter().map(|_| vec![]).collect();
        let outputs = entry.outputs.iter().map(|_| vec![]).collect();
        // A run finds the version that the one before left.
        let states = (0..entry.states.len()).map(|i| {
            let root = Value::from(*graph.states().get(i)?);
            let zero = Dim::constant(0);
            let len = bytes(graph, root)?;
            Some(Held { at: zero.clone(), len, content: Content { root, offset: zero } })
        });
        let states = states.map(|held| held.into_iter().collect()).collect();
        let slots = vec![SlotState::Empty; entry.slots as usize];
        let (computed, findings) = Default::default();
        let (step, node) = (None, None);
        Run {
            plan,
            entry,
            graph,
            sizes,
            by_name,
            content,
            computed,
            buffers,
            outputs,
            states,
            slots,
            step,
            node,
            findings,
        }
    }

    fn find(&mut self, problem: impl Into<String>) {
        if self.findings.len() < MAX_FINDINGS {
            let (entry, step, node) = (self.entry.name.clone(), self.step, self.node.clone());
            self.findings.push(Finding { entry, step, node, problem: problem.into() });
        }
    }

    pub(super) fn steps(&mut self) {
        for (at, step) in self.entry.steps.iter().enumerate() {
            self.step = Some(at);
            match step {
                Step::Launch(launch) => {
                    self.node = Some(launch.node.clone());
                    self.launch(launch);
                }
                Step::Copy(transfer) => {
                    self.node = Some(transfer.value.clone());
                    self.move_value(&transfer.value, &transfer.from, &transfer.to);
                }
                Step::Sync(_) => self.node = None,
            }
        }
        (self.step, self.node) = (None, None);
    }

    fn launch(&mut self, launch: &Launch) {
        if launch.kernel == COPY {
            match (&launch.reads[..], &launch.writes[..], launch.scratch, launch.in_place) {
                ([from], [to], None, false) => self.move_value(&launch.node, from, to),
                _ => self.find("a copy reads one place and writes another"),
            }
            return self.frees(launch);
        }
        let node = self.by_name.get(&*launch.node).filter(|v| v.result == 0 && self.graph.op(v.node).is_some());
        let Some(node) = node.map(|v| v.node) else { return self.find("the graph has no such node") };
        if !self.computed.insert(node) {
            self.find("the node is computed a second time");
        }
        let operands = self.graph.operands(node);
        let results: Vec<Value> = self.graph.results(node).collect();
        if operands.len() != launch.reads.len() || results.len() != launch.writes.len() {
            let (reads, writes) = (launch.reads.len(), launch.writes.len());
            let (takes, gives) = (operands.len(), results.len());
            return self.find(format!("reads {reads} of {takes} operands and writes {writes} of {gives} results"));
        }
        for (i, (v, loc)) in operands.iter().zip(&launch.reads).enumerate() {
            self.read(*v, loc, &format_args!("operand {i}"));
        }
        self.hazards(launch);
        if let Some(scratch) = launch.scratch {
            self.alive(&Place::Buffer(scratch));
            self.extent(&Place::Buffer(scratch).into(), &launch.scratch_bytes);
            self.buffers[scratch.0 as usize].clear();
        }
        for (v, loc) in results.iter().zip(&launch.writes) {
            self.write(*v, loc);
        }
        self.frees(launch);
    }

    /// A copy: the value is at `from`, and then at `to` as well.
    fn move_value(&mut self, value: &str, from: &Loc, to: &Loc) {
        let Some(v) = self.by_name.get(value).copied() else { return self.find("the graph has no such value") };
        if from.place == to.place {
            self.find(format!("copies within {}", from.place));
        }
        self.read(v, from, &"the value");
        self.write(v, to);
    }

    /// Within one step nothing is read where something is written, but for an in-place result.
    fn hazards(&mut self, launch: &Launch) {
        let is_memory = |p: &Place| matches!(p, Place::Buffer(_) | Place::Output(_) | Place::State(_) | Place::Slot(_));
        for (i, write) in launch.writes.iter().enumerate().filter(|(_, w)| is_memory(&w.place)) {
            let readers = launch.reads.iter().filter(|r| r.place == write.place).count();
            let is_state = matches!(write.place, Place::State(_));
            let replaces = (launch.in_place && i == 0 || is_state) && readers == 1 && launch.reads.contains(write);
            if is_state && !replaces {
                self.find(format!("writes to {} other than in place", write.place));
                continue;
            }
            if readers > 0 && !replaces {
                self.find(format!("writes to {}, which it reads", write.place));
            }
            if launch.writes[..i].iter().any(|other| other.place == write.place) {
                self.find(format!("writes two results to {}", write.place));
            }
        }
        if launch.in_place && launch.writes.first().is_none_or(|w| !launch.reads.contains(w)) {
            self.find("is said to work in place, but does not write where it reads");
        }
        if launch.scratch.is_none() && launch.scratch_bytes.as_const() != Some(0) {
            self.find(format!("needs {} bytes of scratch memory and has none", launch.scratch_bytes));
        }
        if let Some(scratch) = launch.scratch {
            let place = Place::Buffer(scratch);
            if launch.reads.iter().chain(&launch.writes).any(|loc| loc.place == place) {
                self.find(format!("its scratch memory {place} holds an operand or a result"));
            }
        }
    }

    fn frees(&mut self, launch: &Launch) {
        for slot in &launch.frees {
            let state = std::mem::replace(&mut self.slots[slot.0 as usize], SlotState::Freed);
            if !matches!(state, SlotState::Holds(_)) {
                self.find(format!("frees s{}, which holds nothing", slot.0));
            }
        }
    }

    /// Steps outside a buffer's life must not touch it: its memory is another's then.
    fn alive(&mut self, place: &Place) {
        let (Place::Buffer(id), Some(step)) = (place, self.step) else { return };
        let buffer = &self.entry.buffers[id.0 as usize];
        if !(buffer.first as usize..=buffer.last as usize).contains(&step) {
            let (first, last) = (buffer.first, buffer.last);
            self.find(format!("{place} is only there from step {first} to {last}"));
        }
    }

    fn read(&mut self, v: Value, loc: &Loc, what: &dyn fmt::Display) {
        let name = self.graph.name(v).clone();
        let Some(len) = bytes(self.graph, v) else { return self.read_whole(v, loc, what) };
        self.alive(&loc.place);
        let content = &self.content[&v];
        let found = match &loc.place {
            Place::Input(i) => {
                let input = Value::from(self.graph.inputs[*i as usize]);
                let is_there = content.root == input && self.sizes.same(&loc.offset, &content.offset);
                is_there.then_some(()).ok_or_else(|| self.graph.name(input).to_string())
            }
            Place::Weight(key) => self.find_weight(key, v, &loc.offset),
            Place::Buffer(id) => self.find_held(&self.buffers[id.0 as usize], content, &loc.offset, &len),
            Place::Output(i) => self.find_held(&self.outputs[*i as usize], content, &loc.offset, &len),
            Place::State(i) => self.find_held(&self.states[*i as usize], content, &loc.offset, &len),
            Place::Slot(_) | Place::None => Err("no memory".into()),
        };
        if let Err(holds) = found {
            self.find(format!("{what} is `{name}`, but {loc} holds {holds}"));
        }
        self.extent(loc, &len);
    }

    /// Reads a value that is not memory: it must be there as a whole, not as a view.
    fn read_whole(&mut self, v: Value, loc: &Loc, what: &dyn fmt::Display) {
        let graph = self.graph;
        let found = match &loc.place {
            _ if loc.offset.as_const() != Some(0) => false,
            Place::None => matches!(graph.node(v.node).kind, Kind::Absent),
            Place::Input(i) => v == Value::from(graph.inputs[*i as usize]),
            Place::Weight(key) => self.find_weight(key, v, &loc.offset).is_ok(),
            Place::Slot(id) => self.slots[id.0 as usize] == SlotState::Holds(v),
            Place::Buffer(_) | Place::Output(_) | Place::State(_) => false,
        };
        if found {
            return;
        }
        let holds = match &loc.place {
            Place::Slot(id) => match self.slots[id.0 as usize] {
                SlotState::Empty => "is empty".to_string(),
                SlotState::Freed => "has been freed".to_string(),
                SlotState::Holds(other) => format!("holds `{}`", graph.name(other)),
            },
            _ => "does not hold it".to_string(),
        };
        self.find(format!("{what} is `{}`, but {loc} {holds}", graph.name(v)));
    }

    fn find_held(&self, held: &[Held], content: &Content, offset: &Dim, len: &Dim) -> Result<(), String> {
        for h in held {
            let within = offset - &h.at;
            let same = h.content.root == content.root
                && self.sizes.same(&(&h.content.offset + &within), &content.offset)
                && self.sizes.fits(&within, len, &h.len);
            if same {
                return Ok(());
            }
        }
        let names: Vec<String> = held.iter().map(|h| format!("`{}`", self.graph.name(h.content.root))).collect();
        Err(if names.is_empty() { "nothing yet".into() } else { names.join(", ") })
    }

    fn find_weight(&self, key: &str, v: Value, offset: &Dim) -> Result<(), String> {
        let content = &self.content[&v];
        let Kind::Weight(data) = &self.graph.node(content.root.node).kind else {
            return Err("a constant".into());
        };
        let name = self.graph.name(content.root);
        if !self.sizes.same(offset, &content.offset) {
            return Err(format!("`{name}` from another byte on"));
        }
        if data.as_ref().is_some_and(ir::text::is_inline) {
            return if *key == **name { Ok(()) } else { Err("another constant".into()) };
        }
        if *key != **name && key != weight_path(&self.entry.name, name) {
            return Err("another constant".into());
        }
        let Some(info) = self.plan.weights.get(key) else { return Err("no weight of the plan".into()) };
        let ty = self.graph.tensor_ty(content.root).expect("a weight is a tensor");
        if ty.dtype != info.dtype || ty.shape.as_const().as_ref() != Some(&info.dims) {
            return Err(format!("a weight of {}{:?}, not {ty}", info.dtype, info.dims));
        }
        if v != content.root && info.layout != Layout::RowMajor {
            return Err(format!("it as {}, of which there are no views", info.layout.name()));
        }
        Ok(())
    }

    fn write(&mut self, v: Value, loc: &Loc) {
        let name = self.graph.name(v).clone();
        let Some(len) = bytes(self.graph, v) else {
            let Place::Slot(id) = loc.place else {
                return self.find(format!("`{name}` must go to a slot, not to {loc}"));
            };
            let state = std::mem::replace(&mut self.slots[id.0 as usize], SlotState::Holds(v));
            if let SlotState::Holds(other) = state {
                self.find(format!("overwrites `{}` in s{}", self.graph.name(other), id.0));
            }
            return;
        };
        self.alive(&loc.place);
        self.extent(loc, &len);
        let held = match &loc.place {
            Place::Buffer(id) => &mut self.buffers[id.0 as usize],
            Place::Output(i) => &mut self.outputs[*i as usize],
            Place::State(i) => &mut self.states[*i as usize],
            Place::Input(_) | Place::Weight(_) | Place::Slot(_) | Place::None => {
                return self.find(format!("`{name}` cannot be written to {loc}"));
            }
        };
        let sizes = &self.sizes;
        let end = &loc.offset + &len;
        let zero = Dim::constant(0);
        held.retain(|h| {
            let h_end = &h.at + &h.len;
            sizes.fits(&zero, &h_end, &loc.offset) || sizes.fits(&zero, &end, &h.at)
        });
        held.push(Held { at: loc.offset.clone(), len, content: self.content[&v].clone() });
    }

    /// The bytes accessed lie within their place for every binding.
    fn extent(&mut self, loc: &Loc, len: &Dim) {
        let of_port = |port: &Port| port.ty.as_tensor().and_then(|t| t.bytes());
        let whole = match &loc.place {
            Place::Buffer(id) => Some(self.entry.buffers[id.0 as usize].bytes.clone()),
            Place::Output(i) => of_port(&self.entry.outputs[*i as usize]),
            Place::State(i) => of_port(&self.entry.states[*i as usize]),
            Place::Input(i) => of_port(&self.entry.inputs[*i as usize]),
            // A weight is the whole of its node's type, and views were proven to lie within.
            Place::Weight(_) | Place::Slot(_) | Place::None => return,
        };
        let fits = whole.as_ref().is_some_and(|whole| self.sizes.fits(&loc.offset, len, whole));
        if !fits {
            let whole = whole.map_or("no fixed size".to_string(), |w| format!("{w} bytes"));
            self.find(format!("{len} bytes at {loc} do not surely fit: {} has {whole}", loc.place));
        }
    }

    /// Every node has been computed, and ports are what the graph says.
    pub(super) fn end(&mut self) {
        let graph = self.graph;
        for id in graph.order() {
            let is_view = || graph.results(id).all(|v| self.content[&v].root != v);
            if graph.op(id).is_some() && !self.computed.contains(&id) && !is_view() {
                self.find(format!("no step computes `{}`", graph.node(id).names[0]));
            }
        }
        let inputs: Vec<(&Arc<str>, Value)> =
            graph.plain_inputs().iter().map(|id| (graph.name((*id).into()), (*id).into())).collect();
        let named = |outputs: &'a [Output]| outputs.iter().map(|o| (&o.name, o.value)).collect();
        let outputs: Vec<(&Arc<str>, Value)> = named(graph.plain_outputs());
        let states = named(graph.next_states());
        let ports = [
            ("input", &self.entry.inputs, inputs),
            ("output", &self.entry.outputs, outputs),
            ("state", &self.entry.states, states),
        ];
        for (kind, ports, wanted) in ports {
            if ports.len() != wanted.len() {
                self.find(format!("the graph has {} {kind}s, the plan {}", wanted.len(), ports.len()));
                continue;
            }
            for (i, (port, (name, v))) in ports.iter().zip(wanted).enumerate() {
                if port.name != *name || port.ty != *graph.ty(v) {
                    self.find(format!("{kind} {i} is `{name}`: {}, not `{}`: {}", graph.ty(v), port.name, port.ty));
                    continue;
                }
                if kind == "input" && port.value != Loc::from(Place::Input(i as u32)) {
                    self.find(format!("input `{name}` is said to be at {}", port.value));
                }
                if kind != "input" {
                    let place = if kind == "output" { Place::Output(i as u32) } else { Place::State(i as u32) };
                    if port.ty.is_plannable() && port.value != Loc::from(place) {
                        self.find(format!("{kind} `{name}` is said to be at {}", port.value));
                    } else if exists(self.entry, &port.value.place) {
                        self.read(v, &port.value, &format_args!("{kind} `{name}`"));
                    } else {
                        self.find(format!("{kind} `{name}` is at {}, which is not there", port.value));
                    }
                }
            }
        }
    }
}
