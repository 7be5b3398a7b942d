//! Graph to plan: walks a verified graph in order and asks a [`Target`] how each node is computed.
//!
//! A target answers with [`PlanBuilder::launch`] (a step that writes the node's results to memory of their own) or
//! [`PlanBuilder::view`] (no step: the result is bytes of an operand). Everything else is done here: results go to the
//! arena, straight to an output of the entry, or to a slot when their size is not known before they exist; outputs that
//! no step wrote in place are copied; slots are freed after their last reader; buffers are placed; bodies of control flow
//! become entries of their own.

use crate::arena::{Life, place};
use crate::layout::Layout;
use crate::model::{BufferId, COPY, Entry, Launch, Loc, Place, Plan, Port, SlotId, Step, Stream, SyncPoint, body_key};
use crate::view::{Sizes, bytes, view_of};
use crate::{Pacing, pace, sync};
use ir::attr::Attr;
use ir::graph::Kind;
use ir::verify::verify_within;
use ir::{Dim, Graph, NodeId, Value, Verified};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

mod error;
mod memories;
mod target;
mod weights;
pub use error::{LowerError, PlanError};
pub use memories::Memory;
pub use target::{LaunchOptions, Target};
use weights::WeightTable;
pub(crate) use weights::weight_path;

/// Plans one graph as the entry `main`.
pub fn build(graph: Verified<'_>, target: &dyn Target, model_hash: &str) -> Result<Plan, PlanError> {
    build_entries(&[("main", graph)], target, model_hash)
}

/// Plans several graphs that share weights of the same name and data; the first is `main`.
pub fn build_entries(
    entries: &[(&str, Verified<'_>)],
    target: &dyn Target,
    model_hash: &str,
) -> Result<Plan, PlanError> {
    let mut weights = WeightTable::default();
    let built = entries.iter().map(|(name, graph)| build_entry(name, *graph, &BTreeSet::new(), target, &mut weights));
    let built = built.collect::<Result<Vec<_>, _>>()?;
    let (target, model_hash) = (target.name().to_string(), model_hash.to_string());
    let pacing = Pacing::default();
    Ok(Plan { target, model_hash, pacing, entries: built, weights: weights.finish() })
}

fn build_entry(
    name: &str,
    verified: Verified<'_>,
    outer: &BTreeSet<Arc<str>>,
    target: &dyn Target,
    weights: &mut WeightTable,
) -> Result<Entry, PlanError> {
    let graph = verified.graph();
    let mut builder = PlanBuilder::new(name, graph, weights, target);
    let mut bodies = BTreeMap::new();
    let mut symbols: Option<BTreeSet<Arc<str>>> = None;
    for id in graph.order() {
        let Some(op) = graph.op(id) else { continue };
        target.lower(verified, id, &mut builder)?;
        builder.lowered(id)?;
        if !op.has_body() {
            continue;
        }
        let symbols = symbols.get_or_insert_with(|| all_symbols(graph, outer));
        for (attr, value) in op.attrs() {
            let Attr::Graph(body) = value else { continue };
            let key = body_key(&graph.node(id).names[0], &attr);
            let body = verify_within(&body, symbols).map_err(|source| PlanError::Body { body: key.clone(), source })?;
            let path = body_path(name, &key);
            let entry = build_entry(&path, body, symbols, target, builder.weights)?;
            bodies.insert(key, entry);
        }
    }
    let mut entry = builder.finish(bodies);
    if !target.places_syncs() {
        sync::place(&mut entry);
    }
    if let Some(most) = target.pace(&entry) {
        pace::place(&mut entry, most);
    }
    Ok(entry)
}

/// The name of a body's entry: the keys from the outermost graph inwards; `main` goes without saying.
pub(crate) fn body_path(parent: &str, key: &str) -> String {
    if parent == "main" { key.to_string() } else { format!("{parent}{key}") }
}

/// Every symbol that types of the graph mention, and those of its surroundings.
pub(crate) fn all_symbols(graph: &Graph, outer: &BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
    let mut symbols = outer.clone();
    for id in graph.order() {
        let types = graph.results(id).filter_map(|v| graph.tensor_ty(v)?.dims());
        symbols.extend(types.flatten().flat_map(Dim::symbols));
    }
    symbols
}

/// What a target writes to while it lowers the nodes of one graph.
pub struct PlanBuilder<'a> {
    name: &'a str,
    graph: &'a Graph,
    sizes: Sizes,
    weights: &'a mut WeightTable,
    locs: HashMap<Value, Loc>,
    /// Where else values lie, by memory.
    copies: HashMap<(Value, Memory), Loc>,
    copies_on: Stream,
    states_in: Memory,
    /// Values that are written to an output or state of the entry, being all of it.
    claims: HashMap<Value, Place>,
    steps: Vec<Step>,
    lives: Vec<Life>,
    /// Memory of each buffer.
    memories: Vec<Memory>,
    /// Operands and outputs that have yet to read something in a buffer.
    readers: Vec<usize>,
    /// The last step that touches a slot.
    slots: Vec<u32>,
}

impl<'a> PlanBuilder<'a> {
    fn new(name: &'a str, graph: &'a Graph, weights: &'a mut WeightTable, target: &dyn Target) -> PlanBuilder<'a> {
        let sizes = Sizes::new(graph);
        let mut builder = PlanBuilder {
            name,
            graph,
            claims: claims(graph, &sizes),
            sizes,
            weights,
            locs: HashMap::new(),
            copies: HashMap::new(),
            copies_on: target.copies_on(),
            states_in: target.states_in(),
            steps: vec![],
            lives: vec![],
            memories: vec![],
            readers: vec![],
            slots: vec![],
        };
        for (i, id) in graph.plain_inputs().iter().enumerate() {
            builder.locs.insert((*id).into(), Place::Input(i as u32).into());
        }
        for (i, id) in graph.states().iter().enumerate() {
            builder.locs.insert((*id).into(), Place::State(i as u32).into());
        }
        for id in graph.order() {
            let v = Value::from(id);
            match &graph.node(id).kind {
                Kind::Input | Kind::Op(_) => {}
                Kind::Absent => {
                    builder.locs.insert(v, Place::None.into());
                }
                Kind::Weight(data) if graph.use_count(v) > 0 => {
                    let key = builder.weights.key(name, graph, v, data.as_ref());
                    builder.locs.insert(v, Place::Weight(key).into());
                }
                Kind::Weight(_) => {}
            }
        }
        builder
    }

    /// The graph that is being planned.
    pub fn graph(&self) -> &'a Graph {
        self.graph
    }

    /// Where a value is: any operand of the node that is being lowered, or a result of it that has been planned.
    pub fn value_loc(&self, value: Value) -> Loc {
        self.locs.get(&value).cloned().unwrap_or_else(|| panic!("`{}` is not planned yet", self.graph.name(value)))
    }

    /// Whether nobody has planned this value.
    fn is_open(&self, value: Value) -> bool {
        !self.locs.contains_key(&value)
    }

    /// A step that runs `kernel` for a node: reads all its operands, writes all its results.
    pub fn launch(
        &mut self,
        node: NodeId,
        kernel: impl Into<String>,
        options: LaunchOptions,
    ) -> Result<(), LowerError> {
        let kernel = kernel.into();
        if kernel == COPY {
            return Err(LowerError::new(self.graph, node, "the kernel name `copy` is the planner's"));
        }
        if let Some(v) = self.graph.results(node).find(|v| !self.is_open(*v)) {
            let reason = format!("`{}` was planned twice", self.graph.name(v));
            return Err(LowerError::new(self.graph, node, reason));
        }
        let operands = self.graph.operands(node);
        let reads: Vec<Loc> = operands.iter().map(|v| self.value_loc(*v)).collect();
        reads.iter().for_each(|loc| self.read(loc));
        let shared = options.in_place.and_then(|operand| self.replaceable(node, &reads, operand));
        let in_place = shared.is_some();
        let mut writes = Vec::with_capacity(1);
        for v in self.graph.results(node) {
            let place = match &shared {
                Some(place) if v.result == 0 => place.clone(),
                _ => self.room(v, options.memory),
            };
            if matches!(place, Place::State(_)) && !reads.contains(&place.clone().into()) {
                let reason = format!("`{}` is to replace {place}, which the node does not read", self.graph.name(v));
                return Err(LowerError::new(self.graph, node, reason));
            }
            self.define(v, place.into());
            writes.push(self.locs[&v].clone());
        }
        let scratch_bytes = options.scratch.unwrap_or_else(|| Dim::constant(0));
        let scratch = (scratch_bytes.as_const() != Some(0)).then(|| self.buffer(scratch_bytes.clone(), options.memory));
        self.steps.push(Step::Launch(Launch {
            stream: options.stream.unwrap_or(Stream::HOST),
            kernel,
            node: self.graph.node(node).names[0].clone(),
            reads,
            writes,
            scratch,
            scratch_bytes,
            in_place,
            frees: vec![],
        }));
        Ok(())
    }

    /// Makes the results of a node views where they are nothing but bytes of an operand. False, and nothing is done,
    /// where they are not: then launch a kernel.
    pub fn view(&mut self, node: NodeId) -> bool {
        let results: Vec<Value> = self.graph.results(node).collect();
        let [result] = results[..] else { return false };
        let Some((of, offset)) = view_of(self.graph, &self.sizes, result) else { return false };
        self.place_view(result, of, offset)
    }

    /// Makes `result` the bytes of `of` from `offset` on. False, and nothing is done, where the graph does not say so.
    pub fn alias(&mut self, result: Value, of: Value, offset: &Dim) -> bool {
        match view_of(self.graph, &self.sizes, result) {
            Some((operand, at)) if operand == of && self.sizes.same(&at, offset) => self.place_view(result, of, at),
            _ => false,
        }
    }

    fn place_view(&mut self, result: Value, of: Value, offset: Dim) -> bool {
        if !self.is_open(result) {
            return false;
        }
        let Loc { place, offset: start } = self.value_loc(of);
        self.define(result, Loc { place, offset: start + offset });
        true
    }

    /// Asks for a layout of a constant. It is granted when every reader of the constant, in all entries, asks for the
    /// same one and it applies; otherwise the constant stays row-major. [`WeightInfo::layout`](crate::model::WeightInfo::layout) says which it became.
    pub fn weight_layout(&mut self, value: Value, layout: Layout) {
        let is_weight = matches!(self.graph.node(value.node).kind, Kind::Weight(_));
        if let Some(Loc { place: Place::Weight(key), .. }) = self.locs.get(&value).filter(|_| is_weight)
            && let Some(weight) = self.weights.found.get_mut(key)
        {
            weight.wishes.push(layout);
        }
    }

    /// Lets `waiter` wait for what `signaller` was given so far.
    pub fn sync(&mut self, sync: SyncPoint) {
        self.steps.push(Step::Sync(sync));
    }

    /// The buffer of an operand when its last reader is this node, nothing else shares it and the first result fills it.
    fn replaceable(&self, node: NodeId, reads: &[Loc], operand: usize) -> Option<Place> {
        let loc = reads.get(operand)?;
        let Place::Buffer(id) = loc.place else { return None };
        let once = reads.iter().filter(|r| r.place == loc.place).count() == 1;
        let result = Value::from(node);
        let fills = bytes(self.graph, result).is_some_and(|b| b == self.lives[id.0 as usize].bytes);
        let last = self.readers[id.0 as usize] == 1;
        let claimed = self.claims.contains_key(&result) && self.memories[id.0 as usize] == Memory::HOST;
        let free = once && fills && last && loc.offset.as_const() == Some(0) && !claimed;
        free.then(|| loc.place.clone())
    }

    /// Where a result will be written.
    fn room(&mut self, v: Value, memory: Memory) -> Place {
        let Some(bytes) = bytes(self.graph, v) else {
            self.slots.push(self.steps.len() as u32);
            return Place::Slot(SlotId(self.slots.len() as u32 - 1));
        };
        match self.claims.get(&v) {
            Some(place) if self.memory_at(&place.clone().into()) == Some(memory) => place.clone(),
            _ => Place::Buffer(self.buffer(bytes, memory)),
        }
    }

    fn buffer(&mut self, bytes: Dim, memory: Memory) -> BufferId {
        let step = self.steps.len() as u32;
        self.lives.push(Life { bytes, first: step, last: step });
        self.memories.push(memory);
        self.readers.push(0);
        BufferId(self.lives.len() as u32 - 1)
    }

    fn define(&mut self, v: Value, loc: Loc) {
        if let Place::Buffer(id) = loc.place {
            self.readers[id.0 as usize] += self.graph.use_count(v);
            self.touch(id);
        }
        self.locs.insert(v, loc);
    }

    fn touch(&mut self, id: BufferId) {
        let life = &mut self.lives[id.0 as usize];
        life.last = life.last.max(self.steps.len() as u32);
    }

    /// Notes that the next step reads a place.
    fn read(&mut self, loc: &Loc) {
        match &loc.place {
            Place::Buffer(id) => self.touch(*id),
            Place::Slot(id) => self.slots[id.0 as usize] = self.steps.len() as u32,
            Place::Weight(key) => self.weights.read(key),
            Place::Input(_) | Place::Output(_) | Place::State(_) | Place::None => {}
        }
    }

    /// Called when the target has planned a node: every result must have a place now.
    fn lowered(&mut self, node: NodeId) -> Result<(), LowerError> {
        if let Some(v) = self.graph.results(node).find(|v| self.is_open(*v)) {
            let reason = format!("the target did not say how `{}` is computed", self.graph.name(v));
            return Err(LowerError::new(self.graph, node, reason));
        }
        for v in self.graph.operands(node) {
            if let Place::Buffer(id) = self.locs[&v].place {
                self.readers[id.0 as usize] -= 1;
            }
        }
        Ok(())
    }

    fn finish(mut self, bodies: BTreeMap<String, Entry>) -> Entry {
        let graph = self.graph;
        let results = graph.plain_outputs().len();
        let outputs: Vec<Port> = (0..results).map(|i| self.output(i, Place::Output(i as u32))).collect();
        let states = (0..graph.states().len()).map(|i| self.output(results + i, Place::State(i as u32))).collect();
        let inputs = graph.plain_inputs().iter().enumerate().map(|(i, id)| {
            let (v, value) = (Value::from(*id), Place::Input(i as u32).into());
            Port { name: graph.name(v).clone(), ty: graph.ty(v).clone(), value }
        });
        let inputs = inputs.collect();
        self.free_slots(&outputs);
        let (buffers, renumbered) = place(&self.lives);
        self.steps.iter_mut().for_each(|step| renumber(step, &renumbered));
        Entry {
            name: self.name.to_string(),
            graph: graph.clone(),
            inputs,
            outputs,
            states,
            buffers,
            slots: self.slots.len() as u32,
            steps: self.steps,
            pace: None,
            bodies,
        }
    }

    /// The port of a result, with the copy that brings the value there where it is needed.
    fn output(&mut self, index: usize, place: Place) -> Port {
        let out = &self.graph.outputs[index];
        let (name, ty) = (out.name.clone(), self.graph.ty(out.value).clone());
        let from = self.value_loc(out.value);
        if !ty.is_plannable() {
            return Port { name, ty, value: from };
        }
        let to = Loc::from(place);
        let (here, there) = (self.memory_at(&from), self.memory_at(&to));
        // It was written there, and perhaps brought elsewhere for a reader.
        let written = there.and_then(|there| self.copies.get(&(out.value, there)));
        if from == to || written == Some(&to) {
            return Port { name, ty, value: to };
        }
        if here.is_some_and(|here| Some(here) != there) {
            self.copy_step(out.value, from, to.clone());
        } else {
            self.read(&from);
            self.steps.push(Step::Launch(Launch {
                stream: Stream::HOST,
                kernel: COPY.to_string(),
                node: self.graph.name(out.value).clone(),
                reads: vec![from],
                writes: vec![to.clone()],
                scratch: None,
                scratch_bytes: Dim::constant(0),
                in_place: false,
                frees: vec![],
            }));
        }
        Port { name, ty, value: to }
    }

    fn free_slots(&mut self, outputs: &[Port]) {
        let kept: BTreeSet<&Place> = outputs.iter().map(|port| &port.value.place).collect();
        for (slot, last) in self.slots.iter().enumerate() {
            let id = SlotId(slot as u32);
            if kept.contains(&Place::Slot(id)) {
                continue;
            }
            if let Step::Launch(launch) = &mut self.steps[*last as usize] {
                launch.frees.push(id);
            }
        }
    }
}

/// Values to write straight to an output: what an output is, or is a view of all of; one value for one output.
fn claims(graph: &Graph, sizes: &Sizes) -> HashMap<Value, Place> {
    let mut claims = HashMap::new();
    let results = graph.plain_outputs().len();
    for (index, out) in graph.outputs.iter().enumerate() {
        let Some(len) = bytes(graph, out.value) else { continue };
        let mut root = out.value;
        while let Some((of, offset)) = view_of(graph, sizes, root) {
            let whole = bytes(graph, of).is_some_and(|b| sizes.same(&b, &len)) && offset.as_const() == Some(0);
            if !whole {
                break;
            }
            root = of;
        }
        if graph.op(root.node).is_some() {
            let place = match index.checked_sub(results) {
                Some(state) => Place::State(state as u32),
                None => Place::Output(index as u32),
            };
            claims.entry(root).or_insert(place);
        }
    }
    claims
}

fn renumber(step: &mut Step, renumbered: &[BufferId]) {
    let new = |id: &mut BufferId| *id = renumbered[id.0 as usize];
    let new_loc = |loc: &mut Loc| {
        if let Place::Buffer(id) = &mut loc.place {
            new(id);
        }
    };
    match step {
        Step::Launch(launch) => {
            launch.reads.iter_mut().chain(&mut launch.writes).for_each(new_loc);
            launch.scratch.iter_mut().for_each(new);
        }
        Step::Copy(transfer) => [&mut transfer.from, &mut transfer.to].into_iter().for_each(new_loc),
        Step::Sync(_) => {}
    }
}
